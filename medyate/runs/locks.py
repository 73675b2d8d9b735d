"""Who is at work on a run: a locked file, so that two sweeps at once do no run twice.

The lock is the operating system's (``fcntl``; it works over NFS) and goes with its process, however
that ends: nothing has to be cleaned up after a kill or a power cut.

Some file systems have no locks (NFS mounted without, some of FUSE). There a run is claimed by a file
that only one process can create, ``ID.owner``, with that process's number and host. What a process
of this machine left behind is told by its number; what one of another machine left, nobody here can
tell, so it counts until somebody removes it (:func:`taken_by` says which file).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import time
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..files import paths as storage


def _file(run_id: str, kind: str = "lock") -> Path:
    return storage.own() / "checkpoints" / f"{run_id}.{kind}"


def _lock(handle: int) -> bool | None:
    """Whether the file is locked for us now; None where the file system has no locks."""
    import fcntl

    try:
        fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        # POSIX has these two for a lock that another process holds; all others mean that there is none to be had
        return False if error.errno in (errno.EAGAIN, errno.EACCES) else None
    return True


def _same(handle: int, file: Path) -> bool:
    """Whether the open file is still the one of that name: its last owner removes it."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(file))
    except FileNotFoundError:
        return False


def _started(pid: int) -> str | None:
    """When a process of this machine began, in the kernel's ticks: numbers are used again. None where nothing tells."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def _myself() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": os.uname().nodename, "started": _started(os.getpid())}


def _told(file: Path) -> dict[str, Any] | None:
    """What an owner's file says; None where there is none. One that is half written belongs to somebody."""
    try:
        owner = json.loads(file.read_text() or "{}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return {}
    return owner if isinstance(owner, dict) else {}


def _is_gone(told: dict[str, Any]) -> bool:
    """Whether the process that wrote this was of this machine and has ended."""
    if told.get("host") != os.uname().nodename or not isinstance(told.get("pid"), int):
        return False
    try:
        os.kill(told["pid"], 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        pass
    return told.get("started") not in (None, _started(told["pid"]))


class Claim:
    """A claimed run; ``tell`` lets others see how far it is."""

    def __init__(self, handle: int):
        self._handle = handle

    def tell(self, **state: Any) -> None:
        content = json.dumps({**_myself(), **state}).encode()
        os.pwrite(self._handle, content, 0)
        os.ftruncate(self._handle, len(content))


def _create(file: Path) -> int | None:
    """The owner's file, open, where it could be created; None where somebody else has it."""
    for _ in range(2):
        try:
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644)
        except FileExistsError:
            told = _told(file)
            if told is None or not _is_gone(told):
                return None
            # Renamed, not removed: of two processes that find it, one succeeds, and takes nothing that is new.
            aside = file.with_suffix(f".{uuid.uuid4().hex}")
            with contextlib.suppress(FileNotFoundError):
                os.rename(file, aside)
                if _told(aside) != told:
                    with contextlib.suppress(OSError):
                        os.link(aside, file)
                aside.unlink()
            continue
        Claim(handle).tell()
        return handle
    return None


@contextlib.contextmanager
def claim(run_id: str) -> Iterator[Claim | None]:
    """Claim a run for this process; None where another process is at work on it."""
    storage.writable("checkpoints")
    file, owner = _file(run_id), _file(run_id, "owner")
    handle = None
    for _ in range(5):  # a look by `running` holds the lock for an instant
        opened = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        locked = _lock(opened)
        if locked and _same(opened, file):
            handle = opened
            break
        os.close(opened)
        if locked is None:
            file.unlink(missing_ok=True)
            file, handle = owner, _create(owner)
            break
        time.sleep(0.02)
    if handle is None:
        yield None
        return
    try:
        # another machine may see the same files without locks
        told = _told(owner) if file != owner else None
        yield Claim(handle) if told is None or _is_gone(told) else None
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def warn_without_locks() -> None:
    """Warn where the results lie on a file system without locks."""
    storage.writable("checkpoints")
    file = _file(f".{uuid.uuid4().hex}")
    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if _lock(handle) is None:
            warnings.warn(
                f"the file system of {str(file.parent)!r} has no locks: each run is claimed by a file ID.owner, "
                f"which a process that is killed on another machine leaves behind",
                stacklevel=2,
            )
    finally:
        file.unlink(missing_ok=True)
        os.close(handle)


def taken_by(run_id: str) -> str:
    """Who is at work on a run that could not be claimed, for a message."""
    file = _file(run_id, "owner")
    told = _told(file)
    if told is None:
        return "another process is at work on it"
    who = f"process {told.get('pid', '?')} on {told.get('host', '?')}"
    return f"{who} is at work on it; if it is not, remove {str(file)!r}"


def running() -> dict[str, dict[str, Any]]:
    """What the claimed runs of one's own results tell, by id. Files of dead processes do not count."""
    owners = {}
    folder = storage.own() / "checkpoints"
    for file in sorted(folder.glob("*.lock")):
        try:
            handle = os.open(file, os.O_RDWR)
        except OSError:
            continue
        try:
            if _lock(handle) is False:
                text = os.pread(handle, 65_536, 0)
                owners[file.stem] = json.loads(text) if text else {}
        except ValueError:  # half written
            owners[file.stem] = {}
        finally:
            os.close(handle)
    for file in sorted(folder.glob("*.owner")):
        told = _told(file)
        if told is not None and not _is_gone(told):
            owners[file.stem] = told
    return owners
