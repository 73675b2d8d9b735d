"""Where images come from: folders, tars, zips, arrays. Nothing is ever unpacked to disk.

An image folder has torchvision's ImageFolder layout, ``train/CLASS/*.jpg`` beside
``test/CLASS/*.jpg`` (or ``val``), or simply ``CLASS/*.jpg``: then every fifth image of each class,
in order of the names and from the first, is a test image.
"""

import hashlib
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from ..errors import InputError

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp", ".gif")
TEST_NAMES = ("test", "val", "valid", "validation", "dev")


class Sample(NamedTuple):
    """One image: a name for messages, its class index, and its bytes or pixels [H, W, 3]."""

    name: str
    label: int
    read: Callable


class Samples(NamedTuple):
    """The names of the classes and the two splits."""

    classes: tuple[str, ...]
    train: list[Sample]
    test: list[Sample]


class ImageSource(Protocol):
    """An image data set before decoding."""

    name: str

    def digest(self) -> str:
        """A digest of the content: another one if anything that matters changes."""

    def read(self) -> Samples:
        """List the samples. Raises InputError where the data set is not as it should be."""


class Tree:
    """The files of a folder, tar or zip by their relative POSIX path, in order of the path."""

    def __init__(self, path: Path):
        self.path = path
        if path.is_dir():
            self.files = _folder_files(path)
        elif path.is_file():
            self.files = _archive_files(path)
        else:
            raise InputError(f"{str(path)!r} is neither a folder nor a file")

    def below(self, prefix: str) -> dict[str, Callable[[], bytes]]:
        """The files under ``prefix/``, by the rest of their path."""
        start = f"{prefix}/" if prefix else ""
        return {name[len(start) :]: read for name, read in self.files.items() if name.startswith(start)}

    def root(self, *expected: str) -> str:
        """The folder that holds one of ``expected``: the top, or the only folder in it."""
        tops = {name.partition("/")[0] for name in self.files if "/" in name}
        if tops.isdisjoint(expected) and len(tops) == 1:
            return tops.pop()
        return ""


def _hidden(path: str) -> bool:
    # .DS_Store, ._photo.jpg and __MACOSX are no photos, whatever their suffix says.
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _folder_files(path: Path) -> dict[str, Callable[[], bytes]]:
    files = {}
    for parent, folders, names in os.walk(path, followlinks=True):
        folders.sort()
        for name in names:
            file = Path(parent, name)
            relative = file.relative_to(path).as_posix()
            if not _hidden(relative):
                files[relative] = file.read_bytes
    return dict(sorted(files.items()))


def _archive_files(path: Path) -> dict[str, Callable[[], bytes]]:
    try:
        if zipfile.is_zipfile(path):
            return _zip_files(path)
        return _tar_files(path)
    except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
        raise InputError(f"{str(path)!r} is not a readable tar or zip: {error}") from None


def _check_member(path: Path, name: str, link: bool) -> str:
    """The member's normalised name; members that could lead out of the archive are refused."""
    pure = PurePosixPath(name.replace("\\", "/"))
    if link or pure.is_absolute() or ".." in pure.parts or ":" in pure.parts[0:1]:
        what = "is a link" if link else "climbs out of the archive"
        raise InputError(f"{str(path)!r} is refused: its member {name!r} {what}")
    return pure.as_posix()


def _tar_files(path: Path) -> dict[str, Callable[[], bytes]]:
    files = {}
    try:
        archive, plain = tarfile.open(path, "r:"), True
    except tarfile.ReadError:
        archive, plain = tarfile.open(path, "r:*"), False
    with archive:
        for member in archive:
            name = _check_member(path, member.name, member.issym() or member.islnk())
            if not member.isfile() or _hidden(name):
                continue
            if plain:
                files[name] = _Slice(path, member.offset_data, member.size)
            else:
                # A compressed tar cannot be entered in the middle: its files stay in memory.
                content = archive.extractfile(member).read()
                files[name] = lambda content=content: content
    return dict(sorted(files.items()))


class _Slice(NamedTuple):
    path: Path
    start: int
    size: int

    def __call__(self) -> bytes:
        with self.path.open("rb") as file:
            file.seek(self.start)
            content = file.read(self.size)
        if len(content) != self.size:
            raise InputError(f"{str(self.path)!r} is truncated")
        return content


def _zip_files(path: Path) -> dict[str, Callable[[], bytes]]:
    def read(name: str) -> bytes:
        try:
            with zipfile.ZipFile(path) as archive:
                return archive.read(name)
        except (zipfile.BadZipFile, OSError) as error:
            raise InputError(f"{name!r} in {str(path)!r} is damaged: {error}") from None

    files = {}
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            link = member.external_attr >> 28 == 0o12
            name = _check_member(path, member.filename, link)
            if not member.is_dir() and not _hidden(name):
                files[name] = lambda original=member.filename: read(original)
    return dict(sorted(files.items()))


@dataclass(frozen=True)
class FolderSource:
    """An image folder, or a tar or zip of one."""

    name: str
    path: Path

    def digest(self) -> str:
        return content_digest(self.path)

    def read(self) -> Samples:
        tree = Tree(self.path)
        top = tree.root("train", *TEST_NAMES)
        files = {
            name: read
            for name, read in tree.below(top).items()
            if name.lower().endswith(IMAGE_SUFFIXES)
        }
        if not files:
            raise InputError(
                f"{str(self.path)!r} holds no images; allowed: train/CLASS/*.jpg and "
                f"test/CLASS/*.jpg, or CLASS/*.jpg; suffixes: {' '.join(IMAGE_SUFFIXES)}"
            )
        tops = {name.partition("/")[0] for name in files}
        test_names = [name for name in TEST_NAMES if name in tops]
        if "train" in tops and test_names:
            train = _by_class(self.path, files, "train/")
            test = _by_class(self.path, files, f"{test_names[0]}/")
        elif "train" in tops:
            train, test = _every_fifth(_by_class(self.path, files, "train/"))
        else:
            train, test = _every_fifth(_by_class(self.path, files, ""))
        classes = tuple(sorted(train))
        if len(classes) < 2:
            raise InputError(f"{str(self.path)!r} has one class only: {', '.join(classes)}")
        if strange := sorted(set(test) - set(train)):
            raise InputError(
                f"{str(self.path)!r} has test images of a class without training images: "
                f"{', '.join(strange)}; allowed: {', '.join(classes)}"
            )
        label = {name: index for index, name in enumerate(classes)}
        return Samples(
            classes,
            *(
                [
                    Sample(f"{self.path.name}/{name}", label[group], read)
                    for group in sorted(split)
                    for name, read in split[group]
                ]
                for split in (train, test)
            ),
        )


def _by_class(path: Path, files: dict, prefix: str) -> dict[str, list]:
    groups = {}
    for name, read in files.items():
        if name.startswith(prefix):
            group, slash, _ = name[len(prefix) :].partition("/")
            if not slash:
                raise InputError(f"{name!r} in {str(path)!r} lies in no folder of a class")
            groups.setdefault(group, []).append((name, read))
    return groups


def _every_fifth(groups: dict[str, list]) -> tuple[dict, dict]:
    for group, samples in groups.items():
        if len(samples) < 2:
            raise InputError(f"class {group!r} has one image only; allowed: at least 2")
    train = {group: [s for i, s in enumerate(g) if i % 5] for group, g in groups.items()}
    test = {group: g[::5] for group, g in groups.items()}
    return train, test


def content_digest(path: Path) -> str:
    """SHA-256 over the names and contents of a file or folder.

    Remembered in the cache folder beside name, size and time of every file, so that an unchanged
    data set is hashed once only.
    """
    from . import cache

    path = path.resolve()
    if path.is_dir():
        files = [
            Path(parent, name) for parent, _, names in os.walk(path, followlinks=True) for name in names
        ]
        files = sorted(f for f in files if not _hidden(f.relative_to(path).as_posix()))
    else:
        files = [path]
    stats = [(str(f), (s := f.stat()).st_size, s.st_mtime_ns, s.st_ctime_ns) for f in files]
    stamp = hashlib.sha256(json.dumps(stats).encode()).hexdigest()
    remembered = cache.folder() / "digests" / stamp
    if remembered.is_file() and len(known := remembered.read_text()) == 64:
        return known
    digest = hashlib.sha256()
    for file in files:
        name = file.relative_to(path).as_posix() if file != path else ""
        with file.open("rb") as stream:
            digest.update(f"{name}\0{hashlib.file_digest(stream, 'sha256').hexdigest()}\n".encode())
    remembered.parent.mkdir(parents=True, exist_ok=True)
    temporary = remembered.with_suffix(f".{os.getpid()}")
    temporary.write_text(digest.hexdigest())
    temporary.replace(remembered)
    return digest.hexdigest()
