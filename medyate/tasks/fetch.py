"""The tasks' files: had, or fetched; what is here, missing or damaged."""

from pathlib import Path

from ..errors import InputError
from ..files import fetch as files
from ..files.fetch import RemoteFile
from . import registry
from .official import missing, verify


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
    try:
        return files.retrieve(file, lambda place: verify(file, place), progress=progress)
    except files.Unavailable as error:
        raise InputError(f"{missing(task.name, (file,), task.source.folder)}; tried {error}") from None


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
