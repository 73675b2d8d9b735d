"""Functions of torch that keep less: bits, shapes, or the recipe of what they need instead of the tensor.

A :class:`medyate.execution.recompute.Scope` runs these instead of torch's own while an attached model runs forward.
The numbers that come out are torch's own; so are gradients, but where the order of a sum may differ.

* Piecewise linear activations and dropout keep one bit per output, max pooling each maximum's offset in its window.
* Average pooling keeps the shape of its input, a convolution whose weight is frozen or computed nothing of its input, a
  batch norm that uses running statistics nothing at all. (torch's own keep their inputs.)
* Smooth activations, norms, products and attention keep recipes where these take fewer bytes than what they stand for.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from ..probing.inside import inside
from . import kernels
from .recompute import Kept, Scope, again_under, filled, instead_of, precision_of, slots


def _own(out: Tensor) -> Tensor:
    """Not a view: autograd refuses to change one in place that comes out of a function like those below."""
    return out.clone() if out._is_view() else out


def _argument(args: tuple, kwargs: dict, place: int, name: str, default=None):
    return args[place] if len(args) > place else kwargs.get(name, default)


# --- any function, by torch's own gradient ---------------------------------------------------------


class _Again(torch.autograd.Function):
    """Any function of tensors: its gradient by torch's own autograd, over the function run again.

    ``target``, where given, is changed in place to what comes out; it must not be among what is kept."""

    @staticmethod
    def forward(ctx, function: Callable, kept: Kept, target: Tensor | None, *operands: Tensor) -> Tensor:
        out = _own(function(*operands))
        ctx.function, ctx.precision = function, precision_of(out.device.type)
        kept.save(ctx)
        if target is not None:
            ctx.mark_dirty(target)
            return target.copy_(out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        needed = ctx.needs_input_grad[3:]
        values = [value.detach() for value in ctx.kept.values(ctx)]
        with torch.enable_grad():
            inputs = [value.requires_grad_() if need else value for value, need in zip(values, needed)]
            with again_under(ctx.precision):
                out = ctx.function(*inputs)
            gradients = iter(torch.autograd.grad(out, [x for x, need in zip(inputs, needed) if need], grad))
        return None, None, None, *(next(gradients) if need else None for need in needed)


def _again(scope: Scope, part: str, func: Callable, args: tuple, kwargs: dict, *, products: int = 0, shared=False):
    """``func`` with recipes of its operands kept; NotImplemented where these are not worth it."""
    operands: list[Tensor] = []
    try:
        places = slots(args, operands), slots(kwargs, operands)
    except TypeError:
        return NotImplemented
    if not any(operand.requires_grad for operand in operands) or any(operand.is_complex() for operand in operands):
        return NotImplemented
    kept = scope.kept(part, *operands, shared=shared)
    if kept is None:
        return NotImplemented

    def function(*values: Tensor) -> Tensor:
        return func(*filled(places[0], values), **filled(places[1], values))

    return scope.replaced(func, args, kwargs, lambda: _Again.apply(function, kept, None, *operands), products)


# Functions whose gradient needs their input, and the place of their argument ``inplace``, if they have one.
_SMOOTH: dict[Callable, int | None] = {
    F.silu: 1,
    F.hardswish: 1,
    F.mish: 1,
    F.elu: 2,
    F.celu: 2,
    F.selu: 1,
    F.softplus: None,
    F.softsign: None,
    F.logsigmoid: None,
    F.tanhshrink: None,
    F.glu: None,
    torch.sigmoid: None,
    Tensor.sigmoid: None,
    F.sigmoid: None,
    torch.tanh: None,
    Tensor.tanh: None,
    F.tanh: None,
    torch.exp: None,
    Tensor.exp: None,
    torch.abs: None,
    Tensor.abs: None,
    torch.square: None,
    Tensor.square: None,
    torch.pow: None,
    Tensor.pow: None,
    Tensor.__pow__: None,
    torch.sqrt: None,
    Tensor.sqrt: None,
    torch.rsqrt: None,
    Tensor.rsqrt: None,
    Tensor.__rtruediv__: None,
}


def _smooth(func: Callable, place: int | None):
    def way(scope: Scope, *args, **kwargs):
        if place is None or not _argument(args, kwargs, place, "inplace", False):
            return _again(scope, "activations", func, args, kwargs)
        x = args[0] if args else kwargs["input"]
        if not x.requires_grad or x._is_view():
            return NotImplemented
        kept = scope.kept("activations", x)
        if kept is None or any(tensor is x for tensor in kept.held):
            return NotImplemented  # torch's own keeps a copy
        plain = {key: value for key, value in kwargs.items() if key not in ("input", "inplace")}
        function = functools.partial(_called, func, args[1:place], plain)
        run = functools.partial(_Again.apply, function, kept, x, x)
        return scope.replaced(function, (x,), {}, run)

    return way


def _called(func: Callable, rest: tuple, kwargs: dict, x: Tensor) -> Tensor:
    return func(x, *rest, **kwargs)


for _function, _place in _SMOOTH.items():
    instead_of(_function)(_smooth(_function, _place))


def _kept_again(part: str, func: Callable, products: int = 0, shared: bool = False):
    def way(scope: Scope, *args, **kwargs):
        return _again(scope, part, func, args, kwargs, products=products, shared=shared)

    return way


for _function in (F.group_norm, torch.group_norm, F.instance_norm, F.local_response_norm):
    instead_of(_function)(_kept_again("layer_norm", _function))
for _function in (F.normalize, torch.std, Tensor.std, torch.var, Tensor.var, torch.norm, Tensor.norm):
    instead_of(_function)(_kept_again("recipes", _function))
for _function in (torch.linalg.vector_norm, torch.amax, Tensor.amax, F.adaptive_max_pool2d, F.grid_sample):
    instead_of(_function)(_kept_again("recipes", _function))
instead_of(torch.einsum)(_kept_again("attention", torch.einsum, 1, True))


# --- piecewise linear activations: bits ------------------------------------------------------------


class _Piecewise(torch.autograd.Function):
    """An activation whose slope is one number where ``inside`` of its input, another elsewhere; keeps a bit each."""

    @staticmethod
    def forward(ctx, x: Tensor, function: Callable, inside: Callable, slopes: tuple, inplace: bool) -> Tensor:
        mask = kernels.dense(inside(x))
        ctx.layout, ctx.slopes = mask.stride(), slopes
        kernels.keep(ctx, masks=kernels.pack_mask(mask))
        out = function(x)
        if inplace:
            ctx.mark_dirty(x)
            return x.copy_(out)
        return _own(out)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (bits,) = ctx.saved_tensors
        mask = kernels.unpack(bits, grad.numel()).view(torch.bool).as_strided(grad.shape, ctx.layout)
        within, outside = (slope.to(grad.dtype) if isinstance(slope, Tensor) else slope for slope in ctx.slopes)
        return torch.where(mask, grad * within, grad * outside), None, None, None, None


def _piecewise(scope: Scope, func, x: Tensor, inside: Callable, slopes: tuple, inplace: bool, *rest):
    if not x.requires_grad or inplace and x._is_view():
        return NotImplemented
    function = functools.partial(_called, func, rest, {})
    run = functools.partial(_Piecewise.apply, x, function, inside, slopes, inplace)
    return scope.replaced(function, (x,), {}, run)


def _rectify(scope: Scope, x: Tensor, ceiling: float | None, inplace: bool):
    if not x.requires_grad or inplace and (x._is_view() or kernels.dense(x) is not x):
        return NotImplemented
    run = functools.partial(kernels.rectified, x, ceiling, inplace)
    return scope.replaced(kernels.rectify, (x, ceiling), {}, run)


@instead_of(F.relu, torch.relu, Tensor.relu, recipes=False)
def _relu(scope: Scope, input: Tensor, inplace: bool = False):
    return _rectify(scope, input, None, inplace)


@instead_of(torch.relu_, Tensor.relu_, recipes=False)
def _relu_(scope: Scope, input: Tensor):
    return _rectify(scope, input, None, True)


@instead_of(F.relu6, recipes=False)
def _relu6(scope: Scope, input: Tensor, inplace: bool = False):
    return _rectify(scope, input, 6.0, inplace)


@instead_of(F.hardtanh, recipes=False)
def _hardtanh(scope: Scope, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
    if min_val == 0:
        return _rectify(scope, input, float(max_val), inplace)
    between = functools.partial(_between, min_val, max_val)
    return _piecewise(scope, F.hardtanh, input, between, (1, 0), inplace, min_val, max_val)


def _between(low: float, high: float, x: Tensor) -> Tensor:
    return (x > low) & (x < high)


def _positive(x: Tensor) -> Tensor:
    return x > 0


_SIXTH = torch.tensor(1 / 6, dtype=torch.float32).item()  # as torch rounds it, in double precision too


@instead_of(F.hardsigmoid, recipes=False)
def _hardsigmoid(scope: Scope, input: Tensor, inplace: bool = False):
    return _piecewise(scope, F.hardsigmoid, input, functools.partial(_between, -3, 3), (_SIXTH, 0), inplace)


@instead_of(F.leaky_relu, recipes=False)
def _leaky_relu(scope: Scope, input: Tensor, negative_slope: float = 0.01, inplace: bool = False):
    return _piecewise(scope, F.leaky_relu, input, _positive, (1, negative_slope), inplace, negative_slope)


@instead_of(F.prelu, torch.prelu, recipes=False)
def _prelu(scope: Scope, input: Tensor, weight: Tensor):
    if weight.requires_grad:
        return NotImplemented
    column = weight if weight.numel() == 1 else weight.view(-1, *[1] * (input.dim() - 2))
    return _piecewise(scope, F.prelu, input, _positive, (1, column), False, weight)


@instead_of(torch.clamp, Tensor.clamp, recipes=False)
def _clamp(scope: Scope, input: Tensor, min=None, max=None):
    if isinstance(min, Tensor) or isinstance(max, Tensor):
        return NotImplemented
    low, high = (-torch.inf if min is None else min), (torch.inf if max is None else max)
    inside = functools.partial(_from_to, low, high)
    return _piecewise(scope, torch.clamp, input, inside, (1, 0), False, min, max)


def _from_to(low: float, high: float, x: Tensor) -> Tensor:
    return (x >= low) & (x <= high)


# --- dropout and pooling ---------------------------------------------------------------------------


def _dropped(x: Tensor, bits: Tensor, p: float, layout: tuple) -> Tensor:
    noise = kernels.unpack(bits, x.numel()).to(x.dtype).as_strided(x.shape, layout)
    return x * noise.div_(1 - p)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, bits: Tensor, p: float, layout: tuple) -> Tensor:
        ctx.p, ctx.layout = p, layout
        kernels.keep(ctx, masks=bits)
        return _dropped(x, bits, p, layout)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (bits,) = ctx.saved_tensors
        return _dropped(grad, bits, ctx.p, ctx.layout), None, None, None


@instead_of(F.dropout, recipes=False)
def _dropout(scope: Scope, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False):
    if not training or inplace or not 0 < p < 1 or not input.requires_grad or input.device.type != "cpu":
        return NotImplemented
    noise = torch.empty_like(input).bernoulli_(1 - p)  # as torch draws it on a CPU
    noise = kernels.dense(noise)
    bits, layout = kernels.pack_mask(noise), noise.stride()
    del noise
    run = functools.partial(_Dropout.apply, input, bits, p, layout)
    return scope.replaced(_dropped, (input, bits, p, layout), {}, run)


class _MaxPool(torch.autograd.Function):
    """Keeps where in its window each maximum lies, in as many bits as the window needs: 2 for 2 x 2, 4 for 3 x 3."""

    @staticmethod
    def forward(ctx, x: Tensor, kernel, stride, padding, dilation, ceil_mode: bool) -> Tensor:
        options = kernel, stride, padding, dilation
        out, indices = torch.ops.aten.max_pool2d_with_indices(x, *options, ceil_mode)
        ctx.options, ctx.ceil_mode, ctx.shape = options, ceil_mode, tuple(x.shape)
        ctx.channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        ctx.out_shape = tuple(out.shape)
        rows, columns = _MaxPool.corners(ctx.options, ctx.out_shape, x.device)
        indices = indices.contiguous()
        row, column = indices // x.shape[-1] - rows, indices % x.shape[-1] - columns
        offset = row // dilation[0] * kernel[1] + column // dilation[1]
        planes = range((kernel[0] * kernel[1] - 1).bit_length())
        bits = [kernels.pack_mask((offset >> plane) & 1) for plane in planes]
        kernels.keep(ctx, masks=torch.cat(bits) if bits else indices.new_empty(0, dtype=torch.uint8))
        return out

    @staticmethod
    def corners(options, shape, device) -> tuple[Tensor, Tensor]:
        """The row and column at which each output's window begins."""
        _, stride, padding, _ = options
        rows, columns = (torch.arange(shape[d - 2], device=device) * stride[d] - padding[d] for d in (0, 1))
        return rows.unsqueeze(1), columns

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (bits,) = ctx.saved_tensors
        kernel, _, _, dilation = ctx.options
        count = grad.numel()
        offset = torch.zeros(count, dtype=torch.long, device=grad.device)
        for number, plane in enumerate(bits.split(-(-count // 8)) if bits.numel() else ()):  # none for windows of one
            offset |= kernels.unpack(plane, count).long() << number
        offset = offset.view(ctx.out_shape)
        rows, columns = _MaxPool.corners(ctx.options, ctx.out_shape, grad.device)
        row, column = offset // kernel[1] * dilation[0] + rows, offset % kernel[1] * dilation[1] + columns
        indices = row * ctx.shape[-1] + column
        layout = torch.channels_last if ctx.channels_last else torch.contiguous_format
        blank = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=layout)  # not read
        gradient = torch.ops.aten.max_pool2d_with_indices_backward(grad, blank, *ctx.options, ctx.ceil_mode, indices)
        return gradient, None, None, None, None, None


_pair = nn.modules.utils._pair


@instead_of(F.max_pool2d, torch.max_pool2d, recipes=False)
def _max_pool2d(
    scope: Scope, input, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
):
    if return_indices or not input.requires_grad or input.dim() not in (3, 4):
        return NotImplemented
    options = _pair(kernel_size), _pair(stride or kernel_size), _pair(padding), _pair(dilation)
    run = functools.partial(_MaxPool.apply, input, *options, ceil_mode)
    return scope.replaced(F.max_pool2d, (input, *options, ceil_mode), {}, run)


class _ByShape(torch.autograd.Function):
    """A linear function whose gradient depends on the shape of its input alone."""

    @staticmethod
    def forward(ctx, x: Tensor, function: Callable) -> Tensor:
        ctx.function, ctx.shape = function, tuple(x.shape)
        return _own(function(x))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        return kernels.by_shape(grad, ctx.function, ctx.shape), None


def _by_shape(func: Callable):
    def way(scope: Scope, *args, **kwargs):
        x = args[0] if args else None
        if x is None or not x.requires_grad:
            return NotImplemented
        function = functools.partial(_called, func, args[1:], kwargs)
        return scope.replaced(func, args, kwargs, functools.partial(_ByShape.apply, x, function))

    return way


for _function in (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d):
    instead_of(_function, recipes=False)(_by_shape(_function))


# --- convolutions and batch norms that are frozen --------------------------------------------------


class _FrozenConvolution(torch.autograd.Function):
    """Keeps the recipe of its weight, if that is computed, and nothing else."""

    @staticmethod
    def forward(ctx, kept: Kept, x: Tensor, func: Callable, weight: Tensor, bias: Tensor | None, options: tuple):
        out = func(x, weight, bias, **dict(options[0]))
        ctx.options, ctx.shape, ctx.dtype = options[1], tuple(x.shape), x.dtype
        ctx.channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
        kept.save(ctx)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (weight,) = ctx.kept.values(ctx)
        layout = torch.channels_last if ctx.channels_last else torch.contiguous_format
        blank = torch.empty(ctx.shape, dtype=grad.dtype, device=grad.device, memory_format=layout)  # not read
        gradient = torch.ops.aten.convolution_backward(
            grad, blank, weight.to(grad.dtype), None, *ctx.options, [True, False, False]
        )[0]
        return None, gradient.to(ctx.dtype), None, None, None, None


def _convolution(func: Callable, dimensions: int, transposed: bool):
    spread = getattr(nn.modules.utils, ("_single", "_pair", "_triple")[dimensions - 1])
    names = ("stride", "padding", *(("output_padding", "groups", "dilation") if transposed else ("dilation", "groups")))

    def way(scope: Scope, input: Tensor, weight: Tensor, bias: Tensor | None = None, *rest, **kwargs):
        given = {"stride": 1, "padding": 0, "output_padding": 0, "dilation": 1, "groups": 1}
        given |= dict(zip(names, rest)) | kwargs
        if given["padding"] == "valid":
            given["padding"] = 0
        if (
            not input.requires_grad
            or weight.requires_grad
            or bias is not None
            and bias.requires_grad
            or input.dim() != dimensions + 2
            or isinstance(given["padding"], str)
            or torch.is_autocast_enabled(input.device.type)
        ):
            return NotImplemented
        sizes = {name: spread(given[name]) for name in ("stride", "padding", "output_padding", "dilation")}
        called = {name: given["groups"] if name == "groups" else sizes[name] for name in names}
        options = sizes["stride"], sizes["padding"], sizes["dilation"], transposed, sizes["output_padding"]
        kept = scope.kept("recipes", weight, always=True)
        arguments = kept, input, func, weight, bias, (tuple(called.items()), (*options, given["groups"]))
        run = functools.partial(_FrozenConvolution.apply, *arguments)
        return scope.replaced(func, (input, weight, bias), called, run, 1)

    return way


for _dimensions in (1, 2, 3):
    for _kind in (False, True):
        _function = getattr(F, f"conv{'_transpose' * _kind}{_dimensions}d")
        instead_of(_function, recipes=False)(_convolution(_function, _dimensions, _kind))


@instead_of(F.batch_norm, torch.batch_norm, recipes=False)
def _batch_norm(
    scope: Scope,
    input,
    running_mean,
    running_var,
    weight=None,
    bias=None,
    training=False,
    momentum=0.1,
    eps=1e-5,
    *rest,
):
    affine = [tensor for tensor in (weight, bias) if tensor is not None]
    if rest or running_mean is None and not training:
        return NotImplemented
    if running_mean is None:  # statistics of the input itself, as in weight standardisation
        function = functools.partial(_normalized, eps)
        normalised = _again(scope, "layer_norm", function, (input, weight, bias), {})
        if normalised is NotImplemented:
            normalised = function(input, weight, bias)
            scope.note(function, (input, weight, bias), {}, normalised)
        return normalised
    frozen = not training and not any(tensor.requires_grad for tensor in affine)
    if not frozen or torch.is_autocast_enabled(input.device.type):
        return NotImplemented
    norm = SimpleNamespace(  # what kernels.Scale asks of a module
        _buffers={"running_mean": running_mean, "running_var": running_var},
        _parameters={"weight": weight, "bias": bias},
        eps=eps,
    )
    run = functools.partial(kernels.Scale.apply, input, norm)
    return scope.replaced(_scaled, (input, running_mean, running_var, weight, bias, eps), {}, run)


def _normalized(eps: float, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)


def _scaled(x, mean, var, weight, bias, eps) -> Tensor:
    norm = SimpleNamespace(
        _buffers={"running_mean": mean, "running_var": var}, _parameters={"weight": weight, "bias": bias}, eps=eps
    )
    return kernels.scaled(x, norm)


# --- products --------------------------------------------------------------------------------------


class _Multiply(torch.autograd.Function):
    """``a b``, number by number, of any shapes that fit; keeps a factor only if the other needs a gradient."""

    @staticmethod
    def forward(ctx, kept: Kept, a: Tensor, b: Tensor) -> Tensor:
        kept.save(ctx)
        ctx.shapes = a.shape, b.shape
        return torch.mul(a, b)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        a, b = ctx.kept.values(ctx)
        grad_a = (grad * b).sum_to_size(ctx.shapes[0]) if ctx.needs_input_grad[1] else None
        grad_b = (grad * a).sum_to_size(ctx.shapes[1]) if ctx.needs_input_grad[2] else None
        return None, grad_a, grad_b


@instead_of(torch.mul, Tensor.mul, torch.multiply, Tensor.multiply)
def _mul(scope: Scope, input, other):
    if not (isinstance(input, Tensor) and isinstance(other, Tensor)) or input.dtype != other.dtype:
        return NotImplemented
    if not (input.requires_grad or other.requires_grad) or input.is_complex():
        return NotImplemented
    needed = input if other.requires_grad else None, other if input.requires_grad else None
    kept = scope.kept("products", *needed)
    if kept is None:
        return NotImplemented
    return scope.replaced(torch.mul, (input, other), {}, functools.partial(_Multiply.apply, kept, input, other))


@instead_of(torch.div, Tensor.div, torch.true_divide, Tensor.true_divide)
def _div(scope: Scope, input, other, **kwargs):
    if not isinstance(other, Tensor) or kwargs:
        return NotImplemented
    return _again(scope, "products", torch.div, (input, other), {})


def _changed(change: Callable, func: Callable):
    """An in-place operation, whose result has the recipe of ``func``."""

    def way(scope: Scope, input: Tensor, other, **kwargs):
        fits = isinstance(other, (int, float)) or isinstance(other, Tensor) and other.dtype == input.dtype
        if kwargs or not fits or input._is_view():
            return NotImplemented
        return scope.replaced(func, (input, other), {}, functools.partial(change, input, other))

    return way


for _change, _function in (
    (Tensor.mul_, torch.mul),
    (Tensor.add_, torch.add),
    (Tensor.sub_, torch.sub),
    (Tensor.div_, torch.div),
):
    instead_of(_change)(_changed(_change, _function))


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kept: Kept, x: Tensor, approximate: str) -> Tensor:
        ctx.approximate = approximate
        kept.save(ctx)
        return F.gelu(x, approximate=approximate)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (x,) = ctx.kept.values(ctx)
        return None, torch.ops.aten.gelu_backward(grad, x, approximate=ctx.approximate), None


@instead_of(F.gelu)
def _gelu(scope: Scope, input: Tensor, approximate: str = "none"):
    kept = scope.kept("activations", input) if input.requires_grad else None
    if kept is None:
        return NotImplemented
    run = functools.partial(_Gelu.apply, kept, input, approximate)
    return scope.replaced(F.gelu, (input,), {"approximate": approximate}, run)


# --- transformers ----------------------------------------------------------------------------------


@instead_of(F.linear, recipes=False)
def _linear(scope: Scope, input: Tensor, weight: Tensor, bias: Tensor | None = None):
    layer = scope.layer_of(weight)
    own = None if layer is None else layer.bias_vector
    if layer is None or bias is not own and own is not None:
        return NotImplemented
    out = scope.project(input, layer)
    if bias is own:
        return out
    with scope:  # a bias that was put together from parts
        return out if bias is None else out + bias


def _norm(scope: Scope, func: Callable, function: Callable, args: tuple, operands: list[Tensor]):
    """A layer norm's or RMS norm's way: its input is where recipes of what comes later begin."""
    input = operands[0]
    if scope.begins(input) or not input.requires_grad:
        if any(operand.requires_grad for operand in operands):
            scope.hold(input)
        return NotImplemented
    kept = scope.kept("layer_norm", *operands, shared=True)
    if kept is None:
        return NotImplemented
    return scope.replaced(func, args, {}, lambda: _Again.apply(function, kept, None, *operands))


@instead_of(F.layer_norm)
def _layer_norm(scope: Scope, input, normalized_shape, weight=None, bias=None, eps=1e-5, *rest):
    if rest:
        return NotImplemented
    operands = [input] + [tensor for tensor in (weight, bias) if tensor is not None]
    function = functools.partial(_normed, normalized_shape, eps, weight is not None)
    return _norm(scope, F.layer_norm, function, (input, normalized_shape, weight, bias, eps), operands)


def _normed(shape, eps, weighted: bool, x: Tensor, *affine: Tensor) -> Tensor:
    weight = affine[0] if weighted else None
    bias = affine[-1] if len(affine) > weighted else None
    return F.layer_norm(x, shape, weight, bias, eps)


@instead_of(F.rms_norm)
def _rms_norm(scope: Scope, input, normalized_shape, weight=None, eps=None):
    operands = [input] if weight is None else [input, weight]
    function = functools.partial(_root_mean_square, normalized_shape, eps)
    return _norm(scope, F.rms_norm, function, (input, normalized_shape, weight, eps), operands)


def _root_mean_square(shape, eps, x: Tensor, weight: Tensor | None = None) -> Tensor:
    return F.rms_norm(x, shape, weight, eps)


class _Product(torch.autograd.Function):
    """``a @ b`` of at least two dimensions each; keeps a factor only if the other needs a gradient."""

    @staticmethod
    def forward(ctx, kept: Kept, a: Tensor, b: Tensor) -> Tensor:
        kept.save(ctx)
        ctx.shapes = a.shape, b.shape, a.dtype, b.dtype
        return _own(torch.matmul(a, b))

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        a, b = ctx.kept.values(ctx)
        shape_a, shape_b, dtype_a, dtype_b = ctx.shapes
        grad_a = grad_b = None
        if ctx.needs_input_grad[1]:
            grad_a = torch.matmul(grad, b.to(grad.dtype).transpose(-2, -1)).sum_to_size(shape_a).to(dtype_a)
        if ctx.needs_input_grad[2]:
            grad_b = torch.matmul(a.to(grad.dtype).transpose(-2, -1), grad).sum_to_size(shape_b).to(dtype_b)
        return None, grad_a, grad_b


@instead_of(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)
def _matmul(scope: Scope, input: Tensor, other: Tensor):
    if min(input.dim(), other.dim()) < 2 or not (input.requires_grad or other.requires_grad):
        return NotImplemented
    needed = input if other.requires_grad else None, other if input.requires_grad else None
    kept = scope.kept("attention", *needed, shared=True)
    if kept is None:
        return NotImplemented
    run = functools.partial(_Product.apply, kept, input, other)
    return scope.replaced(torch.matmul, (input, other), {}, run, 1)


class _Softmax(torch.autograd.Function):
    """Keeps the recipe of its own output, which the product behind it keeps as well."""

    @staticmethod
    def forward(ctx, scope: Scope, x: Tensor, dim: int) -> Tensor:
        out = torch.softmax(x, dim)
        ctx.dim, ctx.dtype = dim, x.dtype
        scope.note(torch.softmax, (x, dim), {}, out)
        kept = scope.kept("attention", out, always=True, shared=True)
        assert kept is not None  # as always=True
        kept.save(ctx)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (out,) = ctx.kept.values(ctx)
        return None, torch._softmax_backward_data(grad, out, ctx.dim, out.dtype).to(ctx.dtype), None


@instead_of(F.softmax)
def _softmax(scope: Scope, input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype=None):
    if not input.requires_grad or dim is None or dtype is not None:
        return NotImplemented
    return _Softmax.apply(scope, input, dim)


@instead_of(torch.softmax, Tensor.softmax)
def _softmax_of(scope: Scope, input: Tensor, dim: int, dtype=None):
    return _softmax(scope, input, dim, dtype=dtype)


def _attend(is_causal, scale, enable_gqa, query, key, value, mask=None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)


@instead_of(F.scaled_dot_product_attention)
def _attention(
    scope: Scope, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
):
    operands = [query, key, value] + ([] if attn_mask is None else [attn_mask])
    if dropout_p:  # never the same again: no recipe
        named = {"is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        return F.scaled_dot_product_attention(query, key, value, attn_mask, dropout_p, **named)
    if not any(operand.requires_grad for operand in operands):
        return NotImplemented
    kept = scope.kept("attention", *operands, always=True, shared=True)
    function = functools.partial(_attend, is_causal, scale, enable_gqa)
    named = {"attn_mask": attn_mask, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
    run = functools.partial(_Again.apply, function, kept, None, *operands)
    return scope.replaced(F.scaled_dot_product_attention, (query, key, value), named, run, 2)


@instead_of(F.multi_head_attention_forward, recipes=False)
def _multi_head(scope: Scope, *args, **kwargs):
    with scope:
        return inside(F.multi_head_attention_forward)(*args, **kwargs)
