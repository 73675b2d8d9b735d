"""The paper's tasks, and how any other data set becomes one."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import fetch as files
from . import official, text
from .digits import DigitsSource
from .docstrings import DocstringSource
from .official import OfficialSource
from .sources import FolderSource


@dataclass(frozen=True)
class Augmentation:
    """What is drawn for a training image. The defaults are the paper's.

    scale: range of the crop's share of the area; ratio: range of its width / height;
    flip: probability of a horizontal flip; jitter: factors are uniform in [1 - jitter, 1 + jitter].
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5
    jitter: float = 0.4


@dataclass(frozen=True)
class Task:
    """A data set with the paper's protocol (Sec. 4.1).

    name: in commands and records; label: in the paper's tables, empty where it has none;
    kind: "image" or "text"; classes, train_size, test_size: None where only the data tell, else
    the data must have them; epochs: the paper's, the five of the warm-up included, None where the
    paper has none; resize: how evaluation images reach the resolution, "crop" (short side to
    147/128 of it, then the central square) or "square" (both sides to it).
    """

    name: str
    description: str
    source: Any
    kind: str = "image"
    label: str = ""
    classes: int | None = None
    train_size: int | None = None
    test_size: int | None = None
    licence: str = "its owner's"
    epochs: int | None = None
    resize: str = "crop"
    augmentation: Augmentation = Augmentation()


def _vww(name: str, label: str, area: str, description: str) -> Task:
    return Task(
        name,
        description,
        OfficialSource(name, official.visual_wake_words(area), (official.COCO,)),
        label=label,
        classes=2,
        train_size=115_228,
        test_size=8_059,
        licence="annotations CC BY 4.0, images as their Flickr owners allow",
        epochs=55,
        resize="square",
    )


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "cifar-10",
            "32x32 photos of ten kinds of things and animals; official split",
            OfficialSource("cifar-10", official.cifar(10), ((official.CIFAR10_BINARY,), (official.CIFAR10_PYTHON,))),
            label="CIFAR-10",
            classes=10,
            train_size=50_000,
            test_size=10_000,
            licence="none stated",
            epochs=105,
        ),
        Task(
            "cifar-100",
            "32x32 photos, 100 fine labels; official split",
            OfficialSource(
                "cifar-100", official.cifar(100), ((official.CIFAR100_BINARY,), (official.CIFAR100_PYTHON,))
            ),
            label="CIFAR-100",
            classes=100,
            train_size=50_000,
            test_size=10_000,
            licence="none stated",
            epochs=55,
        ),
        Task(
            "cub",
            "CUB-200-2011, photos of North American birds; official split",
            OfficialSource("cub", official.cub, ((official.CUB,),), folder="CUB_200_2011"),
            label="CUB",
            classes=200,
            train_size=5_994,
            test_size=5_794,
            licence="non-commercial research and education",
            epochs=205,
        ),
        Task(
            "flowers",
            "Oxford Flowers-102; trained on the official train and validation images together",
            OfficialSource("flowers", official.flowers, (official.FLOWERS,), folder="flowers-102"),
            label="Flowers",
            classes=102,
            train_size=2_040,
            test_size=6_149,
            licence="none stated",
            epochs=205,
        ),
        Task(
            "food",
            "Food-101, training labels noisy as published; official split",
            OfficialSource("food", official.food, ((official.FOOD,),), folder="food-101"),
            label="Food",
            classes=101,
            train_size=75_750,
            test_size=25_250,
            licence="images of foodspotting.com, scientific fair use",
            epochs=55,
        ),
        Task(
            "pets",
            "Oxford-IIIT Pets, 37 breeds of cats and dogs; official trainval and test",
            OfficialSource("pets", official.pets, (official.PETS,), folder="oxford-iiit-pet"),
            label="Pets",
            classes=37,
            train_size=3_680,
            test_size=3_669,
            licence="CC BY-SA 4.0",
            epochs=205,
        ),
        _vww(
            "vww",
            "VWW",
            "box",
            "Visual Wake Words: is there a person whose box is above 0.5 % of the image? From COCO "
            "2014; test on minival. Same images as the paper's; labels can differ where a person's "
            "box is above and the mask below 0.5 %",
        ),
        _vww(
            "vww-mask",
            "",
            "mask",
            "Visual Wake Words by the area of COCO's masks, as the scripts of the MCUNet line of "
            "work label it; otherwise as vww",
        ),
        Task(
            "qnli",
            "GLUE's QNLI: does a sentence answer a question? Evaluated on the dev set",
            text.glue("qnli", text.QNLI, text.ENTAILMENT),
            kind="text",
            label="QNLI",
            classes=2,
            train_size=104_743,
            test_size=5_463,
            licence="CC BY-SA 4.0 (from SQuAD)",
        ),
        Task(
            "rte",
            "GLUE's RTE: does a text entail a sentence? Evaluated on the dev set",
            text.glue("rte", text.RTE, text.ENTAILMENT),
            kind="text",
            label="RTE",
            classes=2,
            train_size=2_490,
            test_size=277,
            licence="none stated",
        ),
        Task(
            "sst-2",
            "GLUE's SST-2: sentiment of film reviews. Evaluated on the dev set",
            text.glue("sst-2", text.SST2, text.SENTIMENT),
            kind="text",
            label="SST2",
            classes=2,
            train_size=67_349,
            test_size=872,
            licence="none stated",
        ),
        Task(
            "digits",
            "scikit-learn's 8x8 digits as RGB; every fifth image, from the first, is for the test",
            DigitsSource(),
            classes=10,
            train_size=1_437,
            test_size=360,
            licence="CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)",
            # Mirrored digits and crops of 8 % of an image of 8x8 pixels show no digit.
            augmentation=Augmentation(scale=(0.5, 1.0), flip=0.0),
        ),
        Task(
            "docstrings",
            "which library does a sentence document: NumPy, pandas or Matplotlib? From the installed "
            "versions; every fifth sentence, from the first, is for the test",
            DocstringSource(),
            kind="text",
            classes=3,
            licence="BSD-3-Clause, PSF-based (Matplotlib)",
        ),
    )
}

#: Suffixes under which a data set is looked for by its name.
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip")


#: The packs that shipped records were made on, by the SHA-256 of their tars: a run on one keeps its id.
PACKS = {
    "cifar10": "ebfc7979d3e9150b5fa226115b796a468aa58c48a68e24bff3c0ac08886da533",
    "cifar10_jpeg": "d75051792c9f470dfb884e1e4aa38169dcdc8b86f34a9710b1be1608f371ba8e",
    "cub50": "e161d11618fab788b17da517a4c5af5d11d72b06be8dbfa8d65f8b256f1efb69",
    "flowers12": "4fce368501c40b5fd8f2b1f15e57a09fedc3600155af86fb637d8848419e9d64",
    "food10": "969a840240cb00a270dab324ae3662433f9cc401ab7df17def37a61f56b67348",
    "sst2": "f44e30e2987c4da287ceae18ffa5416442ac4b130512b60580358438d499506a",
}
SCHEMES = ("folder", "tsv")


def get(name: str) -> Task:
    """A task by its name, in any case; or a user's own data.

    ``folder:PATH`` is an image folder, or a tar or zip of one; ``tsv:PATH`` a table of text, or a
    folder or archive with ``train`` and ``dev`` tables. The task's name then has the absolute path,
    whatever way it was written. Any other name is looked for as ``NAME/``, ``NAME.tar``,
    ``NAME.tar.gz``, ``NAME.tgz`` or ``NAME.zip`` in the folders of ``MEDYATE_DATA`` and the user's
    cache. Raises InputError where nothing is found.
    """
    if not isinstance(name, str):
        raise InputError(f"unknown task {name!r}; allowed: a string")
    if name.lower() in TASKS:
        return TASKS[name.lower()]
    scheme, colon, path = name.partition(":")
    if colon and scheme in SCHEMES:
        place = _place(scheme, path)
        return _own(f"{scheme}:{place}", place, scheme == "tsv")
    place = find(name)
    if place is None:
        raise InputError(
            f"unknown task {name!r}; allowed: {', '.join(TASKS)}, folder:PATH, tsv:PATH, "
            f"or the name of a folder, tar or zip in one that MEDYATE_DATA names"
        )
    return _own(name, place, text.is_text(place))


def _place(scheme: str, path: str) -> Path:
    """The absolute path of what is there, links followed: one place has one name."""
    try:
        place = Path(path).expanduser()
        there = bool(path) and place.exists()
        absolute = place.resolve()
        str(absolute).encode()
    except UnicodeError:
        raise InputError(f"the path {path!r} is not UTF-8; allowed: {scheme}:PATH with a name in UTF-8") from None
    except (OSError, RuntimeError, ValueError) as error:
        raise InputError(f"cannot look at {path!r}: {error}; allowed: {scheme}:PATH") from None
    if not there:
        raise InputError(f"there is nothing at {path!r}; allowed: {scheme}:PATH")
    return absolute


def find(name: str) -> Path | None:
    """``NAME/`` or an archive of that name in the data folders, else None."""
    places = (files.find(name + suffix) for suffix in ("", *ARCHIVES))
    return next((place for place in places if place is not None), None)


def short(name: str) -> str:
    """A task's name without the place of one's own data: ``folder:photos`` of ``folder:/home/me/photos``."""
    scheme, colon, path = name.partition(":")
    return f"{scheme}:{Path(path).name}" if colon and scheme in SCHEMES else name


def fingerprint(task: Task) -> str | None:
    """What tells one's own data from others under the same name: the first 16 digits of their content's digest.

    None for the official data of a registered task, and for the packs that shipped records were made on
    (:data:`PACKS`).
    """
    if not isinstance(task.source, (FolderSource, text.TextSource)):
        return None
    digest = task.source.digest()
    return None if digest == PACKS.get(task.name) else digest[:16]


def _own(name: str, place: Path, is_text: bool) -> Task:
    stem = place.name
    for suffix in (*ARCHIVES, *text.COMPRESSED, *text.SUFFIXES):
        if stem.lower().endswith(suffix):
            stem = stem[: -len(suffix)]
    source = text.TextSource if is_text else FolderSource
    return Task(
        name=name,
        description=f"{'tables of text' if is_text else 'image folder'} in {place.name}",
        source=source(stem, place),
        kind="text" if is_text else "image",
    )
