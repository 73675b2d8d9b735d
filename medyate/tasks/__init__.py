"""The paper's data sets, image folders and text files, with the paper's protocol."""

from ..errors import whole
from . import cache
from .data import ImageData, Split
from .registry import TASKS, Task, get

#: Sides of kept training images are reduced to at most this many resolutions.
KEPT_RESOLUTIONS = 2

Data = ImageData


def load(name: str | Task, *, resolution: int = 128) -> Data:
    """Load a task; images are decoded on the first call and memory-mapped from then on.

    The short side of a training image is reduced to at most twice the resolution (256 pixels at
    the paper's 128); smaller images stay as they are. Crops are thus taken from slightly softer
    images than the originals where a data set has larger ones. Evaluation images are computed
    from the originals.
    """
    whole(resolution, "resolution", 1)
    task = name if isinstance(name, Task) else get(name)
    decoded = cache.decoded(
        task.source,
        resolution=resolution,
        kept_side=KEPT_RESOLUTIONS * resolution,
        resize=task.resize,
    )
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
