"""A registered network as a torch model, as shapes alone, and as its list of layers."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import nn

from ..errors import choose, whole
from ..files import fetch as files
from . import convolutional, transformers
from .architectures import Architecture, Swin, TextEncoder
from .registry import FOLDED, get
from .weights import fill, read

IMAGENET_CLASSES = 1000


def build(
    name: str,
    *,
    weights: str | None = None,
    classes: int | None = None,
    generator: torch.Generator | None = None,
    download: bool = True,
) -> nn.Module:
    """A network in training mode, on the CPU, float32; images (N, 3, H, W) or token numbers (N, T) in, logits out.

    Args:
        name: see :func:`get`.
        weights: ``imagenet`` (fp32), ``imagenet-int8`` (tiny-training's files, in real numbers: batch
            norm is folded into convolutions with a bias and there is no mix layer, so 51, 42 and 60
            convolutions), ``hub`` or ``sentences`` (text networks), or ``random``. Default: the network's
            ``default_source``.
        classes: None keeps the 1000 classes of ImageNet, of a text network it is two new ones; a number puts a
            new linear classifier of that size in place, drawn from ``generator``.
        generator: the source of all random numbers here; None is a new one with seed 0. The global
            generator of torch is left as it was.
        download: whether missing weights may be downloaded.

    Raises:
        InputError: unknown network or source, ``classes`` below 1, weights that cannot be had or
            whose checksum or layout is wrong.
    """
    network = get(name)
    source = choose(network.default_source if weights is None else weights, network.sources, "weights")
    if classes is not None:
        whole(classes, "classes", low=1)
    path = files.fetch(network.files[source], download=download) if source in network.files else None
    generator = generator or torch.Generator().manual_seed(0)

    if isinstance(network.architecture, Architecture):
        model = _convolutional(network.architecture, source, path, generator)
    else:
        model = _transformer(network.architecture, source, path, generator)
        classes = 2 if classes is None and network.kind == "text" else classes
    if classes is not None:
        model.classifier = new_classifier(model.classifier.in_features, classes, generator)
    return model


def skeleton(name: str, *, weights: str | None = None) -> nn.Module:
    """The network on the meta device: shapes without memory, whatever its size; no file is needed."""
    network = get(name)
    source = choose(network.default_source if weights is None else weights, network.sources, "weights")
    return shapes(network.architecture, folded=source == FOLDED)


def shapes(architecture: Architecture | Swin | TextEncoder, folded: bool) -> nn.Module:
    with torch.device("meta"):
        if isinstance(architecture, Architecture):
            return convolutional.build(architecture, IMAGENET_CLASSES, folded=folded)
        return transformers.build(architecture, _classes(architecture))


def _classes(architecture: Swin | TextEncoder) -> int:
    return IMAGENET_CLASSES if architecture.kind == "image" else 2


def _convolutional(architecture: Architecture, source: str, path: Path | None, generator: torch.Generator) -> nn.Module:
    with torch.random.fork_rng(devices=[]):  # torch's own initialisation draws from the global generator
        model = convolutional.build(architecture, IMAGENET_CLASSES, folded=source == FOLDED)
    if path is None:
        _initialise(model, generator)
    else:
        fill(model, read(architecture, source, path), path)
    return model


def _transformer(
    architecture: Swin | TextEncoder, source: str, path: Path | None, generator: torch.Generator
) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        # what its library draws; torch.manual_seed would seed a user's GPUs as well
        torch.default_generator.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        model = transformers.build(architecture, _classes(architecture))
    if path is not None:
        new = () if architecture.kind == "image" else ("dense.", "classifier.")
        fill(model, read(architecture, source, path), path, new=new)
    return model.train()


def new_classifier(features: int, classes: int, generator: torch.Generator) -> nn.Linear:
    """A linear layer as torch initialises it, uniform in +-1 / sqrt(features), from ``generator``."""
    linear = nn.utils.skip_init(nn.Linear, features, classes)
    bound = 1 / math.sqrt(features)
    with torch.no_grad():
        linear.weight.uniform_(-bound, bound, generator=generator)
        linear.bias.uniform_(-bound, bound, generator=generator)
    return linear


def _initialise(model: nn.Sequential, generator: torch.Generator) -> None:
    """He's normal initialisation by fan in, which is right for depthwise convolutions as well."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu", generator=generator)
    model.classifier = new_classifier(model.classifier.in_features, IMAGENET_CLASSES, generator)
