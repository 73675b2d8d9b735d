"""Costs against the paper's totals, torch's own counter, hooks on modules, and counting by hand."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from medyate import costs, networks
from medyate.errors import InputError
from medyate.execution.masks import mask_overheads
from medyate.networks._torchvision import torchvision
from medyate.probing.heads import heads as heads_of

PAPER = {  # Sec. 4.1: layers, weights, activations, total at 128 x 128
    "mbv2-w0.35": (52, 288_864, 963_456, 1_252_320),
    "mcunet-in1": (42, 463_216, 846_592, 1_309_808),
    "proxyless-w0.3": (61, 357_680, 804_352, 1_162_032),
}


@pytest.mark.parametrize("name", PAPER)
def test_totals_are_the_papers(name):
    found = costs.layers(networks.build(name, weights="random"), (3, 128, 128))
    totals = costs.totals(found)
    count, weights, activations, total = PAPER[name]
    assert len(found) == count
    assert (totals["weight_elements"], totals["activation_elements"]) == (weights, activations)
    assert totals["total_elements"] == total
    assert totals["bias_elements"] == 0


def test_depthwise_option_changes_depthwise_channels_only():
    model = networks.build("mbv2-w0.35", weights="random")
    ours, theirs = (costs.layers(model, depthwise=way) for way in ("eq4", "authors"))
    for a, b in zip(ours, theirs, strict=True):
        if a.kind == "depthwise":
            assert a.channel_elements - a.activation_elements_per_channel == 9
            assert b.channel_elements - b.activation_elements_per_channel == 1
        else:
            assert a == b
    assert sum(layer.kind == "depthwise" for layer in ours) == 17
    # the totals count true weights either way
    assert costs.totals(ours) == costs.totals(theirs)


def weight_derivative_flops(weight, size, stride, padding):
    """What torch counts for the weight's derivative alone: two for each multiply-accumulate."""
    x = torch.zeros(1, weight[1], *size)
    kernel = torch.zeros(weight, requires_grad=True)
    out = nn.functional.conv2d(x, kernel, stride=stride, padding=padding)
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    return counter.get_total_flops(), out.shape[-2:]


@settings(max_examples=40, deadline=None)
@given(
    groups=st.integers(1, 4),
    per_group=st.integers(1, 4),
    outputs=st.integers(1, 4),
    kernel=st.sampled_from([1, 3, 5]),
    stride=st.integers(1, 2),
    size=st.tuples(st.integers(5, 12), st.integers(5, 12)),
)
def test_flops_are_half_of_what_torch_counts(groups, per_group, outputs, kernel, stride, size):
    """Group by group: torch's formula for a grouped weight's derivative knows of no groups."""
    padding = kernel // 2
    one, output_size = weight_derivative_flops((outputs, per_group, kernel, kernel), size, stride, padding)
    layer = costs.conv_layer(
        "x", (groups * outputs, per_group, kernel, kernel), size, tuple(output_size), groups=groups
    )
    assert 2 * layer.weight_flops == groups * one
    assert layer.channels == groups * per_group
    assert layer.weight_elements == layer.channels * layer.weight_elements_per_channel


def hand_count(model, shape):
    """Layer name -> (channels, weights, input elements), by hooks on modules during a real forward pass."""
    seen = {}
    handles = [
        module.register_forward_pre_hook(
            lambda m, args, name=name: seen.setdefault(name, []).append(
                (args[0].shape[-1 if isinstance(m, nn.Linear) else 1], m.weight.numel(), args[0].numel())
            )
        )
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shape))
    for handle in handles:
        handle.remove()
    return seen


def torchvision_model(name):
    return getattr(torchvision().models, name)(weights=None)


@pytest.mark.parametrize(
    "build, classifier, conv_weights",
    [
        # parameters published by torchvision less batch norm and classifier
        (lambda: torchvision_model("resnet18"), "fc", 11_689_512 - 513_000 - 9_600),
        (lambda: torchvision_model("mobilenet_v2"), "classifier.1", 3_504_872 - 1_281_000 - 34_112),
        (lambda: networks.build("efficientnet-lite0", weights="random"), "classifier", 4_652_008 - 1_281_000 - 42_016),
    ],
    ids=["resnet18", "mobilenet_v2", "efficientnet-lite0"],
)
def test_walk_finds_what_hooks_find_and_what_torch_counts(build, classifier, conv_weights):
    model, shape = build(), (3, 64, 64)
    found = costs.walk(model, shape)
    counted = hand_count(model, shape)
    assert [layer.name for layer in found] == list(counted)
    for layer in found:
        ((channels, weights, inputs),) = counted[layer.name]
        assert (layer.channels, layer.weight_elements, layer.activation_elements) == (channels, weights, inputs)
        assert layer.bias_elements == (layer.out_channels if model.get_submodule(layer.name).bias is not None else 0)
    assert heads_of(model, shape) == (classifier,)
    backbone = costs.layers(model, shape)
    assert {layer.name for layer in found} - {layer.name for layer in backbone} == {classifier}
    assert costs.totals(backbone)["weight_elements"] == conv_weights
    # a product takes as many operations as its weight's derivative does
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, *shape))
    assert 2 * costs.totals(found)["weight_flops"] == counter.get_total_flops()


class Branches(nn.Module):
    """A residual, a concatenation and one layer that is used twice."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)
        self.left = nn.Conv2d(8, 8, 3, padding=1)
        self.right = nn.Conv2d(8, 4, 1)
        self.shared = nn.Conv2d(12, 12, 3, padding=1, groups=4)
        self.norm = nn.BatchNorm2d(12)
        self.drop = nn.Dropout(0.5)
        self.unused = nn.Linear(7, 7)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.stem(x)
        x = torch.cat([x + self.left(x), self.right(x)], dim=1)
        x = self.shared(self.norm(self.shared(x)))
        return self.head(self.drop(x.mean((2, 3))))


def test_residual_concatenation_and_a_shared_layer_by_hand():
    found = {layer.name: layer for layer in costs.walk(Branches(), (3, 10, 14))}
    assert list(found) == ["stem", "left", "right", "shared", "head"]
    stem, left, right, shared, head = found.values()
    assert (stem.kind, stem.channel_elements, stem.total_elements) == ("conv", 8 * 9 + 140, 216 + 3 * 140)
    assert (left.channel_elements, left.total_elements) == (72 + 35, 8 * 72 + 8 + 8 * 35)
    assert (right.kind, right.channel_elements, right.total_elements) == ("pointwise", 4 + 35, 32 + 4 + 280)
    # twice used: both inputs are kept, the weight is there once, its derivative is computed twice
    assert (shared.kind, shared.groups, shared.channels) == ("grouped", 4, 12)
    assert shared.channel_elements == 3 * 9 + 2 * 35
    assert shared.total_elements == 12 * 3 * 9 + 12 + 2 * 12 * 35
    assert shared.weight_flops == 2 * 12 * 3 * 9 * 35
    assert (head.kind, head.channel_elements, head.weight_flops) == ("linear", 5 + 1, 60)
    assert shared.search_elements == 12 * shared.channel_elements
    assert [layer.name for layer in costs.layers(Branches(), (3, 10, 14))] == ["stem", "left", "right", "shared"]
    assert [layer.name for layer in costs.layers(Branches(), (3, 10, 14), classifier="left")] == [
        "stem",
        "right",
        "shared",
        "head",
    ]


def test_a_linear_layer_counts_its_tokens():
    encoder = nn.Sequential(
        nn.Embedding(50, 6), nn.Linear(6, 24), nn.GELU(), nn.Linear(24, 6, bias=False), nn.Linear(6, 2)
    )
    up, down = costs.layers(encoder, (16,))
    assert (up.channel_elements, up.activation_elements, up.total_elements) == (24 + 16, 96, 144 + 24 + 96)
    assert (down.channels, down.channel_elements, down.bias_elements) == (24, 6 + 16, 0)
    assert up.weight_flops == 6 * 24 * 16


def test_the_walk_leaves_the_model_as_it_was():
    model = Branches()
    model.train()
    model.norm.eval()
    model.left.weight.requires_grad_(False)
    before = {
        name: (id(value), value.clone(), value.requires_grad)
        for name, value in model.state_dict(keep_vars=True).items()
    }
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    costs.walk(model, (3, 10, 14))
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    for name, value in model.state_dict(keep_vars=True).items():
        identity, content, required = before[name]
        assert id(value) == identity and value.device.type == "cpu" and value.requires_grad == required
        assert torch.equal(value, content)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class TwoNames(nn.Module):
    """The same modules under two names, as feature extractors and wrappers register them."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3))
        self.encoder = self.net[:2]
        self.head = nn.Linear(8, 4)
        self.also = nn.Linear(8, 4)
        self.also.weight = self.head.weight

    def forward(self, x):
        return self.head(self.net(x).mean((2, 3))) + self.also(self.encoder(x).mean((2, 3)))


@pytest.mark.parametrize("ask", [costs.walk, costs.layers, heads_of, lambda m, s: mask_overheads(m, (), s)])
def test_modules_and_weights_under_two_names_stay_what_they_are(ask):
    model = TwoNames().eval()
    x = torch.randn(2, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    before = model(x)
    objects = {name: id(value) for name, value in model.state_dict(keep_vars=True).items()}
    ask(model, (3, 9, 9))
    assert {name: id(value) for name, value in model.state_dict(keep_vars=True).items()} == objects
    assert torch.equal(model(x), before)


class Gate(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.squeeze, self.excite = nn.Linear(channels, 2), nn.Linear(2, channels)

    def forward(self, x):
        return x * torch.sigmoid(self.excite(self.squeeze(x.mean((2, 3)))))[..., None, None]


class Cosine(nn.Module):
    def __init__(self, channels, classes):
        super().__init__()
        self.weight, self.scale = nn.Parameter(torch.randn(classes, channels)), nn.Parameter(torch.tensor(10.0))

    def forward(self, x):
        return self.scale * nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))


class Headed(nn.Module):
    """One body; the output is made by what ``heads`` names, and nothing of it is called a classifier."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.last, self.body = nn.Linear(6, 6), nn.Conv2d(3, 6, 3)
        self.gate = Gate(6)
        if kind == "convolution":
            self.out = nn.Conv2d(6, 4, 1)
        elif kind == "cosine":
            self.out = Cosine(6, 4)
        elif kind in ("two", "mapping", "tuple"):
            self.out, self.age = nn.Linear(6, 4), nn.Linear(6, 1, bias=False)
        elif kind == "normed":
            self.out, self.norm = nn.Linear(6, 4, bias=False), nn.BatchNorm1d(4)
        elif kind == "parametrised":
            self.out = nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))
        elif kind == "parameter":
            self.matrix = nn.Parameter(torch.randn(6, 4))
        elif kind == "nested":
            self.out = nn.Sequential(nn.Dropout(0.5), nn.Linear(6, 4))

    def forward(self, x):
        x = self.gate(self.body(x))
        if self.kind == "convolution":
            return self.out(x * self.last(x.mean((2, 3)))[..., None, None]).mean((2, 3))
        x = self.last(x.mean((2, 3)))
        if self.kind == "parameter":
            return x @ self.matrix
        y = self.out(x)
        if self.kind == "normed":
            y = self.norm(y)
        if self.kind == "two":
            return torch.cat([y, self.age(x)], 1)
        if self.kind == "tuple":
            return y, self.age(x)
        if self.kind == "mapping":
            return {"logits": y, "features": self.age(x)}
        return y


@pytest.mark.parametrize(
    ("kind", "heads"),
    [
        ("convolution", ("out",)),
        ("cosine", ("out",)),
        ("two", ("out", "age")),
        ("tuple", ("out", "age")),
        ("mapping", ("out",)),
        ("normed", ("out",)),
        ("parametrised", ("out",)),
        ("parameter", ("matrix",)),
        ("nested", ("out.1",)),
    ],
)
def test_the_head_is_what_the_output_comes_from(kind, heads):
    model = Headed(kind)
    assert heads_of(model, (3, 8, 8)) == heads
    features = ["age"] if kind == "mapping" else []
    body = ["body", "gate.squeeze", "gate.excite", "last", *features]
    assert [layer.name for layer in costs.layers(model, (3, 8, 8))] == body
    assert heads_of(model, (3, 8, 8), ["last", "gate"]) == ("last", "gate")
    named = costs.layers(model, (3, 8, 8), ("gate", "last", *heads))
    assert [layer.name for layer in named] == ["body", *features]


class Timed(nn.Module):
    """Two inputs, and a look at a number on the way, which the meta device cannot take."""

    def __init__(self):
        super().__init__()
        self.time, self.inner, self.out = nn.Embedding(10, 4), nn.Conv3d(2, 4, 3, padding=1), nn.Conv3d(4, 2, 1)

    def forward(self, x, t):
        if t.max().item() > 8:
            raise ValueError("late")
        return self.out(self.inner(x) + self.time(t)[..., None, None, None])


def test_several_inputs_by_position_and_by_name():
    model = Timed()
    shapes = ((2, 4, 5, 6), ()), {"x": (2, 4, 5, 6), "t": ()}
    for shape in shapes:
        assert heads_of(model, shape) == ("out",)
        (inner,) = costs.layers(model, shape)
        # eq. 4 with a kernel of 3 x 3 x 3 and 4 x 5 x 6 values a channel
        assert (inner.channels, inner.channel_elements, inner.weight_flops_per_channel) == (
            2,
            4 * 27 + 120,
            4 * 27 * 120,
        )
    with pytest.raises(InputError, match="does not run on one input of shape"):
        costs.layers(model, (2, 4, 5, 6))


def test_the_one_weight_of_attention_is_a_layer():
    class Attends(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention, self.head = nn.MultiheadAttention(8, 2, batch_first=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.attention(x, x, x, need_weights=False)[0].mean(1))

    packed, out = costs.layers(Attends(), (5, 8))
    assert (packed.name, packed.channels, packed.weight_elements, packed.channel_elements) == ("attention", 8, 192, 29)
    assert out.name == "attention.out_proj"


def test_kilobytes_are_those_of_the_paper():
    """Fig. 6a's labels; rounded up."""
    assert costs.kilobytes(27_946) == 110
    assert costs.kilobytes(256) == 1
    assert costs.kilobytes(257) == 2


@pytest.mark.parametrize("groups", [1, 2, 4], ids=["full", "grouped", "depthwise"])
def test_operations_of_an_epoch_are_those_of_equations_11_to_13(groups):
    """By hand for one layer: C' outputs over the groups, 3 x 5 taps, outputs of 6 x 7, 3 of 4 channels."""
    layer = costs.conv_layer("a", (8, 4 // groups, 3, 5), (6, 7), (6, 7), groups)
    counted = costs.operations({"a": (0, 2, 3)}, [layer], pool=100, steps=9, batch_size=16)
    outputs = 8 // groups if groups < 4 else 2
    assert counted.channels == 3 and counted.norm == 3 * outputs * 15  # eq. 11
    assert counted.sampling == 20  # eq. 12's 3 log2(100) = 19.93, whole operations
    assert counted.derivatives == 16 * 9 * 3 * 15 * outputs * 42  # eq. 13, for each image of the batch
    assert counted.share == (counted.norm + counted.sampling) / counted.derivatives


def test_operations_add_up_over_layers():
    layers = [
        costs.conv_layer("a", (5, 4, 3, 3), (6, 6), (3, 3)),
        costs.conv_layer("b", (6, 1, 3, 3), (3, 3), (3, 3), groups=6),
        costs.linear_layer("c", (7, 9), tokens=11),
    ]
    chosen = {"a": (1,), "b": (0, 5), "c": (2, 3, 4)}
    each = [costs.operations({name: chosen[name]}, layers, 4, 2, 3) for name in chosen]
    together = costs.operations(chosen, layers, 4, 2, 3)
    for part in ("channels", "norm", "sampling", "derivatives"):  # of 4 channels, each draw costs 2
        assert getattr(together, part) == sum(getattr(one, part) for one in each)
    assert together.sampling == 2 * together.channels


def test_bad_input_is_told_in_one_line():
    model = Branches()
    for call, words in (
        (lambda: costs.walk(model, (4, 10, 14)), "(4, 10, 14)"),
        (lambda: costs.walk(model, (3, 10, 14), depthwise="eq5"), "'eq5'; allowed: eq4, authors"),
        (lambda: costs.layers(model, (3, 10, 14), classifier="fc"), "'fc'; allowed: stem, left"),
        (lambda: costs.walk(nn.ReLU()), "no Conv2d or Linear"),
        (lambda: costs.layers(nn.Conv2d(3, 4, 1)), "it is all head"),
    ):
        with pytest.raises(InputError) as caught:
            call()
        assert words in str(caught.value) and "\n" not in str(caught.value)
    assert model.training
