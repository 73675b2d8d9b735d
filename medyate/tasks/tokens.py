"""Texts to token numbers, by the tokenizer that a network was trained with, and batches of them.

A batch is as long as its longest example, at most ``length`` tokens (the paper's 128). What is
left out is padding, which no token attends to: the numbers are those of full length up to
rounding, and the costs of the paper's unit stay those of ``length`` tokens.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..files import fetch as files
from ..networks import transformers as encoders
from .data import TextData, TextSplit, check_batches

# Training batches are drawn from pools of this many, sorted by length within: like goes with like,
# and less of a batch is padding.
POOL_BATCHES = 8


def load(file: files.RemoteFile, length: int):
    """A tokenizer (package tokenizers) that cuts pairs to ``length`` tokens, the longer text first.

    ``file`` is a ``tokenizer.json``, or the vocabulary of a lower-case BERT.
    """
    tokenizers = encoders.package("tokenizers")
    path = files.fetch(file)
    if path.suffix == ".txt":
        tokenizer = _word_pieces(tokenizers, path)
    else:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.enable_truncation(length, strategy="longest_first")
    return tokenizer


def _word_pieces(tokenizers, vocabulary: Path):
    words = {word: number for number, word in enumerate(vocabulary.read_text(encoding="utf-8").splitlines())}
    return tokenizers.BertWordPieceTokenizer(vocab=words, lowercase=True)


@dataclass(frozen=True, eq=False)
class TokenSplit:
    """Training or test part: labels int64 (N,); ``tokens`` N tensors int32, none padded."""

    labels: Tensor
    tokens: list[Tensor] = field(repr=False)

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def lengths(self) -> Tensor:
        return torch.tensor([len(one) for one in self.tokens])


@dataclass(frozen=True, eq=False)
class TokenData:
    """A text task as a network's tokenizer reads it; ``batches`` as :class:`medyate.tasks.ImageData` has it."""

    name: str
    classes: list[str]
    length: int
    pad: int
    train: TokenSplit
    test: TokenSplit

    def batches(
        self,
        split: str,
        batch_size: int,
        *,
        generator: torch.Generator | None = None,
        device: str | torch.device = "cpu",
        augment: bool = False,
        channels_last: bool = False,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch of batches (tokens int64 (B, T), labels int64 (B,)) on ``device``, padded at the end.

        "train" is shuffled where a generator (on the CPU) is given: into pools of
        ``POOL_BATCHES`` batches, each sorted by length and cut into batches, whose order is shuffled
        again. "test" is in order of length. The last, short batch is kept. There is nothing to
        augment in texts and no layout; both arguments are taken for the sake of image tasks.
        """
        check_batches(split, batch_size, generator)
        part = {"train": self.train, "test": self.test}[split]
        if split == "test":
            groups = part.lengths.argsort(stable=True).split(batch_size)
        else:
            groups = self._pooled(part, batch_size, generator)
        return self._padded(part, groups, torch.device(device))

    def _pooled(self, part: TokenSplit, batch_size: int, generator: torch.Generator | None) -> Sequence[Tensor]:
        if generator is None:
            return torch.arange(len(part)).split(batch_size)
        order, lengths = torch.randperm(len(part), generator=generator), part.lengths
        groups = []
        for pool in order.split(POOL_BATCHES * batch_size):
            groups += pool[lengths[pool].argsort(stable=True)].split(batch_size)
        return [groups[index] for index in torch.randperm(len(groups), generator=generator).tolist()]

    def _padded(self, part: TokenSplit, groups: Sequence[Tensor], device: torch.device):
        for group in groups:
            rows = [part.tokens[index] for index in group.tolist()]
            tokens = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad)
            yield tokens.long().to(device), part.labels[group].to(device)


def encode(data: TextData, network, length: int) -> TokenData:
    """A loaded text task as ``network`` (a text :class:`medyate.networks.registry.Network`) reads it."""
    tokenizer = load(network.tokenizer, length)

    def split(part: TextSplit) -> TokenSplit:
        encodings = tokenizer.encode_batch([texts if len(texts) == 2 else texts[0] for texts in part.texts])
        return TokenSplit(part.labels, [torch.tensor(one.ids, dtype=torch.int32) for one in encodings])

    return TokenData(data.name, data.classes, length, network.architecture.pad, split(data.train), split(data.test))
