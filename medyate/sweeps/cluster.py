"""Sweeps on a Slurm cluster: one array of shards through submitit.

A shard is a list of runs that one array task does as :func:`medyate.sweeps.sweep.run` does them here. What
is done is read from the records on the shared file system, never from the jobs: a job that was
lost leaves its runs pending, and submitting again sends exactly what is left.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from time import monotonic
from typing import Any

from ..errors import InputError, whole
from ..files import paths as storage
from ..runs import records as runs
from ..runs.config import KINDS, RankConfig
from . import stack as stacks

#: How often a task whose time is over is queued again: as often as it takes, where submitit's own limit is 3.
REQUEUES = 1_000_000


class Shard:
    """What one array task does: its runs. Slurm may stop and start it again at any time.

    limit_minutes: a task's time limit, None where nobody knows it.
    """

    def __init__(self, workers: int, device: str, stack: int = 1, limit_minutes: int | None = None):
        self.workers, self.device, self.stack, self.limit_minutes = workers, device, stack, limit_minutes
        self.begun, self.before = 0.0, None

    def __call__(self, shard: Sequence[tuple[str, dict]]) -> dict[str, int]:
        """``shard``: kind and config of each run, plain data. Returns how many ended how."""
        from . import progress, sweep

        configs = _configs(shard)
        self.begun, self.before = monotonic(), _progress(configs)
        pending = progress.state(configs).pending
        outcomes = sweep.run(pending, workers=self.workers, stack=self.stack, device=self.device, on_event=_print)
        return {outcome: len(ended) for outcome, ended in outcomes.items()}

    def checkpoint(self, shard: Sequence[tuple[str, dict]]):
        """Before the time limit: queue the same shard again. Epochs that are done are kept.

        None, which ends the task, where all its time was too short for a single epoch: so it would be again.
        """
        import submitit

        spent_minutes = (monotonic() - self.begun) / 60
        timed_out = self.limit_minutes is not None and spent_minutes > self.limit_minutes / 2
        if timed_out and self.before == _progress(_configs(shard)):
            print(f"no epoch was finished in {spent_minutes:.0f} minutes; submit it with a longer --time", flush=True)
            return None
        return submitit.helpers.DelayedSubmission(self, shard)


def _configs(shard: Sequence[tuple[str, dict]]) -> list[Any]:
    return [KINDS[kind].of(values).complete() for kind, values in shard]


def _progress(configs: Sequence[Any]) -> list[tuple[bool, int]]:
    """Of each run whether it is recorded, and when its checkpoint was written; changes with each epoch."""
    states = []
    for config in configs:
        checkpoint = storage.own() / "checkpoints" / f"{config.id}.pt"
        written = checkpoint.stat().st_mtime_ns if checkpoint.is_file() else 0
        states.append((runs.path(config.id) is not None, written))
    return states


def _print(event) -> None:
    print(event.config.id, event.event, *(f"{key}={value}" for key, value in event.data.items()), flush=True)


def minutes(text: str) -> int:
    """Slurm's time limits: minutes, MM:SS, HH:MM:SS, D-HH, D-HH:MM, D-HH:MM:SS; rounded up to minutes."""
    if not re.fullmatch(r"(\d+-)?\d+(:\d+){0,2}", text):
        raise InputError(f"time {text!r} is not understood; allowed: minutes, HH:MM:SS, D-HH:MM:SS")
    days, dash, clock = text.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    if dash:
        hours, mins, seconds = (parts + [0, 0])[:3]
    elif len(parts) == 3:
        hours, mins, seconds = parts
    else:
        hours, (mins, seconds) = 0, (parts + [0])[:2]
    total = ((int(days or 0) * 24 + hours) * 60 + mins) * 60 + seconds
    if total < 60:
        raise InputError(f"time {text!r} is too short; allowed: at least one minute")
    return -(-total // 60)


def shards(configs: Sequence[Any], count: int, stack: int = 1) -> list[list[tuple[str, dict]]]:
    """``configs`` as plain data, dealt out in turn to ``count`` shards, fewer where there are fewer runs.

    Those that can be stacked are dealt out ``stack`` at a time, so that they meet again.
    """
    groups: list[list] = []
    open_groups: dict[Any, list] = {}
    for config in configs:
        key = stacks.key(config) if stack > 1 else None
        group = open_groups.get(key) if key is not None else None
        if group is None or len(group) == stack:
            groups.append(group := [])
            open_groups[key] = group
        group.append((config.kind, config.as_dict()))
    parts = [groups[start::count] for start in range(min(count, len(groups)))]
    return [[one for group in part for one in group] for part in parts]


def submit(
    name: str,
    configs: Sequence[Any],
    *,
    tasks: int = 40,
    time: str = "04:00:00",
    partition: str | None = None,
    workers: int = 1,
    stack: int = 1,
    cpus: int = 2,
    gpus: int = 0,
) -> list[dict[str, Any]]:
    """Submit ``configs`` as an array of at most ``tasks`` tasks; where rankings are among them, these first.

    ``workers`` processes at a time share a task's ``cpus`` and ``gpus``, each with up to ``stack`` runs. Returns one
    entry an array: its Slurm id, tasks, runs, and where their output goes. Raises :class:`InputError` where there is no
    Slurm or it refuses the job.
    """
    whole(tasks, "tasks", 1)
    whole(workers, "workers", 1)
    whole(stack, "stack", 1)
    whole(cpus, "cpus", 1)
    whole(gpus, "gpus", 0)
    limit = minutes(time)
    import submitit
    from submitit.core.utils import FailedJobError

    folder = storage.writable("slurm")
    device = "cuda" if gpus else "cpu"
    arrays = []
    first = [config for config in configs if isinstance(config, RankConfig)]
    then = [config for config in configs if not isinstance(config, RankConfig)]
    for group in (first, then):
        if not group:
            continue
        parts = shards(group, tasks, stack)
        extra = {"dependency": f"afterany:{arrays[-1]['job']}"} if arrays else {}
        try:
            executor = submitit.AutoExecutor(folder / "%j", cluster="slurm", slurm_max_num_timeout=REQUEUES)
            executor.update_parameters(
                name=f"medyate-{name}",
                timeout_min=limit,
                cpus_per_task=cpus,
                gpus_per_node=gpus,
                slurm_array_parallelism=len(parts),
                slurm_additional_parameters=extra,
                **({"slurm_partition": partition} if partition else {}),
            )
            jobs = executor.map_array(Shard(workers, device, stack, limit), parts)
        except (RuntimeError, FailedJobError) as error:
            raise InputError(f"Slurm took no job: {' '.join(str(error).split())}") from error
        arrays.append(
            {
                "job": jobs[0].job_id.partition("_")[0],
                "tasks": len(parts),
                "runs": len(group),
                "output": str(jobs[0].paths.stdout.parent),
            }
        )
    return arrays
