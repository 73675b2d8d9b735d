"""The paper's tasks, and how any other data set becomes one."""

from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from .augment import Augmentation
from .digits import DigitsSource
from .sources import FolderSource


@dataclass(frozen=True)
class Task:
    """A data set with the paper's protocol (Sec. 4.1).

    name: of the task in records; kind: "image" or "text"; train_size, test_size: None where
    only the data tell; epochs: the paper's, the five of the warm-up included; resize: how
    evaluation images reach the resolution, "crop" (short side 147/128 of it, then the central
    square) or "square".
    """

    name: str
    description: str
    kind: str = "image"
    classes: int | None = None
    train_size: int | None = None
    test_size: int | None = None
    licence: str = "its owner's"
    epochs: int = 55
    resize: str = "crop"
    augmentation: Augmentation = Augmentation()
    source: object = None


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task(
            "digits",
            "scikit-learn's 8x8 digits as RGB; every fifth image, from the first, is for the test",
            classes=10,
            train_size=1437,
            test_size=360,
            licence="CC BY 4.0 (UCI, Optical Recognition of Handwritten Digits)",
            # Mirrored digits and crops of 8 % of an image of 8x8 pixels show no digit.
            augmentation=Augmentation(scale=(0.5, 1.0), flip=0.0),
            source=DigitsSource(),
        ),
    )
}


def get(name: str) -> Task:
    """The task of that name, in any case; ``folder:PATH``; or a data set found by its name.

    A name that is not registered is looked for as ``NAME/``, ``NAME.tar`` or ``NAME.zip`` in the
    folders of ``MEDYATE_DATA``. Raises InputError where there is none.
    """
    if not isinstance(name, str):
        raise InputError(f"unknown task {name!r}; allowed: a string")
    if name.lower() in TASKS:
        return TASKS[name.lower()]
    scheme, colon, path = name.partition(":")
    if colon and scheme == "folder":
        place = Path(path).expanduser()
        if not path or not place.exists():
            raise InputError(f"no folder or archive at {path!r}")
        return _folder(name, place)
    place = find(name)
    if place is None:
        raise InputError(
            f"unknown task {name!r}; allowed: {', '.join(TASKS)}, folder:PATH, tsv:PATH, "
            f"or the name of a folder, tar or zip in one of MEDYATE_DATA"
        )
    return _folder(name, place)


def find(name: str) -> Path | None:
    """``NAME/``, ``NAME.tar`` or ``NAME.zip`` in the data folders."""
    from .. import files

    if not name or Path(name).name != name:
        return None
    for suffix in ("", ".tar", ".zip"):
        if (place := files.find(name + suffix)) is not None:
            return place
    return None


def _folder(name: str, place: Path) -> Task:
    return Task(
        name=name,
        description=f"image folder {place.name}",
        source=FolderSource(place.stem if place.is_file() else place.resolve().name, place),
    )
