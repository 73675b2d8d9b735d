"""Sweeps that survive: what of a grid is not done yet, done by processes of this machine.

A sweep's state is its records and nothing else (:mod:`medyate.sweeps.progress`). So the same command resumes after a
kill, a power cut or a move to another machine.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..errors import whole
from ..files import paths as storage
from ..runs import failures, rankings
from ..runs import locks as claims
from ..runs.config import RankConfig, RunConfig
from . import allocators, worker
from . import stack as stacks

Config = RunConfig | RankConfig


@dataclass(frozen=True)
class Event:
    """What happens to a run: "begin", "epoch", "warning" or "end", with what is known of it."""

    config: Config
    event: str
    data: dict[str, Any]


# A thread that waits for the others does not spin meanwhile. On a machine with other work a step of two threads took a
# fifth of the processor's time (0.4 s for 2.1) and a ninth of the clock's.
_PATIENT = {"OMP_WAIT_POLICY": "PASSIVE"}


def processors() -> int:
    """Processors that this process may use; in a Slurm task those that it asked for."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    given = os.environ.get("SLURM_CPUS_PER_TASK", "")
    return min(here, int(given)) if given.isdigit() and int(given) else here


def _needs(config: Config) -> tuple[str, str] | None:
    """The ranking that a run needs: network and name."""
    return (config.network, config.ranking) if isinstance(config, RunConfig) and config.ranking else None


class _Todo:
    """The runs in order, given out in stacks of at most ``stack``; a run waits for the ranking that it needs."""

    def __init__(self, configs: Sequence[Config], stack: int = 1):
        self._waiting, self._stack = list(configs), stack
        self._ranking: set[str] = set()  # ids of ranking runs that are under way
        self._changed = threading.Condition()
        self.stopped = False

    def _made_by(self, configs: Sequence[Config]) -> set[tuple[str, str]]:
        return {(one.network, one.name) for one in configs if isinstance(one, RankConfig)}

    def next(self) -> tuple[list[Config], bool] | None:
        """The next run and those that can be stacked with it, and whether they can run (else their
        ranking is missing); None at the end."""
        with self._changed:
            while not self.stopped and self._waiting:
                coming = self._made_by(self._waiting)
                for config in self._waiting:
                    here = self._ready(config)
                    if here or (_needs(config) not in coming and not self._ranking):
                        key = stacks.key(config) if here and self._stack > 1 else None
                        alike = (one for one in self._waiting if stacks.key(one) == key and self._ready(one))
                        group = [config] if key is None else list(islice(alike, self._stack))
                        given = {one.id for one in group}
                        self._waiting = [one for one in self._waiting if one.id not in given]
                        if isinstance(config, RankConfig):
                            self._ranking.add(config.id)
                        return group, here
                self._changed.wait()
            return None

    @staticmethod
    def _ready(config: Config) -> bool:
        needs = _needs(config)
        return needs is None or needs[1] in rankings.names(needs[0])

    def done(self, config: Config) -> None:
        with self._changed:
            self._ranking.discard(config.id)
            self._changed.notify_all()

    def stop(self) -> None:
        with self._changed:
            self.stopped = True
            self._changed.notify_all()


def _start(
    configs: Sequence[Config], device: str, threads: int, graphs: bool, allocator: Mapping[str, str]
) -> subprocess.Popen:
    storage.writable("checkpoints")
    path = os.pathsep.join(filter(None, [str(storage.CHECKOUT), os.environ.get("PYTHONPATH")]))
    with open(worker.log_of([config.id for config in configs]), "wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "medyate.sweeps.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env={**_PATIENT, **os.environ, **allocator, "PYTHONPATH": path, "OMP_NUM_THREADS": str(threads)},
        )
    order = {
        "runs": [{"kind": config.kind, "config": config.as_dict()} for config in configs],
        "device": device,
        "threads": threads,
        "graphs": graphs,
    }
    try:
        process.stdin.write(json.dumps(order).encode() + b"\n")
        process.stdin.flush()  # and stays open: its end tells the worker that we are gone
    except BrokenPipeError:
        pass  # it died at once; its exit status says so
    return process


def _watch(
    process: subprocess.Popen,
    configs: Sequence[Config],
    tell: Callable[[Event], None],
    end: Callable[[Config, dict[str, Any]], None],
) -> None:
    """Pass on what a worker tells, and how each of its runs ended as soon as it has."""
    left = {config.id: config for config in configs}
    for line in process.stdout:
        try:
            data = json.loads(line)
        except ValueError:  # cut off by a kill
            continue
        event, run_id = data.pop("event"), data.pop("run")
        if event == "end":
            end(left.pop(run_id), data)
        else:
            tell(Event(left[run_id], event, data))
    status = process.wait()
    process.stdin.close()
    process.stdout.close()
    how = f"killed by signal {-status}" if status < 0 else f"ended with status {status}"
    for config in left.values():
        end(config, {"outcome": "killed", "message": f"{how}; log {worker.log_of([one.id for one in configs])}"})


def run(
    configs: Sequence[Config],
    *,
    workers: int = 1,
    stack: int = 1,
    device: str = "auto",
    graphs: bool = False,
    allocator: str = "system",
    on_event: Callable[[Event], None] = lambda event: None,
) -> dict[str, list[tuple[Config, str]]]:
    """Run ``configs`` in ``workers`` processes at a time, threads divided between them.

    Each process does one run, or up to ``stack`` that can be stacked (:mod:`medyate.sweeps.stack`);
    ``graphs``: see there. ``allocator``: of :data:`medyate.sweeps.allocators.ALLOCATORS`.

    One run that fails, or whose process is killed, stops no other; a full disk stops the start of
    new ones. ``on_event`` is called in this thread. Returns the runs and a message each by outcome:
    those of :data:`medyate.sweeps.worker.OUTCOMES`, "killed" (starts again at its last epoch) and "blocked"
    (the ranking that it needs is not here). Ctrl-C ends the workers and is passed on.
    """
    workers, stack = whole(workers, "workers", 1), whole(stack, "stack", 1)
    preloaded = allocators.variables(allocator)
    claims.warn_without_locks()
    threads = max(1, processors() // workers)
    todo, events = _Todo(configs, stack), queue.Queue()
    processes: set[subprocess.Popen] = set()
    guard = threading.Lock()

    def end(config: Config, ended: dict[str, Any]) -> None:
        if ended["outcome"] == "full":
            todo.stop()
        todo.done(config)
        events.put(Event(config, "end", ended))

    def work(group: list[Config]) -> None:
        with guard:  # Ctrl-C between the two lines would leave a process behind
            process = None
            if not todo.stopped:
                process = _start(group, device, threads, graphs, preloaded)
                processes.add(process)
        if process is None:
            for config in group:
                end(config, {"outcome": "stopped", "message": ""})
            return
        for config in group:
            events.put(Event(config, "begin", {"pid": process.pid}))
        _watch(process, group, events.put, end)
        with guard:
            processes.discard(process)

    def serve() -> None:
        try:
            while (given := todo.next()) is not None:
                group, can_run = given
                if can_run:
                    try:
                        work(group)
                    except OSError as error:
                        for config in group:
                            end(
                                config,
                                {"outcome": "full" if failures.is_full(error) else "killed", "message": str(error)},
                            )
                else:
                    for config in group:
                        end(
                            config,
                            {
                                "outcome": "blocked",
                                "message": f"ranking {config.ranking!r} of {config.network!r} is not here",
                            },
                        )
        finally:
            events.put(None)

    servers = [threading.Thread(target=serve, daemon=True) for _ in range(min(workers, len(configs)))]
    outcomes: dict[str, list[tuple[Config, str]]] = {}
    left = len(servers)
    try:
        for server in servers:
            server.start()
        while left:
            event = events.get()
            if event is None:
                left -= 1
                continue
            if event.event == "end":
                outcomes.setdefault(event.data["outcome"], []).append((event.config, event.data["message"]))
            on_event(event)
    finally:
        todo.stop()
        with guard:
            for process in processes:
                process.terminate()
        for server in servers:
            if server.ident is not None:
                server.join(timeout=30)
    return outcomes
