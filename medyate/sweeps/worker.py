"""One run, or one stack of runs, in a process of its own: ``python -m medyate.sweeps.worker``, started by
:mod:`medyate.sweeps.sweep`.

Reads one line of JSON from standard input (runs: kind and config of each; device, threads, graphs)
and writes one line per event to standard output: ``{"event": "epoch", "run": ID, ..}`` and for each
run at last ``{"event": "end", "run": ID, "outcome": ..}``.
A process per run, or stack, keeps its peak of memory its own (that of a run which left a stack holds the
stack's), and a run that is killed kills no other.
Where the input is closed, the one that started it is gone, and the process ends: its checkpoint
stays, and the next start goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import paths as storage
from ..runs import failures
from ..runs import locks as claims
from ..runs import records as runs
from ..runs.config import KINDS
from . import allocators

#: What may come of a run in a process of its own.
OUTCOMES = {
    "finished": "the record is written",
    "there": "a finished record was there already",
    "busy": "another process is at work on it",
    "failed": "a record of the failure is written",
    "full": "the disk is full; the run stays pending",
}


def log_file(run_id: str) -> Path:
    """What the run prints, while it runs and where it was killed."""
    return storage.own() / "checkpoints" / f"{run_id}.log"


def log_of(run_ids: Sequence[str]) -> Path:
    """Where a process that does these runs prints."""
    return log_file(run_ids[0] if len(run_ids) == 1 else f"stack-{run_ids[0]}")


def put_damaged_aside(run_id: str) -> Path | None:
    """Rename a record that cannot be read to ``ID.json.damaged``; returns where it is now."""
    file = runs.path(run_id)
    if file is None:
        return None
    try:
        runs.read(file)
    except InputError:
        aside = file.with_name(f"{file.name}.damaged")
        os.replace(file, aside)
        return aside
    return None


def execute(
    kind: str,
    values: Mapping[str, Any],
    *,
    device: str = "auto",
    tell: Callable[[dict], None] = lambda event: None,
    log: Path | None = None,
) -> dict[str, Any]:
    """Do one run unless it is done or claimed; failures are recorded, not raised.

    Returns ``{"outcome": one of OUTCOMES, "message": ..}``. ``tell`` gets each epoch as an event.
    ``log``: where this process prints, if not to the run's own :func:`log_file`.
    """
    from ..runs import finetune

    # the check of data and ranking, which the run begins with, is part of what may fail
    config = KINDS[kind].of(values).complete()
    with claims.claim(config.id) as claim:
        if claim is None:
            return {"outcome": "busy", "message": claims.taken_by(config.id)}
        try:
            _begin(config, claim, tell)

            def progress(row: dict[str, Any]) -> None:
                _epoch(config, claim, row, tell)

            what = {"run": finetune.run, "rank": finetune.rank}[kind]
            record, was_there = what(_checked(config), device=device, progress=progress)
        except Exception as error:
            return _failed(config, error, device, log or log_file(config.id))
        return _finished(config, record, was_there)


def execute_stack(
    values: Sequence[Mapping[str, Any]],
    *,
    device: str = "auto",
    graphs: bool = False,
    tell: Callable[[str, dict], None] = lambda run_id, event: None,
    log: Path | None = None,
) -> dict[str, dict[str, Any]]:
    """Do runs in a stack, but for those that are done or claimed; what :func:`execute` returns, by id.

    ``tell`` gets a run's id with each event, the "end" of each run among them. A run that leaves
    the stack goes on alone, after the others: so what ends it is its own doing.
    """
    from . import stack

    outcomes: dict[str, dict[str, Any]] = {}

    def end(config, outcome: dict[str, Any]) -> None:
        outcomes[config.id] = outcome
        tell(config.id, {"event": "end", **outcome})

    configs = [KINDS["run"].of(one).complete() for one in values]
    alone, together, held = [], [], {}
    with contextlib.ExitStack() as claimed:
        for config in configs:
            claim = claimed.enter_context(claims.claim(config.id))
            if claim is None:
                end(config, {"outcome": "busy", "message": claims.taken_by(config.id)})
                continue
            held[config.id] = claim
            try:
                _begin(config, claim, lambda event, config=config: tell(config.id, event))
                together.append(_checked(config))
            except Exception:
                alone.append(config)

        def progress(config, row: dict[str, Any]) -> None:
            _epoch(config, held[config.id], row, lambda event: tell(config.id, event))

        def ended(config, record: dict[str, Any], was_there: bool) -> None:
            end(config, _finished(config, record, was_there))

        if together:
            for left in stack.run(together, device=device, graphs=graphs, progress=progress, ended=ended):
                tell(left.config.id, {"event": "warning", "message": f"{left.config.id} goes on alone: {left.reason}"})
                alone.append(left.config)
    for config in alone:
        end(
            config,
            execute(
                "run",
                config.as_dict(),
                device=device,
                tell=lambda event, config=config: tell(config.id, event),
                log=log,
            ),
        )
    return outcomes


def _checked(declared):
    """The config after a look at its data and ranking; refuses other data than it was declared on."""
    config = declared.check()
    if config.id != declared.id:
        raise InputError(
            f"the data of task {declared.task!r} here are others than this run is declared on "
            f"(digest {config.data!r}); allowed: {declared.data or 'the pack of that name'}"
        )
    return config


def _begin(config, claim: claims.Claim, tell: Callable[[dict], None]) -> None:
    aside = put_damaged_aside(config.id)
    if aside is not None:
        tell({"event": "warning", "message": f"damaged record moved to {aside}"})
    claim.tell(epoch=0, epochs=config.total_epochs)


def _epoch(config, claim: claims.Claim, row: Mapping[str, Any], tell: Callable[[dict], None]) -> None:
    claim.tell(epoch=row["epoch"], epochs=config.total_epochs)
    tell({"event": "epoch", "epoch": row["epoch"], "test_top1_percent": row["test_top1_percent"]})


def _finished(config, record: Mapping[str, Any], was_there: bool) -> dict[str, Any]:
    failures.remove(config.id)
    log_file(config.id).unlink(missing_ok=True)
    outcome = "there" if was_there else "finished"
    return {"outcome": outcome, "message": f"top-1 {record['test_top1_percent']:.2f} %"}


def _failed(config, error: Exception, device: str, log: Path) -> dict[str, Any]:
    import traceback

    if failures.is_full(error):
        return {"outcome": "full", "message": str(error)}
    traceback.print_exc()
    sys.stderr.flush()
    text = log.read_text(errors="replace") if log.is_file() else ""
    try:
        from ..runs.finetune import device_of

        try:
            known = device_of(device)
        except InputError:
            known = "cpu"
        failures.write(config, error, text, known)
    except (OSError, InputError) as second:
        return {
            "outcome": "full" if failures.is_full(second) else "failed",
            "message": f"{error}; not recorded: {second}",
        }
    log_file(config.id).unlink(missing_ok=True)
    return {"outcome": "failed", "message": f"{failures.kind_of(error)}: {error}".splitlines()[0]}


def _end_with_parent() -> None:
    """Leave at once where standard input is closed."""
    sys.stdin.buffer.read()
    os._exit(1)


def main() -> None:
    order = json.loads(sys.stdin.buffer.readline())
    # Ctrl-C and Slurm's notice before the time limit go to the one that started us, which ends us
    for notice in (signal.SIGINT, signal.SIGUSR2):
        signal.signal(notice, signal.SIG_IGN)
    events = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever else is printed belongs to the log
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import torch

    torch.set_num_threads(order["threads"])
    runs.ALSO["allocator"] = allocators.loaded()

    def tell(run_id: str, event: dict) -> None:
        print(json.dumps({"run": run_id, **event}), file=events, flush=True)

    todo = order["runs"]
    if len(todo) == 1:
        [one] = todo
        run_id = KINDS[one["kind"]].of(one["config"]).id
        outcome = execute(one["kind"], one["config"], device=order["device"], tell=lambda event: tell(run_id, event))
        tell(run_id, {"event": "end", **outcome})
    else:
        values = [one["config"] for one in todo]
        log = log_of([KINDS["run"].of(one).id for one in values])
        execute_stack(values, device=order["device"], graphs=order["graphs"], tell=tell, log=log)
        log.unlink(missing_ok=True)  # what failed has it in its record
    events.flush()
    sys.stdout.flush()
    os._exit(0)  # without waiting for the thread that reads


if __name__ == "__main__":
    main()
