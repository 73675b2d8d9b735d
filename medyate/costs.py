"""What training a channel costs: units of memory and operations, from shapes alone.

The unit of memory is one element (4 bytes in fp32) for one sample. Training input channel *c* of
a layer keeps its gradient, ``C' D^2`` elements of the weight, and its input, ``H W`` elements of
the activation (eq. 4); its weight derivative takes ``D^2 C' H' W'`` multiply-accumulates (eq. 5).
A linear layer is a 1x1 convolution over its tokens.

:func:`walk` finds the layers of any model: it runs the model once on the ``meta`` device, where
nothing is computed and no memory is taken, and watches which weights reach a convolution or a
matrix product. It therefore sees layers that hooks on modules miss, such as the functional
``qkv`` of torchvision's Swin, and counts inputs at the size at which they are really used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .errors import InputError, choose

DEPTHWISE = {
    "eq4": "D^2 + H W, as eq. 4 says",
    "authors": "1 + H W, as the authors' figures show it",
}


@dataclass(frozen=True)
class Layer:
    """One Conv2d or Linear layer, as far as costs are concerned.

    ``channels`` are *input* channels (input features of a linear layer): the granularity at which
    the method selects. All ``*_elements`` count elements for one sample, all ``*_flops``
    multiply-accumulates for one sample (torch's own counter counts each as two).
    """

    name: str
    kind: str  # "conv", "pointwise", "depthwise", "grouped" or "linear"
    channels: int
    out_channels: int
    kernel: tuple[int, int]
    groups: int
    weight_elements_per_channel: int
    activation_elements_per_channel: int
    weight_flops_per_channel: int
    weight_elements: int
    bias_elements: int

    @property
    def channel_elements(self) -> int:
        """Memory to train one input channel, eq. 4."""
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
        """Sum of the channels' costs: the denominator of eq. 9 and the layer's part of M_K (eq. 10)."""
        return self.channels * self.channel_elements

    @property
    def weight_flops(self) -> int:
        """Multiply-accumulates of the whole layer's weight derivative, eq. 5 over all channels."""
        return self.channels * self.weight_flops_per_channel


def conv_layer(
    name: str,
    weight: Sequence[int],
    input_size: tuple[int, int],
    output_size: tuple[int, int],
    groups: int = 1,
    bias: bool = False,
    depthwise: str = "eq4",
) -> Layer:
    """A convolution's :class:`Layer`. ``weight`` is (C', C/groups, D, D); sizes are (H, W).

    A grouped convolution's input channel reaches only the C'/groups outputs of its group, so it
    costs ``C'/groups D^2 + H W``; with one channel a group that is the depthwise ``D^2 + H W``.
    """
    out_channels, per_group, *kernel = weight
    channels = per_group * groups
    taps = prod(kernel)
    outputs = out_channels // groups
    is_depthwise = groups > 1 and per_group == 1 and outputs == 1
    kind = (
        "depthwise" if is_depthwise
        else "grouped" if groups > 1
        else "pointwise" if taps == 1
        else "conv"
    )  # fmt: skip
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
    outputs, features = weight
    return Layer(
        name=name,
        kind="linear",
        channels=features,
        out_channels=outputs,
        kernel=(1, 1),
        groups=1,
        weight_elements_per_channel=outputs,
        activation_elements_per_channel=tokens,
        weight_flops_per_channel=outputs * tokens,
        weight_elements=outputs * features,
        bias_elements=outputs if bias else 0,
    )


# Torch computes the shapes of these by long detours on the meta device, a second for a network.
_SAME_SHAPE = {torch.batch_norm, nn.functional.batch_norm, nn.functional.hardtanh, nn.functional.relu6}
_SUMS = {torch.add, torch.Tensor.add, torch.Tensor.__add__}


def on_meta(func, args, kwargs):
    """``func`` on meta tensors, where only the shape of what comes out matters."""
    same = func in _SAME_SHAPE and args
    if func in _SUMS and len(args) == 2 and all(isinstance(arg, torch.Tensor) for arg in args):
        same = args[0].shape == args[1].shape and args[0].dtype == args[1].dtype
    return torch.empty_like(args[0]) if same else func(*args, **kwargs)


class _Watch(TorchFunctionMode):
    """Notes every convolution and linear product whose weight is a parameter of the model."""

    def __init__(self, names: dict[int, str], depthwise: str):
        super().__init__()
        self.names, self.depthwise = names, depthwise
        self.found: dict[str, Layer] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = on_meta(func, args, kwargs)
        if func in (torch.conv2d, torch.nn.functional.linear):
            given = dict(zip(("input", "weight", "bias"), args), **kwargs)
            weight = given["weight"]
            name = self.names.get(id(weight))
            if name is not None:
                has_bias = given.get("bias") is not None
                x = given["input"]
                if func is torch.conv2d:
                    layer = conv_layer(
                        name, tuple(weight.shape), tuple(x.shape[-2:]), tuple(out.shape[-2:]),
                        groups=x.shape[-3] // weight.shape[1], bias=has_bias, depthwise=self.depthwise,
                    )  # fmt: skip
                else:
                    layer = linear_layer(name, tuple(weight.shape), prod(x.shape[:-1]), has_bias)
                self.found[name] = _again(self.found[name], layer) if name in self.found else layer
        return out


def _again(first: Layer, second: Layer) -> Layer:
    """A layer that is used twice keeps both inputs, its weight once."""
    return replace(
        first,
        activation_elements_per_channel=first.activation_elements_per_channel
        + second.activation_elements_per_channel,
        weight_flops_per_channel=first.weight_flops_per_channel + second.weight_flops_per_channel,
    )


def example_input(input_shape: Sequence[int], model: nn.Module) -> torch.Tensor:
    """One sample on the meta device, of the model's own precision; a one-element shape means token
    numbers, as text models take."""
    dtype = torch.long
    if len(input_shape) > 1:
        dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return torch.empty((1, *input_shape), dtype=dtype, device="meta")


def walk(
    model: nn.Module,
    input_shape: Sequence[int] = (3, 128, 128),
    depthwise: str = "eq4",
) -> tuple[Layer, ...]:
    """Every Conv2d/Linear use of ``model`` in order of execution, the classifier included.

    ``input_shape`` is one sample's shape, without the batch dimension. The model itself is not
    changed and nothing is computed. What ``nn.MultiheadAttention`` multiplies inside is not seen: its
    one weight for query, key and value belongs to no layer that could be selected, and stays frozen. Raises :class:`InputError` where the model cannot run on the
    given shape.
    """
    choose(depthwise, DEPTHWISE, "depthwise cost")
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    names = {
        id(state[name]): name.rpartition(".")[0]
        for name, parameter in model.named_parameters()
        if parameter.dim() in (2, 4)
    }
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), _Watch(names, depthwise) as watch:
            torch.func.functional_call(model, state, (example_input(input_shape, model),))
    except (RuntimeError, NotImplementedError, ValueError, IndexError, TypeError) as error:
        raise InputError(
            f"the model does not run on one input of shape {tuple(input_shape)}: "
            f"{str(error).splitlines()[0]}"
        ) from error
    finally:
        for module, mode in training.items():
            module.training = mode
    if not watch.found:
        raise InputError("the model has no Conv2d or Linear layer that its forward pass uses")
    return tuple(watch.found.values())


def classifier_name(model: nn.Module, found: Sequence[Layer]) -> str:
    """The name of the classifier: ``classifier`` where there is one, else the last linear layer."""
    names = [layer.name for layer in found]
    if "classifier" in names:
        return "classifier"
    linear = [layer.name for layer in found if layer.kind == "linear"]
    if not linear:
        raise InputError("the model ends in no Linear layer; say which layer is its classifier")
    return linear[-1]


def layers(
    model: nn.Module,
    input_shape: Sequence[int] = (3, 128, 128),
    classifier: str | None = None,
    depthwise: str = "eq4",
) -> tuple[Layer, ...]:
    """The backbone's layers in order of execution: all of :func:`walk` but the classifier.

    The classifier is trained always and stands outside the budget (Sec. 4.1); by default it is
    the module ``classifier``, else the last linear layer.
    """
    found = walk(model, input_shape, depthwise)
    classifier = classifier or classifier_name(model, found)
    choose(classifier, [layer.name for layer in found], "classifier layer")
    return tuple(layer for layer in found if layer.name != classifier)


def totals(found: Sequence[Layer]) -> dict[str, int]:
    """Sums over layers: ``total_elements``, ``weight_elements``, ``bias_elements``,
    ``activation_elements``, ``weight_flops``."""
    return {
        key: sum(getattr(layer, key) for layer in found)
        for key in (
            "total_elements", "weight_elements", "bias_elements", "activation_elements", "weight_flops",
        )
    }  # fmt: skip


def kilobytes(elements: int) -> int:
    """The kB that the paper's Fig. 6a prints for a budget: 4 bytes an element, 1024 a kB, rounded up."""
    return -(-4 * elements // 1024)
