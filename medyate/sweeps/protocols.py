"""The protocols, declared as data: all of a run's settings that are neither its strategy nor what a page varies.

Runs of two protocols are never compared or pooled. A page shows one and says which others there are; the sweeps take
their settings from here, so what is run under a protocol's name is what is shown under it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .. import networks
from ..errors import choose
from ..runs.config import RunConfig, full

# Entries of a config that name the strategy or follow from it, and those that a page varies; all others are protocol.
STRATEGY = ("strategy", "layers", "order", "metric", "boosted", "boost", "ranking")
VARIED = ("network", "weights", "task", "data", "resolution", "budget", "epochs", "seed")

# Epochs of the cosine, by the paper's task (Sec. 4.1; it lists CIFAR-100 twice, CIFAR-10 is the one of 100) and the
# small cuts of it.
PAPER_EPOCHS = {
    **dict.fromkeys(("flowers", "flowers12", "pets", "cub", "cub50"), 200),
    **dict.fromkeys(("cifar-10", "cifar10", "cifar10_jpeg"), 100),
    **dict.fromkeys(("cifar-100", "food", "food10", "vww"), 50),
}


@dataclass(frozen=True)
class Protocol:
    """A named way to fine-tune. Whatever it does not name is the default of :class:`medyate.runs.config.RunConfig`.

    ``paper_epochs``: whether the epochs are the paper's of the task; else they are a parameter like others.
    ``rankings``: the rankings that it declares, the first that was not recorded on the run's own task counts.
    """

    name: str
    says: str
    batch_norm: str
    norm_affine: bool
    warmup_epochs: int
    rankings: tuple[str, ...]
    paper_epochs: bool = False

    def settings(self, network: str) -> dict[str, Any]:
        """Its values of a config; a network without batch norm has but one mode of it."""
        settings: dict[str, Any] = {"warmup_epochs": self.warmup_epochs}
        if networks.get(network).has_batch_norm:
            settings |= {"batch_norm": self.batch_norm, "norm_affine": self.norm_affine}
        return settings

    def epochs(self, task: str) -> int | None:
        """Epochs of the cosine that it demands of a task; None where it demands none."""
        return PAPER_EPOCHS.get(task.lower()) if self.paper_epochs else None

    def ranking(self, task: str) -> str:
        """The ranking that it declares for a task: not one that was recorded on the task itself."""
        return next(name for name in self.rankings if not name.startswith(f"{task}-s"))

    def fits(self, config: Mapping[str, Any]) -> bool:
        """Whether a run's config, as its record holds it, is of this protocol, whatever its strategy and ranking.

        Of networks without batch norm the learning rate is left open, since the paper does not give it.
        """
        config = full("run", config)
        expected = _DEFAULTS | self.settings(config["network"])
        if not networks.get(config["network"]).has_batch_norm:
            del expected["learning_rate"]
            expected |= {"batch_norm": "frozen"}
        epochs = self.epochs(config["task"])
        if self.paper_epochs and epochs != config["epochs"]:
            return False
        return all(_plain(config.get(name)) == value for name, value in expected.items())


def _plain(value: Any) -> Any:
    """None for a table's not-a-number, which stands for a value that is not there."""
    return None if value != value else value


_DEFAULTS = {
    field.name: field.default for field in dataclasses.fields(RunConfig) if field.name not in (*STRATEGY, *VARIED)
}

_TABLE = (
    Protocol(
        "short",
        "train-mode batch norm, its weight and bias frozen; 1 warm-up epoch, and few epochs",
        batch_norm="train",
        norm_affine=False,
        warmup_epochs=1,
        rankings=("flowers12-s0-e5", "food10-s0-e5"),
    ),
    Protocol(
        "authors",
        "as the authors' earlier code does: train-mode batch norm, its weight and bias trained under every strategy; "
        "5 warm-up epochs and then the paper's epochs of the task",
        batch_norm="train",
        norm_affine=True,
        warmup_epochs=5,
        # by the definition of an epoch's norms that comes nearest to what the authors print, see
        # medyate.paper.definitions
        rankings=("flowers12-s0-e5-mean", "food10-s0-e5-mean"),
        paper_epochs=True,
    ),
    Protocol(
        "frozen",
        "frozen batch norm, the mode whose memory the budget covers; 1 warm-up epoch, and few epochs",
        batch_norm="frozen",
        norm_affine=False,
        warmup_epochs=1,
        rankings=("flowers12-s0-e5", "food10-s0-e5"),
    ),
)
PROTOCOLS: Mapping[str, Protocol] = {one.name: one for one in _TABLE}


def get(name: str) -> Protocol:
    """The protocol of that name."""
    return PROTOCOLS[choose(name, PROTOCOLS, "protocol")]


def names_of(config: Mapping[str, Any]) -> tuple[str, ...]:
    """The protocols that a run's config is of: several for a network without batch norm, perhaps none."""
    return tuple(name for name, one in PROTOCOLS.items() if one.fits(config))
