"""A loaded task: batches of normalised images and their labels, from decoded images."""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..errors import InputError, choose, whole
from . import cache
from .augment import Augmentation, Draws, augment_many, augment_one, draw, normalise_


@dataclass(frozen=True, eq=False)
class Split:
    """Training or test part of images. labels: int64 [N]."""

    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class TextSplit:
    """Training or test part of texts. labels: int64 [N]; texts: N times one or two sentences."""

    labels: Tensor
    texts: list[tuple[str, ...]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class TextData:
    """A loaded text task; ``test`` is the development set. length: of its sequences, in tokens."""

    name: str
    classes: list[str]
    length: int
    train: TextSplit
    test: TextSplit


def check_batches(split: str, batch_size: int, generator: torch.Generator | None) -> None:
    """What batches of images and of texts ask of their arguments; :class:`InputError` says what is allowed."""
    choose(split, ("train", "test"), "split")
    whole(batch_size, "batch size", 1)
    if generator is not None and generator.device.type != "cpu":
        raise InputError(f"generator on {str(generator.device)!r}; allowed: cpu")


@dataclass(frozen=True, eq=False)
class ImageData:
    """A loaded image task.

    classes: their names; train, test: labels and lengths; resolution: of the batches, in pixels.
    """

    name: str
    classes: list[str]
    resolution: int
    train: Split
    test: Split
    resize: str
    augmentation: Augmentation
    decoded: cache.Decoded = field(repr=False)
    _resident: dict = field(default_factory=dict, repr=False, compare=False)

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        device: str | torch.device = "cpu",
        augment: bool,
        channels_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of batches (images, labels).

        images: float32 [B, 3, R, R] within [-1, 1]; labels: int64 [B]; both on ``device``.
        "train" is shuffled where a generator (on the CPU) is given, "test" is in order; the last,
        short batch is kept. Only training images are augmented. All random numbers are drawn when
        this is called: the state of the generator then determines the epoch, and the same state
        gives the same batches, bit for bit on one machine and device.
        """
        check_batches(split, batch_size, generator)
        if augment and split == "test":
            raise InputError("augment=True is for the split 'train'; allowed for 'test': False")
        if augment and generator is None:
            raise InputError("augment=True needs a torch.Generator")
        device = torch.device(device)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        if split == "test":
            return self._test_batches(batch_size, device, layout)
        if augment:
            return self._train_batches(*self._drawn(generator), batch_size, device, layout)
        count = len(self.train)
        order = torch.randperm(count, generator=generator) if generator else torch.arange(count)
        return self._train_batches(order, None, batch_size, device, layout)

    def _drawn(self, generator: torch.Generator) -> tuple[Tensor, Draws]:
        """The order of an epoch's training images, and what is drawn for them in this order."""
        order = torch.randperm(len(self.train), generator=generator)
        heights, widths = self.decoded.heights[order], self.decoded.widths[order]
        return order, draw(heights, widths, self.augmentation, generator)

    def batches_of_runs(
        self, batch_size: int, generators: Sequence[torch.Generator], *, device: str | torch.device = "cpu"
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of augmented training batches of several runs, side by side.

        images: float32 [B, runs * 3, R, R], channels last, the channels of run r at 3 r to 3 r + 2;
        labels: int64 [B, runs]. Run r sees what ``batches("train", ..)`` with its generator gives
        it, on a GPU up to rounding, as images of all runs are augmented together.
        """
        whole(batch_size, "batch size", 1)
        device = torch.device(device)
        drawn = [self._drawn(generator) for generator in generators]  # now, as in `batches`
        return self._batches_of_runs(drawn, batch_size, device)

    def _batches_of_runs(self, drawn: list[tuple[Tensor, Draws]], batch_size: int, device: torch.device):
        for start in range(0, len(self.train), batch_size):
            rows = slice(start, start + batch_size)
            indices = torch.stack([order[rows] for order, _ in drawn], 1)  # image by image, as the batch lies
            draws = Draws.interleaved([draws[rows] for _, draws in drawn])
            labels = self.train.labels[indices].to(device)
            make = self._beside_on_cpu if device.type == "cpu" else self._beside_on
            images = make(device, indices, draws)
            yield images.contiguous(memory_format=torch.channels_last), labels

    def _test_batches(self, batch_size: int, device: torch.device, layout: torch.memory_format):
        images = self._on(device, "test")
        if images is None:
            images = self.decoded.test
        labels = self.test.labels.to(device)
        for start in range(0, len(images), batch_size):
            some = images[start : start + batch_size].to(device).contiguous(memory_format=layout)
            yield normalise_(some.float()), labels[start : start + batch_size]

    def _train_batches(
        self, order: Tensor, draws: Draws | None, batch_size: int, device: torch.device, layout: torch.memory_format
    ):
        for start in range(0, len(order), batch_size):
            rows = slice(start, start + batch_size)
            labels = self.train.labels[order[rows]].to(device)
            if draws is None:
                images = self._plain(order[rows]).to(device)
            elif device.type == "cpu":
                images = self._augmented_on_cpu(order[rows], draws[rows], layout)
            else:
                images = self._augmented_on(device, order[rows], draws[rows])
            yield images.contiguous(memory_format=layout), labels

    def _beside_on_cpu(self, device: torch.device, indices: Tensor, draws: Draws) -> Tensor:
        """Images of ``indices`` [B, runs] as [B, runs * 3, R, R]."""
        count, runs = indices.shape
        out = torch.empty(count, 3 * runs, self.resolution, self.resolution, memory_format=torch.channels_last)
        self._augment_on_cpu(indices.flatten(), draws, out.unflatten(1, (runs, 3)).unbind(0))
        return out

    def _beside_on(self, device: torch.device, indices: Tensor, draws: Draws) -> Tensor:
        """Like :meth:`_beside_on_cpu`, all runs' images as one batch."""
        return self._augmented_on(device, indices.flatten(), draws).unflatten(0, indices.shape).flatten(1, 2)

    def _image(self, index: int) -> Tensor:
        d = self.decoded
        start, height, width = int(d.starts[index]), int(d.heights[index]), int(d.widths[index])
        return d.train[start : start + height * width * 3].view(height, width, 3)

    def _augmented_on_cpu(self, indices: Tensor, draws: Draws, layout: torch.memory_format) -> Tensor:
        out = self._empty(len(indices), layout)
        self._augment_on_cpu(indices, draws, [out])
        return out

    def _augment_on_cpu(self, indices: Tensor, draws: Draws, out: Sequence[Tensor]) -> None:
        """Into ``out``: tensors [.., 3, R, R] of any strides, image by image."""
        columns = (draws.boxes, draws.flips, draws.factors, draws.orders)
        numbers = zip(indices.tolist(), *(column.tolist() for column in columns), strict=True)
        with _one_thread():
            for one, (index, box, flip, factors, order) in zip(itertools.chain(*out), numbers, strict=True):
                augment_one(self._image(index), box, flip, factors, order, one)

    def _empty(self, count: int, layout: torch.memory_format = torch.contiguous_format) -> Tensor:
        return torch.empty(count, 3, self.resolution, self.resolution, memory_format=layout)

    def _augmented_on(self, device: torch.device, indices: Tensor, draws: Draws) -> Tensor:
        """Like :meth:`_augmented_on_cpu`, but as a few operations on the whole batch."""
        crops = self._crops(device, indices, draws.boxes)
        return augment_many(crops, draws.to(device), self.resolution)

    def _crops(self, device: torch.device, indices: Tensor, boxes: Tensor) -> Tensor:
        """The crops at the top left of frames of the largest height and width: [B, H, W, 3]."""
        height, width = boxes[:, 2:].amax(0).tolist()
        pixels = self._on(device, "train")
        if pixels is None:  # too large for the device
            crops = torch.zeros(len(indices), height, width, 3, dtype=torch.uint8)
            for crop, index, box in zip(crops, indices.tolist(), boxes.tolist(), strict=True):
                top, left, tall, wide = box
                crop[:tall, :wide] = self._image(index)[top : top + tall, left : left + wide]
            return crops.to(device)
        strides = self.decoded.widths[indices]
        first = self.decoded.starts[indices] // 3 + boxes[:, 0] * strides + boxes[:, 1]
        numbers = torch.stack((first, strides, boxes[:, 2], boxes[:, 3])).to(device)
        first, strides, tall, wide = numbers[:, :, None, None]
        rows = torch.arange(height, device=device)[:, None].minimum(tall - 1)
        columns = torch.arange(width, device=device).minimum(wide - 1)
        return pixels.view(-1, 3)[first + rows * strides + columns]

    def _plain(self, indices: Tensor) -> Tensor:
        from PIL import Image

        out = self._empty(len(indices))
        for one, index in zip(out, indices.tolist(), strict=True):
            image = Image.fromarray(self._image(index).numpy())
            view = cache.evaluation_view(image, self.resolution, self.resize)
            one.copy_(torch.tensor(view).permute(2, 0, 1))
        return normalise_(out)

    def _on(self, device: torch.device, split: str) -> Tensor | None:
        """All pixels of a split on ``device``, copied there once; None if they need too much."""
        pixels = getattr(self.decoded, split)
        if device.type == "cpu":
            return pixels
        if (device, split) not in self._resident:
            free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 1 << 32
            fits = pixels.numel() <= free // 2
            self._resident[device, split] = pixels.to(device) if fits else None
        return self._resident[device, split]


@contextlib.contextmanager
def _one_thread():
    """One image is too little work to share: waiting for a second thread takes longer."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
