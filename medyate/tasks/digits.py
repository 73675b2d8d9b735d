"""scikit-learn's handwritten digits: an image task that needs no download."""

from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from .sources import Sample, Samples


@dataclass(frozen=True)
class DigitsSource:
    """1,797 grey images of 8x8 pixels with values 0..16, as RGB bytes.

    There is no official split: every fifth image, from the first, is a test image, which gives
    1,437 and 360.
    """

    name: str = "digits"

    downloads = ()

    def places(self) -> dict[str, Path]:
        """No file: the images come with scikit-learn."""
        return {}

    def digest(self) -> str:
        images, labels = _arrays()
        return sha256(images.tobytes() + labels.astype("int64").tobytes()).hexdigest()

    def read(self) -> Samples:
        images, labels = _arrays()
        samples = [
            Sample(f"digits/{index}", int(label), lambda image=image: image)
            for index, (image, label) in enumerate(zip(images, labels, strict=True))
        ]
        train = [sample for index, sample in enumerate(samples) if index % 5]
        return Samples(tuple("0123456789"), train, samples[::5])


def _arrays():
    import numpy as np
    from sklearn.datasets import load_digits

    digits = load_digits()
    grey = np.round(digits.images * (255 / 16)).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=3), digits.target
