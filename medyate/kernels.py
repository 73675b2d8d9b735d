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

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Who measures memory listens here: called with each saved tensor and the part it belongs to.
saved_listener: Callable[[Tensor, str], None] | None = None


def _keep(ctx, **parts: Tensor | None) -> None:
    if saved_listener is not None:
        for part, tensor in parts.items():
            if tensor is not None:
                saved_listener(tensor, part)
    ctx.save_for_backward(*parts.values())


# --- one bit per output ------------------------------------------------------------------------

_SPREAD = 0x0102040810204080  # eight 0/1 bytes times this leave their bits in the top byte


def pack(mask: Tensor) -> Tensor:
    """Booleans to bits: a dense boolean tensor of N elements -> (ceil(N / 8),) uint8, in memory order."""
    flat = mask.as_strided((mask.numel(),), (1,))
    if not mask.is_cuda:
        return torch.from_numpy(np.packbits(flat.view(torch.uint8).numpy(), bitorder="little"))
    if len(flat) % 8:
        flat = torch.nn.functional.pad(flat.view(torch.uint8), (0, -len(flat) % 8)).view(torch.bool)
    # little-endian: byte i of the word becomes bit i of the top byte after the product
    words = flat.view(torch.int64) * _SPREAD
    return (words >> 56).bitwise_and(255).to(torch.uint8)


def unpack(bits: Tensor, shape: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    """The boolean tensor that :func:`pack` was given, with its shape and strides."""
    count = int(np.prod(shape))
    if not bits.is_cuda:
        flat = torch.from_numpy(np.unpackbits(bits.numpy(), count=count, bitorder="little"))
    else:
        shifts = torch.arange(8, device=bits.device, dtype=torch.uint8)
        flat = (bits.unsqueeze(1) >> shifts).bitwise_and_(1).flatten()[:count]
    return flat.view(torch.bool).as_strided(shape, stride)


def _dense(tensor: Tensor) -> Tensor:
    """The tensor itself if its elements fill its memory in a usual order, else a contiguous copy."""
    usual = tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    )
    return tensor if usual else tensor.contiguous()


def _pass_through(grad: Tensor, bits: Tensor, shape, stride) -> Tensor:
    return grad * unpack(bits, shape, stride)


class Rectify(torch.autograd.Function):
    """ReLU (``ceiling`` None) or ReLU6 (``ceiling`` 6) that keeps one bit per output.

    The gradient passes where 0 < output < ceiling, as torch's own does.
    """

    @staticmethod
    def forward(ctx, x: Tensor, ceiling: float | None, inplace: bool) -> Tensor:
        if inplace:
            ctx.mark_dirty(x)
            out = rectify_(x, ceiling)
        else:
            out = _dense(rectify(x, ceiling))
        mask = _open(out, ceiling)
        ctx.layout = tuple(mask.shape), mask.stride()
        _keep(ctx, masks=pack(mask))
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return _pass_through(grad, *ctx.saved_tensors, *ctx.layout), None, None


def rectify(x: Tensor, ceiling: float | None) -> Tensor:
    return torch.clamp_min(x, 0) if ceiling is None else torch.clamp(x, 0, ceiling)


def rectify_(x: Tensor, ceiling: float | None) -> Tensor:
    return x.clamp_min_(0) if ceiling is None else x.clamp_(0, ceiling)


def _open(out: Tensor, ceiling: float | None) -> Tensor:
    """Where the activation lets a gradient through, from its output."""
    mask = _dense(out) > 0
    return mask if ceiling is None else mask.logical_and_(out < ceiling)


class Scale(torch.autograd.Function):
    """A frozen batch norm, ``x scale + shift`` per channel (dimension 1); keeps nothing."""

    @staticmethod
    def forward(ctx, x: Tensor, norm) -> Tensor:
        ctx.norm = norm
        scale, shift = (value.to(x.dtype) for value in folded(norm))
        return torch.addcmul(_column(shift, x), x, _column(scale, x))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return grad * _column(folded(ctx.norm)[0].to(grad.dtype), grad), None


def _column(vector: Tensor, like: Tensor) -> Tensor:
    return vector.view(-1, *[1] * (like.dim() - 2))


def folded(norm) -> tuple[Tensor, Tensor]:
    """Scale and shift of a batch norm that uses its running statistics."""
    scale = torch.rsqrt(norm.running_var + norm.eps)
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


# --- convolution and linear layers -------------------------------------------------------------


class Geometry:
    """What a convolution's three products need besides tensors; ``linear`` for a linear layer."""

    __slots__ = ("stride", "padding", "dilation", "groups", "outputs", "linear")

    def __init__(self, stride, padding, dilation, groups: int, outputs: int, linear: bool = False):
        self.stride, self.padding, self.dilation = stride, padding, dilation
        self.groups, self.outputs, self.linear = groups, outputs, linear

    @property
    def is_matrix(self) -> bool:
        return self.stride == (1, 1) and self.padding == (0, 0) and self.groups == 1

    def forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.linear:
            return torch.nn.functional.linear(x, weight, bias)
        return torch.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def _backward(self, grad, x, weight, groups, which):
        return torch.ops.aten.convolution_backward(
            grad, x, weight, None, self.stride, self.padding, self.dilation, False, [0, 0], groups, which
        )

    def input_gradient(self, grad: Tensor, weight: Tensor, shape: tuple[int, ...]) -> Tensor:
        """dL/dx from dL/dy and the weight; x itself is not needed, its shape is."""
        if self.linear:
            return grad @ weight
        layout = (
            torch.channels_last
            if grad.is_contiguous(memory_format=torch.channels_last)
            else torch.contiguous_format
        )
        # convolution_backward wants a tensor of x's shape and layout, and does not read it
        blank = torch.empty(shape, dtype=grad.dtype, device=grad.device, memory_format=layout)
        return self._backward(grad, blank, weight, self.groups, [True, False, False])[0]

    def weight_gradient(
        self, grad: Tensor, chosen: Tensor, channels: Tensor, kernel: tuple[int, ...]
    ) -> Tensor:
        """dL/dW of the selected input channels only, eq. 3.

        ``chosen`` is the selected input, (B, k, H, W) or (.., k); ``channels`` their k indices.
        The result is compact: (C', k, D, D), (out, k), or for a grouped convolution
        (k, C'/groups, D, D), each channel's own outputs.
        """
        if self.linear:
            return grad.flatten(0, -2).t() @ chosen.flatten(0, -2)
        if self.is_matrix and kernel == (1, 1):
            # 1x1: one matrix product over all positions
            return torch.einsum("bohw,bchw->oc", grad, chosen)[..., None, None]
        k = len(channels)
        if self.groups == 1:
            blank = grad.new_empty(1).expand(grad.shape[1], k, *kernel)
            return self._backward(grad, chosen, blank, 1, [False, True, False])[1]
        # Grouped: channel c is seen by the outputs of group c // (C/groups) alone. Each selected
        # channel becomes a group of its own; a depthwise convolution is the case outputs == 1.
        grad = grad.index_select(1, self.outputs_of(channels).flatten())
        blank = grad.new_empty(1).expand(grad.shape[1], 1, *kernel)
        found = self._backward(grad, chosen, blank, k, [False, True, False])[1]
        return found.view(k, self.outputs, *kernel)

    def outputs_of(self, owners: Tensor) -> Tensor:
        """(k,) group numbers -> (k, C'/groups) output channels."""
        return owners.unsqueeze(1) * self.outputs + torch.arange(self.outputs, device=owners.device)


def _unpad(grad: Tensor, pad: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """The gradient before a padding step, which depends on the input's shape alone."""
    with torch.enable_grad():
        blank = grad.new_zeros(shape, requires_grad=True)
        return torch.autograd.grad(pad(blank), blank, grad)[0]


class Project(torch.autograd.Function):
    """A convolution or linear layer, with the batch norm and activation that follow it folded in.

    ``selected`` is the layer's compact trainable weight, or None where the layer is frozen. The
    gradient of ``selected`` is compact as well. ``layer`` offers ``geometry``, ``folded_weight()``,
    ``channels`` and ``ceiling`` (see :mod:`medyate.subnet`).
    """

    @staticmethod
    def forward(ctx, x: Tensor, selected: Tensor | None, layer) -> Tensor:
        weight, bias, _ = layer.folded(x.dtype)
        ctx.layer, ctx.shape = layer, tuple(x.shape)
        x = layer.padded(x)
        ctx.padded_shape = tuple(x.shape)
        out = layer.geometry.forward(x, weight, bias)
        ctx.version = None if selected is None else selected._version
        bits = None
        if layer.rectifies:
            out = _dense(rectify_(out, layer.ceiling))
            mask = _open(out, layer.ceiling)
            ctx.layout = tuple(mask.shape), mask.stride()
            bits = pack(mask)
        chosen = None if selected is None else layer.chosen(x)
        _keep(ctx, masks=bits, selected_activations=chosen)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        layer = ctx.layer
        bits, chosen = ctx.saved_tensors
        if ctx.version is not None and layer.selected_weight._version != ctx.version:
            raise RuntimeError(
                f"the selected weight of layer {layer.layer_name!r} was changed between forward and backward"
            )
        if bits is not None:
            grad = _pass_through(grad, bits, *ctx.layout)
        weight, _, scale = layer.folded(grad.dtype)
        weight_gradient = input_gradient = None
        if ctx.needs_input_grad[1]:
            weight_gradient = layer.compact_gradient(grad, chosen, scale)
        if ctx.needs_input_grad[0]:
            input_gradient = layer.geometry.input_gradient(grad, weight, ctx.padded_shape)
            if ctx.padded_shape != ctx.shape:
                input_gradient = _unpad(input_gradient, layer.padded, ctx.shape)
        return input_gradient, weight_gradient, None
