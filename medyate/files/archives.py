"""The files of a folder, tar or zip, read where they lie: nothing is ever unpacked below a name it chose.

Names are text, whatever the locale is and however the system or the archive wrote them: UTF-8 in
Unicode's composed form (NFC), since macOS writes names decomposed. Bytes that are no UTF-8 stand as
``\\xNN``.
"""

from __future__ import annotations

import bz2
import contextlib
import errno
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import stat
import tarfile
import tempfile
import time
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..errors import InputError
from . import fetch, paths

#: Files by their relative POSIX path; each is read by a call.
Files = dict[str, Callable[[], bytes]]

#: What file managers leave behind.
DROPPINGS = ("Thumbs.db", "desktop.ini", "Icon\r", "__MACOSX")
#: A file that changed less than this long ago may change again without a change of its times.
RACY_SECONDS = 3


def tree(path: Path) -> Files:
    """The files of a folder, tar or zip, in order of their paths; hidden ones are left out.

    Raises InputError for a damaged or encrypted archive, one whose members climb out of it or are
    links, a link to nothing in a folder, and names that differ in their Unicode form alone.
    """
    if path.is_dir():
        pairs = [(name, str(file), file.read_bytes) for name, file in _walk(path)]
    elif path.is_file():
        pairs = [(name, raw, read) for name, raw, read in _members(path) if not _hidden(name)]
    else:
        raise InputError(f"{str(path)!r} is neither a folder nor a file")
    files: Files = {}
    raws: dict[str, str] = {}
    for name, raw, read in pairs:
        if raws.setdefault(name, raw) != raw:
            raise InputError(f"{str(path)!r} has two files {name!r} whose names differ in their Unicode form alone")
        files[name] = read  # an archive's later member replaces an earlier one of the same name
    return {name: files[name] for name in sorted(files)}


def top_folder(names: Iterable[str], keep: Callable[[str], bool]) -> str:
    """``"TOP/"`` where all paths lie in one folder TOP and ``keep(TOP)`` is false, else ``""``."""
    names = set(names)
    tops = {name.partition("/")[0] for name in names}
    if len(tops) != 1 or not tops.isdisjoint(names) or any(map(keep, tops)):
        return ""
    return f"{tops.pop()}/"


def names(path: Path) -> Iterator[str]:
    """The paths of the files in a folder, tar or zip, in any order; no more is read than asked."""
    if path.is_dir():
        yield from (name for name, _ in _walk(path))
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from (_zip_name(member) for member in archive.infolist())
    else:
        try:
            with tarfile.open(path, encoding="utf-8", errors="surrogateescape") as archive:
                yield from (_tar_name(member) for member in archive if member.isfile())
        except (tarfile.TarError, EOFError, OSError, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{str(path)!r} is not a readable tar or zip: {_line(error)}") from None


def folders(path: Path, inside: str) -> list[str]:
    """The names of the folders in the folder ``inside`` (``""`` or ``"A/B/"``) of a folder, hidden ones left out."""
    place = path
    for part in filter(None, inside.split("/")):
        place = next(child for child in place.iterdir() if readable(child.name) == part)
    return sorted(readable(child.name) for child in place.iterdir() if child.is_dir() and not _hidden(child.name))


def readable(name: str) -> str:
    """A name that the system gave, as this module's text."""
    return _text(os.fsencode(name))


def _text(name: bytes) -> str:
    return unicodedata.normalize("NFC", name.decode("utf-8", "backslashreplace"))


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _hidden(name: str) -> bool:
    # .DS_Store, ._photo.jpg and __MACOSX are no photos, whatever their suffix says.
    return any(part.startswith(".") or part in DROPPINGS for part in name.split("/"))


# --- folders -----------------------------------------------------------------------------------


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """(name, path) of a folder's regular files. Links are followed, but not to a folder that we are in."""

    def inside(folder: str, prefix: str, above: tuple[str, ...]):
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError as error:
            raise InputError(f"cannot read the folder {folder!r}: {error.strerror}") from None
        for entry in entries:
            name = prefix + readable(entry.name)
            if _hidden(name):
                continue
            try:
                mode = entry.stat().st_mode
            except OSError as error:
                what = f"is a link to nothing: {os.readlink(entry.path)!r}" if entry.is_symlink() else error.strerror
                raise InputError(f"{name!r} in {str(root)!r} {what}; remove it or bring back its target") from None
            if stat.S_ISDIR(mode):
                real = os.path.realpath(entry.path)
                if real not in above:
                    yield from inside(entry.path, f"{name}/", (*above, real))
            elif stat.S_ISREG(mode):  # a pipe would be waited for
                yield name, Path(entry.path)

    yield from inside(str(root), "", (os.path.realpath(root),))


# --- archives ----------------------------------------------------------------------------------


def _members(path: Path) -> list[tuple[str, str, Callable[[], bytes]]]:
    """(name, the name as it is written, read) of an archive's files."""
    try:
        return _zip_members(path) if zipfile.is_zipfile(path) else _tar_members(path)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, lzma.LZMAError, zlib.error, OSError) as error:
        raise InputError(f"{str(path)!r} is not a readable tar or zip: {_line(error)}") from error


def _safe(path: Path, name: str, link: bool) -> str:
    """The member's normalised name; members that could lead out of the archive are refused."""
    pure = PurePosixPath(name.replace("\\", "/"))
    climbs = pure.is_absolute() or ".." in pure.parts or re.match("[A-Za-z]:", name)
    if link or climbs:
        what = "is a link" if link else "climbs out of it"
        raise InputError(f"the archive {str(path)!r} is refused: its member {name!r} {what}")
    return pure.as_posix()


def _tar_name(member: tarfile.TarInfo) -> str:
    return _text(member.name.encode("utf-8", "surrogateescape"))


def _tar_members(path: Path) -> list[tuple[str, str, Callable[[], bytes]]]:
    stream = _plain_tar(path)
    members = []
    with tarfile.open(fileobj=stream, mode="r:", encoding="utf-8", errors="surrogateescape") as archive:
        for member in archive:
            name = _safe(path, _tar_name(member), member.issym() or member.islnk())
            if member.isfile():
                members.append((name, member.name, _Slice(path, stream, member.offset_data, member.size)))
        # A tar ends with zeros; one that was cut between two members would pass as shorter.
        stream.seek(archive.offset)
        if not (end := stream.read(tarfile.BLOCKSIZE)) or any(end):
            raise InputError(f"{str(path)!r} is truncated")
    return members


def _plain_tar(path: Path):
    """An open, uncompressed tar: a compressed one is expanded into a file without a name."""
    openers = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    stream = path.open("rb")
    opener = openers.get(stream.read(2))
    stream.seek(0)
    if opener is None:
        return stream
    stream.close()
    folder = paths.cache()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plain = tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise _no_room(path, folder, error) from error
    with opener(path) as packed:
        try:
            shutil.copyfileobj(packed, plain, 1 << 20)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise _no_room(path, folder, error) from error
            raise
    plain.seek(0)
    return plain


def _no_room(path: Path, folder: Path, error: OSError) -> InputError:
    return InputError(
        f"cannot expand {str(path)!r} into {str(folder)!r} ({error.strerror}); MEDYATE_CACHE can name another folder"
    )


class _Slice(NamedTuple):
    """A member of a tar, read where it lies; safe to call from several threads."""

    path: Path
    stream: object
    start: int
    size: int

    def __call__(self) -> bytes:
        content = os.pread(self.stream.fileno(), self.size, self.start)
        if len(content) != self.size:
            raise InputError(f"{str(self.path)!r} is truncated")
        return content


def _zip_name(member: zipfile.ZipInfo) -> str:
    """A member's name. Without its flag for UTF-8 it should be in code page 437; macOS writes UTF-8 all the same."""
    if member.flag_bits & 0x800:
        return _text(member.filename.encode("utf-8", "backslashreplace"))
    try:
        return _text(member.filename.encode("cp437").decode("utf-8").encode())
    except UnicodeError:
        return unicodedata.normalize("NFC", member.filename)


def _zip_members(path: Path) -> list[tuple[str, str, Callable[[], bytes]]]:
    archive = zipfile.ZipFile(path)

    def read(member: zipfile.ZipInfo, name: str) -> bytes:
        try:
            return archive.read(member)
        except NotImplementedError as error:
            raise InputError(f"{name!r} in {str(path)!r} cannot be read: {error}; pack it as a plain zip") from None
        except (zipfile.BadZipFile, OSError, EOFError, RuntimeError, lzma.LZMAError, zlib.error) as error:
            raise InputError(f"{name!r} in {str(path)!r} is damaged: {error}") from None

    members = []
    for member in archive.infolist():
        name = _safe(path, _zip_name(member), link=member.external_attr >> 28 == 0o12)
        if member.is_dir():
            continue
        if member.flag_bits & 1 and not _hidden(name):
            raise InputError(f"{str(path)!r} is encrypted ({name!r}); allowed: a zip without a password")
        members.append((name, member.filename, lambda member=member, name=name: read(member, name)))
    return members


# --- digests -----------------------------------------------------------------------------------


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or over the names and SHA-256 of all files of a folder (hidden ones left out)."""
    path = path.resolve()
    if not path.is_dir():
        return file_digest(path)
    files = sorted(_walk(path))
    return _remembered(
        [file for _, file in files],
        lambda: hashlib.sha256("".join(f"{name}\0{_sha256(file)}\n" for name, file in files).encode()).hexdigest(),
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    path = path.resolve()
    return _remembered([path], lambda: _sha256(path))


def _sha256(path: Path) -> str:
    try:
        return fetch.sha256(path)
    except OSError as error:
        raise InputError(f"cannot read {str(path)!r}: {error.strerror}") from None


def _remembered(files: list[Path], digest: Callable[[], str]) -> str:
    """``digest()``, remembered by the size and times of the files: archives have gigabytes."""
    try:
        stats = [(os.fsencode(file).hex(), file.stat()) for file in files]
    except OSError as error:
        raise InputError(f"cannot read {error.filename!r}: {error.strerror}") from None
    stamp = [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats]
    key = hashlib.sha256(json.dumps([len(files), stamp]).encode()).hexdigest()
    note = paths.cache() / "digests" / key
    with contextlib.suppress(OSError):
        if len(known := note.read_text()) == 64:
            return known
    value = digest()
    newest = max((max(s.st_mtime, s.st_ctime) for _, s in stats), default=0)
    if newest + RACY_SECONDS < time.time():
        with contextlib.suppress(OSError):  # a cache that cannot be written may still be read
            note.parent.mkdir(parents=True, exist_ok=True)
            temporary = note.with_suffix(f".{os.getpid()}")
            temporary.write_text(value)
            temporary.replace(note)
    return value
