"""The questions of the book's exercises, part by part, with their right answers.

A student's copy of the project has this file sealed, see :mod:`medyate.course.sealing`.
"""

from __future__ import annotations

import math

import numpy as np

from .questions import Question, Slip, exercise


@exercise("ex-depthwise")
def _depthwise() -> tuple[Question, ...]:
    from ..costs import conv_layer

    side, channels = (64, 64), 48
    layer = conv_layer("depthwise", (channels, 1, 3, 3), side, side, groups=channels)
    full = conv_layer("full", (channels, channels, 3, 3), side, side)
    pointwise = conv_layer("pointwise", (channels, channels, 1, 1), side, side)
    return (
        Question(
            "weights",
            layer.weight_elements,
            "elements",
            (
                Slip(
                    full.weight_elements,
                    "that is a full convolution's weight; a depthwise filter sees one channel only",
                ),
                Slip(
                    pointwise.weight_elements,
                    "that is a pointwise convolution's weight; here each channel has a filter of its own",
                ),
                Slip(math.prod(layer.kernel), "that is one filter; every channel has one"),
                Slip(channels, "you forgot the factor D²: a filter has 3 by 3 weights"),
                Slip(channels * layer.kernel[0], "a filter is 3 by 3, not 3 by 1"),
            ),
            "count one filter of 3 by 3 for each channel",
        ),
        Question(
            "inputs",
            layer.activation_elements,
            "elements",
            (
                Slip(layer.activation_elements_per_channel, "that is one channel's input; all of them are kept"),
                Slip(channels * side[0], "that is one line of pixels a channel; height times width is asked for"),
                Slip(9 * layer.activation_elements, "each pixel is kept once, however many weights it meets"),
            ),
            "channels times height times width",
        ),
    )


@exercise("ex-batch")
def _batch() -> tuple[Question, ...]:
    from .. import costs, networks

    memory_bytes = 256 * 1024
    one = costs.totals(costs.layers(networks.build("mbv2-w0.35", weights="random"), (3, 128, 128)))
    inputs = one["activation_elements"]

    def question(name: str, each: int, other: Slip) -> Question:
        right = memory_bytes / (each * inputs)
        return Question(
            name,
            right,
            "count",
            (
                other,
                Slip(256_000 / (each * inputs), "a KiB is 1024 bytes"),
                Slip(1 / right, "that is how often the memory goes into one image's inputs; it is the other way round"),
                Slip(
                    memory_bytes / (each * one["total_elements"]),
                    "you counted the weights as well; inputs alone are asked for",
                ),
                Slip(0, "no whole image fits; how much of one does?"),
            ),
            "divide the memory by what one image's inputs take, both in bytes",
            tolerance=5e-3,
        )

    return (
        question(
            "single",
            4,
            Slip(memory_bytes / inputs, "you counted elements; in single precision each takes several bytes"),
        ),
        question(
            "eight_bit",
            1,
            Slip(memory_bytes / (4 * inputs), "that is single precision; an 8-bit number takes a single byte"),
        ),
    )


@exercise("ex-checkpoint")
def _checkpoint() -> tuple[Question, ...]:
    n = 100
    m = math.isqrt(n)
    return (
        Question(
            "m",
            m,
            "count",
            (
                Slip(n, "that leaves no checkpoint but the first: the whole network is one segment, held at once"),
                Slip(1, "that is a checkpoint at every layer, so that nothing is saved"),
                Slip(n / 2, "that minimises the number of checkpoints; the segment being processed is held as well"),
            ),
            "find the smallest sum of checkpoints and segment",
        ),
        Question(
            "held",
            n // m + m,
            "count",
            (
                Slip(m, "those are the checkpoints alone; the segment being processed is held as well"),
                Slip(n, "that is what is held without checkpoints"),
                Slip(n + m, "a segment's inputs can be freed once it has been processed"),
            ),
            "add the checkpoints and the inputs of one segment",
        ),
    )


@exercise("ex-dearest")
def _dearest() -> tuple[Question, ...]:
    from .. import costs, networks
    from ..networks import schemes

    layers = costs.layers(networks.build("mcunet-in1", weights="random"), (3, 128, 128))
    layer = max(layers, key=lambda one: one.channel_elements)
    weights, inputs = layer.weight_elements_per_channel, layer.activation_elements_per_channel
    taps = math.prod(layer.kernel)
    outputs = layer.weight_flops_per_channel // weights  # H' W' by paper eq. 5
    budget = schemes.budget("mcunet-in1", 1, layers)
    others = {one.channel_elements for one in layers} - {layer.channel_elements}
    return (
        Question(
            "price",
            layer.channel_elements,
            "elements",
            (
                Slip(weights + outputs, "you counted the output's pixels; the price asks for the input's, H times W"),
                Slip(
                    weights // taps + inputs,
                    "you forgot the factor D²: each output channel has D by D weights for this one",
                ),
                Slip(
                    layer.channels * taps + inputs,
                    "you multiplied D² by the input's channels; one input channel meets the C' output channels",
                ),
                Slip(inputs, "that is the input alone; the gradient of its weights needs room as well"),
                Slip(weights, "that is the weights' gradient alone; the input must be kept as well"),
                Slip(layer.search_elements, "that is all input channels of the layer; one is asked for"),
                Slip(layer.weight_flops_per_channel, "those are operations, the other equation"),
                Slip(max(others), "that is the second dearest layer; look at where the image comes in"),
            ),
            "find the layer with the largest `channel_elements`",
        ),
        Question(
            "share",
            layer.channel_elements / budget,
            "fraction",
            (
                Slip(
                    budget / layer.channel_elements,
                    "that is the budget over the price; the price over the budget is asked for",
                ),
                Slip(layer.channel_elements / (4 * budget), "bytes below, elements above: both are to be in elements"),
            ),
            "divide the price by MCUNet's smallest budget, both in elements",
            tolerance=5e-3,
        ),
    )


@exercise("ex-kilobytes")
def _kilobytes() -> tuple[Question, ...]:
    from .. import costs
    from ..paper import values as paper

    return (
        Question(
            "kilobytes",
            costs.kilobytes,
            "count",
            (
                Slip(lambda n: 4 * n // 1024, "it rounds down; the label is rounded up"),
                Slip(lambda n: round(4 * n / 1024), "it rounds to the nearest; the label is rounded up"),
                Slip(lambda n: 4 * n / 1024, "it does not round; the label is rounded up"),
                Slip(lambda n: math.ceil(4 * n / 1000), "here a kB is 1024 bytes, as is usual for memory"),
                Slip(lambda n: 4 * n / 1000, "here a kB is 1024 bytes, as is usual for memory"),
                Slip(lambda n: math.ceil(n / 1024), "an element takes 4 bytes; you counted one"),
                Slip(lambda n: 4 * n, "those are bytes; the label is in kB"),
            ),
            "4 bytes an element, 1024 bytes a kB, rounded up",
            cases=tuple((budget,) for budget in (*paper.budgets("mbv2-w0.35"), 200)),
        ),
    )


@exercise("ex-resolution")
def _resolution() -> tuple[Question, ...]:
    from .. import costs, networks

    model = networks.build("mbv2-w0.35", weights="random")
    small, large = (costs.totals(costs.layers(model, (3, side, side))) for side in (64, 128))
    inputs = small["activation_elements"] / large["activation_elements"]
    return (
        Question(
            "weights",
            small["weight_elements"] / large["weight_elements"],
            "count",
            (
                Slip(inputs, "that is the inputs' factor; does a filter know how large the image is?"),
                Slip(inputs**0.5, "does a filter know how large the image is?"),
            ),
            "compare the number of weights at both resolutions",
        ),
        Question(
            "activations",
            inputs,
            "count",
            (
                Slip(inputs**0.5, "both height and width are halved"),
                Slip(1 / inputs, "the other way round: the smaller over the larger"),
                Slip(1, "an image of half the side has fewer pixels"),
                Slip(inputs**1.5, "the number of channels stays as it is"),
            ),
            "compare the number of pixels at both resolutions",
        ),
    )


@exercise("ex-flops")
def _flops() -> tuple[Question, ...]:
    from ..costs import conv_layer

    layer = conv_layer("conv", (16, 8, 3, 3), (32, 32), (16, 16))
    right = layer.weight_flops
    return (
        Question(
            "macs",
            right,
            "count",
            (
                Slip(
                    2 * right, "that is PyTorch's count, which takes a multiplication and an addition as two operations"
                ),
                Slip(4 * right, "you took the input's pixels; the sum runs over the output's"),
                Slip(right // layer.channels, "that is one input channel; all of the weight is asked for"),
                Slip(right // math.prod(layer.kernel), "you forgot the factor D²"),
                Slip(right // layer.out_channels, "that is one output channel; all of the weight is asked for"),
            ),
            "the weight has C' C D² entries, each a sum over the output's pixels",
        ),
    )


@exercise("ex-knapsack")
def _knapsack() -> tuple[Question, ...]:
    from .. import costs, networks
    from ..networks import schemes

    layers = costs.layers(networks.build("mbv2-w0.35", weights="random"), (3, 128, 128))
    budget = schemes.budget("mbv2-w0.35", 1, layers)

    def taken(key, whole: bool = False) -> list[tuple]:
        """Each layer with the number of its channels that still fit, in the order of ``key``."""
        fill, left = [], budget
        for layer in sorted(layers, key=key):
            count = min(layer.channels, left // layer.channel_elements)
            if whole and count < layer.channels:
                count = 0
            left -= count * layer.channel_elements
            fill.append((layer, count))
        return fill

    def weights(fill: list[tuple]) -> int:
        return sum(count * layer.weight_elements_per_channel for layer, count in fill)

    def share(layer) -> float:
        return layer.weight_elements_per_channel / layer.channel_elements

    best = taken(lambda layer: -share(layer))
    first = next(place for place, (layer, count) in enumerate(best) if count < layer.channels)
    return (
        Question(
            "weights",
            weights(best),
            "count",
            (
                Slip(
                    weights(taken(lambda layer: layer.channel_elements)),
                    "that takes the cheapest channels; take those whose price goes to weights for the most part",
                ),
                Slip(weights(taken(share)), "that sorts the other way round"),
                Slip(
                    weights(taken(lambda layer: -share(layer), whole=True)),
                    "that takes whole layers only; a part of a layer's channels will do",
                ),
                Slip(weights(best[: first + 1]), "after the first layer that does not fit whole, go on with the next"),
                Slip(
                    sum(count * layer.channel_elements for layer, count in best),
                    "that is what is used of the budget; the inputs take a part of it",
                ),
                Slip(sum(count for _, count in best), "those are channels; count the weights in them"),
                Slip(budget, "that is the whole budget; the inputs take a part of it"),
            ),
            "sort layers by the share of a channel's price that goes to weights, and take what fits",
        ),
    )


@exercise("ex-hand")
def _hand() -> tuple[Question, ...]:
    import torch

    from .. import importance
    from ..costs import conv_layer

    layer = conv_layer("example", (36, 3, 1, 1), (8, 8), (8, 8))
    norms = torch.tensor([3.0, 4.0, 12.0], dtype=torch.float64)
    rgn, lara = importance.layer_rgn(norms, layer), importance.lara(norms, layer)
    total, root, price = float(norms.sum()), float(norms.square().sum().sqrt()), layer.channel_elements
    return (
        Question(
            "rgn",
            rgn,
            "norm per element",
            (
                Slip(
                    total / layer.search_elements,
                    "you divided by all channels' price; layer RGN divides by one channel's",
                ),
                Slip(root / price, "you took the norm of the whole gradient; layer RGN adds up the channels' norms"),
                Slip(lara, "that is LaRa"),
                Slip(total, "that is the sum of the norms; divide it by the price"),
            ),
            "add up the norms and divide by one channel's price",
        ),
        Question(
            "lara",
            lara,
            "norm per element",
            (
                Slip(root / price, "you divided by one channel's price; LaRa divides by the price of all of them"),
                Slip(
                    total / layer.search_elements, "LaRa takes the norm of the whole gradient, not the sum of the norms"
                ),
                Slip(rgn, "that is layer RGN"),
                Slip(root**2 / layer.search_elements, "you forgot the root over the sum of squares"),
                Slip(root, "that is the norm of the gradient; divide it by the price of all channels"),
            ),
            "take the root of the sum of squares and divide by all channels' price",
            tolerance=2e-3,
        ),
    )


@exercise("ex-fraction")
def _fraction() -> tuple[Question, ...]:
    def fraction(norms):
        return sum(value**2 for value in norms) ** 0.5 / sum(norms)

    return (
        Question(
            "fraction",
            fraction,
            "count",
            (
                Slip(lambda norms: 1 / fraction(norms), "that is the fraction upside down"),
                Slip(lambda norms: sum(value**2 for value in norms) / sum(norms), "you forgot the square root"),
                Slip(lambda norms: fraction(norms) ** 2, "that is the square of the fraction"),
                Slip(
                    lambda norms: fraction(norms) * len(norms) ** 0.5, "that is relative to 1/√C; leave out the factor"
                ),
                Slip(lambda norms: max(norms) / sum(norms), "the numerator is a Euclidean norm, not the largest entry"),
            ),
            "the root of the sum of squares, over the sum",
            cases=(([1.0] * 16,), ([3.0, 4.0, 12.0],), ([2.0, 1.0],)),
        ),
    )


@exercise("ex-step")
def _step() -> tuple[Question, ...]:
    import torch

    from .. import strategies
    from ..costs import conv_layer
    from ..ranking import Ranking
    from ..selection import Selection, Selector

    # the toy network of part 4, and its algorithm at the start of epoch 2
    layers = [conv_layer(name, (6, 4, 1, 1), (2, 2), (2, 2)) for name in "abc"]
    order = Ranking("toy", "by hand", ("a", "b", "c"), lara=(3.0, 2.0, 1.0), layer_rgn=(3.0, 2.0, 1.0))
    selector = Selector(
        strategies.get("LaRa MeDyate"), layers, 60, torch.Generator().manual_seed(0), ranking=order, k=3
    )
    selector.epoch, selector.last = 1, Selection({"a": (0,), "b": (3,)})
    one, nine = 1.0, 9.0
    selector.select({"a": torch.tensor([one]), "b": torch.tensor([nine])})
    norms = selector.norms
    right, channels = float(norms[0] / norms.sum()), len(norms)
    return (
        Question(
            "probability",
            right,
            "fraction",
            (
                Slip(one / (one + nine), "you left the unseen channels out; they have the largest norm that was seen"),
                Slip(1 / channels, "that is uniform sampling; from epoch 2 on the draw is in proportion to N"),
                Slip(
                    one / (one + nine + (channels - 2) * one),
                    "you gave unseen channels the smallest norm; they get the largest",
                ),
                Slip(
                    one / (one + nine + (channels - 2) * (one + nine) / 2),
                    "you gave unseen channels the mean; they get the largest norm",
                ),
                Slip(one / (one + nine * channels), "you counted one channel too many: N has one entry a channel"),
                Slip(nine / float(norms.sum()), "that is the probability of `b3`; `a0` is asked for"),
                Slip(1 / (1 / right - 1), "those are odds, one to the rest; a probability divides by the sum of all"),
            ),
            "write N down: one value is measured as 1, and all others are equal",
            tolerance=5e-3,
        ),
    )


@exercise("ex-cut")
def _cut() -> tuple[Question, ...]:
    from .. import ranking

    def covered(prices, budget, alpha) -> float:
        return budget / sum(prices[: ranking.smallest_k(prices, budget, alpha)])

    def epochs(share: float, left: float = 0.1) -> float:
        return math.log(left) / math.log(1 - share)

    def right(prices, budget, alpha) -> int:
        return math.ceil(epochs(covered(prices, budget, alpha)))

    prices = [400, 250, 700, 150, 900, 300, 1200, 600]
    return (
        Question(
            "epochs",
            right,
            "count",
            (
                Slip(
                    lambda prices, budget, alpha: math.ceil(epochs(alpha)),
                    "you took the threshold; the K layers cost more than it asks for, so one selection covers less",
                ),
                Slip(
                    lambda prices, budget, alpha: epochs(covered(prices, budget, alpha)),
                    "it does not round; count whole epochs",
                ),
                Slip(
                    lambda prices, budget, alpha: math.floor(epochs(covered(prices, budget, alpha))),
                    "it rounds down; then 90 % are not reached yet",
                ),
                Slip(
                    lambda prices, budget, alpha: math.ceil(epochs(covered(prices, budget, alpha), 0.9)),
                    "that is until 10 % have been trained; 10 % are to be left",
                ),
                Slip(
                    lambda prices, budget, alpha: math.ceil(0.9 / covered(prices, budget, alpha)),
                    "that is if no channel came twice; the draws of two epochs overlap",
                ),
                Slip(
                    lambda prices, budget, alpha: math.ceil(epochs(budget / sum(prices))),
                    "that is with all layers in the search space; it has the first K",
                ),
                Slip(covered, "that is the share that one selection covers; how many epochs does it take?"),
            ),
            "find K, then the share that the budget covers, then the first epoch that leaves 10 % or less",
            cases=((prices, 140, 0.1), (prices, 140, 0.2), (prices, 300, 0.4)),
        ),
    )


@exercise("ex-fill")
def _fill() -> tuple[Question, ...]:
    import torch

    from .. import sampling

    budget, prices = 60, torch.tensor([10] * 4 + [20] * 4 + [30] * 4)

    def mean(fill: str) -> float:
        generator = torch.Generator().manual_seed(1)
        draws = [sampling.sample(prices, torch.ones(12), budget, generator, fill) for _ in range(2000)]
        return float(np.mean([int(prices[taken].sum()) for taken in draws]))

    stop, skip = mean("stop"), mean("skip")
    return (
        Question(
            "stop",
            stop,
            "elements",
            (
                Slip(skip, "that is a filled budget; a sampler that stops leaves some of it unused"),
                Slip(stop / budget, "that is a share of the budget; elements are asked for"),
                Slip(budget - stop, "that is what is left unused"),
            ),
            "draw often with `fill='stop'` and take the mean of what is used",
            tolerance=0.03,
        ),
        Question(
            "skip",
            skip,
            "elements",
            (
                Slip(stop, "that is what a sampler uses that stops"),
                Slip(skip / budget, "that is a share of the budget; elements are asked for"),
                Slip(float(prices.sum()), "that is the price of all channels; the budget is a hard bound"),
            ),
            "draw often with `fill='skip'` and take the mean of what is used",
            tolerance=0.01,
        ),
    )


@exercise("ex-clocks")
def _clocks() -> tuple[Question, ...]:
    def pair(weights, i, j):
        return weights[i] / sum(weights) * weights[j] / (sum(weights) - weights[i])

    return (
        Question(
            "pair",
            pair,
            "count",
            (
                Slip(
                    lambda w, i, j: w[i] * w[j] / sum(w) ** 2,
                    "that is drawing with replacement; once i is out, the others' weights sum to less",
                ),
                Slip(lambda w, i, j: pair(w, j, i), "that is j first and i second"),
                Slip(lambda w, i, j: pair(w, i, j) + pair(w, j, i), "that is both orders together; i is to be first"),
                Slip(lambda w, i, j: w[j] / (sum(w) - w[i]), "that is the second draw alone, given the first"),
                Slip(lambda w, i, j: w[i] / sum(w), "that is the first draw alone"),
            ),
            "the chance of i among all, times that of j among the rest",
            cases=(([1.0, 2.0, 7.0], 0, 2), ([1.0, 2.0, 7.0], 2, 1), ([3.0, 1.0, 1.0, 5.0], 1, 3)),
        ),
    )


@exercise("ex-average")
def _average() -> tuple[Question, ...]:
    def root_of_sum(deviations):
        return sum(value**2 for value in deviations) ** 0.5

    return (
        Question(
            "plus_minus",
            root_of_sum,
            "count",
            (
                Slip(lambda values: sum(values) / len(values), "that is the mean; the printed number is larger"),
                Slip(
                    lambda values: root_of_sum(values) / len(values) ** 0.5,
                    "that is the root mean square; the printed number is larger",
                ),
                Slip(
                    lambda values: root_of_sum(values) / len(values),
                    "that is the standard deviation of the average, as it should be; the table prints another",
                ),
                Slip(lambda values: sum(values), "that adds the deviations themselves"),
                Slip(lambda values: root_of_sum(values) ** 2, "you forgot the square root"),
            ),
            "try the three formulas on the seven printed deviations",
            cases=(([0.12, 0.37, 0.74, 0.33, 0.35, 0.11, 0.29],), ([1.0, 2.0],), ([0.5, 0.5, 0.5, 2.0],)),
        ),
    )


@exercise("ex-holm")
def _holm() -> tuple[Question, ...]:
    from ..paper import stats

    def bonferroni(p):
        return [min(1, len(p) * value) for value in p]

    def not_monotone(p):
        places = np.argsort(np.argsort(p, kind="stable"))
        return [min(1, (len(p) - place) * value) for place, value in zip(places, p)]

    def not_capped(p):
        order = np.argsort(p, kind="stable")
        corrected = np.empty(len(p))
        corrected[order] = np.maximum.accumulate(np.asarray(p)[order] * (len(p) - np.arange(len(p))))
        return corrected

    def unsorted(p):
        return np.minimum(1, np.maximum.accumulate([(len(p) - place) * value for place, value in enumerate(p)]))

    def ordered(p):
        return np.sort(stats.holm(p))

    return (
        Question(
            "holm",
            stats.holm,
            "count",
            (
                Slip(bonferroni, "that is Bonferroni's correction, which multiplies all by their number"),
                Slip(not_monotone, "nearly: a larger p-value may not end up with a smaller corrected one"),
                Slip(not_capped, "nearly: a p-value is at most 1"),
                Slip(unsorted, "it takes the p-values in the order given; they are to be sorted first"),
                Slip(ordered, "it returns the corrected values sorted; they are asked for in the order given"),
                Slip(lambda p: p, "it changes nothing"),
            ),
            "sort, multiply by what remains, keep the largest so far, and put them back in order",
            cases=(([0.01, 0.04, 0.03],), ([0.9, 0.7, 0.02, 0.01],)),
        ),
    )


@exercise("ex-seeds")
def _seeds() -> tuple[Question, ...]:
    from scipy import stats as distributions

    difference, deviation, level = 0.3, 0.2, 0.05

    def power(seeds: int, sides: int = 1) -> float:
        freedom, shift = 2 * seeds - 2, difference / (deviation * (2 / seeds) ** 0.5)
        return float(1 - distributions.nct.cdf(distributions.t.ppf(1 - level / sides, freedom), freedom, shift))

    enough = next(seeds for seeds in range(2, 100) if power(seeds) >= 0.885)  # 90 % to the whole percent
    return (
        Question(
            "power",
            power(3),
            "fraction",
            (
                Slip(power(3, sides=2), "that is a two-sided test; a one-sided one is asked for"),
                Slip(1 - power(3), "that is how often the difference goes unnoticed"),
                Slip(level, "that is the level of the test: how often it would err if there were no difference"),
                Slip(power(6), "that is twice as many seeds"),
            ),
            "simulate both strategies often and count how often p is below the level",
            tolerance=0.04,
        ),
        Question(
            "seeds",
            enough,
            "count",
            (
                Slip(3, "three seeds notice about every second difference of this size"),
                Slip(2 * enough, "those are the runs of both strategies together; seeds of each are asked for"),
                Slip(5, "five seeds are not enough yet"),
            ),
            "raise the number of seeds until nine differences of ten are noticed",
            tolerance=0.13,
        ),
    )


@exercise("ex-bits")
def _bits() -> tuple[Question, ...]:
    from .. import costs, networks
    from ..execution.masks import mask_overheads

    model = networks.build("mbv2-w0.35", weights="random")
    layers = costs.layers(model, (3, 128, 128))
    overheads = mask_overheads(model, layers, (3, 128, 128))
    right = 4 * overheads[layers[0].name]
    inputs = costs.totals(layers)["activation_elements"]
    second_block = 4 * overheads[next(layer.name for layer in layers if layer.name.startswith("b1."))]
    return (
        Question(
            "masks",
            right,
            "bytes",
            (
                Slip(8 * right, "that is the number of outputs; each needs one bit, and eight bits make a byte"),
                Slip(32 * right, "that is what full tensors in single precision take; a mask needs one bit an output"),
                Slip(
                    inputs / 8,
                    "you counted every layer's input; only rectified outputs need a mask, and pw2 has no ReLU6 "
                    "behind it",
                ),
                Slip(second_block, "you left out the first block; the gradient passes it too"),
            ),
            "one bit for each output of a ReLU6: after the stem, each pw1, each depthwise layer and the mix layer",
            tolerance=1e-3,
        ),
    )


@exercise("ex-momentum")
def _momentum() -> tuple[Question, ...]:
    from .. import costs, networks

    totals = costs.totals(costs.layers(networks.build("mbv2-w0.35", weights="random"), (3, 128, 128)))
    right = 4 * (totals["weight_elements"] + totals["bias_elements"])
    return (
        Question(
            "state",
            right,
            "bytes",
            (
                Slip(2 * right, "that is Adam, which keeps two numbers a weight; momentum keeps one"),
                Slip(4 * totals["total_elements"], "you counted the activations; a state belongs to a weight"),
                Slip(4 * totals["activation_elements"], "that is the activations; a state belongs to a weight"),
            ),
            "one number in single precision for every weight of the backbone",
            tolerance=2e-2,
        ),
    )


@exercise("ex-datasheet")
def _datasheet() -> tuple[Question, ...]:
    from ..costs import conv_layer

    memory_bytes = 64 * 1024
    budget = memory_bytes // 4
    layer = conv_layer("last", (64, 32, 3, 3), (8, 8), (4, 4))
    weights, inputs = layer.weight_elements_per_channel, layer.activation_elements_per_channel
    return (
        Question(
            "budget",
            budget,
            "elements",
            (
                Slip(64, "that is in KiB; the library's budget is in elements"),
                Slip(64 * 1000 // 4, "a KiB is 1024 bytes"),
                Slip(budget // 8, "the budget is for one image, whatever the size of a batch"),
            ),
            "how many numbers of 4 bytes fit into 64 KiB?",
        ),
        Question(
            "channels",
            budget // layer.channel_elements,
            "count",
            (
                Slip(budget / layer.channel_elements, "a channel is trained whole or not at all"),
                Slip(-(-budget // layer.channel_elements), "you rounded up; the budget is a hard bound"),
                Slip(
                    budget // (weights + 4 * 4),
                    "you counted the output's pixels; the stride halves the output, the price asks for the input",
                ),
                Slip(budget // (layer.out_channels + inputs), "you forgot the factor D² of the kernel"),
                Slip(
                    budget // (layer.channels * 9 + inputs),
                    "you took the layer's input channels for its output channels",
                ),
                Slip(budget // weights, "you left the input out"),
                Slip(memory_bytes // layer.channel_elements, "you divided bytes by elements"),
            ),
            "the price of a channel is C' D² + H W, of the *input's* size",
        ),
    )


@exercise("ex-shared")
def _shared() -> tuple[Question, ...]:
    from .. import costs

    tokens, hidden, inner, blocks = 128, 768, 3072, 12
    square = costs.linear_layer("query, key, value or projection", (hidden, hidden), tokens, bias=True)
    up = costs.linear_layer("up", (inner, hidden), tokens, bias=True)
    down = costs.linear_layer("down", (hidden, inner), tokens, bias=True)
    pooler = costs.linear_layer("pooler", (hidden, hidden), 1, bias=True)
    totals = costs.totals([*blocks * [*4 * [square], up, down], pooler])
    one = square.activation_elements  # one of three copies, in one block
    activations, everything = totals["activation_elements"], totals["total_elements"]

    def slips(whole: int, other: int, which: str) -> tuple[Slip, ...]:
        return (
            Slip(100 * blocks * 3 * one / whole, "one of the three copies is still kept: two are saved"),
            Slip(100 * blocks * one / whole, "two of the three copies are saved, not one"),
            Slip(100 * 2 * one / whole, f"that is one block; there are {blocks}"),
            Slip(100 * blocks * 2 * one / other, which),
        )

    return (
        Question(
            "activations",
            100 * blocks * 2 * one / activations,
            "percent",
            slips(activations, everything, "that is the share of the total; the share of the activations is asked for"),
            "count what is saved in a block, and divide by all activations",
            tolerance=5e-3,
        ),
        Question(
            "total",
            100 * blocks * 2 * one / everything,
            "percent",
            slips(everything, activations, "that is the share of the activations; the share of the total is asked for"),
            "the same saving, divided by weights, biases and activations together",
            tolerance=5e-3,
        ),
    )


@exercise("ex-tokens")
def _tokens() -> tuple[Question, ...]:
    from .. import costs

    tokens, hidden, inner, blocks, batch = 128, 768, 3072, 12, 32
    shapes = [*4 * [(hidden, hidden)], (inner, hidden), (hidden, inner)]
    block = [costs.linear_layer("linear", shape, tokens, bias=True) for shape in shapes]
    pooler = costs.linear_layer("pooler", (hidden, hidden), 1, bias=True)
    totals = costs.totals([*blocks * block, pooler])
    weights, activations = totals["weight_elements"], totals["activation_elements"]
    right = weights / ((activations - hidden) / tokens)
    return (
        Question(
            "tokens",
            right,
            "count",
            (
                Slip(weights / activations, "that is how many times 128 tokens it takes; tokens are asked for"),
                Slip(right / blocks, "you took one block's weights; the network has twelve such blocks"),
                Slip(right / batch, "that is for a batch; here it is one text"),
                Slip(right / 4, "bytes below, elements above: count both in elements"),
            ),
            "divide all weights by the activations of a single token",
            tolerance=5e-3,
        ),
        Question(
            "ratio",
            batch * activations / weights,
            "count",
            (
                Slip(activations / weights, "that is a single text; a batch holds each text's activations"),
                Slip(weights / (batch * activations), "the other way round: activations over weights"),
                Slip(batch * activations / totals["total_elements"], "you divided by the total; divide by the weights"),
            ),
            "the batch's activations over the weights",
            tolerance=5e-3,
        ),
    )


@exercise("ex-features")
def _features() -> tuple[Question, ...]:
    from ..paper import values as paper

    tokens, hidden, inner = 128, 768, 3072
    budget = min(paper.budgets("bert-base"))
    return (
        Question(
            "cheapest",
            budget // (hidden + tokens),
            "count",
            (
                Slip(budget / (hidden + tokens), "a feature is trained whole or not at all"),
                Slip(-(-budget // (hidden + tokens)), "you rounded up; the budget is a hard bound"),
                Slip(budget // hidden, "you left out the input: one number for each token"),
                Slip(budget // (inner + tokens), "those are the most expensive ones"),
                Slip(4 * budget // (hidden + tokens), "you took bytes for elements"),
            ),
            "the price of a feature is the layer's outputs plus the tokens",
        ),
        Question(
            "costliest",
            budget // (inner + tokens),
            "count",
            (
                Slip(budget / (inner + tokens), "a feature is trained whole or not at all"),
                Slip(budget // inner, "you rounded up, or left out the input"),
                Slip(budget // (hidden + tokens), "those are the cheapest ones"),
                Slip(4 * budget // (inner + tokens), "you took bytes for elements"),
            ),
            "the price of a feature is the layer's outputs plus the tokens",
        ),
    )


@exercise("ex-axis")
def _axis() -> tuple[Question, ...]:
    from ..paper import values as paper

    budget = min(paper.budgets("mbv2-w0.35"))
    own, others = paper.total_elements("mbv2-w0.35"), paper.total_elements("mcunet-in1")
    return (
        Question(
            "percent",
            100 * budget / own,
            "percent",
            (
                Slip(
                    100 * budget / others,
                    "that is what the paper's axis shows: it divides by another network's total. Whose?",
                ),
                Slip(100 * budget / paper.total_elements("proxyless-w0.3"), "that divides by Proxyless's total"),
                Slip(100 * own / budget, "the other way round: the budget over the network's total"),
            ),
            "the smallest budget of MbV2, over MbV2's own total, in percent",
            tolerance=5e-3,
        ),
    )


@exercise("ex-own-claim")
def _own_claim() -> tuple[Question, ...]:
    from ..paper import values as paper

    cells = paper.cells(1)
    differences = (cells["LaRa MeDyate"] - cells["SU"]).dropna()
    better = int((differences > 0).sum())
    return (
        Question(
            "cells",
            better,
            "count",
            (
                Slip(len(differences), "those are all cells; in how many of them is it more accurate?"),
                Slip(len(differences) - better, "those are the cells in which it is not"),
                Slip(better / len(differences), "that is a fraction; the number of cells is asked for"),
            ),
            "count the cells in which the difference is above zero",
        ),
    )


@exercise("ex-grid")
def _grid() -> tuple[Question, ...]:
    from ..sweeps import grids

    runs = len(grids.get("table1", "paper").configs())
    settings = len(grids.PAPER_TASKS) * len(grids.CNNS)
    seeds, tiers, named, free = len(grids.SEEDS), len(grids.TIERS), len(grids.NAMED), len(grids.WITHOUT_BUDGET)
    return (
        Question(
            "runs",
            runs,
            "count",
            (
                Slip(runs // seeds, "you forgot a factor of three: the seeds or the networks"),
                Slip(
                    settings * seeds * tiers * (named + free),
                    "you ran strategies without a budget once for each budget; they are the same run at each",
                ),
                Slip(settings * seeds * tiers * named, "you left out the strategies without a budget"),
                Slip(
                    settings * seeds * (named + free),
                    "you forgot that a strategy with a budget runs at each of the budgets",
                ),
                Slip(runs // len(grids.PAPER_TASKS), "you counted one task"),
            ),
            "tasks, networks, seeds; and of the strategies, those with a budget once for each budget",
        ),
    )


@exercise("ex-contradicted")
def _contradicted() -> tuple[Question, ...]:
    from scipy import stats as distributions

    def excluded(quantile=None, ddof: int = 1, root: bool = True):
        def judge(differences, printed) -> bool:
            x = np.asarray(differences, dtype=float)
            by = distributions.t.ppf(0.975, x.size - 1) if quantile is None else quantile(x.size)
            return bool(abs(printed - x.mean()) > by * x.std(ddof=ddof) / (x.size**0.5 if root else 1))

        return judge

    right = excluded()
    few, wide = [0.5, 1.0, 1.2], [-0.4, 0.3, 0.1, 0.9]
    return (
        Question(
            "excluded",
            right,
            "count",
            (
                Slip(
                    lambda differences, printed: not right(differences, printed),
                    "it is the other way round: excluded is what lies outside the interval",
                ),
                Slip(
                    lambda differences, printed: right(differences, 0),
                    "that asks whether zero is excluded; the paper's difference is asked for",
                ),
                Slip(
                    lambda differences, printed: float(np.mean(differences)) != printed,
                    "another mean is not enough: how sure is ours?",
                ),
                Slip(excluded(lambda n: 1.96), "1.96 is for many values; so few need the t-distribution"),
                Slip(
                    excluded(lambda n: distributions.t.ppf(0.95, n - 1)),
                    "that is a 90 % interval: a tail of 2.5 % is left out on each side",
                ),
                Slip(excluded(ddof=0), "the deviation of a sample divides by n - 1"),
                Slip(
                    excluded(root=False), "that is the differences' own spread; the mean's is smaller by the root of n"
                ),
            ),
            "True where the paper's difference lies outside the 95 % interval of the mean of ours",
            cases=((few, 0.1), (few, 0.25), (few, 0.3), (few, 0.8), (few, 2.0), (wide, 3.0)),
        ),
    )


@exercise("ex-copies")
def _copies() -> tuple[Question, ...]:
    pointwise, depthwise = 12 * 112, 5 * 3 * 3
    return (
        Question(
            "copies",
            4 * (pointwise + depthwise),
            "bytes",
            (
                Slip(
                    4 * (pointwise + 5 * 3 * 3 * 5),
                    "a depthwise filter reads one channel alone: 3 x 3 weights a channel",
                ),
                Slip(4 * (12 + 5), "that is one weight a channel; a channel of the pointwise layer feeds 112 outputs"),
                Slip(
                    4 * (112 * 112 + depthwise),
                    "that is the whole pointwise layer; only 12 of its input channels are trained",
                ),
            ),
            "each trained weight has one copy of 4 bytes",
        ),
        Question(
            "together",
            2 * 4 * (pointwise + depthwise),
            "bytes",
            (
                Slip(4 * (pointwise + depthwise), "that is mode in-place, which stores no gradient"),
                Slip(
                    (32 + 1) * 4 * (pointwise + depthwise),
                    "the gradients of a batch are added up in one place, however many images it has",
                ),
            ),
            "a copy and a gradient of each trained weight",
        ),
    )


@exercise("ex-expanded")
def _expanded() -> tuple[Question, ...]:
    plane = 64 * 64
    return (
        Question(
            "whole",
            4 * 48 * plane,
            "bytes",
            (
                Slip(4 * 8 * plane, "that is the narrow input; the widened map has 48 channels"),
                Slip(4 * 48 * 64, "a plane has 64 times 64 numbers"),
            ),
            "48 planes of 64 by 64, 4 bytes a number",
        ),
        Question(
            "group",
            4 * 8 * plane,
            "bytes",
            (
                Slip(4 * 4 * plane, "that counts the planes once; they exist before and after the depthwise filter"),
                Slip(4 * 2 * 48 * plane, "that is all 48 channels; only a group of 4 is there at a time"),
            ),
            "4 planes before the depthwise convolution, 4 after it",
        ),
    )


@exercise("ex-linker")
def _linker() -> tuple[Question, ...]:
    from .. import device

    needed = device.plan("mbv2-w0.35", None, "Baseline", mode="in-place")["ram_bytes"]
    accumulated = device.plan("mbv2-w0.35", None, "Baseline")["ram_bytes"]
    block = 512 * 1024
    return (
        Question(
            "overflow",
            needed - block,
            "bytes",
            (
                Slip(needed, "that is all it needs; 512 KiB of it are there"),
                Slip(needed - 512_000, "a KiB has 1,024 bytes"),
                Slip(accumulated - block, "that is mode accumulate, which holds every gradient as well"),
            ),
            "what the plan needs less what the block has",
        ),
    )


@exercise("lab-budget")
def _lab_budget() -> tuple[Question, ...]:
    ram, runtime, besides = 320, 64, 20
    right = (ram - runtime - besides) * 1024 // 4
    return (
        Question(
            "budget",
            right,
            "elements",
            (
                Slip((ram - runtime) * 1024 // 4, "masks and transient outputs need room as well"),
                Slip((ram - besides) * 1024 // 4, "the runtime and the classifier need room as well"),
                Slip(ram * 1024 // 4, "that is all of the RAM; part of it is taken"),
                Slip((ram - runtime - besides) * 1000 // 4, "a KiB is 1024 bytes"),
            ),
            "subtract what is taken and divide by the bytes of an element",
        ),
    )


@exercise("lab-space")
def _lab_space() -> tuple[Question, ...]:
    from .. import costs, networks, ranking
    from ..runs import rankings

    budget = (320 - 64 - 20) * 1024 // 4
    model = networks.build("efficientnet-lite0", weights="random")
    order = rankings.load("efficientnet-lite0", "flowers12-s0-e5-r64")

    def space(side: int, kind: str = "lara") -> tuple[int, float]:
        prices = {layer.name: layer.search_elements for layer in costs.layers(model, (3, side, side))}
        ranked = [prices[name] for name in order.order(kind)]
        k = ranking.smallest_k(ranked, budget)
        return k, budget / sum(ranked[:k])

    k, alpha = space(32)
    others = [
        (*space(128), "those are the layers at 128 by 128 pixels; at 32 inputs are smaller and channels cheaper"),
        (*space(32, "rgn"), "that is the order by RGN; LaRa's is asked for"),
    ]
    return (
        Question(
            "layers",
            k,
            "count",
            (
                *(Slip(count, says) for count, _, says in others),
                Slip(k - 1, "with these alpha is still above 0.2"),
                Slip(len(order.layers), "those are all layers"),
            ),
            "take layers in LaRa's order until the budget is a fifth of their price or less",
        ),
        Question(
            "alpha",
            alpha,
            "fraction",
            (
                *(Slip(share, says) for _, share, says in others),
                Slip(0.2, "that is the threshold; how far below it does the rule end?"),
                Slip(1 / alpha, "that is the space over the budget; it is the other way round"),
            ),
            "the budget over the price of all channels of the K layers",
            tolerance=5e-4,
        ),
    )


@exercise("lab-interval")
def _lab_interval() -> tuple[Question, ...]:
    from scipy import stats as distributions

    def of(values, quantile=None, ddof=1, root=True):
        x = np.asarray(values, dtype=float)
        by = distributions.t.ppf(0.975, x.size - 1) if quantile is None else quantile(x.size)
        half = by * x.std(ddof=ddof) / (x.size**0.5 if root else 1)
        return x.mean(), x.mean() - half, x.mean() + half

    return (
        Question(
            "interval",
            of,
            "count",
            (
                Slip(
                    lambda values: of(values, lambda n: 1.96), "1.96 is for many values; so few need the t-distribution"
                ),
                Slip(
                    lambda values: of(values, lambda n: distributions.norm.ppf(0.975)),
                    "that is the normal distribution; so few values need the t-distribution",
                ),
                Slip(
                    lambda values: of(values, lambda n: distributions.t.ppf(0.95, n - 1)),
                    "that is a 90 % interval: a tail of 2.5 % is left out on each side",
                ),
                Slip(
                    lambda values: of(values, lambda n: distributions.t.ppf(0.975, n)),
                    "n values have n - 1 degrees of freedom",
                ),
                Slip(lambda values: of(values, ddof=0), "the deviation of a sample divides by n - 1"),
                Slip(
                    lambda values: of(values, root=False),
                    "that is the spread of the values; the mean's is smaller by the root of n",
                ),
                Slip(
                    lambda values: float(np.mean(values)),
                    "that is the mean alone; return it with both ends of the interval",
                ),
            ),
            "mean, then mean minus and plus t times the deviation over the root of n",
            cases=(([0.5, 1.0, 1.2],), ([-0.4, 0.3, 0.1, 0.9],)),
            tolerance=1e-5,
        ),
    )
