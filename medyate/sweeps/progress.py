"""What of a grid is done, and how long the rest takes: read from records and locks, nothing is run.

A sweep's state is its records and nothing else: finished and failed are files, pending is the grid
minus both.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import tasks
from ..errors import InputError
from ..files import paths
from ..runs import failures, locks, records
from ..runs.config import RankConfig, RunConfig

Config = RunConfig | RankConfig


@dataclass(frozen=True)
class State:
    """Configs by what the records say of them; the three lists are disjoint and make up the grid.

    ``running`` are those of ``pending`` and ``failed`` that a process is at work on, with the epochs
    it has done; ``damaged`` records cannot be read and count as pending.
    """

    finished: tuple[Config, ...]
    pending: tuple[Config, ...]
    failed: tuple[Config, ...]
    running: dict[str, dict[str, Any]]
    damaged: tuple[str, ...]

    @property
    def runs(self) -> int:
        return len(self.finished) + len(self.pending) + len(self.failed)


def _record(file: Path) -> dict[str, Any] | None:
    """The record in a file; None for a damaged one."""
    try:
        return records.known(file)
    except InputError:
        return None


def state(configs: Sequence[Config]) -> State:
    """What the records say of ``configs``."""
    finished, pending, failed, damaged = [], [], [], []
    files, failures_there = paths.records("runs"), paths.records("failed")
    for config in configs:
        file = files.get(config.id)
        record = None if file is None else _record(file)
        if file is not None and record is None:
            damaged.append(str(file))
        if record is not None and record["status"] == "finished":
            finished.append(config)
        elif config.id in failures_there and failures.load(config.id) is not None:
            failed.append(config)
        else:
            pending.append(config)
    ids = {config.id for config in (*pending, *failed)}
    running = {run_id: told for run_id, told in locks.running().items() if run_id in ids}
    return State(tuple(finished), tuple(pending), tuple(failed), running, tuple(damaged))


# --- how long the rest takes -------------------------------------------------------------------


def _keys(kind: str, values: Mapping[str, Any]) -> list[tuple]:
    """What a speed may be known for, the closest first."""
    names = ("network", "resolution", "strategy", "batch_norm")
    return [(kind, *(values.get(name) for name in names[:count])) for count in (4, 3, 2)]


def estimate(configs: Sequence[Config]) -> dict[str, Any]:
    """Hours that ``configs`` take one after another, from the speeds of all records of runs that ran alone.

    ``known``: how many of them a speed and a size of the data are known for; ``hours`` is of these
    alone, None where there are none. ``devices``: what the speeds were measured on.
    """
    speeds: dict[tuple, list[float]] = {}
    sizes = {name: task.train_size for name, task in tasks.TASKS.items() if task.train_size}
    devices = set()
    for file in paths.records("runs").values():
        record = _record(file) or {}
        samples = record.get("train_images", 0) * len(record.get("epochs", ()))
        if not samples or not record.get("seconds"):
            continue
        sizes.setdefault(record["config"]["task"], record["train_images"])
        if "stacked_runs" in record.get("environment", {}):
            continue  # its seconds are a share of a stack's, on a GPU as a rule
        for key in _keys(record["kind"], record["config"]):
            speeds.setdefault(key, []).append(record["seconds"] / samples)
        devices.add(record.get("environment", {}).get("device"))
    typical = {key: statistics.median(values) for key, values in speeds.items()}
    seconds, known = 0.0, 0
    for config in configs:
        speed = next((typical[key] for key in _keys(config.kind, vars(config)) if key in typical), None)
        if speed and config.task in sizes:
            seconds += speed * sizes[config.task] * config.total_epochs
            known += 1
    return {
        "hours": seconds / 3600 if known else None,
        "known": known,
        "devices": sorted(filter(None, devices)) if known else [],
    }


def summary(name: str, scale: str, state: State) -> dict[str, Any]:
    """A sweep's state as plain data: what ``show --json`` and ``status --json`` print."""
    left = estimate(state.pending)
    return {
        "sweep": name,
        "scale": scale,
        "runs": state.runs,
        "finished": len(state.finished),
        "pending": len(state.pending),
        "failed": len(state.failed),
        "running": state.running,
        "damaged": list(state.damaged),
        "estimated_hours": left["hours"],
        "estimated_runs": left["known"],
        "measured_on": left["devices"],
        "failures": [
            {"id": config.id, **{key: failures.load(config.id)["error"][key] for key in ("kind", "message")}}
            for config in state.failed
        ],
    }
