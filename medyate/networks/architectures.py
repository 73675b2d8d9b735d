"""What a network is made of, as plain data: block for block, width for width. Nothing here needs torch.

:mod:`medyate.networks.convolutional` and :mod:`medyate.networks.transformers` build the modules.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Block:
    """An inverted bottleneck: ``mid`` channels inside, ``out`` after it, one depthwise ``kernel``."""

    mid: int
    out: int
    kernel: int
    stride: int


@dataclass(frozen=True)
class Architecture:
    """A convolutional network block for block; ``mix`` is 0 where there is no last pointwise convolution."""

    stem: int
    blocks: tuple[Block, ...]
    mix: int
    batch_norm_eps: float
    same_padding: bool = False  # TensorFlow's: what is odd goes to the right and the bottom

    kind = "image"


@dataclass(frozen=True)
class Swin:
    """A Swin transformer; widths and windows as torchvision's ``swin_t``."""

    width: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    heads: tuple[int, ...] = (3, 6, 12, 24)
    window: int = 7

    kind = "image"


@dataclass(frozen=True)
class TextEncoder:
    """A BERT or RoBERTa: ``width`` features, ``inner`` in the MLP, ``tokens`` of the vocabulary.

    BERT classifies by its pooler, which is pretrained; RoBERTa has none, and a new layer ``dense``
    in its place. ``separator`` is None where sentences are not told apart by a type.
    """

    family: str  # "bert" or "roberta"
    layers: int
    width: int
    heads: int
    inner: int
    vocabulary: int
    positions: int
    pad: int
    separator: int | None

    kind = "text"

    @property
    def longest(self) -> int:
        """Tokens at most: RoBERTa counts positions from the one after its padding number."""
        return self.positions - (self.pad + 1 if self.family == "roberta" else 0)


def _blocks(*rows: str) -> tuple[Block, ...]:
    """Rows of ``mid-out-kernel-stride``, with ``*n`` for n equal blocks."""
    blocks: list[Block] = []
    for row in " ".join(rows).split():
        shape, _, times = row.partition("*")
        blocks += [Block(*map(int, shape.split("-")))] * int(times or 1)
    return tuple(blocks)


MBV2 = Architecture(
    stem=16,
    blocks=_blocks(
        "16-8-3-1 48-8-3-2 48-8-3-1 48-16-3-2 96-16-3-1*2 96-24-3-2 144-24-3-1*3",
        "144-32-3-1 192-32-3-1*2 192-56-3-2 336-56-3-1*2 336-112-3-1",
    ),
    mix=448,
    batch_norm_eps=1e-3,
)
MCUNET = Architecture(
    stem=16,
    blocks=_blocks(
        "16-8-3-1 32-16-3-2 48-16-3-1 48-24-7-2 120-24-3-1 120-40-3-2 160-40-7-1",
        "160-48-5-1 144-48-3-1 192-48-3-1 240-96-7-2 384-96-5-1*2 576-160-3-1",
    ),
    mix=0,
    batch_norm_eps=1e-5,
)
PROXYLESS = Architecture(
    stem=16,
    blocks=_blocks(
        "16-8-3-1 24-16-5-2 48-16-3-1 48-16-7-2 48-16-3-1 48-16-5-1*2 96-24-7-2",
        "72-24-5-1*3 144-32-5-1 96-32-5-1*3 192-64-7-2 384-64-7-1 192-64-7-1*2 384-96-7-1",
    ),
    mix=384,
    batch_norm_eps=1e-3,
)
EFFICIENTNET_LITE0 = Architecture(
    stem=32,
    blocks=_blocks(
        "32-16-3-1 96-24-3-2 144-24-3-1 144-40-5-2 240-40-5-1 240-80-3-2 480-80-3-1*2",
        "480-112-5-1 672-112-5-1*2 672-192-5-2 1152-192-5-1*3 1152-320-3-1",
    ),
    mix=1280,
    batch_norm_eps=1e-3,
    same_padding=True,
)
