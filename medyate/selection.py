"""The chosen channels, the layers they are chosen from, and the choice epoch after epoch (Algorithm 1)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import sampling
from .costs import Layer
from .errors import InputError, choose, whole
from .ranking import Ranking
from .strategies import BOOSTS, RULES, Needs, Strategy


@dataclass(frozen=True)
class Selection:
    """The chosen input channels by layer name, each a sorted tuple; layers without any are absent."""

    channels: Mapping[str, tuple[int, ...]]

    @property
    def count(self) -> int:
        return sum(len(chosen) for chosen in self.channels.values())

    def _sum(self, layers: Sequence[Layer], value: str) -> int:
        return sum(len(self.channels.get(layer.name, ())) * getattr(layer, value) for layer in layers)

    def used_elements(self, layers: Sequence[Layer]) -> int:
        """Cost of the selection, paper eq. 4 summed over its channels."""
        return self._sum(layers, "channel_elements")

    def weight_elements(self, layers: Sequence[Layer]) -> int:
        """Weight elements that are trained (D^2 a depthwise channel, whatever the cost option says)."""
        return sum(
            len(self.channels.get(layer.name, ())) * (layer.weight_elements // layer.channels) for layer in layers
        )

    def activation_elements(self, layers: Sequence[Layer]) -> int:
        """Activation elements that are kept, for one sample."""
        return self._sum(layers, "activation_elements_per_channel")

    def weight_flops(self, layers: Sequence[Layer]) -> int:
        """Multiply-accumulates of the selected weight derivatives for one sample, paper eq. 5."""
        return self._sum(layers, "weight_flops_per_channel")


class SearchSpace:
    """The top K layers as one long list of channels: layer and index of each, its cost."""

    def __init__(self, layers: Sequence[Layer], names: Sequence[str]):
        inside = set(names)
        self.layers = tuple(layer for layer in layers if layer.name in inside)
        if not self.layers:
            raise InputError("the search space has no layer")
        self._counts = torch.tensor([layer.channels for layer in self.layers])
        self._ends = dict(zip((layer.name for layer in self.layers), self._counts.cumsum(0).tolist()))
        self.costs = torch.tensor([layer.channel_elements for layer in self.layers]).repeat_interleave(self._counts)

    @property
    def elements(self) -> int:
        """M_K of paper eq. 10: the cost of every channel of the K layers."""
        return int(self.costs.sum())

    def per_channel(self, values: Mapping[str, float]) -> Tensor:
        """A value per layer, repeated for each of its channels, in double precision."""
        by_layer = [float(values[layer.name]) for layer in self.layers]
        return torch.tensor(by_layer, dtype=torch.float64).repeat_interleave(self._counts)

    def selection(self, indices: Tensor) -> Selection:
        """Indices into the long list -> channels by layer."""
        chosen = {}
        for layer in self.layers:
            end = self._ends[layer.name]
            own = indices[(indices >= end - layer.channels) & (indices < end)] - (end - layer.channels)
            if len(own):
                chosen[layer.name] = tuple(sorted(own.tolist()))
        return Selection(chosen)

    def indices(self, selection: Selection) -> Tensor:
        """Channels by layer -> indices into the long list, layer by layer."""
        channels = {layer.name: layer.channels for layer in self.layers}
        indices = [torch.empty(0, dtype=torch.long)]
        for name, chosen in selection.channels.items():
            count = channels[choose(name, channels, "layer of the search space")]
            for end in (min(chosen, default=0), max(chosen, default=0)):
                whole(end, f"channel of {name!r}", 0, count - 1)
            indices.append(self._ends[name] - count + torch.tensor(chosen, dtype=torch.long))
        return torch.cat(indices)


def search_layers(
    strategy: Strategy, layers: Sequence[Layer], ranking: Ranking | None, budget: int, k: int | None = None
) -> tuple[str, ...]:
    """The names of the top K layers, most important first.

    ``k`` given overrides the strategy's rule. Raises :class:`InputError` for a K outside 1 .. number of layers, or
    where the strategy needs a ranking and has none.
    """
    if k is not None:
        whole(k, "number of layers K", 1, len(layers))
    if strategy.order is None:
        if k is not None:
            raise InputError(f"K = {k!r} does not apply to strategy {strategy.name!r}, which ranks no layers")
        return tuple(layer.name for layer in layers)
    if ranking is None:
        raise InputError(f"strategy {strategy.name!r} needs a ranking of layers")
    ranking.check(layers)
    by_name = {layer.name: layer for layer in layers}
    ranked = [name for name in ranking.order(strategy.order) if name in by_name]
    if k is None:
        values = dict(zip(ranking.layers, ranking.values(strategy.order)))
        costs = [by_name[name].search_elements for name in ranked]
        k = RULES[strategy.rule].k(costs, [values[name] for name in ranked], budget)
    return tuple(ranked[:k])


class Selector:
    """Chooses channels epoch after epoch; holds the norm vector N of Algorithm 1.

    ``select`` is called at the start of each epoch. It is the :class:`medyate.strategies.Pool` that the strategy's
    choice picks from.

    Epoch 1 is uniform. In epoch 2 every channel that was not selected gets the largest norm that was seen, *among the
    channels of the search space*, in the metric that is sampled by: with RGN, the largest RGN. From epoch 3 on only
    selected channels' values are replaced, so a channel that was never selected keeps the maximum of epoch 2. An epoch
    that selected nothing (``fill="stop"`` at a first channel above the budget) tells nothing: N stays as it was.

    ``overheads`` (elements by layer name) are counted against the budget once, see
    :func:`medyate.sampling.take`.
    """

    def __init__(
        self,
        strategy: Strategy,
        layers: Sequence[Layer],
        budget: int | None,
        generator: torch.Generator,
        *,
        ranking: Ranking | None = None,
        k: int | None = None,
        fill: str = "skip",
        scheme: Selection | None = None,
        overheads: Mapping[str, int] | None = None,
    ):
        choose(fill, sampling.FILLS, "fill")
        self.strategy, self.layers = strategy, tuple(layers)
        self.generator, self.fill = generator, fill
        self.budget = whole(budget, "budget", 1) if strategy.needs(Needs.BUDGET) else 0
        if strategy.needs(Needs.SCHEME) and scheme is None:
            raise InputError(f"strategy {strategy.name!r} needs the scheme's selection")
        self.ranked = search_layers(strategy, layers, ranking, self.budget, k)
        self.space = SearchSpace(layers, self.ranked)
        self.channels = torch.arange(len(self.space.costs))
        self.scheme = self.space.indices(scheme or Selection({}))
        self.first_weights = torch.ones(len(self.space.costs), dtype=torch.float64)
        if strategy.boosted and ranking and strategy.order:
            metric = dict(zip(ranking.layers, ranking.values(strategy.order)))
            values = torch.tensor([metric[name] for name in self.ranked], dtype=torch.float64)
            weights = BOOSTS[strategy.boost](values).tolist()
            self.first_weights = self.space.per_channel(dict(zip(self.ranked, weights)))
        self.overheads = None if overheads is None else self.space.per_channel(overheads).round().long()
        if strategy.choice.searches:
            sampling.check_budget(self.budget, self.space.costs, self.overheads)
        self.epoch = 0
        self.norms: Tensor | None = None  # N of Algorithm 1, over the search space
        self.seen = torch.zeros(len(self.space.costs), dtype=torch.bool)
        self.last: Selection | None = None

    @property
    def alpha(self) -> float:
        """alpha_K = B / M_K, paper eq. 10."""
        return self.budget / self.space.elements

    @property
    def explored_fraction(self) -> float:
        """Share of the search space's cost whose channels were selected at least once: 1 - u_e."""
        return float(self.space.costs[self.seen].sum()) / self.space.elements

    @property
    def needs_whole_gradient(self) -> bool:
        """Whether the coming epoch's selection needs the whole network's gradient."""
        return self.strategy.needs(Needs.WHOLE_GRADIENT) and not (self.strategy.once and self.last)

    def select(self, norms: Mapping[str, Tensor] | None = None) -> Selection:
        """The next epoch's channels.

        ``norms``: of the channels that were selected in the epoch before, ``{layer: (k,) tensor}`` in the selection's
        order, where the strategy needs its own gradient; ``{layer: (C,) tensor}`` where it needs the whole gradient;
        else nothing.
        """
        self.epoch += 1
        if self.last is not None and self.strategy.once:
            return self.last
        first = self.last is None and self.strategy.needs(Needs.OWN_GRADIENT)  # nothing was trained yet
        if norms is None and self.strategy.choice.reads_gradients and not first:
            raise InputError(f"epoch {self.epoch} of strategy {self.strategy.name!r} needs gradient norms")
        chosen = self.strategy.choice.pick(self, {} if first or norms is None else norms)
        selection = self.last = self.space.selection(chosen)
        self.seen[chosen] = True
        return selection

    def draw(self, weights: Tensor) -> Tensor:
        return sampling.sample(self.space.costs, weights, self.budget, self.generator, self.fill, self.overheads)

    def take(self, order: Tensor) -> Tensor:
        return sampling.take(order, self.space.costs, self.budget, self.fill, self.overheads)

    def importance(self, norms: Mapping[str, Tensor]) -> Tensor:
        whole_gradient = torch.cat([norms[layer.name].double() for layer in self.space.layers])
        return self._metric(whole_gradient, slice(None))

    def _metric(self, norms: Tensor, which) -> Tensor:
        return norms / self.space.costs[which] if self.strategy.metric == "rgn" else norms

    def remember(self, norms: Mapping[str, Tensor]) -> Tensor:
        """Lines 6 to 10 of Algorithm 1; returns N, the first weights while there is none."""
        if self.last is None or not self.last.channels or not norms:  # an epoch that tells nothing
            return self.first_weights if self.norms is None else self.norms
        chosen = self.space.indices(self.last)
        values = self._metric(torch.cat([norms[name].double().cpu() for name in self.last.channels]), chosen)
        if not torch.isfinite(values).all():
            raise InputError(
                "a channel's gradient norm is not finite: the training diverged, or an input was not finite; allowed: "
                "finite inputs, and steps at which training does not diverge"
            )
        if self.norms is None:
            self.norms = torch.full((len(self.space.costs),), float(values.max()), dtype=torch.float64)
            if self.strategy.boosted:
                # App. A.2 says only that the initial probabilities follow LaRa: unseen channels
                # keep the maximum, scaled by their layer's share of the largest LaRa.
                self.norms *= self.first_weights / self.first_weights.max()
        self.norms[chosen] = values
        return self.norms

    def state_dict(self) -> dict:
        """What a later epoch depends on; plain tensors, numbers and lists."""
        return {
            "epoch": self.epoch,
            "norms": self.norms,
            "seen": self.seen,
            "last": {name: list(chosen) for name, chosen in self.last.channels.items()} if self.last else None,
            "generator": self.generator.get_state(),
        }

    def load_state_dict(self, state: Mapping) -> None:
        self.epoch, self.norms, self.seen = state["epoch"], state["norms"], state["seen"]
        last = state["last"]
        self.last = None if last is None else Selection({name: tuple(chosen) for name, chosen in last.items()})
        self.generator.set_state(state["generator"])
