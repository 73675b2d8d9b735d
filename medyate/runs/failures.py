"""Records of runs that failed: ``results/failed/ID.json``, apart from the results, which they never replace.

Same shape as any record, status "failed", with ``error`` (kind, message, traceback) and ``log``:
what the run printed, its last part.
"""

from __future__ import annotations

import errno
import sysconfig
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import paths as storage
from . import records as runs

LOG_CHARACTERS = 20_000
KINDS = {
    "diverged": "the loss was no longer finite",
    "input": "bad input, as a task that is not here",
    "memory": "the machine's or the GPU's memory was too small",
    "error": "anything else",
}


def kind_of(error: BaseException) -> str:
    """Which of :data:`KINDS` an exception is."""
    from .finetune import Diverged

    if isinstance(error, Diverged):
        return "diverged"
    if isinstance(error, InputError):
        return "input"
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return "memory"
    return "error"


def is_full(error: BaseException | None) -> bool:
    """Whether a disk or a quota is full: no fault of the run, so it stays pending."""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        error = error.__cause__
    return False


def _without_places(text: str) -> str:
    """Paths of this checkout and of its packages without what lies above them: a record may be published."""
    places = {str(storage.CHECKOUT), *sysconfig.get_paths().values()}
    for place in sorted(places, key=len, reverse=True):  # the longest first: one may lie in another
        text = text.replace(place + "/", "")
    return text


def write(config, error: BaseException, log: str, device: str) -> Path:
    """Record that the run of ``config`` failed with ``error``."""
    record = {
        "schema": runs.SCHEMA,
        "kind": config.kind,
        "id": config.id,
        "status": "failed",
        "config": config.as_dict(),
        "error": {
            "kind": kind_of(error),
            "message": str(error) or type(error).__name__,
            "traceback": _without_places("".join(traceback.format_exception(error))),
        },
        "log": _without_places(log[-LOG_CHARACTERS:]),
        "environment": runs.environment(device),
    }
    file = storage.writable("failed") / f"{config.id}.json"
    storage.write_json(file, record)
    return file


def load(run_id: str) -> dict[str, Any] | None:
    """The failure of that id, or None; a damaged one counts as none."""
    for folder in storage.folders("failed"):
        file = folder / f"{run_id}.json"
        if file.is_file():
            try:
                return runs.read(file)
            except InputError:
                return None
    return None


def every() -> Iterator[dict[str, Any]]:
    """All failures that can be read, each id once."""
    for run_id in sorted(storage.records("failed")):
        failure = load(run_id)
        if failure is not None:
            yield failure


def remove(run_id: str) -> None:
    """Forget a failure, its run has finished since."""
    for folder in storage.folders("failed"):
        (folder / f"{run_id}.json").unlink(missing_ok=True)
