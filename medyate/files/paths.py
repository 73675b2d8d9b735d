"""Where results lie, and how a file is written so that it is there whole or not at all.

What ships with the project is read from the checkout's ``results``, or, where the package was installed without a
checkout, from ``share/medyate`` of the environment, where the wheel puts it. What a user records goes to the folder
that ``MEDYATE_RESULTS`` names, else to the checkout's ``results``, else (no checkout) to ``./results``. Both are read,
one's own first.
"""

from __future__ import annotations

import json
import os
import sysconfig
import tempfile
from pathlib import Path

import platformdirs

from ..errors import InputError

CHECKOUT = Path(__file__).resolve().parents[2]
INSTALLED = Path(sysconfig.get_path("data")) / "share" / "medyate"  # as in pyproject's data-files


def in_checkout() -> bool:
    """Whether the package is used from a checkout of the project."""
    return (CHECKOUT / "pyproject.toml").is_file()


def shipped(name: str = "results") -> Path | None:
    """The folder ``name`` (``results`` or ``notebooks``) that came with the project; None where there is none."""
    folder = (CHECKOUT if in_checkout() else INSTALLED) / name
    return folder if folder.is_dir() else None


def own() -> Path:
    """The folder that new records are written to."""
    given = os.environ.get("MEDYATE_RESULTS")
    if given:
        return Path(given).expanduser().absolute()
    return (in_checkout() and shipped()) or Path.cwd() / "results"


def cache() -> Path:
    """Where decoded images, digests and compiled code are kept: ``MEDYATE_CACHE``, else the user's cache folder."""
    given = os.environ.get("MEDYATE_CACHE")
    if given:
        return Path(given).expanduser()
    return platformdirs.user_cache_path("medyate") / "decoded"


def folders(kind: str) -> list[Path]:
    """Existing folders of ``kind`` ("runs", "rankings", "paper"), one's own first."""
    roots = [own()] + ([shipped()] if shipped() else [])
    unique = dict.fromkeys(root / kind for root in roots)
    return [folder for folder in unique if folder.is_dir()]


def records(kind: str) -> dict[str, Path]:
    """The JSON files of ``kind`` by name, one's own before a shipped one of the same name."""
    file_of: dict[str, Path] = {}
    for folder in folders(kind):
        for file in sorted(folder.glob("*.json")):
            file_of.setdefault(file.stem, file)
    return file_of


def writable(kind: str) -> Path:
    """The folder for new files of ``kind``, made if need be; refuses one that cannot be written."""
    return make(own() / kind, "; set MEDYATE_RESULTS to a folder that can be written")


def make(folder: Path, advice: str) -> Path:
    """The folder, made if need be; one that cannot be written to is refused, with ``advice`` at the error's end."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # the mode bits do not tell (root, read-only mounts): only a file that is made does
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(f"cannot write to {str(folder)!r} ({error.strerror}){advice}") from error
    return folder


def check_file(path: Path) -> None:
    """Refuse a file that cannot be written; one that is there stays as it is."""
    was_there = path.exists()
    try:
        with path.open("ab"):
            pass
        if not was_there:
            path.unlink()
    except OSError as error:
        raise InputError(
            f"cannot write {str(path)!r} ({error.strerror}); give a file in a folder that can be written"
        ) from error


def write_bytes(path: Path, content: bytes) -> None:
    """Write a file atomically: to a temporary name beside it, flushed, then renamed over it."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, data: dict) -> None:
    """Write plain data as JSON, atomically. Not-a-number is refused: JSON has none."""
    write_bytes(path, (json.dumps(data, indent=1, allow_nan=False) + "\n").encode())
