"""What training a channel costs: units of memory and operations, from shapes alone.

The unit of memory is one element (4 bytes in fp32) for one sample. Training input channel *c* of a layer keeps its
gradient, ``C' D^2`` elements of the weight, and its input, ``H W`` elements of the activation (paper eq. 4); its
weight derivative takes ``D^2 C' H' W'`` multiply-accumulates (paper eq. 5). A linear layer is a 1x1 convolution over
its tokens.

Between epochs MeDyate adds operations of its own (paper eqs. 11 to 13), which :func:`operations` counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import ceil, log2, prod
from typing import TYPE_CHECKING

from .errors import InputError, choose

if TYPE_CHECKING:  # torch takes seconds to import, and only a walk over a model needs it
    from torch import nn

    from .probing import inputs

DEPTHWISE = {"eq4": "D^2 + H W, as paper eq. 4 says", "authors": "1 + H W, as the authors' figures show it"}


@dataclass(frozen=True)
class Layer:
    """One convolution or linear layer, as far as costs are concerned.

    ``channels`` are *input* channels (input features of a linear layer): the granularity at which the method selects.
    All ``*_elements`` count elements for one sample, all ``*_flops`` multiply-accumulates for one sample (torch's own
    counter counts each as two).
    """

    name: str
    kind: str  # "conv", "pointwise", "depthwise", "grouped" or "linear"
    channels: int
    out_channels: int
    kernel: tuple[int, ...]
    groups: int
    weight_elements_per_channel: int
    activation_elements_per_channel: int
    weight_flops_per_channel: int
    weight_elements: int
    bias_elements: int

    @property
    def channel_elements(self) -> int:
        """Memory to train one input channel, paper eq. 4."""
        return self.weight_elements_per_channel + self.activation_elements_per_channel

    @property
    def activation_elements(self) -> int:
        """Elements of the layer's input."""
        return self.channels * self.activation_elements_per_channel

    @property
    def total_elements(self) -> int:
        """Weight, bias and input: what the paper's network totals add up."""
        return self.weight_elements + self.bias_elements + self.activation_elements

    @property
    def search_elements(self) -> int:
        """Sum of the channels' costs: the denominator of paper eq. 9 and the layer's part of M_K (paper eq. 10)."""
        return self.channels * self.channel_elements

    @property
    def weight_flops(self) -> int:
        """Multiply-accumulates of the whole layer's weight derivative, paper eq. 5 over all channels."""
        return self.channels * self.weight_flops_per_channel


def conv_layer(
    name: str,
    weight: Sequence[int],
    input_size: tuple[int, ...],
    output_size: tuple[int, ...],
    groups: int = 1,
    bias: bool = False,
    depthwise: str = "eq4",
) -> Layer:
    """A convolution's :class:`Layer`. ``weight`` is (C', C/groups, D, D); sizes are (H, W).

    A grouped convolution's input channel reaches only the C'/groups outputs of its group, so it costs ``C'/groups D^2 +
    H W``; with one channel a group that is the depthwise ``D^2 + H W``.
    """
    out_channels, per_group, *kernel = weight
    channels = per_group * groups
    taps = prod(kernel)
    outputs = out_channels // groups
    is_depthwise = groups > 1 and per_group == 1 and outputs == 1
    kind = "depthwise" if is_depthwise else "grouped" if groups > 1 else "pointwise" if taps == 1 else "conv"
    weight_cost = 1 if is_depthwise and depthwise == "authors" else outputs * taps
    return Layer(
        name=name,
        kind=kind,
        channels=channels,
        out_channels=out_channels,
        kernel=tuple(kernel),
        groups=groups,
        weight_elements_per_channel=weight_cost,
        activation_elements_per_channel=prod(input_size),
        weight_flops_per_channel=taps * outputs * prod(output_size),
        weight_elements=prod(weight),
        bias_elements=out_channels if bias else 0,
    )


def linear_layer(name: str, weight: Sequence[int], tokens: int, bias: bool = False) -> Layer:
    """A linear layer's :class:`Layer`. ``weight`` is (out, in); ``tokens`` are its rows per sample."""
    layer = conv_layer(name, (*weight, 1, 1), (tokens, 1), (tokens, 1), bias=bias)
    return replace(layer, kind="linear")


def _again(first: Layer, second: Layer) -> Layer:
    """A layer that is used twice keeps both inputs, its weight once."""
    return replace(
        first,
        activation_elements_per_channel=first.activation_elements_per_channel + second.activation_elements_per_channel,
        weight_flops_per_channel=first.weight_flops_per_channel + second.weight_flops_per_channel,
    )


def walk(model: nn.Module, input_shape: inputs.Shapes = (3, 128, 128), depthwise: str = "eq4") -> tuple[Layer, ...]:
    """Every convolution and linear product of ``model`` in order of execution, the classifier included.

    ``input_shape`` is one sample's shape, without the batch dimension; for a model of several inputs see
    :func:`medyate.probing.inputs.shapes_of`. The model is run once where nothing is computed, see
    :func:`medyate.probing.tracing.trace`. ``nn.MultiheadAttention`` has one weight for query, key and value, which is
    a layer of its name where all three come from one tensor. Raises :class:`InputError` where the model
    cannot run on the given shape.
    """
    from .probing import tracing

    choose(depthwise, DEPTHWISE, "depthwise cost")
    layers: dict[str, Layer] = {}
    for one in tracing.trace(model, input_shape, tracing.product):
        if one.groups:
            layer = conv_layer(
                one.name, one.weight, one.input_size, one.output_size, one.groups, one.has_bias, depthwise
            )
        else:
            layer = linear_layer(one.name, one.weight, one.rows, one.has_bias)
        layers[one.name] = _again(layers[one.name], layer) if one.name in layers else layer
    if not layers:
        raise InputError("the model has no Conv2d or Linear layer that its forward pass uses")
    return tuple(layers.values())


def layers(
    model: nn.Module,
    input_shape: inputs.Shapes = (3, 128, 128),
    classifier: str | Sequence[str] | None = None,
    depthwise: str = "eq4",
) -> tuple[Layer, ...]:
    """The backbone's layers in order of execution: all of :func:`walk` but the classifier.

    The classifier is trained always and stands outside the budget (Sec. 4.1): what ``classifier`` names, one module or
    several, else the layers that the output comes from (:func:`medyate.probing.heads.heads`).
    """
    from .probing.heads import heads, is_inside

    trained = heads(model, input_shape, classifier)
    backbone = tuple(layer for layer in walk(model, input_shape, depthwise) if not is_inside(layer.name, trained))
    if not backbone:
        raise InputError(f"no layer before the head ({', '.join(trained)}): it is all head, or computes its weights")
    return backbone


def totals(layers: Sequence[Layer]) -> dict[str, int]:
    """Sums over layers: ``total_elements``, ``weight_elements``, ``bias_elements``,
    ``activation_elements``, ``weight_flops``."""
    return {
        key: sum(getattr(layer, key) for layer in layers)
        for key in ("total_elements", "weight_elements", "bias_elements", "activation_elements", "weight_flops")
    }


def kilobytes(elements: int) -> int:
    """The kB that the paper's Fig. 6a prints for a budget: 4 bytes an element, 1024 a kB, rounded up."""
    return -(-4 * elements // 1024)


@dataclass(frozen=True)
class Operations:
    """What one epoch adds, and what it is set against (Sec. 3.5), over the selected channels as they are.

    ``norm``: paper eq. 11; ``sampling``: ``|zeta| log2 N`` of paper eq. 12; ``derivatives``: paper eq. 13 times the
    batch size, which it leaves out.
    """

    channels: int
    norm: int
    sampling: int
    derivatives: int

    @property
    def share(self) -> float:
        """(norm + sampling) / derivatives."""
        return (self.norm + self.sampling) / self.derivatives


def operations(
    channels: Mapping[str, Sequence[int]], layers: Sequence[Layer], pool: int, steps: int, batch_size: int
) -> Operations:
    """Count one epoch's operations for selected ``channels`` (by layer name).

    ``pool`` is N, the number of channels in the search space; ``steps`` is M, the epoch's steps.
    """
    by_name = {layer.name: layer for layer in layers}
    chosen = [(len(indices), by_name[name]) for name, indices in channels.items()]
    count = sum(number for number, _ in chosen)
    return Operations(
        channels=count,
        norm=sum(number * layer.weight_elements_per_channel for number, layer in chosen),
        sampling=ceil(count * log2(max(2, pool))),
        derivatives=steps * batch_size * sum(number * layer.weight_flops_per_channel for number, layer in chosen),
    )
