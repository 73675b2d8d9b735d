"""Forward and backward passes that keep only what a selection pays for.

Every function here saves, between forward and backward, at most two things: the *selected* input
channels of its layer, and one bit per output of its activation. Frozen weights and batch norm
need nothing: the input's gradient of a convolution (eq. 2's sibling) is a function of the weight
alone, and that of a frozen batch norm a product with its scale. Scales and folded weights are
computed again in the backward pass rather than kept.

torch's own layers keep more: a frozen convolution saves its whole input as soon as the input needs
a gradient, a batch norm in evaluation mode too, and ReLU6 a full tensor.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..errors import InputError
from . import compiled

# Who measures memory listens here: called with each saved tensor and the part it belongs to.
saved_listener: ContextVar[Callable[[Tensor, str], None] | None] = ContextVar("saved_listener", default=None)


def keep(ctx, **parts: Tensor | None) -> None:
    """Save tensors for the backward pass, by the part of memory that they belong to."""
    listener = saved_listener.get()
    if listener is not None:
        for part, tensor in parts.items():
            if tensor is not None:
                listener(tensor, part)
    ctx.save_for_backward(*parts.values())


# --- one bit per output ------------------------------------------------------------------------

_SPREAD = 0x0102040810204080  # eight 0/1 bytes times this leave their bits in the top byte


# numpy works through a tensor in pieces whose intermediate results stay in the cache; fresh buffers of
# a whole layer's size cost more in page faults than the arithmetic (measured: 9 ms a step against 2).
_PIECE = 1 << 17


def pack(out: Tensor, ceiling: float | None) -> Tensor:
    """Where an activation lets the gradient through, 0 < out < ceiling, as bits.

    ``out`` is a dense tensor of N elements; the result is (ceil(N / 8),) uint8 in memory order.
    """
    flat = out.as_strided((out.numel(),), (1,))
    if out.device.type == "cpu" and out.dtype != torch.bfloat16:
        # numpy compares and packs several times faster than torch writes booleans on a CPU
        values = flat.numpy()
        packed = torch.empty(-(-len(values) // 8), dtype=torch.uint8)  # torch's, so that its allocator counts it
        bits = packed.numpy()
        for start in range(0, len(values), _PIECE):
            piece = values[start : start + _PIECE]
            mask = np.greater(piece, 0)
            if ceiling is not None:
                mask &= np.less(piece, ceiling)
            bits[start // 8 : (start + len(piece) + 7) // 8] = np.packbits(mask, bitorder="little")
        return packed
    mask = flat > 0
    if ceiling is not None:
        mask &= flat < ceiling
    mask = torch.nn.functional.pad(mask.view(torch.uint8), (0, -len(flat) % 8))
    # little-endian: byte i of the word becomes bit i of the top byte of the product
    words = mask.view(torch.int64) * _SPREAD
    return (words >> 56).bitwise_and_(255).to(torch.uint8)


def pack_mask(mask: Tensor) -> Tensor:
    """Where a dense tensor of N elements is not 0, as bits: (ceil(N / 8),) uint8 in memory order."""
    return pack(mask if mask.dtype != torch.bool else mask.view(torch.uint8), None)


def unpack(bits: Tensor, count: int) -> Tensor:
    """The first ``count`` bits as (count,) uint8, 0 or 1."""
    if bits.device.type == "cpu":
        return torch.from_numpy(np.unpackbits(bits.numpy(), count=count, bitorder="little"))
    shifts = torch.arange(8, device=bits.device, dtype=torch.uint8)
    return (bits.unsqueeze(1) >> shifts).bitwise_and_(1).flatten()[:count]


def _pass_through(grad: Tensor, bits: Tensor, stride: tuple[int, ...]) -> Tensor:
    """``grad`` where the bits are set, else 0; ``stride`` is the layout that was packed."""
    if grad.stride() != stride:
        grad = torch.empty_strided(grad.shape, stride, dtype=grad.dtype, device=grad.device).copy_(grad)
    count = grad.numel()
    if grad.device.type != "cpu" or grad.dtype == torch.bfloat16:
        keep = unpack(bits, count).view(torch.bool).as_strided(grad.shape, stride)
        return torch.where(keep, grad, grad.new_zeros(()))
    out = torch.empty_like(grad)
    integer = np.dtype(f"i{grad.element_size()}")
    flat, flat_out = (t.as_strided((count,), (1,)).numpy().view(integer) for t in (grad, out))
    octets, packed = _octets(integer), bits.numpy()
    octets_kept = np.empty((-(-min(count, _PIECE) // 8), 8), integer)
    for start in range(0, count, _PIECE):
        piece = flat[start : start + _PIECE]
        rows = -(-len(piece) // 8)
        # "clip" spares numpy a copy; no byte is out of range
        np.take(octets, packed[start // 8 : start // 8 + rows], axis=0, out=octets_kept[:rows], mode="clip")
        np.bitwise_and(piece, octets_kept.reshape(-1)[: len(piece)], out=flat_out[start : start + _PIECE])
    return out


@functools.cache
def _octets(integer: np.dtype) -> np.ndarray:
    """(256, 8): the bits of every byte, each spread over a whole integer. Its "and" with a number's own
    bits leaves the number or 0, also of infinities, which a product would not."""
    return -np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1, bitorder="little").astype(integer)


def dense(tensor: Tensor) -> Tensor:
    """The tensor itself if its elements fill its memory in whatever order, else a contiguous copy."""
    usual = tensor.is_contiguous() or tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    if usual or torch.empty_like(tensor, device="meta").stride() == tensor.stride():
        return tensor
    return tensor.contiguous()


class Rectify(torch.autograd.Function):
    """ReLU (``ceiling`` None) or ReLU6 (``ceiling`` 6) that keeps one bit per output.

    The gradient passes where 0 < output < ceiling, as torch's own does.
    """

    @staticmethod
    def forward(ctx, x: Tensor, ceiling: float | None, inplace: bool) -> Tensor:
        if inplace:
            if dense(x) is not x:
                raise InputError("an in-place ReLU on a tensor with gaps in memory; allowed: inplace=False there")
            ctx.mark_dirty(x)
            out = rectify_(x, ceiling)
        else:
            out = dense(rectify(x, ceiling))
        ctx.layout = out.stride()
        keep(ctx, masks=pack(out, ceiling))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (bits,) = ctx.saved_tensors
        return _pass_through(grad, bits, ctx.layout), None, None


def rectified(x: Tensor, ceiling: float | None, inplace: bool) -> Tensor:
    """:class:`Rectify`, compiled where it can be."""
    library = library_for(x)
    if library is None or dense(x) is not x:
        return Rectify.apply(x, ceiling, inplace)
    return library.rectify(x, math.inf if ceiling is None else ceiling, inplace)


def library_for(x: Tensor) -> Any:
    """:func:`medyate.execution.compiled.library_for`, unless what is kept is measured."""
    return compiled.library_for(x) if saved_listener.get() is None else None


def rectify(x: Tensor, ceiling: float | None) -> Tensor:
    return torch.clamp_min(x, 0) if ceiling is None else torch.clamp(x, 0, ceiling)


def rectify_(x: Tensor, ceiling: float | None) -> Tensor:
    return x.clamp_min_(0) if ceiling is None else x.clamp_(0, ceiling)


class Scale(torch.autograd.Function):
    """A frozen batch norm, ``x scale + shift`` per channel (dimension 1); keeps nothing."""

    @staticmethod
    def forward(ctx, x: Tensor, norm) -> Tensor:
        ctx.norm, ctx.state = norm, norm_state(norm)
        return scaled(x, norm)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        if norm_state(ctx.norm) != ctx.state:
            raise RuntimeError("a frozen batch norm was changed between forward and backward")
        return grad * _column(scale_of(ctx.norm).to(grad.dtype), grad), None


def scaled(x: Tensor, norm) -> Tensor:
    """The output of a batch norm that uses its running statistics."""
    scale = scale_of(norm)
    shift = shift_of(norm, scale).to(x.dtype)
    return torch.addcmul(_column(shift, x), x, _column(scale.to(x.dtype), x))


def _column(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (like.dim() - 2))


# These are called for every layer of every pass, where gradients are not recorded: what a module's
# attribute access and detach() take would be a tenth of a step.


def scale_of(norm) -> Tensor:
    """The factor of a batch norm that uses its running statistics, per channel."""
    scale = norm._buffers["running_var"].add(norm.eps).rsqrt_()
    weight = norm._parameters["weight"]
    return scale if weight is None else scale.mul_(weight)


def norm_state(norm) -> tuple:
    """Changes whenever something that :func:`scale_of` reads does."""
    weight = norm._parameters["weight"]
    return norm._buffers["running_var"]._version, -1 if weight is None else weight._version


def shift_of(norm, scale: Tensor) -> Tensor:
    """The summand of a batch norm that uses its running statistics, per channel."""
    mean, bias = norm._buffers["running_mean"], norm._parameters["bias"]
    return -mean * scale if bias is None else torch.addcmul(bias, mean, scale, value=-1)


def gather(images: Tensor, channels: Tensor) -> Tensor:
    """Some channels of a (B, C, H, W) tensor, copied, in its memory format."""
    if images.is_contiguous(memory_format=torch.channels_last):
        # along the innermost dimension: several times faster than across it
        return images.permute(0, 2, 3, 1).index_select(3, channels).permute(0, 3, 1, 2)
    return images.index_select(1, channels)


# --- convolution and linear layers -------------------------------------------------------------


@functools.cache
def _onednn_rectifies() -> bool:
    """Whether torch's oneDNN convolution takes an activation along, as torch.compile uses it.

    The operator is torch's own but no public name, so it is asked once whether it does what it should.
    """
    try:
        x, weight = torch.linspace(-9, 9, 50).view(1, 2, 5, 5), torch.linspace(-1, 1, 12).view(6, 2, 1, 1)
        plain = [x, weight, None, (0, 0), (1, 1), (1, 1), 1]
        fused = torch.ops.mkldnn._convolution_pointwise
        expected = torch.conv2d(x, weight)
        return torch.allclose(fused(*plain, "hardtanh", [0, 6.0], ""), expected.clamp(0, 6)) and torch.allclose(
            fused(*plain, "relu", [], ""), expected.clamp_min(0)
        )
    except (AttributeError, RuntimeError, TypeError):
        return False


_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)


# Up to so many inputs a call takes longer than its numbers, and oneDNN's operator that takes an activation along takes
# a tenth of a millisecond more than torch's convolution.
_SMALL = 1 << 15


class Geometry:
    """What a convolution's three products need besides tensors; ``linear`` for a linear layer."""

    __slots__ = ("stride", "padding", "dilation", "groups", "outputs", "linear", "_compiled")

    def __init__(self, stride, padding, dilation, groups: int, outputs: int, linear: bool = False):
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups, self.outputs, self.linear = groups, outputs, linear
        self._compiled: Any = None

    def __reduce__(self):  # a copy makes a compiled counterpart of its own
        return Geometry, (self.stride, self.padding, self.dilation, self.groups, self.outputs, self.linear)

    def compiled(self, library: Any, name: str) -> Any:
        """The compiled library's counterpart, of the layer of this name."""
        if self._compiled is None:
            sizes = (list(self.stride), list(self.padding), list(self.dilation), self.groups, self.outputs)
            self._compiled = library.Layer(name, *sizes, _onednn_rectifies(), _SMALL)
        return self._compiled

    def changed(self) -> None:
        """A compiled backward pass that is under way must not go on."""
        if self._compiled is not None:
            self._compiled.changed()

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.linear:
            out = torch.nn.functional.linear(x.flatten(0, -2), weight, bias)
            # not a view, which what comes out of an autograd function must not be if it is changed in place
            return torch.ops.aten._unsafe_view(out, (*x.shape[:-1], len(weight)))
        convolution = _CONVOLUTIONS[weight.dim() - 3]
        return convolution(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def rectified(self, x: Tensor, weight: Tensor, bias: Tensor | None, ceiling: float | None) -> Tensor:
        """The convolution and the ReLU (6) behind it, in one pass over the output where oneDNN can."""
        if x.dim() == 4 and x.device.type == "cpu" and x.dtype == torch.float32 and _onednn_rectifies():
            if x.numel() <= _SMALL and x.shape[-1] > 1 and x.is_contiguous(memory_format=torch.channels_last):
                return rectify_(self.forward(x, weight, bias), ceiling)  # the same numbers, sooner
            attribute, scalars = ("relu", []) if ceiling is None else ("hardtanh", [0, ceiling])
            return torch.ops.mkldnn._convolution_pointwise(
                x, weight, bias, self.padding, self.stride, self.dilation, self.groups, attribute, scalars, ""
            )
        return rectify_(self.forward(x, weight, bias), ceiling)

    def _backward(self, grad, x, weight, groups, which):
        return torch.ops.aten.convolution_backward(
            grad,
            x,
            weight,
            None,
            self.stride,
            self.padding,
            self.dilation,
            False,
            [0] * len(self.stride),
            groups,
            which,
        )

    def input_gradient(self, grad: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        """dL/dx from dL/dy and the weight; x itself is not needed, its shape is."""
        if self.linear:
            return grad @ weight
        layout = (
            torch.channels_last if grad.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
        )
        # convolution_backward wants a tensor of x's shape and layout, and does not read it
        blank = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)
        return self._backward(grad, blank, weight, self.groups, [True, False, False])[0]

    def weight_gradient(self, grad: Tensor, chosen: Tensor, channels: Tensor, kernel: tuple[int, ...]) -> Tensor:
        """dL/dW of the selected input channels only, eq. 3.

        ``chosen`` is the selected input, (B, k, H, W) or (.., k); ``channels`` their k indices.
        The result is compact: (C', k, D, D), (out, k), or for a grouped convolution
        (k, C'/groups, D, D), each channel's own outputs.
        """
        if self.linear:
            return grad.flatten(0, -2).t() @ chosen.flatten(0, -2)
        k = len(channels)
        if self.groups == 1:
            blank = grad.new_empty(1).expand(grad.shape[1], k, *kernel)
            return self._backward(grad, chosen, blank, 1, [False, True, False])[1]
        # Grouped: channel c is seen by the outputs of group c // (C/groups) alone. Each selected
        # channel becomes a group of its own; a depthwise convolution is the case outputs == 1.
        grad = gather(grad, self.outputs_of(channels).flatten())
        blank = grad.new_empty(1).expand(grad.shape[1], 1, *kernel)
        gradient = self._backward(grad, chosen, blank, k, [False, True, False])[1]
        return gradient.view(k, self.outputs, *kernel)

    def outputs_of(self, owners: Tensor) -> Tensor:
        """(k,) group numbers -> (k, C'/groups) output channels."""
        return owners.unsqueeze(1) * self.outputs + torch.arange(self.outputs, device=owners.device)


def by_shape(grad: Tensor, function: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The gradient of a linear function, such as padding, that depends on its input's shape alone."""
    with torch.enable_grad():
        blank = grad.new_zeros(shape, requires_grad=True)
        return torch.autograd.grad(function(blank), blank, grad)[0]


class Project(torch.autograd.Function):
    """A convolution or linear layer, with the batch norm and activation that follow it folded in.

    ``selected`` is the layer's compact trainable weight, or None where the layer is frozen. The
    gradient of ``selected`` is compact as well. ``layer`` offers its
    ``geometry`` and the steps around it (see :mod:`medyate.execution.attach`).
    """

    @staticmethod
    def forward(ctx, x: Tensor, selected: Tensor | None, layer, folds: bool) -> Tensor:
        ctx.layer, ctx.folds, ctx.shape = layer, folds, tuple(x.shape)
        chosen = None if selected is None else layer.chosen(x)
        x = layer.padded(x)
        ctx.padded_shape = tuple(x.shape)
        out = layer.output(x, folds)
        ctx.state = layer.state()
        bits = None
        if folds and layer.activation is not None:
            out = dense(out)
            ctx.layout = out.stride()
            bits = pack(out, layer.activation.ceiling)
        keep(ctx, masks=bits, selected_activations=chosen)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        layer = ctx.layer
        bits, chosen = ctx.saved_tensors
        if not hasattr(layer, "geometry") or layer.state() != ctx.state:
            raise RuntimeError(
                f"layer {getattr(layer, 'layer_name', layer)!r} was changed between forward and backward"
            )
        if bits is not None:
            grad = _pass_through(grad, bits, ctx.layout)
        scale = layer.scale() if ctx.folds else None
        weight_gradient = input_gradient = None
        if ctx.needs_input_grad[1]:
            weight_gradient = layer.compact_gradient(grad, chosen, scale)
        if ctx.needs_input_grad[0]:
            weight = layer.folded_weight(scale).to(grad.dtype)
            input_gradient = layer.geometry.input_gradient(grad, weight, ctx.padded_shape)
            if ctx.padded_shape != ctx.shape:
                input_gradient = by_shape(input_gradient, layer.padded, ctx.shape)
        return input_gradient, weight_gradient, None, None
