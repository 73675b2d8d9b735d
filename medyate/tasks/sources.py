"""Where images come from: folders, tars, zips. Nothing is ever unpacked below a name it chose.

An image folder has torchvision's ImageFolder layout, ``train/CLASS/*.jpg`` beside
``test/CLASS/*.jpg`` (or ``val``), or simply ``CLASS/*.jpg``: then every fifth image of each class,
in order of the names and from the first, is a test image.
"""

import bz2
import contextlib
import gzip
import hashlib
import json
import lzma
import os
import re
import shutil
import tarfile
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from .. import files as data_files
from ..errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")
#: What file managers leave behind.
DROPPINGS = ("Thumbs.db", "desktop.ini", "Icon\r")
TEST_NAMES = ("test", "val", "valid", "validation", "dev")

#: Files by their relative POSIX path; each is read by a call.
Files = dict[str, Callable[[], bytes]]


class Sample(NamedTuple):
    """One image: a name for messages, its class, and a call for its bytes or pixels [H, W, 3]."""

    name: str
    label: int
    read: Callable


class Samples(NamedTuple):
    """The names of the classes and the two splits."""

    classes: tuple[str, ...]
    train: list[Sample]
    test: list[Sample]


@dataclass(frozen=True)
class FolderSource:
    """An image folder, or a tar or zip of one."""

    name: str
    path: Path

    #: What ``fetch`` would download: nothing.
    downloads = ()

    def places(self) -> dict[str, Path]:
        """Where the data lie."""
        return {self.name: self.path}

    def digest(self) -> str:
        """Changes whenever a file in the folder does."""
        return content_digest(self.path)

    def read(self) -> Samples:
        """List the images. Raises InputError where the layout is none of the two above."""
        every = tree(self.path)
        images = {name: read for name, read in every.items() if _is_image(name)}
        if not images:
            raise InputError(
                f"{str(self.path)!r} holds no images; allowed: train/CLASS/*.jpg and "
                f"test/CLASS/*.jpg, or CLASS/*.jpg; suffixes: {' '.join(IMAGE_SUFFIXES)}"
            )
        top = top_folder(images, "train", *TEST_NAMES)
        images = {name.removeprefix(top): read for name, read in images.items()}
        tops = {name.partition("/")[0] for name in images}
        test_name = next((name for name in TEST_NAMES if name in tops), None)
        prefix = "train/" if "train" in tops else ""
        groups = self._by_class(images, prefix)
        self._tell_of_others([name.removeprefix(top) for name in every], top, prefix, groups)
        if prefix and test_name:
            train, test = groups, self._by_class(images, f"{test_name}/")
        else:
            train, test = self._every_fifth(groups)
        classes = tuple(sorted(train))
        if len(classes) < 2:
            raise InputError(f"{str(self.path)!r} has one class only: {', '.join(classes)}")
        if strange := sorted(set(test) - set(train)):
            raise InputError(
                f"{str(self.path)!r} has test images of a class without training images: "
                f"{', '.join(strange)}; allowed: {', '.join(classes)}"
            )

        def listed(split: dict[str, list]) -> list[Sample]:
            return [
                Sample(f"{self.path.name}/{name}", label, read)
                for label, group in enumerate(classes)
                for name, read in split.get(group, ())
            ]

        return Samples(classes, listed(train), listed(test))

    def _by_class(self, files: Files, prefix: str) -> dict[str, list]:
        groups: dict[str, list] = {}
        for name, read in files.items():
            if name.startswith(prefix):
                group, slash, _ = name[len(prefix) :].partition("/")
                if not slash:
                    raise InputError(
                        f"{name!r} in {str(self.path)!r} lies in no folder of a class; "
                        f"allowed: {prefix}CLASS/{group}"
                    )
                groups.setdefault(group, []).append((name, read))
        return groups

    def _tell_of_others(self, names: list[str], top: str, prefix: str, groups: dict) -> None:
        """Refuse a folder of a class that has no images; warn of other files beside images."""
        others: dict[str, list[str]] = {}
        for name in names:
            group, slash, rest = name.removeprefix(prefix).partition("/")
            if name.startswith(prefix) and slash and not _is_image(name) and rest not in DROPPINGS:
                others.setdefault(group, []).append(name)
        if self.path.is_dir():
            place = self.path / top / prefix
            folders = [f.name for f in place.iterdir() if f.is_dir() and not _hidden(f.name)]
            for group in sorted(set(folders) - set(groups)):
                others.setdefault(group, [])
        for group, found in others.items():
            if group not in groups:
                example = f", but {found[0]!r}" if found else ""
                raise InputError(
                    f"class {group!r} in {str(self.path)!r} has no images{example}; "
                    f"allowed: {' '.join(IMAGE_SUFFIXES)}"
                )
        if count := sum(map(len, others.values())):
            example = next(iter(others.values()))[0]
            warnings.warn(
                f"task {self.name!r}: {count:,} files are no images by their suffix and are left "
                f"out, for instance {example!r}; allowed: {' '.join(IMAGE_SUFFIXES)}",
                stacklevel=2,
            )

    def _every_fifth(self, groups: dict[str, list]) -> tuple[dict, dict]:
        for group, images in groups.items():
            if len(images) < 2:
                raise InputError(
                    f"class {group!r} in {str(self.path)!r} has one image; allowed: at least 2"
                )
        train = {
            group: [image for index, image in enumerate(images) if index % 5]
            for group, images in groups.items()
        }
        return train, {group: images[::5] for group, images in groups.items()}


def tree(path: Path) -> Files:
    """The files of a folder, tar or zip, in order of their paths; hidden ones are left out."""
    if path.is_dir():
        files = _folder_files(path)
    elif path.is_file():
        files = _archive_files(path)
    else:
        raise InputError(f"{str(path)!r} is neither a folder nor a file")
    return {name: files[name] for name in sorted(files) if not _hidden(name)}


def top_folder(names: Iterable[str], *expected: str) -> str:
    """``"TOP/"`` where all paths lie in one folder TOP that is not ``expected``, else ``""``."""
    tops = {name.partition("/")[0] for name in names}
    if len(tops) != 1 or not tops.isdisjoint(expected) or not tops.isdisjoint(names):
        return ""
    return f"{tops.pop()}/"


def names(path: Path) -> Iterator[str]:
    """The paths of the files in a folder, tar or zip, in any order; no more is read than asked."""
    if path.is_dir():
        seen = set()
        for parent, folders, found in os.walk(path, onerror=_unreadable, followlinks=True):
            if (real := os.path.realpath(parent)) in seen:  # a link to a folder above
                folders.clear()
                continue
            seen.add(real)
            yield from (Path(parent, name).relative_to(path).as_posix() for name in found)
    elif zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            yield from archive.namelist()
    else:
        try:
            with tarfile.open(path) as archive:
                yield from (member.name for member in archive if member.isfile())
        except (tarfile.TarError, EOFError, OSError) as error:
            raise InputError(f"{str(path)!r} is not a readable tar or zip: {error}") from None


def _unreadable(error: OSError) -> None:
    raise InputError(f"cannot read the folder: {error}") from None


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def _hidden(name: str) -> bool:
    # .DS_Store, ._photo.jpg and __MACOSX are no photos, whatever their suffix says.
    return any(part.startswith(".") or part == "__MACOSX" for part in name.split("/"))


def _walk(path: Path) -> list[str]:
    return sorted(name for name in names(path) if not _hidden(name))


def _folder_files(path: Path) -> Files:
    return {name: (path / name).read_bytes for name in _walk(path)}


def _archive_files(path: Path) -> Files:
    try:
        return _zip_files(path) if zipfile.is_zipfile(path) else _tar_files(path)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, lzma.LZMAError, OSError) as error:
        raise InputError(f"{str(path)!r} is not a readable tar or zip: {error}") from None


def _safe(path: Path, name: str, link: bool) -> str:
    """The member's normalised name; members that could lead out of the archive are refused."""
    pure = PurePosixPath(name.replace("\\", "/"))
    climbs = pure.is_absolute() or ".." in pure.parts or re.match("[A-Za-z]:", name)
    if link or climbs:
        what = "is a link" if link else "climbs out of it"
        raise InputError(f"the archive {str(path)!r} is refused: its member {name!r} {what}")
    return pure.as_posix()


def _tar_files(path: Path) -> Files:
    stream = _plain_tar(path)
    files: Files = {}
    with tarfile.open(fileobj=stream, mode="r:") as archive:
        for member in archive:
            name = _safe(path, member.name, member.issym() or member.islnk())
            if member.isfile():
                files[name] = _Slice(path, stream, member.offset_data, member.size)
        # A tar ends with zeros; one that was cut between two members would pass as shorter.
        stream.seek(archive.offset)
        if not (end := stream.read(tarfile.BLOCKSIZE)) or any(end):
            raise InputError(f"{str(path)!r} is truncated")
    return files


def _plain_tar(path: Path):
    """An open, uncompressed tar: a compressed one is expanded into a file without a name."""
    openers = {b"\x1f\x8b": gzip.open, b"BZ": bz2.open, b"\xfd7": lzma.open}
    stream = path.open("rb")
    opener = openers.get(stream.read(2))
    stream.seek(0)
    if opener is None:
        return stream
    from . import cache

    stream.close()
    cache.folder().mkdir(parents=True, exist_ok=True)
    plain = tempfile.TemporaryFile(dir=cache.folder())
    with opener(path) as packed:
        shutil.copyfileobj(packed, plain, 1 << 20)
    plain.seek(0)
    return plain


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


def _zip_files(path: Path) -> Files:
    archive = zipfile.ZipFile(path)

    def read(name: str) -> bytes:
        try:
            return archive.read(name)
        except (zipfile.BadZipFile, OSError, RuntimeError, zipfile.zlib.error) as error:
            raise InputError(f"{name!r} in {str(path)!r} is damaged: {error}") from None

    files: Files = {}
    for member in archive.infolist():
        name = _safe(path, member.filename, link=member.external_attr >> 28 == 0o12)
        if not member.is_dir():
            files[name] = lambda original=member.filename: read(original)
    return files


def content_digest(path: Path) -> str:
    """SHA-256 of a file, or over the names and SHA-256 of all files of a folder."""
    path = path.resolve()
    if path.is_file():
        return file_digest(path)
    found = _walk(path)
    return _remembered(
        [path / name for name in found],
        lambda: hashlib.sha256(
            "".join(f"{name}\0{data_files.sha256(path / name)}\n" for name in found).encode()
        ).hexdigest(),
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file."""
    path = path.resolve()
    return _remembered([path], lambda: data_files.sha256(path))


def _remembered(paths: list[Path], digest: Callable[[], str]) -> str:
    """``digest()``, remembered by the size and times of the files: archives have gigabytes."""
    from . import cache

    stats = [(str(path), path.stat()) for path in paths]
    stamp = [(name, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino) for name, s in stats]
    key = hashlib.sha256(json.dumps([len(paths), stamp]).encode()).hexdigest()
    note = cache.folder() / "digests" / key
    if note.is_file() and len(known := note.read_text()) == 64:
        return known
    found = digest()
    with contextlib.suppress(OSError):  # a cache that cannot be written may still be read
        note.parent.mkdir(parents=True, exist_ok=True)
        temporary = note.with_suffix(f".{os.getpid()}")
        temporary.write_text(found)
        temporary.replace(note)
    return found
