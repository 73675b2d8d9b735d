"""Downloads that resume, and what is here, missing or damaged."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

from ..errors import InputError
from ..files import fetch as files
from ..files.fetch import RemoteFile
from . import registry
from .official import missing, verify

TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 16


def fetch(name: str, progress: bool = True) -> list[Path]:
    """Download what the task of that name needs and is not here yet; return where it lies.

    Files go to the user's cache under a name that ends in ``.part`` and get their own name only
    once their SHA-256 is right. A download that breaks off is resumed by the next call.

    Raises:
        InputError: there is no such task; a file here is damaged; or a file cannot be had, in
            which case the message says what to put where.
    """
    task = registry.get(name)
    if (here := task.source.places()) is not None:
        task.source.digest()  # verifies the checksums
        return list(here.values())
    places = []
    for file in task.source.downloads:
        place = files.find(file.name)
        if place is None:
            place = _download(task, file, progress)
        verify(file, place)
        places.append(place)
    return places


def _download(task: registry.Task, file: RemoteFile, progress: bool) -> Path:
    folder = files.cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # mode bits do not tell of a read-only file system
            pass
    except OSError as error:
        raise InputError(
            f"cannot write to {str(folder)!r} ({error.strerror}), where downloads go; allowed: another cache folder "
            f"by XDG_CACHE_HOME, or {file.name!r} in a folder that MEDYATE_DATA names"
        ) from error
    part, failures = folder / f"{file.name}.part", []
    for url in file.urls:
        try:
            with _Bar(file, progress) as report:
                _get(url, part, report)
            verify(file, part)
        except InputError as error:
            # Whatever these bytes are, they are no beginning of the file.
            part.unlink(missing_ok=True)
            failures.append(f"{url}: {error}")
        except OSError as error:  # those of requests among them
            failures.append(f"{url}: {type(error).__name__} {str(error)[:120]}")
        else:
            os.replace(part, folder / file.name)
            return folder / file.name
    told = missing(task.name, (file,), task.source.folder)
    raise InputError(f"{told}; tried {'; '.join(failures)}")


def _get(url: str, part: Path, report: Callable[[int, int | None], None]) -> None:
    """Append the rest of ``url`` to ``part``. Raises OSError where it breaks off."""
    import requests
    import urllib3

    have = part.stat().st_size if part.exists() else 0
    # Without this header a server may send the content of a .gz unpacked.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT_SECONDS) as response:
        if response.status_code == 416:  # nothing is left: the part is whole, or its check fails
            return
        response.raise_for_status()
        resumed = response.status_code == 206
        length = response.headers.get("Content-Length")
        start = have if resumed else 0
        total = start + int(length) if length else None
        with part.open("ab" if resumed else "wb") as stream:
            done = start
            try:
                for chunk in response.raw.stream(CHUNK_BYTES, decode_content=False):
                    stream.write(chunk)
                    done += len(chunk)
                    report(done, total)
            except urllib3.exceptions.HTTPError as error:
                raise OSError(f"broke off after {done:,} bytes: {error}") from None


class _Bar:
    """A progress bar of rich, or nothing; used as ``with _Bar(...) as report``."""

    def __init__(self, file: RemoteFile, show: bool):
        self.bar = None
        if show:
            from rich import progress

            self.bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.DownloadColumn(),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
            )
            self.task = self.bar.add_task(file.name, total=file.size_bytes)

    def __enter__(self) -> Callable[[int, int | None], None]:
        if self.bar is None:
            return lambda done, total: None
        self.bar.start()
        return lambda done, total: self.bar.update(self.task, completed=done, total=total)

    def __exit__(self, *_) -> None:
        if self.bar is not None:
            self.bar.stop()


def listing() -> list[dict]:
    """The registered tasks, then the archives in the data folders that may be tasks.

    One dict each: name, description, kind, classes, train, test, licence, epochs, present.
    """
    rows = [
        {
            "name": task.name,
            "description": task.description,
            "kind": task.kind,
            "classes": task.classes,
            "train": task.train_size,
            "test": task.test_size,
            "licence": task.licence,
            "epochs": task.epochs,
            "present": task.source.places() is not None,
        }
        for task in registry.TASKS.values()
    ]
    known = {file.name for task in registry.TASKS.values() for file in _all(task)}
    own = {}
    for folder in files.data_folders():
        for place in sorted(folder.glob("*.tar")):
            name = place.name.removesuffix(".tar")
            if place.name not in known and name not in registry.TASKS:
                own.setdefault(name, place)
    for name, place in own.items():
        rows.append(dict.fromkeys(rows[0]) | {"name": name, "description": f"found as {place.name}", "present": True})
    return rows


def _all(task: registry.Task) -> list[RemoteFile]:
    """All files that a task may be read from."""
    archives = getattr(task.source, "archives", ())
    return [file for alternative in archives for file in alternative]


def check() -> list[dict]:
    """Every file that the tasks and networks need: is it here, and is it the right one?

    One dict each: of (name of the task or network), file, state ("present", "missing" or
    "damaged"), path (or None), size_bytes, sha256, urls. Of a task's alternatives those that are
    here count; a folder or archive that is no official file has no checksum to compare. Files are
    read to the end, once per change.
    """
    from .. import networks

    wanted: list[tuple[str, RemoteFile]] = []
    for task in registry.TASKS.values():
        known = {file.name: file for file in _all(task)}
        here = task.source.places() if known else None
        if here is None:
            wanted += [(task.name, file) for file in task.source.downloads]
        else:
            wanted += [(task.name, known.get(name, RemoteFile(place.name, ""))) for name, place in here.items()]
    for network in networks.NETWORKS.values():
        wanted += [(network.name, file) for file in (*network.files.values(), network.tokenizer) if file is not None]
    rows = []
    for owner, file in wanted:
        state, place = _state(file)
        rows.append(
            {
                "of": owner,
                "file": file.name,
                "state": state,
                "path": place and str(place),
                "size_bytes": file.size_bytes,
                "sha256": file.sha256,
                "urls": list(file.urls),
            }
        )
    return rows


def _state(file: RemoteFile) -> tuple[str, Path | None]:
    place = files.find(file.name) or files.find_in_package(file)
    if place is None:
        return "missing", None
    try:
        if file.urls or file.package:
            verify(file, place)
        return "present", place
    except (InputError, OSError):
        return "damaged", place
