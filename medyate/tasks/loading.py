"""A task's data, ready for training: decoded images, or texts and their labels."""

from collections.abc import Callable

import torch

from ..errors import InputError, whole
from . import cache
from .data import ImageData, Split, TextData, TextSplit
from .registry import Task, get
from .text import LENGTH

#: The short side of a kept training image is at most this many times the resolution.
KEPT_RESOLUTIONS = 1.5


def load(
    name: str | Task, *, resolution: int = 128, progress: Callable[[int, int], None] | None = None
) -> ImageData | TextData:
    """Load a task by name (see ``get``).

    resolution: of image batches, in pixels; progress: called with the number of images decoded so
    far and in all, while images are decoded.

    Images are decoded on the first call and memory-mapped from then on. The short side of a
    training image is reduced to at most 1.5 times the resolution (192 pixels at the paper's 128);
    smaller images stay as they are. So where a data set has larger images, crops of less than half
    the area are softer than crops of the originals; in return all of Food-101 takes 11 GB of disk.
    Evaluation images are computed from the originals.

    Raises InputError where data are missing, damaged, or not of the task's sizes.
    """
    whole(resolution, "resolution", 8, 1024)
    task = name if isinstance(name, Task) else get(name)
    if task.kind == "text":
        return _texts(task)
    recipe = cache.Recipe(resolution, round(KEPT_RESOLUTIONS * resolution), task.resize)
    decoded = cache.decoded(task.source, recipe, lambda contents: _check(task, contents), progress)
    return ImageData(
        name=task.name,
        classes=list(decoded.classes),
        resolution=resolution,
        train=Split(decoded.train_labels),
        test=Split(decoded.test_labels),
        resize=task.resize,
        augmentation=task.augmentation,
        decoded=decoded,
    )


def _texts(task: Task) -> TextData:
    task.source.digest()  # verifies the files
    contents = task.source.read()
    _check(task, contents)

    def split(rows) -> TextSplit:
        return TextSplit(torch.tensor([label for _, label in rows]), [texts for texts, _ in rows])

    return TextData(task.name, list(contents.classes), LENGTH, split(contents.train), split(contents.test))


def _check(task: Task, contents) -> None:
    """Whether classes and splits have the sizes that the task is known to have."""
    for what, have, allowed in (
        ("classes", len(contents.classes), task.classes),
        ("training examples", len(contents.train), task.train_size),
        ("test examples", len(contents.test), task.test_size),
    ):
        if have == 0 or allowed not in (None, have):
            raise InputError(
                f"task {task.name!r} has {have:,} {what}; "
                f"allowed: {'at least 1' if allowed is None else f'{allowed:,}'}"
            )
