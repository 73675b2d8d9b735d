"""The paper's strategies: which layers, which channels, chosen when (Sec. 4.3, Algorithm 1).

A strategy is three choices, and each can be overridden on its own, which is what Figs. 7 and 11 do:

* ``order`` and ``rule``: the layers of the search space. LaRa strategies take the smallest K with
  alpha_K <= 0.2 of the LaRa order, Prev strategies TraDy's K by the 98 % rule of the RGN order.
* ``choice``: how channels are chosen within it.
* ``metric``: what a channel's importance is, its raw gradient norm or its RGN (paper eq. 7).

Static strategies (``once``) choose in the first epoch and keep what they chose: twins of the dynamic ones, to tell what
choosing anew is worth (Sec. 3.3; TraDy's Table 4 calls them S-).

The classifier is trained by every one of them and stands outside the budget. To add a strategy, add an entry to
``STRATEGIES``, with a :class:`Choice` of its own where none fits; nothing else names them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Flag, auto
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from .errors import InputError, choose
from .ranking import ALPHA_OPT, ORDERS, RGN_SHARE, share_k, smallest_k

if TYPE_CHECKING:
    from torch import Tensor


class Needs(Flag):
    """What a choice of channels asks for."""

    NOTHING = 0
    BUDGET = auto()  # a budget that it stays within
    SAMPLES = auto()  # random draws
    OWN_GRADIENT = auto()  # the norms of the channels that were trained in the epoch before
    WHOLE_GRADIENT = auto()  # all channels' norms before it chooses: an oracle
    SCHEME = auto()  # a selection made elsewhere
    EVERYTHING = auto()  # every parameter, biases and normalisations too; not only channels


class Pool(Protocol):
    """What a choice is made from: the N channels of the search space, as :class:`medyate.selection.Selector`
    holds them. Channels are given as indices into the N, weights as (N,) tensors."""

    channels: Tensor  # all N of them
    first_weights: Tensor  # before any gradient is known: all alike, or each its layer's metric ("boosted")
    scheme: Tensor  # the scheme's channels

    def draw(self, weights: Tensor) -> Tensor:
        """Channels drawn in proportion to ``weights`` until the budget is met."""

    def take(self, order: Tensor) -> Tensor:
        """The first channels of ``order`` that the budget pays for."""

    def remember(self, norms: Mapping[str, Tensor]) -> Tensor:
        """Algorithm 1's N, with what the channels of the epoch before have shown; before that the first weights."""

    def importance(self, norms: Mapping[str, Tensor]) -> Tensor:
        """The whole gradient in the strategy's metric."""


Norms: TypeAlias = "Mapping[str, Tensor]"  # by layer


@dataclass(frozen=True)
class Choice:
    """How channels are chosen: ``pick(pool, norms)`` gives the next epoch's, ``needs`` what it asks for.

    ``norms`` are by layer: of the whole gradient, or of the channels trained in the epoch before, as ``needs`` says;
    empty where there are none.
    """

    name: str
    says: str
    needs: Needs
    pick: Callable[[Pool, Norms], Tensor]

    @property
    def searches(self) -> bool:
        """Whether it chooses within a search space of layers."""
        return Needs.BUDGET in self.needs and Needs.SCHEME not in self.needs

    @property
    def reads_gradients(self) -> bool:
        return bool(self.needs & (Needs.OWN_GRADIENT | Needs.WHOLE_GRADIENT))

    def __reduce__(self):  # those below are pickled by their names, since pickle takes no lambda
        name = self.name.upper()
        return name if globals().get(name) is self else (Choice, (self.name, self.says, self.needs, self.pick))


UNIFORM = Choice(
    "uniform",
    "at random, anew each epoch, every channel alike",
    Needs.BUDGET | Needs.SAMPLES,
    lambda pool, norms: pool.draw(pool.first_weights),
)
MEDYATE = Choice(
    "medyate",
    "at random in proportion to the norms seen so far (Algorithm 1)",
    Needs.BUDGET | Needs.SAMPLES | Needs.OWN_GRADIENT,
    lambda pool, norms: pool.draw(pool.remember(norms)),
)
PROBABILITY = Choice(
    "probability",
    "at random in proportion to the whole gradient's channel norms",
    Needs.BUDGET | Needs.SAMPLES | Needs.WHOLE_GRADIENT,
    lambda pool, norms: pool.draw(pool.importance(norms)),
)
LARGEST = Choice(
    "largest",
    "the channels of the largest importance in the whole gradient",
    Needs.BUDGET | Needs.WHOLE_GRADIENT,
    lambda pool, norms: pool.take(pool.importance(norms).argsort(descending=True, stable=True)),
)
SCHEME = Choice(
    "scheme", "the SU scheme's channels, once", Needs.BUDGET | Needs.SCHEME, lambda pool, norms: pool.scheme
)
ALL = Choice("all", "everything", Needs.EVERYTHING, lambda pool, norms: pool.channels)
NONE = Choice("none", "nothing but the classifier", Needs.NOTHING, lambda pool, norms: pool.channels[:0])


@dataclass(frozen=True)
class Rule:
    """How many layers are searched: ``k(costs, values, budget)`` of the ranked layers' search costs and metric."""

    says: str
    k: Callable[[Sequence[int], Sequence[float], int], int]


RULES: Mapping[str, Rule] = {
    "alpha": Rule(
        f"smallest K with alpha_K <= {ALPHA_OPT} (paper eq. 10)", lambda costs, _, budget: smallest_k(costs, budget)
    ),
    "share": Rule(
        f"largest K below {RGN_SHARE:.0%} of the cumulated layer metric (TraDy's K)",
        lambda _, values, __: share_k(values),
    ),
    "all": Rule("every layer", lambda costs, *_: len(costs)),
}
# A channel's first weight by its layer's metric, (K,) over the searched layers: the paper takes the metric itself (App.
# A.2) and asks whether another weighting would do better (Sec. 5).
BOOSTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "value": lambda values: values,
    "rank": lambda values: values.argsort(stable=True).argsort() + 1.0,  # K for the highest, 1 for the lowest
    "softmax": lambda values: (values / values.std(correction=0).clamp_min(1e-300)).softmax(0),
}
METRICS = {"raw": "channel gradient norm", "rgn": "channel gradient norm over channel cost (paper eq. 7)"}


@dataclass(frozen=True)
class Strategy:
    """A named strategy; ``boosted`` draws unseen channels by their layer's metric, weighted as ``boost`` says; ``once``
    keeps the first epoch's selection."""

    name: str
    description: str
    choice: Choice
    order: str | None = None
    rule: str = "all"
    metric: str = "raw"
    boosted: bool = False
    boost: str = "value"
    once: bool = False

    def __post_init__(self):
        if not isinstance(self.choice, Choice):
            raise InputError(f"choice of channels {self.choice!r}; allowed: a Choice, such as strategies.MEDYATE")
        choose(self.rule, RULES, "rule for K")
        choose(self.metric, METRICS, "metric")
        choose(self.boost, BOOSTS, "boost")
        if self.order is not None:
            choose(self.order, ORDERS, "layer order")
            if not self.choice.searches:
                raise InputError(
                    f"layer order {self.order!r} does not apply to strategy {self.name!r}, which ranks no layers"
                )
        elif self.rule != "all":
            raise InputError(f"rule {self.rule!r} needs a layer order; allowed: {', '.join(ORDERS)}")
        needs = self.choice.needs
        if self.boosted and (self.order is None or Needs.SAMPLES not in needs or Needs.WHOLE_GRADIENT in needs):
            raise InputError(
                f"boosted {self.boosted!r} does not apply to choice {self.choice.name!r}; "
                "allowed: a layer order, and a choice that draws without the whole gradient"
            )
        if self.once and (not self.choice.searches or Needs.OWN_GRADIENT in needs):
            raise InputError(
                f"once {self.once!r} does not apply to choice {self.choice.name!r}; "
                "allowed: a choice within layers that needs no epoch before"
            )

    def needs(self, what: Needs) -> bool:
        """Whether the choice of channels asks for ``what``."""
        return what in self.choice.needs

    @property
    def uses_budget(self) -> bool:
        return self.needs(Needs.BUDGET)


_TABLE = (
    Strategy("SU", "static sparse-update scheme of Lin et al., chosen offline per network and tier", SCHEME),
    Strategy("Det RGN", "whole gradient first, then the channels of highest RGN; an oracle", LARGEST, metric="rgn"),
    Strategy("TraDy", "uniform over the channels of the top layers by layer RGN", UNIFORM, "rgn", "share"),
    Strategy("Prev MeDyate", "MeDyate over TraDy's layers", MEDYATE, "rgn", "share"),
    Strategy("LaRa TraDy", "uniform over the channels of the top layers by LaRa", UNIFORM, "lara", "alpha"),
    Strategy("LaRa Det Raw", "whole gradient first, then the largest norms; an oracle", LARGEST, "lara", "alpha"),
    Strategy(
        "LaRa Prob Raw", "whole gradient first, then in proportion to norms; an oracle", PROBABILITY, "lara", "alpha"
    ),
    Strategy("LaRa MeDyate", "the paper's method, Algorithm 1", MEDYATE, "lara", "alpha"),
    Strategy("Static TraDy", "as TraDy, drawn once", UNIFORM, "rgn", "share", once=True),
    Strategy(
        "Static Det RGN",
        "whole gradient once, then the channels of highest RGN for good; an oracle",
        LARGEST,
        metric="rgn",
        once=True,
    ),
    Strategy("Baseline", "every parameter of the network is trained", ALL),
    Strategy("Head only", "only the new classifier is trained", NONE),
)
STRATEGIES: Mapping[str, Strategy] = {strategy.name: strategy for strategy in _TABLE}


def get(name: str) -> Strategy:
    """The strategy of that name; capitals, hyphens and underscores do not matter."""
    spoken = {key.lower(): key for key in STRATEGIES}
    plain = str(name).lower().replace("-", " ").replace("_", " ").strip()
    return STRATEGIES[choose(spoken.get(plain, name), STRATEGIES, "strategy")]


def with_options(strategy: Strategy, **changes: Any) -> Strategy:
    """The strategy with its ``order``, ``metric``, ``boosted`` or ``boost`` replaced; None keeps a choice."""
    return replace(strategy, **{key: value for key, value in changes.items() if value is not None})
