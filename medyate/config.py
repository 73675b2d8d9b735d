"""What one run is: frozen configs that check themselves, and the id that follows from them.

Device, threads and folders are not part of a config: they may change how long a run takes, not
what it is. The same config has the same id everywhere.

A config checks that its data and its ranking are there. ``declared=True`` leaves these two checks
to the machine that runs it: so the paper's whole grid can be listed where none of its data are.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import InitVar, dataclass
from typing import Any

from . import networks, ranking, sampling, strategies, tasks
from .costs import DEPTHWISE
from .dynamic import COUNTS, EXECUTIONS, NORM_GRADIENTS
from .errors import InputError, choose, whole
from .sampling import FILLS
from .subnet import BATCH_NORMS

PAPER_WARMUP_EPOCHS = 5
OTHER_EPOCHS = 10  # of a task that is not in the paper, warm-up not included


def _positive(value: Any, what: str, zero: bool = False) -> float:
    """A finite number above 0 (or from 0 on); integers become floats."""
    allowed = f"allowed: a number {'from 0 on' if zero else 'above 0'}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{what} {value!r} is not a number; {allowed}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise InputError(f"{what} {value!r} is out of range; {allowed}")
    return float(value)


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{what} {value!r} is not a truth value; allowed: True, False")
    return value


class _Config:
    """Reading, writing and naming of configs."""

    kind: str

    @classmethod
    def fields(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def of(cls, values: Mapping[str, Any], declared: bool = False):
        """A config from plain data; unknown names are refused."""
        for name in values:
            choose(name, cls.fields(), f"{cls.kind} option")
        return cls(**values, declared=declared)

    def _set(self, **values: Any) -> None:
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def _readable(self) -> str:
        raise NotImplementedError

    @property
    def id(self) -> str:
        """A readable name and a digest of the whole config."""
        content = json.dumps({"kind": self.kind, **self.as_dict()}, sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:10]
        return re.sub(r"[^a-z0-9.]+", "-", self._readable().lower()).strip("-") + "-" + digest

    def _common(self, declared: bool) -> None:
        """Checks that both kinds of run share; names become canonical."""
        network = networks.get(self.network)
        weights = network.default_source if self.weights is None else self.weights
        choose(weights, network.sources, f"weights of {network.name}")
        task = tasks.TASKS.get(str(self.task).lower()) if declared else tasks.get(self.task)
        if task is not None and task.kind != network.kind:
            fitting = [name for name, one in tasks.TASKS.items() if one.kind == network.kind]
            raise InputError(
                f"task {task.name!r} is of kind {task.kind}; network {network.name!r} takes {network.kind}s, "
                f"allowed: {', '.join(fitting)}, or one's own"
            )
        choose(self.batch_norm, BATCH_NORMS, "batch norm mode")
        if not network.has_batch_norm:  # one id for what is one run
            self._set(batch_norm="frozen")
        warmup = whole(self.warmup_epochs, "warm-up epochs", 0)
        epochs = self.epochs
        if epochs is None:
            epochs = OTHER_EPOCHS if task is None or task.epochs is None else task.epochs - PAPER_WARMUP_EPOCHS
        self._set(
            network=network.name,
            weights=weights,
            task=self.task if task is None else task.name,
            epochs=whole(epochs, "epochs", 1),
            warmup_epochs=warmup,
            seed=whole(self.seed, "seed", 0, 2**32 - 1),
            resolution=whole(self.resolution, "resolution" if network.kind == "image" else "number of tokens", 16, network.longest),
            batch_size=whole(self.batch_size, "batch size", 1),
            learning_rate=_positive(self.learning_rate, "learning rate"),
        )
        choose(self.depthwise, DEPTHWISE, "depthwise cost")

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One sample's: (3, R, R) of an image, (T,) of a text."""
        return networks.get(self.network).input_shape(self.resolution)

    def backbone_layers(self):
        """The network's layers at this resolution and cost of depthwise channels, the classifier left out."""
        return _backbone(self.network, self.weights, self.resolution, self.depthwise)

    @property
    def total_epochs(self) -> int:
        """Warm-up comes on top (Sec. 4.1)."""
        return self.epochs + self.warmup_epochs


@dataclass(frozen=True)
class RunConfig(_Config):
    """One fine-tuning. Defaults are the paper's protocol (Sec. 4.1) and LaRa MeDyate.

    ``resolution`` is the side of images in pixels, of texts the number of tokens. A network without
    batch norm has ``batch_norm`` "frozen".

    ``epochs`` are those of the cosine; ``warmup_epochs`` come on top. ``layers`` is K, None for
    the strategy's rule. ``order``, ``metric`` and ``boosted`` override the strategy's choices;
    None keeps them, and the config then holds the strategy's own. ``ranking`` names a recorded
    ranking; None takes one that was recorded on another task. ``probe_batches``: how many training
    batches an oracle's whole gradient is averaged over.
    """

    network: str = "mbv2-w0.35"
    task: str = "food10"
    strategy: str = "LaRa MeDyate"
    budget: int | None = None
    epochs: int | None = None
    warmup_epochs: int = PAPER_WARMUP_EPOCHS
    seed: int = 0
    weights: str | None = None
    resolution: int = 128
    batch_size: int = 32
    learning_rate: float = 0.125
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_norm: str = "train"
    norm_affine: bool = False
    layers: int | None = None
    order: str | None = None
    metric: str | None = None
    boosted: bool | None = None
    ranking: str | None = None
    norm_gradient: str = "last"
    probe_batches: int = 8
    fill: str = "skip"
    count: str = "paper"
    depthwise: str = "eq4"
    execution: str = "subnet"
    declared: InitVar[bool] = False

    kind = "run"

    def __post_init__(self, declared: bool):
        self._common(declared)
        self._set(
            momentum=_positive(self.momentum, "momentum", zero=True),
            weight_decay=_positive(self.weight_decay, "weight decay", zero=True),
            probe_batches=whole(self.probe_batches, "probe batches", 1),
        )
        _flag(self.norm_affine, "norm_affine")
        if self.boosted is not None:
            _flag(self.boosted, "boosted")
        choose(self.norm_gradient, NORM_GRADIENTS, "norm gradient")
        choose(self.fill, FILLS, "fill")
        choose(self.count, COUNTS, "count")
        choose(self.execution, EXECUTIONS, "execution")
        if self.norm_affine and not networks.get(self.network).has_batch_norm:
            raise InputError(f"norm_affine {self.norm_affine!r}: network {self.network!r} has no batch norm; allowed: False")
        if self.norm_affine and self.batch_norm != "train":
            raise InputError(f"norm_affine {self.norm_affine!r} needs batch norm mode 'train', not {self.batch_norm!r}")
        strategy = strategies.get(self.strategy)
        self._set(strategy=strategy.name)
        strategy = self.declaration
        layers = self.backbone_layers()
        if strategy.uses_budget:
            from . import schemes

            budget = schemes.budgets(self.network, layers).get(1) if self.budget is None else self.budget
            if budget is None:
                raise InputError(f"budget {budget!r}: network {self.network!r} has no tiers; allowed: a number of elements")
            cheapest = min(layer.channel_elements for layer in layers)
            total = sum(layer.search_elements for layer in layers)
            self._set(budget=whole(budget, "budget", cheapest, total))
            if strategy.choice == "scheme":
                choose(self.network, schemes.SCHEMES, "network with an SU scheme")
                if schemes.tier_of(self.network, budget, layers) is None:
                    tiers = schemes.budgets(self.network, layers).values()
                    raise InputError(f"budget {budget!r} is no tier of {self.network!r}; SU allows: {', '.join(map(str, tiers))}")
        else:
            self._set(budget=None)
        if strategy.order is None:
            if self.layers is not None:
                raise InputError(f"layers {self.layers!r}: strategy {strategy.name!r} ranks no layers")
            self._set(ranking=None)
        else:
            if self.layers is not None:
                whole(self.layers, "number of layers K", 1, len(layers))
            name = self.ranking or ranking.automatic(self.network, self.task)
            if not declared:
                known = ranking.load(self.network, name)
                inside = strategies.search_layers(strategy, layers, known, self.budget, self.layers)
                sampling.check_budget(self.budget, strategies.SearchSpace(layers, inside).costs)
            self._set(ranking=name)
        # the effective choices stand in the record, so that tables need no knowledge of ours
        self._set(order=strategy.order, metric=strategy.metric, boosted=strategy.boosted)

    @property
    def declaration(self) -> strategies.Strategy:
        """The strategy with this run's overrides."""
        return strategies.with_options(
            strategies.get(self.strategy), order=self.order, metric=self.metric, boosted=self.boosted
        )

    def _readable(self) -> str:
        budget = f"-{self.budget}" if self.budget else ""
        k = f"-k{self.layers}" if self.layers else ""
        return f"{self.network}-{self.task}-{self.strategy}{budget}{k}-{self.batch_norm}-s{self.seed}"


@dataclass(frozen=True)
class RankConfig(_Config):
    """A preliminary fine-tuning of the whole network that records every channel's gradient norm."""

    network: str = "mbv2-w0.35"
    task: str = "food10"
    epochs: int | None = None
    warmup_epochs: int = PAPER_WARMUP_EPOCHS
    seed: int = 0
    weights: str | None = None
    resolution: int = 128
    batch_size: int = 32
    learning_rate: float = 0.125
    batch_norm: str = "train"
    depthwise: str = "eq4"
    declared: InitVar[bool] = False

    kind = "rank"

    def __post_init__(self, declared: bool):
        self._common(declared)

    @property
    def name(self) -> str:
        """The ranking's name: task, seed, length, and the resolution where it is not the paper's."""
        resolution = "" if self.resolution == 128 else f"-r{self.resolution}"
        return re.sub(r"[^A-Za-z0-9._]+", "-", f"{self.task}-s{self.seed}-e{self.total_epochs}{resolution}")

    def _readable(self) -> str:
        return f"rank-{self.network}-{self.task}-s{self.seed}"


def stand_in_task(network: str) -> str:
    """A task that a network takes and every installation has, where a config is made but no data are read."""
    return {"image": "digits", "text": "docstrings"}[networks.get(network).kind]


KINDS = {"run": RunConfig, "rank": RankConfig}
_walked: dict = {}


def _backbone(network: str, weights: str, resolution: int, depthwise: str):
    """The layers of a network, walked once per process. Folded networks have other layers."""
    from . import costs

    shape = "imagenet-int8" if weights == "imagenet-int8" else None
    key = (network, shape, resolution, depthwise)
    if key not in _walked:
        model = networks.skeleton(network, weights=shape or "random")
        _walked[key] = costs.layers(model, networks.get(network).input_shape(resolution), depthwise=depthwise)
    return _walked[key]
