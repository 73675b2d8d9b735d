"""Decoded images on disk, memory-mapped, so that an epoch is not bound by JPEG decoding.

One folder per (content digest, resolution, kept side, way of resizing) holds

* ``train.u8``: the training images one after the other, each H x W x 3 bytes, the short side
  reduced to at most ``kept_side`` pixels (never enlarged);
* ``test.u8``: the evaluation images, N x 3 x R x R bytes, resized and cropped for good;
* ``index.npz``: heights, widths and labels; ``classes.json``: the names of the classes.

It is written under a temporary name and renamed when complete. A data set that changes has
another digest, hence another folder; old folders may be deleted at any time.
"""

import json
import shutil
import uuid
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..files import paths
from .pixels import Picture, decode
from .sources import Sample, Samples

#: Part of every key: raise it whenever the bytes in a folder change their meaning.
VERSION = 2
#: How many images that cannot be used are named.
NAMED = 5


@dataclass(frozen=True)
class Decoded:
    """A decoded data set, memory-mapped.

    train: uint8, flat; heights, widths: int64 [N], starts: int64 [N], in bytes;
    test: uint8 [M, 3, R, R]; train_labels, test_labels: int64.
    """

    classes: tuple[str, ...]
    train: Tensor
    heights: Tensor
    widths: Tensor
    starts: Tensor
    train_labels: Tensor
    test: Tensor
    test_labels: Tensor


@dataclass(frozen=True)
class Recipe:
    """How images are decoded: see the top of this module. resize: "crop" or "square"."""

    resolution: int
    kept_side: int
    resize: str


def decoded(
    source, recipe: Recipe, check: Callable[[Samples], None], progress: Callable[[int, int], None] | None = None
) -> Decoded:
    """Return ``source`` decoded, from the cache where it is there, else decode it now.

    check: called with the samples before they are decoded; raises where they are not as expected.
    progress: called with the numbers of images decoded and in all.
    """
    key = json.dumps([VERSION, source.digest(), *astuple(recipe)])
    name = f"{_short(source.name)}-{recipe.resolution}-{sha256(key.encode()).hexdigest()[:16]}"
    place = paths.cache() / name
    if not place.is_dir():
        try:
            _make(source, recipe, check, progress, place)
        except OSError as error:
            raise InputError(
                f"decoding task {source.name!r} into {str(place.parent)!r} failed: {error}; "
                f"MEDYATE_CACHE can name another folder"
            ) from error
    return _open(place, recipe.resolution)


def _short(name: str) -> str:
    """A name for people to recognise in a file's name, which file systems bound to 255 bytes or less."""
    return name.encode("utf-8", "backslashreplace")[:48].decode("utf-8", "ignore")


def _make(source, recipe: Recipe, check, progress, place: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    temporary = place.with_name(f".{place.name}-{uuid.uuid4().hex}")
    temporary.mkdir()  # with everyone's usual rights, unlike one from tempfile
    try:
        _write(source, recipe, check, progress, temporary)
        try:
            temporary.rename(place)
        except OSError:
            if not place.is_dir():  # else another process was quicker; its folder holds the same bytes
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _open(place: Path, resolution: int) -> Decoded:
    index = np.load(place / "index.npz", allow_pickle=False)
    heights, widths, train_labels, test_labels = (
        torch.from_numpy(index[name]) for name in ("heights", "widths", "train_labels", "test_labels")
    )
    sizes = heights * widths * 3
    train = _map(place / "train.u8", int(sizes.sum()))
    test = _map(place / "test.u8", len(test_labels) * 3 * resolution**2)
    return Decoded(
        classes=tuple(json.loads((place / "classes.json").read_text("utf-8"))),
        train=train,
        heights=heights,
        widths=widths,
        starts=sizes.cumsum(0) - sizes,
        train_labels=train_labels,
        test=test.view(-1, 3, resolution, resolution),
        test_labels=test_labels,
    )


def _map(path: Path, size: int) -> Tensor:
    if path.stat().st_size != size:
        raise InputError(f"{str(path)!r} is damaged; delete its folder, and it is decoded again")
    if size == 0:
        return torch.empty(0, dtype=torch.uint8)
    try:
        # Private: a write into the tensor would never reach the file.
        return torch.from_file(str(path), shared=False, size=size, dtype=torch.uint8)
    except RuntimeError:  # some file systems map no files
        return torch.from_numpy(np.fromfile(path, np.uint8))


def _write(source, recipe: Recipe, check, progress, place: Path) -> None:
    from PIL import Image

    def kept(image) -> np.ndarray:
        short = min(image.size)
        if short > recipe.kept_side:
            size = [round(side * recipe.kept_side / short) for side in image.size]
            image = image.resize(size, Image.Resampling.BILINEAR)
        return np.asarray(image)

    def evaluated(image) -> np.ndarray:
        return evaluation_view(image, recipe.resolution, recipe.resize).transpose(2, 0, 1)

    samples = source.read()
    check(samples)
    classes, train, test = samples
    shapes, digests, peaks, bad, done = [], {}, [], [], 0
    for split, samples, view in (("train", train, kept), ("test", test, evaluated)):
        with (place / f"{split}.u8").open("wb") as file:
            for sample, outcome in zip(samples, _in_order(view, samples), strict=True):
                done += 1
                if progress is not None:
                    progress(done, len(train) + len(test))
                if isinstance(outcome, InputError):
                    bad.append(outcome)
                    continue
                pixels, digest, peak = outcome
                file.write(np.ascontiguousarray(pixels))
                digests.setdefault(digest, []).append((split, sample))
                if split == "train":
                    shapes.append(pixels.shape)
                if peak is not None:
                    peaks.append(peak)
    _refuse(source.name, bad)
    _warn_of_duplicates(source.name, digests)
    if peaks and max(peaks) <= 1 / 8:
        warnings.warn(
            f"task {source.name!r}: {len(peaks):,} images of 16 bits use no value above {100 * max(peaks):.0f} % of "
            f"their range, so they are nearly black; scale values of fewer bits to 16 before",
            stacklevel=2,
        )
    np.savez(
        place / "index.npz",
        heights=np.array([height for height, _, _ in shapes], dtype=np.int64),
        widths=np.array([width for _, width, _ in shapes], dtype=np.int64),
        train_labels=np.array([sample.label for sample in train], dtype=np.int64),
        test_labels=np.array([sample.label for sample in test], dtype=np.int64),
    )
    (place / "classes.json").write_text(json.dumps(list(classes)), "utf-8")


def _refuse(name: str, bad: list[InputError]) -> None:
    if len(bad) == 1:
        raise bad[0]
    if bad:
        more = "; .." if len(bad) > NAMED else ""
        named = "; ".join(str(one) for one in bad[:NAMED])
        raise InputError(f"task {name!r}: {len(bad):,} images cannot be used: {named}{more}")


def _in_order(view: Callable, samples: list[Sample], ahead: int = 64) -> Iterator:
    """Of each sample (pixels, digest of its bytes, peak), or the error that says why not.

    Read and viewed on threads, with at most ``ahead`` results waiting.
    """

    def read(sample: Sample):
        try:
            picture, digest = _read(sample)
        except InputError as error:
            return error
        return view(picture.image), digest, picture.peak

    with ThreadPoolExecutor() as pool:
        waiting = []
        for sample in samples:
            waiting.append(pool.submit(read, sample))
            if len(waiting) > ahead:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _read(sample: Sample) -> tuple[Picture, bytes]:
    """A sample's picture, and the digest of its bytes."""
    try:
        content = sample.read()
    except OSError as error:
        raise InputError(f"{sample.name!r} cannot be read: {error.strerror}") from None
    if isinstance(content, np.ndarray):
        from PIL import Image

        return Picture(Image.fromarray(content)), sha256(content.tobytes()).digest()
    return decode(content, sample.name), sha256(content).digest()


def evaluation_view(image, resolution: int, resize: str) -> np.ndarray:
    """The evaluation transform on a PIL image: uint8 [R, R, 3].

    "crop": the short side to 147/128 of the resolution, then the central square;
    "square": both sides to the resolution.
    """
    from PIL import Image

    if resize == "square":
        return np.asarray(image.resize((resolution, resolution), Image.Resampling.BILINEAR))
    short = evaluation_side(resolution)
    width, height = (int(short * side / min(image.size)) for side in image.size)
    left, top = round((width - resolution) / 2), round((height - resolution) / 2)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + resolution, top + resolution)))


def evaluation_side(resolution: int) -> int:
    """The short side before the central crop: 147 at the paper's 128."""
    return round(resolution * 147 / 128)


def _warn_of_duplicates(name: str, digests: dict) -> None:
    count = Counter()
    for copies in digests.values():
        count["in both train and test"] += len({split for split, _ in copies}) > 1
        count["with more than one label"] += len({sample.label for _, sample in copies}) > 1
    for what, number in count.items():
        if number:
            warnings.warn(f"task {name!r}: {number:,} images occur {what}", stacklevel=2)
