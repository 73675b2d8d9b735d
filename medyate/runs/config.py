"""What one run is: frozen configs, and the id that follows from them.

A config is a value: it holds what was said, and reads nothing. :meth:`RunConfig.complete` makes names canonical, fills
in what was left open and refuses what cannot be; :meth:`RunConfig.check` also asks whether data and ranking are on
this machine. So the paper's whole grid can be declared where none of its data are.

Device, threads and folders are not part of a config: they may change how long a run takes, not what it is. The same
config has the same id everywhere. A field that is added later (``later=True``) is left out of a config's plain data,
and so of its id, while it has its default: every record from before keeps its id, and what it says stays true.

``data`` tells one's own data from others under the same name: the beginning of their content's SHA-256. It stands in
the id, the place of the data does not, so a folder that changed is another run and one that moved the same.

What a field means to a user and its default stand here alone: the options of the command line are made from them.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import InputError, choose, positive, whole

# Modules that import torch, which takes seconds, are imported where a config is completed: to declare or to read one,
# or to print a command's help, takes none of them.

PAPER_WARMUP_EPOCHS = 5
READABLE = 100  # letters of an id before its digest; file systems bound names, some to 143 bytes
OTHER_EPOCHS = 10  # of a task that is not in the paper, warm-up not included
RESOLUTION = "Side of the input in pixels; of texts, the tokens."


def option(
    default: Any, help: str = "", *, stands_for: str | None = None, flags: str | None = None, later: bool = False
) -> Any:
    """A field of a config, with what its option on the command line says.

    ``stands_for``: what a default of None comes to; ``flags``: both flags of a truth value; ``later``: records from
    before the field do not have it, and were made as its default says.
    """
    says = {"help": help, "stands_for": stands_for, "flags": flags, "later": later}
    return dataclasses.field(default=default, metadata=says)


def _flag(value: Any, what: str) -> bool:
    if not isinstance(value, bool):
        raise InputError(f"{what} {value!r} is not a truth value; allowed: True, False")
    return value


def _slug(text: str, longest: int) -> str:
    """Letters, digits and dots alone, at most so many."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-")[:longest].rstrip("-")


def _check_kind(task, network) -> None:
    from .. import tasks

    if task.kind != network.kind:
        fitting = [name for name, one in tasks.TASKS.items() if one.kind == network.kind]
        raise InputError(
            f"task {task.name!r} is of kind {task.kind}; network {network.name!r} takes {network.kind}s, "
            f"allowed: {', '.join(fitting)}, or one's own"
        )


def _check_norm_gradient(config) -> None:
    if config.norm_gradient != type(config).norm_gradient:  # as with `fill`: a default needs no look
        from ..importance import NORM_GRADIENTS

        choose(config.norm_gradient, NORM_GRADIENTS, "norm gradient")


@dataclass(frozen=True)
class _Config:
    """What both kinds of run share."""

    kind = ""

    @classmethod
    @functools.cache
    def fields(cls) -> list[str]:
        return [field.name for field in dataclasses.fields(cls)]

    @classmethod
    def of(cls, values: Mapping[str, Any]):
        """A config from plain data; unknown names are refused."""
        for name in values:
            choose(name, cls.fields(), f"{cls.kind} option")
        return cls(**values)

    @classmethod
    @functools.cache
    def later_defaults(cls) -> dict[str, Any]:
        """The fields that a record may lack, and what a record without them was made with."""
        return {field.name: field.default for field in dataclasses.fields(cls) if field.metadata.get("later")}

    def as_dict(self) -> dict[str, Any]:
        """Plain data, as records hold it; :meth:`of` reads it. Later fields are there where they differ."""
        defaults, values = self.later_defaults(), vars(self)
        return {name: values[name] for name in self.fields() if name not in defaults or values[name] != defaults[name]}

    @property
    def identity(self) -> dict[str, Any]:
        """What makes a completed config this run: its plain data, of one's own data not their place but ``data``."""
        from .. import tasks

        values = self.as_dict()
        return values if self.data is None else values | {"task": tasks.short(self.task)}

    @functools.cached_property
    def id(self) -> str:
        """A readable name, short enough for a file's, and a digest of the whole :attr:`identity` of the completion."""
        config = self if "_complete" in vars(self) else self.complete()
        content = json.dumps({"kind": self.kind, **config.identity}, sort_keys=True)
        digest = hashlib.sha256(content.encode()).hexdigest()[:10]
        return _slug(config._readable().lower(), READABLE) + "-" + digest

    def _completed(self, values: Mapping[str, Any]):
        """A config of these values that knows itself complete, so that its id completes it no second time."""
        config = dataclasses.replace(self, **values)
        vars(config)["_complete"] = True
        return config

    def _readable(self) -> str:
        raise NotImplementedError

    def complete(self):
        raise NotImplementedError

    def check(self):
        """The completed config, after a look whether its data are here. Raises :class:`InputError`."""
        from .. import networks, tasks

        config = self.complete()
        task = tasks.get(config.task)
        _check_kind(task, networks.get(config.network))
        data = tasks.fingerprint(task)
        if config.data not in (None, data):
            raise InputError(
                f"the data of task {config.task!r} have changed: their digest is {data!r}; allowed: {config.data!r}, "
                "as declared"
            )
        return config._completed({"task": task.name, "data": data})

    def _found_task(self):
        """The task and the digest of one's own data; None where they are not here, or where nobody needs to look."""
        from .. import tasks

        if str(self.task) in tasks.PACKS and self.data is None:
            return None, None
        try:
            task = tasks.get(self.task)
        except InputError:
            return None, self.data
        return task, tasks.fingerprint(task) if self.data is None else self.data

    def _common(self) -> dict[str, Any]:
        """The completed values of the fields that both kinds share."""
        from .. import networks
        from ..costs import DEPTHWISE
        from ..execution.modes import BATCH_NORMS

        network = networks.get(self.network)
        weights = network.default_source if self.weights is None else self.weights
        choose(weights, network.sources, f"weights of {network.name}")
        task, data = self._found_task()
        if task is not None:
            _check_kind(task, network)
        choose(self.batch_norm, BATCH_NORMS, "batch norm mode")
        warmup = whole(self.warmup_epochs, "warm-up epochs", 0)
        epochs = self.epochs
        if epochs is None:
            epochs = OTHER_EPOCHS if task is None or task.epochs is None else task.epochs - PAPER_WARMUP_EPOCHS
        size = "resolution" if network.kind == "image" else "number of tokens"
        values = {
            "batch_norm": self.batch_norm if network.has_batch_norm else "frozen",  # one id for what is one run
            "network": network.name,
            "weights": weights,
            "task": self.task if task is None else task.name,
            "data": data,
            "epochs": whole(epochs, "epochs", 1),
            "warmup_epochs": warmup,
            "seed": whole(self.seed, "seed", 0, 2**32 - 1),
            "resolution": whole(self.resolution, size, 16, network.longest),
            "batch_size": whole(self.batch_size, "batch size", 1),
            "learning_rate": positive(self.learning_rate, "learning rate"),
        }
        choose(self.depthwise, DEPTHWISE, "depthwise cost")
        return values

    @property
    def input_shape(self) -> tuple[int, ...]:
        """One sample's: (3, R, R) of an image, (T,) of a text."""
        from .. import networks

        return networks.get(self.network).input_shape(self.resolution)

    def backbone_layers(self):
        """The network's layers at this resolution and cost of depthwise channels, the classifier left out."""
        from .. import networks

        weights = "random" if self.weights is None else self.weights
        return networks.backbone(self.network, weights, self.resolution, self.depthwise)

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
    the strategy's rule. ``order``, ``metric``, ``boosted`` and ``boost`` override the strategy's choices;
    None keeps them, and the completed config holds the strategy's own. ``ranking`` names a recorded
    ranking; None takes one that was recorded on another task. ``probe_batches``: how many training
    batches an oracle's whole gradient is averaged over. ``recompute`` is for transformers' encoders
    (:func:`medyate.execution.attach.attach`); where nothing is computed again whatever it says (convolutions, dense
    gradients, Baseline), it is "layers".
    """

    network: str = option("mbv2-w0.35", "See `medyate networks`.")
    task: str = option("food10", "A task's name, folder:PATH, or a pack of MEDYATE_DATA.")
    strategy: str = option("LaRa MeDyate", "See `medyate strategies`.")
    budget: int | None = option(None, "Elements.", stands_for="tier 1 of the network, where it has tiers")
    epochs: int | None = option(None, "Epochs of the cosine.", stands_for="the paper's for the task")
    warmup_epochs: int = option(PAPER_WARMUP_EPOCHS, "Warm-up epochs, on top of --epochs.")
    seed: int = option(0)
    weights: str | None = option(None, "Source of the weights.", stands_for="the network's")
    resolution: int = option(128, RESOLUTION)
    batch_size: int = option(32)
    learning_rate: float = option(0.125, "Highest learning rate.")
    momentum: float = option(0.0)
    weight_decay: float = option(0.0)
    batch_norm: str = option("train", "train (as in the authors' earlier code) or frozen (deployable).")
    norm_affine: bool = option(
        False, "Train batch norm's weight and bias too (batch norm train).", flags="--norm-affine/--no-norm-affine"
    )
    layers: int | None = option(None, "Number of layers K in place of the strategy's rule.")
    order: str | None = option(None, "Layer order in place of the strategy's: lara or rgn.")
    metric: str | None = option(None, "Channel metric in place of the strategy's: raw or rgn.")
    boosted: bool | None = option(
        None, "Draw unseen channels in proportion to their layer's LaRa, or alike.", flags="--boosted/--uniform"
    )
    ranking: str | None = option(None, "A recorded ranking by name.", stands_for="one from another task")
    norm_gradient: str = option("last", "Which gradient norms are taken from: last, mean_norm or mean.")
    probe_batches: int = option(8, "Batches of an oracle's whole gradient.")
    fill: str = option("skip", "At a channel that does not fit: skip or stop.")
    count: str = option("paper", "What the budget counts: paper or everything.")
    depthwise: str = option("eq4", "A depthwise channel's cost: eq4 or authors.")
    execution: str = option("subnet", "subnet (saves memory) or dense (masked, for comparison).")
    recompute: str = option(
        "layers",
        "What a transformer's encoder computes again in the backward pass: none, layers or blocks.",
        later=True,
    )
    boost: str = option(
        "value", "With --boosted, what a layer's LaRa gives its channels: value, rank or softmax.", later=True
    )
    data: str | None = option(None, later=True)

    kind = "run"

    def complete(self) -> RunConfig:
        """This run with nothing left open: names are canonical, and the strategy's own choices stand in it.

        Raises :class:`InputError` for what no machine could run. A completed config is its own completion.
        """
        from .. import networks, strategies
        from ..execution.modes import COUNTS, EXECUTIONS, RECOMPUTE
        from ..networks import schemes
        from ..strategies import Needs
        from . import rankings

        values = self._common() | {
            "momentum": positive(self.momentum, "momentum", zero=True),
            "weight_decay": positive(self.weight_decay, "weight decay", zero=True),
            "probe_batches": whole(self.probe_batches, "probe batches", 1),
        }
        _flag(self.norm_affine, "norm_affine")
        if self.boosted is not None:
            _flag(self.boosted, "boosted")
        _check_norm_gradient(self)
        if self.fill != type(self).fill:  # the default is allowed, without the module that lists what is, and torch
            from ..sampling import FILLS

            choose(self.fill, FILLS, "fill")
        choose(self.count, COUNTS, "count")
        choose(self.execution, EXECUTIONS, "execution")
        choose(self.recompute, RECOMPUTE, "recompute mode")
        network = networks.get(self.network)
        if self.norm_affine and not network.has_batch_norm:
            raise InputError(
                f"norm_affine {self.norm_affine!r}: network {network.name!r} has no batch norm; allowed: False"
            )
        if self.norm_affine and self.batch_norm != "train":
            raise InputError(f"norm_affine {self.norm_affine!r} needs batch norm mode 'train', not {self.batch_norm!r}")
        strategy = self.declaration
        if self.boost != RunConfig.boost and not strategy.boosted:
            raise InputError(f"boost {self.boost!r} needs boosted True, not {strategy.boosted!r}")
        dense = self.execution == "dense" or strategy.needs(Needs.EVERYTHING)
        layers = networks.backbone(network.name, values["weights"], values["resolution"], self.depthwise)
        budget = None
        if strategy.uses_budget:
            budget = schemes.budgets(network.name, layers).get(1) if self.budget is None else self.budget
            if budget is None:
                raise InputError(
                    f"budget {budget!r}: network {network.name!r} has no tiers; allowed: a number of elements"
                )
            cheapest = min(layer.channel_elements for layer in layers)
            budget = whole(budget, "budget", cheapest, sum(layer.search_elements for layer in layers))
            if strategy.needs(Needs.SCHEME):
                choose(network.name, schemes.SCHEMES, "network with an SU scheme")
                if schemes.tier_of(network.name, budget, layers) is None:
                    tiers = schemes.budgets(network.name, layers).values()
                    raise InputError(
                        f"budget {budget!r} is not a tier of {network.name!r}; SU allows: {', '.join(map(str, tiers))}"
                    )
        ranking = None
        if strategy.order is None:
            if self.layers is not None:
                raise InputError(f"layers {self.layers!r}: strategy {strategy.name!r} ranks no layers")
        else:
            if self.layers is not None:
                whole(self.layers, "number of layers K", 1, len(layers))
            ranking = self.ranking or rankings.automatic(network.name, values["task"])
        values |= {
            "strategy": strategies.get(self.strategy).name,
            "budget": budget,
            "ranking": ranking,
            # one id for what is one run
            "recompute": RunConfig.recompute if dense or network.has_batch_norm else self.recompute,
            # the effective choices stand in the record, so that tables need no knowledge of ours
            "order": strategy.order,
            "metric": strategy.metric,
            "boosted": strategy.boosted,
        }
        return self._completed(values)

    def check(self) -> RunConfig:
        """The completed config, after a look whether its data and its ranking are here, and whether the budget
        pays for a channel of the layers that the ranking puts first. Raises :class:`InputError`."""
        from .. import sampling
        from ..selection import SearchSpace, search_layers
        from . import rankings

        config = super().check()
        if config.ranking is not None:
            layers, ranking = config.backbone_layers(), rankings.load(config.network, config.ranking)
            inside = search_layers(config.declaration, layers, ranking, config.budget, config.layers)
            sampling.check_budget(config.budget, SearchSpace(layers, inside).costs)
        return config

    @property
    def declaration(self):
        """The :class:`medyate.strategies.Strategy` with this run's overrides."""
        from .. import strategies

        return strategies.with_options(
            strategies.get(self.strategy), order=self.order, metric=self.metric, boosted=self.boosted, boost=self.boost
        )

    def _readable(self) -> str:
        from .. import tasks

        budget = f"-{self.budget}" if self.budget else ""
        k = f"-k{self.layers}" if self.layers else ""
        return f"{self.network}-{tasks.short(self.task)}-{self.strategy}{budget}{k}-{self.batch_norm}-s{self.seed}"


def _same(name: str) -> Any:
    """The field of that name of :class:`RunConfig`, default and meaning."""
    field = RunConfig.__dataclass_fields__[name]
    return dataclasses.field(default=field.default, metadata=field.metadata)


@dataclass(frozen=True)
class RankConfig(_Config):
    """A preliminary fine-tuning of the whole network that records every channel's gradient norm.

    ``norm_gradient`` says which gradient an epoch's norms, and so LaRa and layer RGN, are taken from, of
    :data:`medyate.importance.NORM_GRADIENTS`. The fine-tuning itself is the same. Fields of the same name and
    meaning are those of :class:`RunConfig`.
    """

    network: str = _same("network")
    task: str = _same("task")
    epochs: int | None = _same("epochs")
    warmup_epochs: int = _same("warmup_epochs")
    seed: int = _same("seed")
    weights: str | None = _same("weights")
    resolution: int = _same("resolution")
    batch_size: int = _same("batch_size")
    learning_rate: float = _same("learning_rate")
    batch_norm: str = _same("batch_norm")
    depthwise: str = _same("depthwise")
    norm_gradient: str = option(
        "mean_norm", "Which gradient an epoch's norms are of: last, mean_norm or mean.", later=True
    )
    data: str | None = _same("data")

    kind = "rank"

    def complete(self) -> RankConfig:
        """This ranking's run with nothing left open. Raises :class:`InputError` for what no machine could run."""
        values = self._common()
        _check_norm_gradient(self)
        return self._completed(values)

    @property
    def name(self) -> str:
        """The ranking's name: task, seed and length; resolution and norm gradient where they are not the default.

        Of one's own data with the digest, so that no two folders share a ranking.
        """
        from .. import tasks

        resolution = "" if self.resolution == RankConfig.resolution else f"-r{self.resolution}"
        gradient = "" if self.norm_gradient == RankConfig.norm_gradient else f"-{self.norm_gradient}"
        task = self.task
        if self.data is not None:
            task = f"{_slug(tasks.short(self.task).partition(':')[2] or self.task, 40)}-{self.data}".lstrip("-")
        return re.sub(r"[^A-Za-z0-9._]+", "-", f"{task}-s{self.seed}-e{self.total_epochs}{resolution}{gradient}")

    def _readable(self) -> str:
        from .. import tasks

        return f"rank-{self.network}-{tasks.short(self.task)}-s{self.seed}"


def stand_in_task(network: str) -> str:
    """A task that a network takes and every installation has, where a config is made but no data are read."""
    from .. import networks

    return {"image": "digits", "text": "docstrings"}[networks.get(network).kind]


KINDS = {"run": RunConfig, "rank": RankConfig}


def full(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    """A record's config with the fields that were added after it, as it was made."""
    return {**KINDS[kind].later_defaults(), **values}
