"""One run in a process of its own: ``python -m medyate.worker``, started by :mod:`medyate.sweep`.

Reads one line of JSON from standard input (kind, config, device, threads) and writes one line per
event to standard output: ``{"event": "epoch", ..}`` and at last ``{"event": "end", "outcome": ..}``.
A process per run keeps the peak of memory each run's own, and a run that is killed kills no other.
Where the input is closed, the one that started it is gone, and the process ends: its checkpoint
stays, and the next start goes on from there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from . import claims, failures, runs, storage
from .config import KINDS
from .errors import InputError

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
    kind: str, values: Mapping[str, Any], *, device: str = "auto", tell: Callable[[dict], None] = lambda event: None
) -> dict[str, Any]:
    """Do one run unless it is done or claimed; failures are recorded, not raised.

    Returns ``{"outcome": one of OUTCOMES, "message": ..}``. ``tell`` gets each epoch as an event.
    """
    from . import finetune

    # the full check, data and ranking included, is part of what may fail
    config = KINDS[kind].of(values, declared=True)
    with claims.claim(config.id) as claim:
        if claim is None:
            return {"outcome": "busy", "message": "another process is at work on it"}
        try:
            aside = put_damaged_aside(config.id)
            if aside is not None:
                tell({"event": "warning", "message": f"damaged record moved to {aside}"})
            claim.tell(epoch=0, epochs=config.total_epochs)

            def progress(row: dict[str, Any]) -> None:
                claim.tell(epoch=row["epoch"], epochs=config.total_epochs)
                tell({"event": "epoch", "epoch": row["epoch"], "test_top1_percent": row["test_top1_percent"]})

            what = {"run": finetune.run, "rank": finetune.rank}[kind]
            record, was_there = what(KINDS[kind].of(values), device=device, progress=progress)
        except Exception as error:
            return _failed(config, error, device)
        failures.remove(config.id)
        log_file(config.id).unlink(missing_ok=True)
    outcome = "there" if was_there else "finished"
    return {"outcome": outcome, "message": f"top-1 {record['test_top1_percent']:.2f} %"}


def _failed(config, error: Exception, device: str) -> dict[str, Any]:
    import traceback

    if failures.is_full(error):
        return {"outcome": "full", "message": str(error)}
    traceback.print_exc()
    sys.stderr.flush()
    log = log_file(config.id)
    text = log.read_text(errors="replace") if log.is_file() else ""
    try:
        from .finetune import device_of

        try:
            known = device_of(device)
        except InputError:
            known = "cpu"
        failures.write(config, error, text, known)
    except (OSError, InputError) as second:
        return {"outcome": "full" if failures.is_full(second) else "failed", "message": f"{error}; not recorded: {second}"}
    log.unlink(missing_ok=True)
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

    def tell(event: dict) -> None:
        print(json.dumps(event), file=events, flush=True)

    outcome = execute(order["kind"], order["config"], device=order["device"], tell=tell)
    tell({"event": "end", **outcome})
    events.flush()
    sys.stdout.flush()
    os._exit(0)  # without waiting for the thread that reads


if __name__ == "__main__":
    main()
