"""A model as the device's engine sees it: convolutions in stages, read off the model itself.

:func:`describe` traces a model with torch.fx and finds a row of convolutions with frozen batch norm, grouped
into stages (expand, depthwise, project), an average over the plane and one linear classifier. Whatever the
engine has no kernel for is one :class:`medyate.errors.InputError` that names the layer and its kind.

:func:`packed` gives the same model's numbers in the engine's layout.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from torch import nn

from ..errors import InputError
from ..networks.convolutional import SamePad2d

ALLOWED = (
    "Conv2d (full, 1x1 or depthwise; square, no dilation), BatchNorm2d, ReLU and ReLU6 behind a convolution, the sum "
    "of a stage's input and output, Dropout, Identity, one average pooling to 1x1, Flatten, one Linear at the end"
)
ACTIVATIONS = ("none", "relu", "relu6")  # in the engine's order


@dataclass(frozen=True)
class Convolution:
    """One convolution; sizes in pixels, ``activation`` one of :data:`ACTIVATIONS`."""

    name: str
    channels: int
    outputs: int
    height: int
    width: int
    out_height: int
    out_width: int
    kernel: int
    stride: int
    pad_top: int
    pad_left: int
    depthwise: bool
    activation: str

    @property
    def taps(self) -> int:
        return self.kernel**2

    @property
    def channel_weights(self) -> int:
        """Weights of one input channel, what training it copies."""
        return self.taps * (1 if self.depthwise else self.outputs)

    @property
    def plane(self) -> int:
        """Elements of one input channel, what training it keeps."""
        return self.height * self.width

    @property
    def out_elements(self) -> int:
        return self.outputs * self.out_height * self.out_width

    @property
    def mask_words(self) -> int:
        """Words of 32 bits that the one-bit masks of its activation take; 0 without one."""
        return 0 if self.activation == "none" else -(-self.out_elements // 32)


@dataclass(frozen=True)
class Stage:
    """Numbers of convolutions that run together, None where the stage has no such part."""

    expand: int | None
    depthwise: int | None
    project: int | None
    residual: bool

    @property
    def first(self) -> int:
        return self.depthwise if self.expand is None else self.expand

    @property
    def last(self) -> int:
        return self.expand if self.project is None else self.project

    @property
    def numbers(self) -> tuple[int, ...]:
        """Its convolutions in order of execution."""
        return tuple(number for number in (self.expand, self.depthwise, self.project) if number is not None)


@dataclass(frozen=True)
class Network:
    """A model in the engine's terms. ``input_shape`` is (channels, height, width) of an image of bytes."""

    convolutions: tuple[Convolution, ...]
    stages: tuple[Stage, ...]
    input_shape: tuple[int, int, int]
    features: int
    classes: int
    classifier: str

    @property
    def image_bytes(self) -> int:
        return prod(self.input_shape)

    @property
    def weight_floats(self) -> int:
        """What :func:`packed` holds: weights, a scale and a bias an output, the classifier."""
        convolutions = sum(c.channels * c.channel_weights + 2 * c.outputs for c in self.convolutions)
        return convolutions + self.classes * (self.features + 1)

    def in_elements(self, stage: Stage) -> int:
        """The stage's input in floats (words); of the first stage, an image of bytes."""
        if stage is self.stages[0]:
            return -(-self.image_bytes // 4)
        first = self.convolutions[stage.first]
        return first.channels * first.plane

    def out_elements(self, stage: Stage) -> int:
        return self.convolutions[stage.last].out_elements


class _Unit:
    """A convolution while the trace is read: what has been found behind it so far."""

    def __init__(self, name: str, convolution: nn.Conv2d, pad: SamePad2d | None):
        self.name, self.convolution, self.pad = name, convolution, pad
        self.norm: nn.BatchNorm2d | None = None
        self.activation = "none"
        self.added: int | None = None  # the unit whose output is added to this one's


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, module, name):
        return isinstance(module, SamePad2d) or super().is_leaf_module(module, name)


_RELU = {torch.relu, nn.functional.relu, "relu", "relu_"}
_RELU6 = {nn.functional.relu6}
_ADD = {torch.add, operator.add, operator.iadd, "add", "add_"}
_FLATTEN = {torch.flatten, "flatten"}
_PASS = (nn.Identity, nn.Dropout, nn.Dropout2d)


def _refuse(what: str, kind: str):
    raise InputError(f"{what} is {kind}, which the device's engine does not know; allowed: {ALLOWED}")


def _units(model: nn.Module) -> tuple[list[_Unit], str]:
    """The convolutions with what belongs to each, and the classifier's name."""
    try:
        graph = _Tracer().trace(model)
    except Exception as error:  # tracing runs the user's code on proxies, which may raise anything
        raise InputError(
            f"the model cannot be traced by torch.fx ({str(error).splitlines()[0]}); allowed: {ALLOWED}"
        ) from error
    modules, units = dict(model.named_modules()), []
    values: dict[torch.fx.Node, int | str] = {}  # unit whose output a node is; -1 the image; "pooled", "flat", "logits"
    pads: dict[torch.fx.Node, tuple[SamePad2d, int]] = {}
    classifier = ""
    for node in graph.nodes:
        if node.op == "placeholder":
            if -1 in values.values():
                _refuse(f"the input {node.name!r}", "a second one")
            values[node] = -1
            continue
        if node.op == "output":
            if values.get(node.args[0]) != "logits":
                _refuse("the model's output", "no output of a Linear layer")
            continue
        name = str(node.target)
        module = modules.get(name) if node.op == "call_module" else None
        kind = (
            f"a {type(module).__name__}"
            if module is not None
            else f"a call of {getattr(node.target, '__name__', name)!r}"
        )
        what = f"layer {name!r}" if module is not None else f"the step {node.name!r}"
        arguments = [argument for argument in node.args if isinstance(argument, torch.fx.Node)]
        if not arguments or any(a not in values and a not in pads for a in arguments):
            _refuse(what, kind)
        source = values.get(arguments[0])
        newest = len(units) - 1
        is_newest = source == newest and newest >= 0
        target = node.target if node.op in ("call_function", "call_method") else None
        if isinstance(module, SamePad2d):
            pads[node] = (module, source)
        elif isinstance(module, nn.Conv2d) and type(module) is nn.Conv2d:
            pad, source = pads.get(arguments[0], (None, source))
            if source != newest:
                _refuse(what, "a branch: it does not read the layer before it")
            units.append(_Unit(name, module, pad))
            values[node] = newest + 1
        elif (
            type(module) is nn.BatchNorm2d and is_newest and units[-1].activation == "none" and units[-1].added is None
        ):
            if units[-1].norm is not None or not module.track_running_stats:
                _refuse(what, "a BatchNorm2d without running statistics, or a second one")
            units[-1].norm = module
            values[node] = source
        elif (_is_relu(module, target) or _is_relu6(module, target)) and is_newest and units[-1].added is None:
            units[-1].activation = "relu6" if _is_relu6(module, target) else "relu"
            values[node] = source
        elif isinstance(module, _PASS):
            values[node] = source
        elif target in _ADD and len(arguments) == 2 and len(node.args) == 2:
            both = [values[argument] for argument in arguments]
            if not all(isinstance(value, int) for value in both) or max(both) != newest or units[-1].added is not None:
                _refuse(what, "a sum of other things than a stage's input and output")
            units[-1].added = min(both)
            values[node] = newest
        elif is_newest and (isinstance(module, nn.AdaptiveAvgPool2d) and module.output_size in (1, (1, 1))):
            values[node] = "pooled"
        elif is_newest and target in (torch.mean, "mean") and _over_plane(node):
            values[node] = "pooled"
        elif source == "pooled" and (isinstance(module, nn.Flatten) or target in _FLATTEN):
            values[node] = "pooled"
        elif type(module) is nn.Linear and source == "pooled":
            if module.bias is None:
                _refuse(what, "a Linear without a bias")
            classifier = name
            values[node] = "logits"
        else:
            _refuse(what, kind)
    return units, classifier


def _is_relu(module, target) -> bool:
    return type(module) is nn.ReLU or target in _RELU


def _is_relu6(module, target) -> bool:
    is_clip = type(module) is nn.Hardtanh and (module.min_val, module.max_val) == (0, 6)
    return type(module) is nn.ReLU6 or is_clip or target in _RELU6


def _over_plane(node) -> bool:
    over = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keeps = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    return not keeps and isinstance(over, (list, tuple)) and sorted(d % 4 for d in over) == [2, 3]


def _convolution(unit: _Unit, channels: int, height: int, width: int) -> Convolution:
    module, name = unit.convolution, unit.name
    kernel, stride = module.kernel_size, module.stride
    depthwise = module.groups > 1
    if depthwise and not module.groups == module.in_channels == module.out_channels:
        _refuse(f"layer {name!r}", f"a Conv2d of {module.groups} groups for {module.in_channels} channels")
    if len(set(kernel)) > 1 or len(set(stride)) > 1 or set(module.dilation) != {1} or module.padding_mode != "zeros":
        _refuse(f"layer {name!r}", "a Conv2d that is not square, is dilated or pads with other values than 0")
    if module.in_channels != channels:
        raise InputError(f"layer {name!r} reads {module.in_channels} channels, but is given {channels}")
    k, s = kernel[0], stride[0]
    if unit.pad is not None:
        (top, bottom), (left, right) = unit.pad._sides(height), unit.pad._sides(width)
    elif module.padding == "valid":
        top = bottom = left = right = 0
    elif module.padding == "same":
        top = left = (k - 1) // 2
        bottom = right = k - 1 - top
    else:
        (top, left) = (bottom, right) = module.padding
    if max(top, bottom, left, right) >= k:
        _refuse(f"layer {name!r}", "a Conv2d that pads by its kernel or more")
    out = [
        (size + before + after - k) // s + 1 for size, before, after in ((height, top, bottom), (width, left, right))
    ]
    if min(out) < 1:
        raise InputError(f"layer {name!r} has no output for an input of {height} x {width} pixels; give larger images")
    return Convolution(
        name, channels, module.out_channels, height, width, *out, k, s, top, left, depthwise, unit.activation
    )


def describe(model: nn.Module, input_shape: Sequence[int] = (3, 128, 128)) -> Network:
    """The model in the engine's terms; it may lie on the meta device.

    ``input_shape`` is (channels, height, width) of an image of bytes, which the engine maps to [-1, 1] as every
    network here expects. Raises :class:`InputError` for a layer that the engine has no kernel for, by name.
    """
    units, classifier = _units(model)
    if not units:
        raise InputError(f"the model has no convolution; allowed: {ALLOWED}")
    channels, height, width = input_shape
    convolutions = []
    for unit in units:
        convolutions.append(_convolution(unit, channels, height, width))
        channels, height, width = convolutions[-1].outputs, convolutions[-1].out_height, convolutions[-1].out_width
    linear = model.get_submodule(classifier)
    if linear.in_features != channels:
        raise InputError(f"layer {classifier!r} reads {linear.in_features} features, but is given {channels}")
    return Network(
        tuple(convolutions), _stages(units, convolutions), tuple(input_shape), channels, linear.out_features, classifier
    )


def _stages(units: list[_Unit], convolutions: list[Convolution]) -> tuple[Stage, ...]:
    def projects(number: int) -> bool:
        c = convolutions[number] if number < len(convolutions) else None
        return c is not None and not c.depthwise and c.kernel == c.stride == 1

    stages, at = [], 0
    while at < len(units):
        if convolutions[at].depthwise:
            parts = (None, at, at + 1)
        elif (
            at + 1 < len(units)
            and convolutions[at + 1].depthwise
            and units[at].added is None
            and (at + 2 >= len(units) or units[at + 2].added != at)
        ):
            parts = (at, at + 1, at + 2)
        else:
            parts = (at, None, None)
        if parts[1] is not None and (not projects(parts[2]) or units[parts[1]].added is not None):
            _refuse(f"layer {convolutions[parts[1]].name!r}", "a depthwise Conv2d that no 1x1 Conv2d follows")
        last = parts[0] if parts[2] is None else parts[2]
        added = units[last].added
        if added is not None:
            a, b = convolutions[at], convolutions[last]
            alike = (a.channels, a.height, a.width) == (b.outputs, b.out_height, b.out_width)
            if added != at - 1 or at == 0 or not alike:
                _refuse(f"the sum behind layer {convolutions[last].name!r}", "over more or less than one stage")
        stages.append(Stage(*parts, residual=added is not None))
        at = last + 1
    return tuple(stages)


def packed(model: nn.Module, network: Network) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """The numbers of a model as the engine reads them, and where each convolution's begin.

    One float32 vector: of each convolution its weights, input channel by input channel, then a scale and a bias
    an output (batch norm, frozen; the convolution's own bias inside); last the classifier's weights (classes,
    features) and biases. The offsets are (weights, scales), in floats.
    """
    parts, offsets, at = [], [], 0

    def put(tensor: torch.Tensor) -> int:
        nonlocal at
        parts.append(tensor.detach().to("cpu", torch.float32).reshape(-1).numpy())
        at += len(parts[-1])
        return at - len(parts[-1])

    units, classifier = _units(model)
    for unit, convolution in zip(units, network.convolutions):
        weight = unit.convolution.weight
        begin = put(weight if convolution.depthwise else weight.transpose(0, 1))
        scale, bias = scale_and_bias(unit.convolution, unit.norm)
        offsets.append((begin, put(torch.cat([scale, bias]))))
    linear = model.get_submodule(classifier)
    put(linear.weight)
    put(torch.zeros(linear.out_features) if linear.bias is None else linear.bias)
    return np.concatenate(parts), offsets


def scale_and_bias(convolution: nn.Conv2d, norm: nn.BatchNorm2d | None) -> tuple[torch.Tensor, torch.Tensor]:
    """(outputs,) each, such that norm(convolution(x)) = scale * product + bias with frozen statistics."""
    bias = torch.zeros(convolution.out_channels) if convolution.bias is None else convolution.bias.detach()
    bias = bias.double().cpu()
    if norm is None:
        return torch.ones_like(bias), bias
    scale = (norm.running_var.double() + norm.eps).rsqrt().cpu()
    shift = -norm.running_mean.double().cpu() * scale
    if norm.affine:
        gain, offset = norm.weight.detach().double().cpu(), norm.bias.detach().double().cpu()
        scale, shift = scale * gain, shift * gain + offset
    return scale, shift + scale * bias
