"""The official archives of the paper's image data sets, read as they are published.

Archives count only after their SHA-256. Lists of images, labels and splits are the official ones;
a list that names an image twice, in both splits, without a label or that is missing is refused.
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import fetch as data_files
from ..files.archives import Files, content_digest, file_digest, top_folder, tree
from ..files.fetch import RemoteFile
from ..files.pickles import read_numpy_pickle
from .sources import Sample, Samples

#: Top folders that the readers below know; any other single top folder is stripped.
TOPS = ("images", "annotations", "meta", "jpg", "train2014", "val2014")

ARCHIVE_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".zip")

#: Share of the image above which a person counts in Visual Wake Words.
PERSON_SHARE = 0.005


@dataclass(frozen=True)
class OfficialSource:
    """Official files and the function that lists their samples.

    archives: alternatives, each a tuple of files; the first is what a download fetches.
    folder: the name of the same data unpacked (or in a plain tar or zip), where reading it without
    a checksum is harmless.
    """

    name: str
    parse: Callable[[Files], Samples]
    archives: tuple[tuple[RemoteFile, ...], ...]
    folder: str = ""

    @property
    def downloads(self) -> tuple[RemoteFile, ...]:
        return self.archives[0]

    def places(self) -> dict[str, Path] | None:
        """Where the files of the first complete alternative lie, by name; else None. Unchecked."""
        for archives in self.archives:
            places = {archive.name: data_files.find(archive.name) for archive in archives}
            if None not in places.values():
                return places
        unpacked = (data_files.find(self.folder + suffix) for suffix in ("", ".tar", ".zip"))
        place = next((place for place in unpacked if place is not None), None)
        return {self.folder: place} if self.folder and place else None

    def _verified(self) -> dict[str, Path]:
        places = self.places()
        if places is None:
            raise InputError(missing(self.name, self.downloads, self.folder))
        known = {archive.name: archive for archives in self.archives for archive in archives}
        for name, place in places.items():
            if name in known:
                verify(known[name], place)
        return places

    def digest(self) -> str:
        """Over the content of all files. Raises InputError where one is missing or damaged."""
        digests = [content_digest(place) for place in self._verified().values()]
        return sha256("".join(digests).encode()).hexdigest()

    def read(self) -> Samples:
        """List the samples. Raises InputError where files are missing, damaged or inconsistent."""
        files: Files = {}
        for name, place in self._verified().items():
            if place.is_dir() or place.name.endswith(ARCHIVE_SUFFIXES):
                readers = tree(place)
                # CUB's archive has a file beside its one folder.
                top = top_folder((path for path in readers if "/" in path), TOPS.__contains__)
                files |= {path.removeprefix(top): read for path, read in readers.items() if path.startswith(top)}
            else:
                files[name] = place.read_bytes
        return self.parse(files)


def missing(task: str, downloads: tuple[RemoteFile, ...], folder: str = "") -> str:
    """What to put where, in one line."""
    wanted = "; ".join(
        f"{file.name} from {' or '.join(file.urls)} (SHA-256 {file.sha256 or 'not published'})" for file in downloads
    )
    unpacked = f", or the unpacked folder {folder!r}" if folder else ""
    return (
        f"the data of task {task!r} are not here; run `medyate data fetch {task}`, or put into "
        f"{str(data_files.cache_folder())!r} or a folder that MEDYATE_DATA names: {wanted}{unpacked}"
    )


def verify(file: RemoteFile, place: Path) -> None:
    """Raise InputError unless ``place`` has the SHA-256 of ``file`` (or its size, if none exists)."""
    if not file.sha256:
        if place.stat().st_size != file.size_bytes:
            raise InputError(f"{str(place)!r} is damaged: {place.stat().st_size:,} bytes; allowed: {file.size_bytes:,}")
    elif not (digest := file_digest(place)).startswith(file.sha256):
        raise InputError(f"{str(place)!r} is damaged: SHA-256 {digest}; allowed: {file.sha256}")


def _read(files: Files, name: str) -> bytes:
    return _reader(files, name)()


def _reader(files: Files, name: str) -> Callable[[], bytes]:
    if name not in files:
        raise InputError(f"the official data lack the file {name!r}")
    return files[name]


def _lines(files: Files, name: str) -> list[str]:
    return _read(files, name).decode("utf-8").splitlines()


def _pairs(files: Files, name: str) -> dict[str, str]:
    """A table of lines ``key value``; a key that stands twice is refused."""
    pairs: dict[str, str] = {}
    for number, line in enumerate(_lines(files, name), 1):
        key, _, value = line.strip().partition(" ")
        if not value or key in pairs:
            what = "occurs twice" if key in pairs else "has no value"
            raise InputError(f"{name!r} line {number}: {key!r} {what}")
        pairs[key] = value
    return pairs


def _label(text, count: int, where: str) -> int:
    """A label counted from 1 in the files, from 0 here."""
    label = int(text) - 1 if str(text).lstrip("-").isdigit() else -1
    if not 0 <= label < count:
        raise InputError(f"{where}: label {text!r}; allowed: 1 to {count}")
    return label


def _distinct(train: list[Sample], test: list[Sample]) -> None:
    names = [sample.name for sample in (*train, *test)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f"the official lists name {twice!r} twice")


# CIFAR (Krizhevsky 2009)


def cifar(classes: int) -> Callable[[Files], Samples]:
    """CIFAR-10 or CIFAR-100 (fine labels), from the binary or the Python version."""

    def parse(files: Files) -> Samples:
        ten = classes == 10
        binary = any(name.endswith(".bin") for name in files)
        if binary:
            names = _lines(files, "batches.meta.txt" if ten else "fine_label_names.txt")
            suffix, batch = ".bin", _cifar_binary
        else:
            meta = _cifar_pickle(_read(files, "batches.meta" if ten else "meta"))
            names = [name.decode() for name in meta[b"label_names" if ten else b"fine_label_names"]]
            suffix, batch = "", _cifar_python
        names = tuple(name for name in names if name)
        if len(names) != classes:
            raise InputError(f"CIFAR-{classes} names {len(names)} classes; allowed: {classes}")
        train = [f"data_batch_{number}" for number in range(1, 6)] if ten else ["train"]
        test = ["test_batch"] if ten else ["test"]

        def samples(batches: list[str]) -> list[Sample]:
            listed = []
            for name in batches:
                images, labels = batch(_read(files, name + suffix), name, ten)
                if len(images) == 0 or not 0 <= labels.min() <= labels.max() < classes:
                    raise InputError(f"{name + suffix!r} is empty or has labels beyond {classes}")
                listed += (
                    Sample(f"{name}/{index}", int(label), lambda image=image: image)
                    for index, (image, label) in enumerate(zip(images, labels, strict=True))
                )
            return listed

        return Samples(names, samples(train), samples(test))

    return parse


def _planes(flat: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))


def _cifar_binary(content: bytes, name: str, ten: bool) -> tuple[np.ndarray, np.ndarray]:
    width = 3072 + (1 if ten else 2)
    if len(content) % width:
        raise InputError(f"{name!r} is truncated: {len(content):,} bytes, no multiple of {width:,}")
    rows = np.frombuffer(content, np.uint8).reshape(-1, width)
    return _planes(rows[:, -3072:]), rows[:, width - 3073].astype(np.int64)


def _cifar_python(content: bytes, name: str, ten: bool) -> tuple[np.ndarray, np.ndarray]:
    batch = _cifar_pickle(content)
    pixels, labels = batch[b"data"], np.asarray(batch[b"labels" if ten else b"fine_labels"])
    if pixels.dtype != np.uint8 or pixels.shape != (len(labels), 3072):
        raise InputError(f"{name!r} holds {pixels.shape} {pixels.dtype}; allowed: (N, 3072) uint8")
    return _planes(pixels), labels


def _cifar_pickle(content: bytes) -> dict:
    # Python 2 wrote these: its strings are bytes
    return read_numpy_pickle(content, name="a CIFAR batch", encoding="bytes")


# CUB-200-2011 (Wah et al. 2011)


def cub(files: Files) -> Samples:
    """Caltech-UCSD Birds with its official split."""
    names = _pairs(files, "classes.txt")
    classes = tuple(names[str(number)] for number in range(1, len(names) + 1) if str(number) in names)
    if len(classes) != len(names) or not names:
        raise InputError("'classes.txt' does not number its classes from 1 on")
    labels = _pairs(files, "image_class_labels.txt")
    split = _pairs(files, "train_test_split.txt")
    parts: dict[str, list[Sample]] = {"1": [], "0": []}
    for number, path in _pairs(files, "images.txt").items():
        if number not in labels or split.get(number) not in parts:
            raise InputError(f"image {number} ({path}) has no label or no split")
        label = _label(labels[number], len(classes), f"image {number}")
        parts[split[number]].append(Sample(path, label, _reader(files, f"images/{path}")))
    _distinct(parts["1"], parts["0"])
    return Samples(classes, parts["1"], parts["0"])


# Oxford Flowers 102 (Nilsback and Zisserman 2008)


def flowers(files: Files) -> Samples:
    """Flowers-102: official training and validation images together, official test images."""
    labels = _matrix(files, "imagelabels.mat", "labels")
    count = int(labels.max())
    splits = {key: _matrix(files, "setid.mat", key) for key in ("trnid", "valid", "tstid")}

    def samples(*keys: str) -> list[Sample]:
        listed = []
        for number in (int(number) for key in keys for number in splits[key]):
            if not 1 <= number <= len(labels):
                raise InputError(f"'setid.mat' names image {number}; allowed: 1 to {len(labels)}")
            name = f"jpg/image_{number:05d}.jpg"
            label = _label(int(labels[number - 1]), count, name)
            listed.append(Sample(name, label, _reader(files, name)))
        return listed

    train, test = samples("trnid", "valid"), samples("tstid")
    _distinct(train, test)
    return Samples(tuple(f"{number:03d}" for number in range(1, count + 1)), train, test)


def _matrix(files: Files, name: str, key: str) -> np.ndarray:
    from scipy.io import loadmat

    try:
        return np.atleast_1d(loadmat(io.BytesIO(_read(files, name)))[key].squeeze()).astype(int)
    except InputError:
        raise
    except Exception as error:  # scipy raises what it likes on damaged files
        raise InputError(f"{name!r} is damaged: {error}") from None


# Food-101 (Bossard et al. 2014)


def food(files: Files) -> Samples:
    """Food-101 with its official split."""
    classes = tuple(name for name in _lines(files, "meta/classes.txt") if name)
    label = {name: index for index, name in enumerate(classes)}

    def samples(split: str) -> list[Sample]:
        listed = []
        for line in filter(None, _lines(files, f"meta/{split}.txt")):
            group = line.partition("/")[0]
            if group not in label:
                raise InputError(f"'meta/{split}.txt' names {line!r}, of no class in 'classes.txt'")
            listed.append(Sample(line, label[group], _reader(files, f"images/{line}.jpg")))
        return listed

    train, test = samples("train"), samples("test")
    _distinct(train, test)
    return Samples(classes, train, test)


# Oxford-IIIT Pets (Parkhi et al. 2012)


def pets(files: Files) -> Samples:
    """Oxford-IIIT Pets: official trainval and test images, 37 breeds."""

    def rows(split: str) -> list[tuple[str, int]]:
        images = []
        for line in filter(None, _lines(files, f"annotations/{split}.txt")):
            if line.startswith("#"):
                continue
            name, *numbers = line.split()
            if len(numbers) != 3:
                raise InputError(f"'annotations/{split}.txt': {line!r} has no three numbers")
            images.append((name, _label(numbers[0], 37, f"image {name!r}")))
        return images

    splits = rows("trainval"), rows("test")
    breeds: dict[int, str] = {}
    for name, label in (*splits[0], *splits[1]):
        breed = name.rpartition("_")[0]
        if breeds.setdefault(label, breed) != breed:
            raise InputError(f"label {label + 1} stands for {breeds[label]!r} and for {breed!r}")
    classes = tuple(breeds[label] for label in sorted(breeds))
    if sorted(breeds) != list(range(len(breeds))):
        raise InputError("the labels of the pets are not numbered from 1 on")
    train, test = (
        [Sample(name, label, _reader(files, f"images/{name}.jpg")) for name, label in split] for split in splits
    )
    _distinct(train, test)
    return Samples(classes, train, test)


# Visual Wake Words (Chowdhery et al. 2019) from COCO 2014 (Lin et al. 2014)


def visual_wake_words(area: str) -> Callable[[Files], Samples]:
    """An image shows a person if one covers more than 0.5 % of it.

    area: "box" compares the area of the bounding box, as the paper of the data set says it;
    "mask" compares COCO's ``area``, that of the segmentation, as the scripts do that prepared
    the data for the MCUNet line of work. Test images are the 8,059 of "minival", training images
    all other 115,228 of train2014 and val2014.
    """

    def covers(annotation: dict) -> float:
        if area == "mask":
            return annotation["area"]
        _, _, width, height = annotation["bbox"]
        return width * height

    def parse(files: Files) -> Samples:
        lines = [line for line in _lines(files, MINIVAL.name) if line]
        if not all(line.isdigit() for line in lines) or len(set(lines)) < len(lines):
            raise InputError(f"{MINIVAL.name!r} does not hold distinct image numbers")
        minival = {int(line) for line in lines}
        parts: tuple[list[Sample], list[Sample]] = [], []
        for split in ("train2014", "val2014"):
            name = f"annotations/instances_{split}.json"
            try:
                coco = json.loads(_read(files, name))
                person = {c["id"] for c in coco["categories"] if c["name"] == "person"}
                least = {i["id"]: PERSON_SHARE * i["height"] * i["width"] for i in coco["images"]}
                shown = {
                    a["image_id"]
                    for a in coco["annotations"]
                    if a["category_id"] in person and covers(a) > least[a["image_id"]]
                }
                images = sorted((i["id"], i["file_name"]) for i in coco["images"])
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(f"{name!r} is damaged: {type(error).__name__} {error}") from None
            for number, file in images:
                read = _reader(files, f"{split}/{file}")
                sample = Sample(f"{split}/{file}", int(number in shown), read)
                parts[split == "val2014" and number in minival].append(sample)
        if len(parts[1]) != len(minival):
            raise InputError(f"{MINIVAL.name!r} names images that are not in val2014")
        _distinct(*parts)
        return Samples(("no person", "person"), *parts)

    return parse


def remote(name: str, size_bytes: int, digest: str, *urls: str) -> RemoteFile:
    return RemoteFile(name=name, sha256=digest, urls=urls, size_bytes=size_bytes)


CIFAR10_BINARY = remote(
    "cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
)
CIFAR10_PYTHON = remote(
    "cifar-10-python.tar.gz",
    170_498_071,
    "6d958be074577803d12ecdefd02955f39262c83c16fe9348329d7fe0b5c001ce",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
CIFAR100_BINARY = remote(
    "cifar-100-binary.tar.gz",
    168_513_733,
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    "https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",
)
CIFAR100_PYTHON = remote(
    "cifar-100-python.tar.gz",
    169_001_437,
    "85cd44d02ba6437773c5bbd22e183051d648de2e7d6b014e1ef29b855ba677a7",
    "https://www.cs.toronto.edu/~kriz/cifar-100-python.tar.gz",
)
CUB = remote(
    "CUB_200_2011.tgz",
    1_150_585_339,
    "0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
)
FLOWERS = (
    remote(
        "102flowers.tgz",
        344_862_509,
        "2d01ecc807db462958cfe3d92f57a8c252b4abd240eb955770201e45f783b246",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/102flowers.tgz",
    ),
    remote(
        "imagelabels.mat",
        502,
        "4903e94206bac23bf772aadf06451916df56b58fc483a62db32a97b82656651d",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/imagelabels.mat",
    ),
    remote(
        "setid.mat",
        14_989,
        "46b8678f91fd95d3c8f4feab80d271a6c834a1dd896fe29fd3e6ad9ce5c8dccd",
        "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/setid.mat",
    ),
)
FOOD = remote(
    "food-101.tar.gz",
    4_996_278_331,
    "d97d15e438b7f4498f96086a4f7e2fa42a32f2712e87d3295441b2b6314053a4",
    "http://data.vision.ee.ethz.ch/cvl/food-101.tar.gz",
)
# The official names are plain images.tar.gz and annotations.tar.gz, which say nothing.
PETS = (
    remote(
        "oxford-iiit-pet-images.tar.gz",
        791_918_971,
        "67195c5e1c01f1ab5f9b6a5d22b8c27a580d896ece458917e61d459337fa318d",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/images.tar.gz",
    ),
    remote(
        "oxford-iiit-pet-annotations.tar.gz",
        19_173_078,
        "52425fb6de5c424942b7626b428656fcbd798db970a937df61750c0f1d358e91",
        "https://www.robots.ox.ac.uk/~vgg/data/pets/data/annotations.tar.gz",
    ),
)
# No checksum of this list is published: its size, its numbers and its place in val2014 are checked.
MINIVAL = remote(
    "mscoco_minival_ids.txt",
    54_864,
    "",
    "https://raw.githubusercontent.com/tensorflow/models/master/research/object_detection/data/mscoco_minival_ids.txt",
)
COCO = (
    remote(
        "train2014.zip",
        13_510_573_713,
        "ede4087e640bddba550e090eae701092534b554b42b05ac33f0300b984b31775",
        "http://images.cocodataset.org/zips/train2014.zip",
    ),
    remote(
        "val2014.zip",
        6_645_013_297,
        "fe9be816052049c34717e077d9e34aa60814a55679f804cd043e3cbee3b9fde0",
        "http://images.cocodataset.org/zips/val2014.zip",
    ),
    remote(
        "annotations_trainval2014.zip",
        252_872_794,
        "031296bbc80c45a1d1f76bf9a90ead27e94e99ec629208449507a4917a3bf009",
        "http://images.cocodataset.org/annotations/annotations_trainval2014.zip",
    ),
    MINIVAL,
)
