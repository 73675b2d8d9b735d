"""Who is at work on a run: a locked file, so that two sweeps at once do no run twice.

The lock is the operating system's (``fcntl``; it works over NFS) and goes with its process, however
that ends: nothing has to be cleaned up after a kill or a power cut.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import storage


def _file(run_id: str) -> Path:
    return storage.own() / "checkpoints" / f"{run_id}.lock"


def _lock(handle: int) -> bool:
    import fcntl

    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _same(handle: int, file: Path) -> bool:
    """Whether the open file is still the one of that name: its last owner removes it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


class Claim:
    """A claimed run; ``tell`` lets others see how far it is."""

    def __init__(self, handle: int):
        self._handle = handle

    def tell(self, **state: Any) -> None:
        content = json.dumps({"pid": os.getpid(), "host": os.uname().nodename, **state}).encode()
        os.pwrite(self._handle, content, 0)
        os.ftruncate(self._handle, len(content))


@contextlib.contextmanager
def claim(run_id: str) -> Iterator[Claim | None]:
    """Claim a run for this process; None where another process is at work on it."""
    storage.writable("checkpoints")
    file = _file(run_id)
    handle = None
    for _ in range(5):  # a look by `running` holds the lock for an instant
        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        if _lock(opened) and _same(opened, file):
            handle = opened
            break
        os.close(opened)
        time.sleep(0.02)
    if handle is None:
        yield None
        return
    try:
        yield Claim(handle)
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def running() -> dict[str, dict[str, Any]]:
    """What the claimed runs of one's own results tell, by id. Files of dead processes do not count."""
    found = {}
    for file in sorted((storage.own() / "checkpoints").glob("*.lock")):
        try:
            handle = os.open(file, os.O_RDWR)
        except OSError:
            continue
        try:
            if not _lock(handle):
                text = os.pread(handle, 65_536, 0)
                found[file.stem] = json.loads(text) if text else {}
        except ValueError:  # half written
            found[file.stem] = {}
        finally:
            os.close(handle)
    return found
