"""Images for a device: a task's, as bytes, in one file a split.

A file is a magic word, the number of images and the bytes of each (three 32-bit words), then of each image a
32-bit label and its bytes, (channels, height, width). The device does not augment.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch

from ..errors import InputError
from ..files import paths

MAGIC = 0x4D444931


def as_bytes(images: torch.Tensor) -> np.ndarray:
    """Images as the networks take them, (N, 3, H, W) within [-1, 1], to uint8."""
    return ((images.double() + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).contiguous().numpy()


def write(path: Path, batches: Iterable[tuple[torch.Tensor, torch.Tensor]]) -> int:
    """Batches of images and labels into one file; returns how many images."""
    parts, count, size = [], 0, 0
    for images, labels in batches:
        for image, label in zip(as_bytes(images), labels.tolist()):
            size = image.size
            parts.append(struct.pack("<I", label) + image.tobytes())
            count += 1
    if not count:
        raise InputError("there are no images to write")
    paths.write_bytes(path, struct.pack("<III", MAGIC, count, size) + b"".join(parts))
    return count


def write_task(folder: Path, data) -> dict[str, int]:
    """``train.bin`` and ``test.bin`` of a loaded image task, not augmented; returns how many images of each."""
    return {
        split: write(folder / f"{split}.bin", data.batches(split, 64, augment=False)) for split in ("train", "test")
    }
