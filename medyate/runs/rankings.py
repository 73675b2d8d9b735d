"""Rankings by name: ``results/rankings/NETWORK.NAME.json``, shipped ones and one's own."""

from __future__ import annotations

import json
import re
from pathlib import Path

from ..errors import InputError
from ..files import paths
from ..ranking import Ranking

# which shipped ranking a run takes by itself: the first of these that is not its own task
PREFERRED = ("flowers12", "food10", "cub50", "cifar10")


def names(network: str) -> list[str]:
    """The rankings that are there for a network: shipped ones and one's own."""
    return sorted(
        {
            path.name[len(network) + 1 : -len(".json")]
            for folder in paths.folders("rankings")
            for path in folder.glob(f"{network}.*.json")
        }
    )


def load(network: str, name: str) -> Ranking:
    """The ranking of that name. :class:`InputError` lists what there is, or names a damaged file."""
    for folder in paths.folders("rankings"):
        path = folder / f"{network}.{name}.json"
        if path.is_file():
            return Ranking.load(path)
    hint = ", ".join(names(network)) or (
        f"none yet; record one: medyate rank {network} --task TASK (transformers: --learning-rate 0.05)"
    )
    raise InputError(f"unknown ranking {name!r} of {network!r}; allowed: {hint}")


def save(ranking: Ranking) -> Path:
    """Write a ranking beside one's own records; returns the path."""
    return ranking.save(paths.writable("rankings") / f"{ranking.network}.{ranking.name}.json")


def automatic(network: str, task: str) -> str:
    """The ranking that a run takes by itself: recorded on *another* task than its own.

    Shipped rankings come before one's own, so that recording one does not change later runs; of
    them the first task of ``PREFERRED`` that is not ``task``. With nothing else at hand, the
    task's own. Never one of a fine-tuning that collapsed.
    """
    if not names(network):
        load(network, "auto")  # raises the error that says how to record one

    def preference(name: str) -> tuple:
        recorded_on, shipped = load(network, name).task, paths.shipped()
        is_shipped = bool(shipped) and (shipped / "rankings" / f"{network}.{name}.json").is_file()
        known = PREFERRED.index(recorded_on) if recorded_on in PREFERRED else len(PREFERRED)
        return recorded_on == task, not is_shipped, known, name

    for name in sorted(names(network), key=preference):
        if not collapsed(network, name):
            return name
    raise InputError(
        f"every ranking of {network!r} is of a fine-tuning that collapsed: {', '.join(names(network))}; record another "
        "with a smaller learning rate, or name one"
    )


LEARNED = 0.25  # of the way from chance to all right: what a fine-tuning that ranks layers must have come


def collapsed(network: str, name: str) -> bool:
    """Whether the fine-tuning behind a ranking ended with less than :data:`LEARNED` of what there is to learn.

    False where no record says how it ended.
    """
    made_by = re.search(r"run (\S+),", load(network, name).source)
    files = [folder / f"{made_by.group(1)}.json" for folder in paths.folders("runs")] if made_by else []
    record = next((json.loads(file.read_text()) for file in files if file.is_file()), {})
    if record.get("test_top1_percent") is None or not record.get("classes"):
        return False
    chance = 1 / record["classes"]
    return (record["test_top1_percent"] / 100 - chance) / (1 - chance) < LEARNED
