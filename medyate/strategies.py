"""The paper's strategies: which layers, which channels, chosen when (Sec. 4.3, Algorithm 1).

A strategy is three choices, and each can be overridden on its own, which is what Figs. 7 and 11 do:

* ``order`` and ``rule``: the layers of the search space. LaRa strategies take the smallest K with
  alpha_K <= 0.2 of the LaRa order, Prev strategies TraDy's K by the 98 % rule of the RGN order.
* ``choice``: how channels are chosen within it.
* ``metric``: what a channel's importance is, its raw gradient norm or its RGN (eq. 7).

The classifier is trained by every one of them and stands outside the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from . import importance, sampling, schemes
from .costs import Layer
from .errors import InputError, choose, whole
from .ranking import ALPHA_OPT, ORDERS, RGN_SHARE, Ranking, share_k, smallest_k

CHOICES = {
    "uniform": "at random, anew each epoch, every channel alike",
    "medyate": "at random in proportion to the norms seen so far (Algorithm 1)",
    "probability": "at random in proportion to the whole gradient's channel norms",
    "largest": "the channels of the largest importance in the whole gradient",
    "scheme": "the SU scheme's channels, once",
    "all": "everything",
    "none": "nothing but the classifier",
}
RULES = {
    "alpha": f"smallest K with alpha_K <= {ALPHA_OPT} (eq. 10)",
    "share": f"largest K below {RGN_SHARE:.0%} of the cumulated layer metric (TraDy's K)",
    "all": "every layer",
}
METRICS = {"raw": "channel gradient norm", "rgn": "channel gradient norm over channel cost (eq. 7)"}


@dataclass(frozen=True)
class Strategy:
    """A named strategy; ``boosted`` draws unseen channels in proportion to their layer's metric."""

    name: str
    description: str
    choice: str
    order: str | None = None
    rule: str = "all"
    metric: str = "raw"
    boosted: bool = False

    def __post_init__(self):
        choose(self.choice, CHOICES, "choice of channels")
        choose(self.rule, RULES, "rule for K")
        choose(self.metric, METRICS, "metric")
        if self.order is not None:
            choose(self.order, ORDERS, "layer order")
        if self.order is not None and self.choice in ("scheme", "all", "none"):
            raise InputError(f"layer order {self.order!r} does not apply to strategy {self.name!r}, which ranks no layers")
        if self.rule != "all" and self.order is None:
            raise InputError(f"rule {self.rule!r} needs a layer order; allowed: {', '.join(ORDERS)}")
        if self.boosted and (self.order is None or self.choice not in ("uniform", "medyate")):
            raise InputError(
                f"boosted {self.boosted!r} does not apply to choice {self.choice!r}; "
                "allowed: a layer order with choice uniform or medyate"
            )

    @property
    def needs_whole_gradient(self) -> bool:
        """Whether a pass over the whole network's gradient precedes each selection (an oracle)."""
        return self.choice in ("probability", "largest")

    @property
    def uses_budget(self) -> bool:
        return self.choice not in ("all", "none")

    @property
    def samples(self) -> bool:
        return self.choice in ("uniform", "medyate", "probability")


_TABLE = (
    Strategy("SU", "static sparse-update scheme of Lin et al., chosen offline per network and tier", "scheme"),
    Strategy("Det RGN", "whole gradient first, then the channels of highest RGN; an oracle", "largest", metric="rgn"),
    Strategy("TraDy", "uniform over the channels of the top layers by layer RGN", "uniform", "rgn", "share"),
    Strategy("Prev MeDyate", "MeDyate over TraDy's layers", "medyate", "rgn", "share"),
    Strategy("LaRa TraDy", "uniform over the channels of the top layers by LaRa", "uniform", "lara", "alpha"),
    Strategy("LaRa Det Raw", "whole gradient first, then the largest norms; an oracle", "largest", "lara", "alpha"),
    Strategy("LaRa Prob Raw", "whole gradient first, then in proportion to norms; an oracle", "probability", "lara", "alpha"),
    Strategy("LaRa MeDyate", "the paper's method, Algorithm 1", "medyate", "lara", "alpha"),
    Strategy("Baseline", "every parameter of the network is trained", "all"),
    Strategy("Head only", "only the new classifier is trained", "none"),
)  # fmt: skip
STRATEGIES: Mapping[str, Strategy] = {strategy.name: strategy for strategy in _TABLE}


def get(name: str) -> Strategy:
    """The strategy of that name; capitals, hyphens and underscores do not matter."""
    spoken = {key.lower(): key for key in STRATEGIES}
    plain = str(name).lower().replace("-", " ").replace("_", " ").strip()
    return STRATEGIES[choose(spoken.get(plain, name), STRATEGIES, "strategy")]


def with_options(
    strategy: Strategy,
    *,
    order: str | None = None,
    metric: str | None = None,
    boosted: bool | None = None,
) -> Strategy:
    """The strategy with some of its choices replaced; None keeps a choice."""
    changes = {"order": order, "metric": metric, "boosted": boosted}
    return replace(strategy, **{key: value for key, value in changes.items() if value is not None})


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
        """Cost of the selection, eq. 4 summed over its channels."""
        return self._sum(layers, "channel_elements")

    def weight_elements(self, layers: Sequence[Layer]) -> int:
        """Weight elements that are trained (D^2 a depthwise channel, whatever the cost option says)."""
        return sum(
            len(self.channels.get(layer.name, ())) * (layer.weight_elements // layer.channels)
            for layer in layers
        )

    def activation_elements(self, layers: Sequence[Layer]) -> int:
        """Activation elements that are kept, for one sample."""
        return self._sum(layers, "activation_elements_per_channel")

    def weight_flops(self, layers: Sequence[Layer]) -> int:
        """Multiply-accumulates of the selected weight derivatives for one sample, eq. 5."""
        return self._sum(layers, "weight_flops_per_channel")


class SearchSpace:
    """The top K layers as one long list of channels: layer and index of each, its cost."""

    def __init__(self, layers: Sequence[Layer], names: Sequence[str]):
        inside = set(names)
        self.layers = tuple(layer for layer in layers if layer.name in inside)
        if not self.layers:
            raise InputError("the search space has no layer")
        self.costs = self._per_channel(lambda layer: layer.channel_elements)

    def _per_channel(self, value) -> Tensor:
        counts = torch.tensor([layer.channels for layer in self.layers])
        values = [value(layer) for layer in self.layers]
        dtype = torch.long if all(isinstance(item, int) for item in values) else torch.float64
        return torch.tensor(values, dtype=dtype).repeat_interleave(counts)

    @property
    def elements(self) -> int:
        """M_K of eq. 10: the cost of every channel of the K layers."""
        return int(self.costs.sum())

    def per_channel(self, values: Mapping[str, float]) -> Tensor:
        """A value per layer, repeated for each of its channels, in double precision."""
        return self._per_channel(lambda layer: float(values[layer.name]))

    def flat(self, values: Mapping[str, Tensor]) -> Tensor:
        return importance.flat(values, self.layers)

    def _starts(self) -> Iterator[tuple[Layer, int]]:
        start = 0
        for layer in self.layers:
            yield layer, start
            start += layer.channels

    def selection(self, indices: Tensor) -> Selection:
        """Indices into the long list -> channels by layer."""
        chosen = {}
        for layer, start in self._starts():
            own = indices[(indices >= start) & (indices < start + layer.channels)] - start
            if len(own):
                chosen[layer.name] = tuple(sorted(own.tolist()))
        return Selection(chosen)

    def indices(self, selection: Selection) -> Tensor:
        """Channels by layer -> indices into the long list, layer by layer."""
        starts = {layer.name: start for layer, start in self._starts()}
        found = [starts[name] + torch.tensor(chosen) for name, chosen in selection.channels.items() if name in starts]
        return torch.cat(found) if found else torch.empty(0, dtype=torch.long)


def search_layers(
    strategy: Strategy,
    layers: Sequence[Layer],
    ranking: Ranking | None,
    budget: int,
    k: int | None = None,
) -> tuple[str, ...]:
    """The names of the top K layers, most important first.

    ``k`` given overrides the strategy's rule. Raises :class:`InputError` for a K outside
    1 .. number of layers, or where the strategy needs a ranking and has none.
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
    if k is None and strategy.rule == "alpha":
        k = smallest_k([by_name[name].search_elements for name in ranked], budget)
    elif k is None and strategy.rule == "share":
        values = dict(zip(ranking.layers, ranking.values(strategy.order)))
        k = share_k([values[name] for name in ranked])
    return tuple(ranked[: len(ranked) if k is None else k])


class Selector:
    """Chooses channels epoch after epoch; holds the norm vector N of Algorithm 1.

    ``select`` is called at the start of each epoch. For MeDyate it takes the norms of the channels
    that were selected in the epoch before, ``{layer: (k,) tensor}`` in the selection's order; for
    the oracles ``{layer: (C,) tensor}`` of the whole gradient; else nothing.

    Epoch 1 is uniform. In epoch 2 every channel that was not selected gets the largest norm that
    was seen, *among the channels of the search space*, in the metric that is sampled by: with RGN,
    the largest RGN. From epoch 3 on only selected channels' values are replaced, so a channel that
    was never selected keeps the maximum of epoch 2. An epoch that selected nothing (``fill="stop"``
    at a first channel above the budget) tells nothing: N stays as it was.

    ``overheads`` (elements by layer name) are counted against the budget once, see
    :func:`medyate.sampling.take`.
    """

    def __init__(
        self,
        strategy: Strategy,
        layers: Sequence[Layer],
        budget: int,
        generator: torch.Generator,
        *,
        ranking: Ranking | None = None,
        k: int | None = None,
        fill: str = "skip",
        scheme: Selection | None = None,
        overheads: Mapping[str, int] | None = None,
    ):
        choose(fill, sampling.FILLS, "fill")
        self.strategy, self.layers, self.budget = strategy, tuple(layers), budget
        self.generator, self.fill, self.scheme = generator, fill, scheme
        if strategy.uses_budget:
            whole(budget, "budget", 1)
        if strategy.choice == "scheme" and scheme is None:
            raise InputError(f"strategy {strategy.name!r} needs the scheme's selection")
        self.ranked = search_layers(strategy, layers, ranking, budget, k)
        self.space = SearchSpace(layers, self.ranked)
        if strategy.boosted:
            values = dict(zip(ranking.layers, ranking.values(strategy.order)))
            self.first_weights = self.space.per_channel(values)
        else:
            self.first_weights = torch.ones(len(self.space.costs), dtype=torch.float64)
        self.overheads = None
        if overheads is not None:
            self.overheads = self.space.per_channel(overheads).round().long()
        if strategy.samples or strategy.choice == "largest":
            sampling.check_budget(budget, self.space.costs, self.overheads)
        self.epoch = 0
        self.norms: Tensor | None = None  # N of Algorithm 1, over the search space
        self.seen = torch.zeros(len(self.space.costs), dtype=torch.bool)
        self.last: Selection | None = None

    @property
    def alpha(self) -> float:
        """alpha_K = B / M_K, eq. 10."""
        return self.budget / self.space.elements

    @property
    def explored_fraction(self) -> float:
        """Share of the search space's cost whose channels were selected at least once: 1 - u_e."""
        return float(self.space.costs[self.seen].sum()) / self.space.elements

    def select(self, norms: Mapping[str, Tensor] | None = None) -> Selection:
        """The next epoch's channels."""
        self.epoch += 1
        choice = self.strategy.choice
        if choice == "none":
            self.last = Selection({})
        elif choice == "all":
            self.last = Selection({layer.name: tuple(range(layer.channels)) for layer in self.layers})
        elif choice == "scheme":
            self.last = self.scheme
        else:
            self.last = self.space.selection(self._indices(norms))
        self.seen[self.space.indices(self.last)] = True
        return self.last

    def _indices(self, norms: Mapping[str, Tensor] | None) -> Tensor:
        choice = self.strategy.choice
        if choice == "uniform" or (choice == "medyate" and self.epoch == 1):
            weights = self.first_weights
        elif norms is None:
            raise InputError(f"epoch {self.epoch} of strategy {self.strategy.name!r} needs gradient norms")
        elif choice == "medyate":
            weights = self._remember(norms)
        else:
            weights = self._metric(self.space.flat(norms), slice(None))
        if choice == "largest":
            order = torch.argsort(weights, descending=True, stable=True)
            return sampling.take(order, self.space.costs, self.budget, self.fill, self.overheads)
        return sampling.sample(
            self.space.costs, weights, self.budget, self.generator, self.fill, self.overheads
        )

    def _metric(self, norms: Tensor, which) -> Tensor:
        return norms / self.space.costs[which] if self.strategy.metric == "rgn" else norms

    def _remember(self, norms: Mapping[str, Tensor]) -> Tensor:
        """Lines 6 to 10 of Algorithm 1; returns N."""
        if not self.last.channels:
            return self.first_weights if self.norms is None else self.norms
        chosen = self.space.indices(self.last)
        values = self._metric(torch.cat([norms[name].double().cpu() for name in self.last.channels]), chosen)
        if not torch.isfinite(values).all():
            raise InputError("a channel's gradient norm is not finite: the training diverged; use a smaller step")
        if self.norms is None:
            largest = values.max()
            self.norms = torch.full((len(self.space.costs),), float(largest), dtype=torch.float64)
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


def scheme_selection(network: str, tier: int, layers: Sequence[Layer], weights: Mapping[str, Tensor]) -> Selection:
    """The SU scheme's channels: of each layer those of the largest pretrained weight norm.

    ``weights`` maps layer names to their weights, (C', C/groups, D, D).
    """
    by_name = {layer.name: layer for layer in layers}
    chosen = {}
    for name, count in schemes.counts(network, tier, layers).items():
        norms = importance.channel_norms(weights[name], by_name[name].groups)
        best = torch.argsort(norms, descending=True, stable=True)[:count]
        if count:
            chosen[name] = tuple(sorted(best.tolist()))
    return Selection(chosen)


def fitted(
    selection: Selection, layers: Sequence[Layer], weights: Mapping[str, Tensor], budget: int
) -> Selection:
    """The selection with as few channels given up as it takes to fit the budget.

    Given up first: in the last selected layers, the channels of the smallest weight norm.
    """
    channels = {name: list(chosen) for name, chosen in selection.channels.items()}
    used = selection.used_elements(layers)
    for layer in reversed(layers):
        chosen = channels.get(layer.name, [])
        norms = importance.channel_norms(weights[layer.name], layer.groups)
        while used > budget and chosen:
            chosen.remove(min(chosen, key=lambda channel: float(norms[channel])))
            used -= layer.channel_elements
    return Selection({name: tuple(chosen) for name, chosen in channels.items() if chosen})
