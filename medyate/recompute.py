"""Keeps the recipe, not the tensor: what attention, GELU and layer norm need is computed again in the backward pass.

Between the layers that are trained, a transformer's gradient needs queries, keys and values, attention
probabilities, the input of each GELU and of each layer norm, although every weight there is frozen. Nearly
all of that follows from the layer norms' inputs. So while an attached model runs forward, a :class:`Scope`
watches each function that the model calls and notes, for what comes out, how it was made: a *recipe*. Where
an operation would save a tensor for its backward pass, it saves the tensors at the roots of the tensor's
recipe instead (the roots are saved in torch's usual way, so that torch's own checks, ``torch.utils.checkpoint``
and whoever counts memory see them), and the tensor is made again when its gradient is due. Whatever several
operations need is made once and dropped after the last of them.

A recipe is used only where it keeps no more bytes than the tensor itself. It ends at every tensor that was
changed in place since, at every function that is not known to give the same result again (dropout, for one),
and at the layer norms' inputs as :data:`RECOMPUTE` says. What is not known stays torch's own.
"""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from . import kernels

RECOMPUTE = {
    "none": "nothing is computed again: torch's own layer norm, attention and GELU keep what they keep",
    "layers": "each layer norm's input is kept; queries, keys, values, probabilities and GELU's input are made from it",
    "blocks": "as layers, and of each block's two layer norms only one keeps its input: attention runs again as a whole",
}

# How many products (linear layers, matrix products) in a row a recipe may repeat, and how many at most to make a
# layer norm's input, which is kept otherwise. A block's attention half is query, scores, mixture, projection: 4;
# the linear layer behind the next layer norm, which makes GELU's input, is the fifth, the one behind GELU the sixth.
_DEPTHS = {"none": (-1, -1), "layers": (2, -1), "blocks": (6, 4)}


# --- recipes -----------------------------------------------------------------------------------


class _Leaf:
    """The root of a recipe: a tensor that is kept. The tensor itself lies with whoever keeps it."""

    __slots__ = ()
    depth = 0

    def retain(self) -> None:
        pass

    def value(self, kept: Mapping[_Leaf, Tensor]) -> Tensor:
        return kept[self]


class _Constant:
    """A frozen parameter or a buffer, which is there anyway."""

    __slots__ = ("tensor", "state")
    depth = 0

    def __init__(self, tensor: Tensor):
        self.tensor, self.state = tensor, (tensor._version, tensor.data_ptr())

    def retain(self) -> None:
        pass

    def value(self, kept) -> Tensor:
        if (self.tensor._version, self.tensor.data_ptr()) != self.state:
            raise RuntimeError(
                f"a frozen tensor of shape {tuple(self.tensor.shape)} was changed between forward and backward"
            )
        return self.tensor.detach()


class _Step:
    """One function of a recipe. Its value lives from the first of its uses in a backward pass to the last."""

    __slots__ = ("children", "depth", "uses", "left", "cached")

    def __init__(self, children: Sequence, products: int):
        self.children = children
        self.depth = products + max((child.depth for child in children), default=0)
        self.uses = self.left = 0
        self.cached: Tensor | None = None

    def retain(self) -> None:
        """One more that will ask for the value, in each backward pass."""
        self.uses += 1
        self.left += 1
        if self.uses == 1:
            for child in self.children:
                child.retain()

    def value(self, kept: Mapping[_Leaf, Tensor]) -> Tensor:
        found = self.cached
        if found is None:
            found = self.made([child.value(kept) for child in self.children])
        self.left -= 1
        if self.left:
            self.cached = found
        else:
            self.cached, self.left = None, self.uses
        return found

    def made(self, inputs: list[Tensor]) -> Tensor:
        raise NotImplementedError


class _Call(_Step):
    """A function without state, called again under the autocast of the first time."""

    __slots__ = ("function", "args", "kwargs", "layout", "precision")

    def __init__(self, function, args, kwargs, children, out: Tensor, products: int):
        super().__init__(children, products)
        self.function, self.args, self.kwargs = function, args, kwargs
        self.layout, self.precision = out.stride(), _precision(out.device.type)

    def made(self, inputs: list[Tensor]) -> Tensor:
        with _again(self.precision):
            found = self.function(*_filled(self.args, inputs), **_filled(self.kwargs, inputs))
        if found.stride() != self.layout:  # views of it count on the layout
            found = torch.empty_strided(found.shape, self.layout, dtype=found.dtype, device=found.device).copy_(found)
        return found


class _Layer(_Step):
    """A counterpart of :mod:`medyate.subnet`, frozen or selected."""

    __slots__ = ("layer", "state", "dtype", "layout")

    def __init__(self, layer, child, out: Tensor):
        super().__init__([child], 1)
        self.layer, self.state = layer, layer.state()
        self.dtype, self.layout = out.dtype, out.stride()

    def made(self, inputs: list[Tensor]) -> Tensor:
        layer = self.layer
        if not hasattr(layer, "geometry") or layer.state() != self.state:
            raise RuntimeError(
                f"layer {getattr(layer, 'layer_name', layer)!r} was changed between forward and backward"
            )
        kind = inputs[0].device.type
        with torch.autocast(kind, enabled=False):
            found = layer.output(inputs[0].to(self.dtype))
        return found if found.stride() == self.layout else found.contiguous()


class _View(_Step):
    """A view of a recipe's tensor."""

    __slots__ = ("place",)

    def __init__(self, child, place: tuple):
        super().__init__([child], 0)
        self.place = place

    def made(self, inputs: list[Tensor]) -> Tensor:
        return inputs[0].as_strided(*self.place)


class _Slot:
    """The place of a child's value among a call's arguments."""

    __slots__ = ("index",)

    def __init__(self, index: int):
        self.index = index


def _filled(arguments, inputs: list[Tensor]):
    if isinstance(arguments, _Slot):
        return inputs[arguments.index]
    if type(arguments) in (tuple, list):
        return type(arguments)(_filled(argument, inputs) for argument in arguments)
    if type(arguments) is dict:
        return {key: _filled(argument, inputs) for key, argument in arguments.items()}
    return arguments


def _precision(kind: str) -> tuple | None:
    return (kind, torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None


def _again(precision: tuple | None):
    if precision is None:
        return nullcontext()
    return torch.autocast(precision[0], precision[1], cache_enabled=False)


# --- functions that keep recipes -------------------------------------------------------------------


class _Kept:
    """What one function keeps: for each operand that its backward pass needs, a recipe and its roots."""

    def __init__(self, sources: list, leaves: dict[_Leaf, Tensor], part: str):
        self.sources, self.leaves, self.part = sources, tuple(leaves), part  # the part is the operands' own
        self.tensors: tuple[Tensor, ...] | None = tuple(leaves.values())
        for source in sources:
            if source is not None:
                source.retain()

    def save(self, ctx) -> None:
        """For the forward pass: from here on autograd holds the tensors."""
        ctx.kept = self
        if kernels.saved_listener is not None:
            for leaf, tensor in zip(self.leaves, self.tensors):
                kernels.saved_listener(tensor, self.part if leaf in self.sources else "recipes")
        ctx.save_for_backward(*self.tensors)
        self.tensors = None

    def values(self, ctx) -> list[Tensor | None]:
        """For the backward pass: the operands again."""
        try:
            kept = dict(zip(self.leaves, ctx.saved_tensors))
        except RuntimeError as error:
            if "modified by an inplace operation" not in str(error):
                raise
            raise RuntimeError(
                f"{error} (a tensor that others are computed again from was changed in place; recompute='none' keeps "
                "them instead)"
            ) from error
        return [None if source is None else source.value(kept) for source in self.sources]


def _own(out: Tensor) -> Tensor:
    """Not a view: autograd refuses to change one in place that comes out of a function like those below."""
    return out.clone() if out._is_view() else out


class _Again(torch.autograd.Function):
    """Any function of tensors: its gradient by torch's own autograd, over the function run again."""

    @staticmethod
    def forward(ctx, function: Callable, kept: _Kept, *operands: Tensor) -> Tensor:
        out = _own(function(*operands))
        ctx.function, ctx.precision = function, _precision(out.device.type)
        kept.save(ctx)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        needed = ctx.needs_input_grad[2:]
        values = [value.detach() for value in ctx.kept.values(ctx)]
        with torch.enable_grad():
            inputs = [value.requires_grad_() if need else value for value, need in zip(values, needed)]
            with _again(ctx.precision):
                out = ctx.function(*inputs)
            found = iter(torch.autograd.grad(out, [x for x, need in zip(inputs, needed) if need], grad))
        return None, None, *(next(found) if need else None for need in needed)


class _Gelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx, kept: _Kept, x: Tensor, approximate: str) -> Tensor:
        ctx.approximate = approximate
        kept.save(ctx)
        return F.gelu(x, approximate=approximate)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (x,) = ctx.kept.values(ctx)
        return None, torch.ops.aten.gelu_backward(grad, x, approximate=ctx.approximate), None


class _Product(torch.autograd.Function):
    """``a @ b`` of at least two dimensions each; keeps a factor only if the other needs a gradient."""

    @staticmethod
    def forward(ctx, kept: _Kept, a: Tensor, b: Tensor) -> Tensor:
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


class _Softmax(torch.autograd.Function):
    """Keeps the recipe of its own output, which the product behind it keeps as well."""

    @staticmethod
    def forward(ctx, scope: Scope, x: Tensor, dim: int) -> Tensor:
        out = torch.softmax(x, dim)
        ctx.dim, ctx.dtype = dim, x.dtype
        scope.note(torch.softmax, (x, dim), {}, out)
        scope.kept("attention", out, always=True).save(ctx)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (out,) = ctx.kept.values(ctx)
        return None, torch._softmax_backward_data(grad, out, ctx.dim, out.dtype).to(ctx.dtype), None


# --- the scope -----------------------------------------------------------------------------------


class _Tag:
    """The recipe of the tensor that fills a storage, with the roots that must be kept for it."""

    __slots__ = ("storage", "source", "leaves", "version", "place", "dtype")


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _claimed() -> bool:
    """Whether someone else decides what becomes of saved tensors: ``torch.utils.checkpoint``, which must find
    the same ones when it runs a region again, wherever it begins. Who only counts does not."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and not getattr(getattr(hooks[0], "__self__", None), "only_counts", False)


_PRODUCTS: dict[Callable, int] = {}  # functions that may stand in a recipe -> products that they are


def _know(products: int, *functions) -> None:
    _PRODUCTS.update(dict.fromkeys(functions, products))


_know(1, F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm)
_know(2, F.scaled_dot_product_attention)
_know(0, F.layer_norm, torch.layer_norm, F.gelu, F.softmax, F.pad, F.normalize, F.relu, F.silu, F.rms_norm, Tensor.__getitem__)
for _name in """
    add sub mul div neg rsub true_divide softmax relu tanh sigmoid exp rsqrt sqrt pow square abs mean clamp ne eq lt
    gt le ge logical_not roll reshape flatten contiguous clone cat stack concat where masked_fill repeat_interleave
    repeat index_select to float double half bfloat16 type_as unflatten silu tril triu
    """.split():
    for _space in (torch, Tensor):
        if hasattr(_space, _name):
            _know(0, getattr(_space, _name))
for _name in "radd rsub rmul rtruediv rdiv rpow pow eq and or xor invert".split():
    _know(0, getattr(Tensor, f"__{_name}__"))

@functools.cache
def _inside(function: Callable) -> Callable:
    """A function of torch that is written in Python, so that a mode sees the functions that it calls.

    A mode is told of such a function as a whole. The same code, under the impression that nobody listens,
    runs on to the functions within, of which the mode is told.
    """
    names = dict(function.__globals__, has_torch_function=lambda _tensors: False)
    copied = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied


class Scope(TorchFunctionMode):
    """Watches one forward pass of an attached model; :class:`Scoped` opens and closes it.

    ``layers`` maps the id of a counterpart's whole weight to the counterpart, so that a weight that is used
    through ``F.linear`` runs as the layer. ``constants`` are the storages of parameters and buffers.
    """

    def __init__(self, recompute: str, layers: Mapping[int, nn.Module], constants: set[int]):
        super().__init__()
        self.depth, self.norm_depth = _DEPTHS[recompute]
        self.layers, self.constants = layers, constants
        self.assembled: dict[int, tuple] = {}  # id of an assembled weight -> (its weak reference, its layer)
        self.tags: dict[int, _Tag] = {}
        self.held: dict[int, weakref.ref] = {}

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        special = _SPECIAL.get(func)
        if special is None and func not in _PRODUCTS or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if special is not None and "out" not in kwargs and (self.watches() or special in _ALWAYS and not _claimed()):
            out = special(self, *args, **kwargs)
            if out is not NotImplemented:
                return out
        out = func(*args, **kwargs)
        self.record(func, args, kwargs, out)
        return out

    def watches(self) -> bool:
        """Whether recipes are made and used now."""
        return self.depth >= 0 and torch.is_grad_enabled() and not _claimed()

    def close(self) -> None:
        """Forget all: what comes out of the model must not keep the roots of its recipe."""
        self.tags.clear()
        self.held.clear()
        self.assembled.clear()

    # recipes

    def record(self, func, args, kwargs, out) -> None:
        """Note how ``out`` was made, where it is a new tensor in a storage of its own."""
        if "out" not in kwargs and func in _PRODUCTS and self.watches():
            self.note(func, args, kwargs, out)

    def note(self, func, args, kwargs, out) -> None:
        """:meth:`record`, whether or not gradients are recorded."""
        if (
            type(out) is not Tensor or out.layout is not torch.strided or out.is_nested
            or torch._C._functorch.is_functorch_wrapped_tensor(out) or not self._fills(out)
        ):  # fmt: skip
            return
        children, leaves = [], {}
        try:
            places = self._places(args, children, leaves), self._places(kwargs, children, leaves)
        except TypeError:  # an argument that may be anything
            return
        self.tag(out, _Call(func, *places, children, out, _PRODUCTS[func]), leaves)

    def _fills(self, out: Tensor) -> bool:
        """Whether the storage holds this tensor and no more, and is new: not a view's, nor a parameter's."""
        storage = out.untyped_storage()
        known = self.tags.get(storage._cdata)
        return (
            storage.nbytes() == out.numel() * out.element_size() > 0
            and storage._cdata not in self.constants
            and (known is None or known.version != out._version)
        )  # fmt: skip

    def _places(self, value, children: list, leaves: dict):
        if isinstance(value, Tensor):
            children.append(self.source(value, leaves))
            return _Slot(len(children) - 1)
        if type(value) in (tuple, list):
            return type(value)(self._places(one, children, leaves) for one in value)
        if type(value) is dict:
            return {key: self._places(one, children, leaves) for key, one in value.items()}
        if isinstance(value, (int, float, bool, str, slice, torch.dtype, torch.Size, torch.device, torch.memory_format, type(None), type(...))):
            return value
        raise TypeError

    def source(self, tensor: Tensor, leaves: dict[_Leaf, Tensor]):
        """A tensor's recipe, whose roots are added to ``leaves``; the tensor itself as a root if there is none."""
        key = _storage(tensor)
        if key in self.constants and not tensor.requires_grad:
            return _Constant(tensor)
        found = None if key in self.held else self.recipe(tensor, key)
        if found is None:
            leaf = _Leaf()
            leaves[leaf] = tensor
            return leaf
        source, roots = found
        leaves.update(roots)
        return source

    def recipe(self, tensor: Tensor, key: int):
        """(recipe, its roots), or None."""
        tag = self.tags.get(key)
        if (
            tag is None or tag.version != tensor._version or tag.dtype != tensor.dtype
            or any(version != root._version for root, version in tag.leaves.values())
        ):  # fmt: skip
            return None
        place = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        source = tag.source if place == tag.place else _View(tag.source, place)
        return source, {leaf: root for leaf, (root, _) in tag.leaves.items()}

    def tag(self, out: Tensor, source, leaves: Mapping[_Leaf, Tensor]) -> None:
        if source.depth > self.depth:
            return
        storage = out.untyped_storage()
        key = storage._cdata
        if any(_storage(root) == key for root in leaves.values()):  # a view of a root
            return
        tag = self.tags[key] = _Tag()
        tag.storage = weakref.ref(storage, functools.partial(self.tags.pop, key))
        tag.source = source
        tag.leaves = {leaf: (root, root._version) for leaf, root in leaves.items()}
        tag.version, tag.dtype = out._version, out.dtype
        tag.place = (tuple(out.shape), out.stride(), out.storage_offset())

    def hold(self, tensor: Tensor) -> None:
        """Note that the tensor's storage is kept for the backward pass."""
        storage = tensor.untyped_storage()
        self.held[storage._cdata] = weakref.ref(storage, functools.partial(self.held.pop, storage._cdata))

    def _price(self, roots: Sequence[Tensor]) -> int:
        """Bytes that keeping these takes beyond what is kept already."""
        found = {}
        for root in roots:
            key = _storage(root)
            if key not in self.held and key not in self.constants:
                found[key] = root.untyped_storage().nbytes()
        return sum(found.values())

    def kept(self, part: str, *operands: Tensor | None, always: bool = False) -> _Kept | None:
        """How to keep what a function needs; None if no recipe is worth it and torch may as well do it.

        The operands are weighed one after the other. ``always`` asks for an answer in any case.
        """
        sources, leaves, some = [], {}, always
        for operand in operands:
            if operand is None:
                sources.append(None)
                continue
            key = _storage(operand)
            if key in self.constants and not operand.requires_grad:
                sources.append(_Constant(operand))
                continue
            found = None if key in self.held else self.recipe(operand, key)
            if found is not None and self._price(found[1].values()) <= operand.untyped_storage().nbytes():
                some = True
                sources.append(found[0])
                leaves.update(found[1])
                for root in found[1].values():
                    self.hold(root)  # free for the operands that follow
            else:
                leaf = _Leaf()
                sources.append(leaf)
                leaves[leaf] = operand
        for root in leaves.values():
            self.hold(root)
        return _Kept(sources, leaves, part) if some else None

    # functions

    def assemble(self, layer) -> Tensor:
        """A selected layer's whole weight, for whoever uses it through a function."""
        with torch._C.DisableTorchFunction():
            weight = layer._assemble()
        self.assembled[id(weight)] = weakref.ref(weight, functools.partial(self.assembled.pop, id(weight))), layer
        return weight

    def project(self, x: Tensor, layer) -> Tensor:
        """A counterpart's linear layer."""
        with torch._C.DisableTorchFunction():
            out = layer.run(x)
            if self.watches() and self._fills(out):
                leaves: dict[_Leaf, Tensor] = {}
                self.tag(out, _Layer(layer, self.source(x, leaves), out), leaves)
                if layer.channels is not None and len(layer.channels) == x.shape[-1]:
                    self.hold(x)
        return out

    def linear(self, input: Tensor, weight: Tensor, bias: Tensor | None = None):
        layer = self.layers.get(id(weight))
        if layer is None:
            reference, layer = self.assembled.get(id(weight), (None, None))
            if layer is None or reference() is not weight:
                return NotImplemented
        if bias is not layer._parameters["bias"]:
            return NotImplemented
        return self.project(input, layer)

    def layer_norm(self, input, normalized_shape, weight=None, bias=None, eps=1e-5, *rest):
        if rest:
            return NotImplemented
        key = _storage(input)
        found = self.recipe(input, key)
        if (
            found is None or found[0].depth > self.norm_depth
            or self._price(found[1].values()) > input.untyped_storage().nbytes()
        ):  # fmt: skip
            self.tags.pop(key, None)  # recipes of what comes later begin here
            found = None
        operands = [input] + [tensor for tensor in (weight, bias) if tensor is not None]
        if found is None or not input.requires_grad:
            if any(operand.requires_grad for operand in operands):
                self.hold(input)
            return NotImplemented
        kept = self.kept("layer_norm", *operands)
        if kept is None:
            return NotImplemented
        function = functools.partial(_layer_norm, normalized_shape, eps, weight is not None)
        out = _Again.apply(function, kept, *operands)
        self.record(F.layer_norm, (input, normalized_shape, weight, bias, eps), {}, out)
        return out

    def gelu(self, input: Tensor, approximate: str = "none"):
        kept = self.kept("activations", input) if input.requires_grad else None
        if kept is None:
            return NotImplemented
        out = _Gelu.apply(kept, input, approximate)
        self.record(F.gelu, (input,), {"approximate": approximate}, out)
        return out

    def relu(self, input: Tensor, inplace: bool = False):
        if not input.requires_grad or inplace:
            return NotImplemented
        out = kernels.Rectify.apply(input, None, False)
        self.record(F.relu, (input,), {}, out)
        return out

    def matmul(self, input: Tensor, other: Tensor):
        if min(input.dim(), other.dim()) < 2 or not (input.requires_grad or other.requires_grad):
            return NotImplemented
        kept = self.kept("attention", input if other.requires_grad else None, other if input.requires_grad else None)
        if kept is None:
            return NotImplemented
        out = _Product.apply(kept, input, other)
        self.record(torch.matmul, (input, other), {}, out)
        return out

    def bmm(self, input: Tensor, mat2: Tensor):
        return self.matmul(input, mat2)

    def softmax(self, input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype=None):
        if not input.requires_grad or dim is None or dtype is not None:
            return NotImplemented
        return _Softmax.apply(self, input, dim)

    def softmax_of(self, input: Tensor, dim: int, dtype=None):
        return self.softmax(input, dim, dtype=dtype)

    def attention(
        self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False
    ):
        operands = [query, key, value] + ([] if attn_mask is None else [attn_mask])
        if dropout_p or not any(operand.requires_grad for operand in operands):
            return NotImplemented
        kept = self.kept("attention", *operands, always=True)
        function = functools.partial(_attention, is_causal, scale, enable_gqa)
        out = _Again.apply(function, kept, *operands)
        named = {"attn_mask": attn_mask, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
        self.record(F.scaled_dot_product_attention, (query, key, value), named, out)
        return out

    def multi_head(self, *args, **kwargs):
        with self:
            return _inside(F.multi_head_attention_forward)(*args, **kwargs)


def _layer_norm(shape, eps, weighted: bool, x: Tensor, *affine: Tensor) -> Tensor:
    weight = affine[0] if weighted else None
    bias = affine[-1] if len(affine) > weighted else None
    return F.layer_norm(x, shape, weight, bias, eps)


def _attention(is_causal, scale, enable_gqa, query, key, value, mask=None) -> Tensor:
    return F.scaled_dot_product_attention(query, key, value, mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa)


_SPECIAL = {
    F.linear: Scope.linear,
    F.layer_norm: Scope.layer_norm,
    F.gelu: Scope.gelu,
    F.relu: Scope.relu,
    torch.relu: Scope.relu,
    Tensor.relu: Scope.relu,
    F.softmax: Scope.softmax,
    torch.softmax: Scope.softmax_of,
    Tensor.softmax: Scope.softmax_of,
    torch.matmul: Scope.matmul,
    Tensor.matmul: Scope.matmul,
    torch.bmm: Scope.bmm,
    Tensor.bmm: Scope.bmm,
    F.scaled_dot_product_attention: Scope.attention,
    F.multi_head_attention_forward: Scope.multi_head,
}
_ALWAYS = (Scope.linear, Scope.multi_head)  # also where nothing is computed again


# --- where a scope begins and ends -----------------------------------------------------------------

_state = threading.local()


def current() -> Scope | None:
    """The scope of the forward pass that this thread runs, if any."""
    return getattr(_state, "scope", None)


class Scoped:
    """A module's ``forward`` that opens a scope if none is open, and closes it whatever happens.

    Every module of an attached model has one, not the model alone, for it may be called by itself.
    ``owner.scope()`` makes the scope.
    """

    def __init__(self, module: nn.Module, owner):
        self.module, self.owner = module, owner
        self.former = module.__dict__.get("forward")

    @property
    def __wrapped__(self):  # inspect.signature asks for it
        return self.former or types.MethodType(type(self.module).forward, self.module)

    def __call__(self, *args, **kwargs):
        if not torch.is_grad_enabled() or current() is not None:
            return self.__wrapped__(*args, **kwargs)
        _state.scope = scope = self.owner.scope()
        try:
            with scope:
                return self.__wrapped__(*args, **kwargs)
        finally:
            _state.scope = None
            scope.close()

    def enter(self) -> None:
        self.module.__dict__["forward"] = self

    def leave(self) -> None:
        if self.former is None:
            del self.module.__dict__["forward"]
        else:
            self.module.__dict__["forward"] = self.former
