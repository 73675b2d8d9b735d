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
and at the layer norms' inputs as :data:`medyate.execution.modes.RECOMPUTE` says. What is not known stays torch's own.
"""

from __future__ import annotations

import functools
import threading
import types
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from . import kernels

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
        value = self.cached
        if value is None:
            value = self.made([child.value(kept) for child in self.children])
        self.left -= 1
        if self.left:
            self.cached = value
        else:
            self.cached, self.left = None, self.uses
        return value

    def made(self, inputs: list[Tensor]) -> Tensor:
        raise NotImplementedError


class _Call(_Step):
    """A function without state, called again under the autocast of the first time."""

    __slots__ = ("function", "args", "kwargs", "layout", "precision")

    def __init__(self, function, args, kwargs, children, products: int):
        super().__init__(children, products)
        self.function, self.args, self.kwargs = function, args, kwargs

    def describe(self, out: Tensor) -> None:
        """What came out of the call."""
        self.layout, self.precision = out.stride(), precision_of(out.device.type)

    def made(self, inputs: list[Tensor]) -> Tensor:
        with again_under(self.precision):
            output = self.function(*filled(self.args, inputs), **filled(self.kwargs, inputs))
        if output.stride() != self.layout:  # views of it count on the layout
            output = torch.empty_strided(output.shape, self.layout, dtype=output.dtype, device=output.device).copy_(
                output
            )
        return output


class _Layer(_Step):
    """A counterpart of :mod:`medyate.execution.attach`, frozen or selected."""

    __slots__ = ("layer", "state", "folds", "dtype", "layout")

    def __init__(self, layer, children):
        super().__init__(children, 1)
        self.layer, self.state, self.folds = layer, layer.state(), layer.folds()

    def describe(self, out: Tensor) -> None:
        self.dtype, self.layout = out.dtype, out.stride()

    def made(self, inputs: list[Tensor]) -> Tensor:
        layer = self.layer
        if not hasattr(layer, "geometry") or layer.state() != self.state:
            raise RuntimeError(
                f"layer {getattr(layer, 'layer_name', layer)!r} was changed between forward and backward"
            )
        kind = inputs[0].device.type
        with torch.autocast(kind, enabled=False):
            output = layer.output(layer.padded(inputs[0].to(self.dtype)), self.folds)
        return output if output.stride() == self.layout else output.contiguous()


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


_PLAIN = (
    int,
    float,
    bool,
    str,
    slice,
    torch.dtype,
    torch.Size,
    torch.device,
    torch.memory_format,
    type(None),
    type(...),
)


def slots(arguments, tensors: list[Tensor]):
    """Arguments with each tensor replaced by its place in ``tensors``, to which it is added.

    Raises TypeError for an argument that may be anything."""
    if isinstance(arguments, Tensor):
        tensors.append(arguments)
        return _Slot(len(tensors) - 1)
    if type(arguments) in (tuple, list):
        return type(arguments)(slots(one, tensors) for one in arguments)
    if type(arguments) is dict:
        return {key: slots(one, tensors) for key, one in arguments.items()}
    if isinstance(arguments, _PLAIN):
        return arguments
    raise TypeError


def filled(arguments, inputs: Sequence[Tensor]):
    """The arguments again, with these tensors in the places of :func:`slots`."""
    if isinstance(arguments, _Slot):
        return inputs[arguments.index]
    if type(arguments) in (tuple, list):
        return type(arguments)(filled(argument, inputs) for argument in arguments)
    if type(arguments) is dict:
        return {key: filled(argument, inputs) for key, argument in arguments.items()}
    return arguments


def precision_of(kind: str) -> tuple | None:
    return (kind, torch.get_autocast_dtype(kind)) if torch.is_autocast_enabled(kind) else None


def again_under(precision: tuple | None):
    if precision is None:
        return nullcontext()
    return torch.autocast(precision[0], precision[1], cache_enabled=False)


# --- what a function keeps -------------------------------------------------------------------------


class Kept:
    """What one function keeps: for each operand that its backward pass needs, a recipe and its roots."""

    def __init__(self, sources: list, leaves: dict[_Leaf, Tensor], part: str):
        self.sources, self.leaves, self.part = sources, tuple(leaves), part  # the part is the operands' own
        self.tensors: tuple[Tensor, ...] | None = tuple(leaves.values())
        for source in sources:
            if source is not None:
                source.retain()

    @property
    def held(self) -> tuple[Tensor, ...]:
        """The roots' tensors, until :meth:`save`."""
        assert self.tensors is not None
        return self.tensors

    def save(self, ctx) -> None:
        """For the forward pass: from here on autograd holds the tensors."""
        ctx.kept = self
        listener = kernels.saved_listener.get()
        if listener is not None:
            for leaf, tensor in zip(self.leaves, self.held):
                listener(tensor, self.part if leaf in self.sources else "recipes")
        ctx.save_for_backward(*self.held)
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


# --- the scope -----------------------------------------------------------------------------------


class _Tag:
    """The recipes of the tensor that fills a storage, each with the roots that must be kept for it.

    There are several, since it shows only later which roots are kept anyway and how many products are repeated.
    """

    __slots__ = ("storage", "choices", "version", "place", "dtype")
    storage: weakref.ref
    choices: list
    version: int
    place: tuple
    dtype: torch.dtype


_Choice = tuple  # (recipe, its roots: what is kept for it)


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _bytes(tensor: Tensor) -> int:
    """What keeping the tensor keeps: its whole storage."""
    return tensor.untyped_storage().nbytes()


def _claimed() -> bool:
    """Whether ``torch.utils.checkpoint`` decides what becomes of saved tensors: when it runs a region again, wherever
    that begins, it must find as many as the first time. Who else hooks them, to count them or to move them to another
    place, gets a recipe's roots."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is not None and getattr(hooks[0], "__module__", None) == torch.utils.checkpoint.__name__


_PRODUCTS: dict[Callable, int] = {}  # functions that may stand in a recipe -> products that they are
_SPECIAL: dict[Callable, Callable] = {}  # functions that run another way here -> that way, see :func:`instead_of`
_WITHOUT_RECIPES: set[Callable] = set()  # those ways that make sense where nothing is computed again, too


def _know(products: int, *functions) -> None:
    _PRODUCTS.update(dict.fromkeys(functions, products))


_know(
    1,
    *(F.linear, torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.bmm, Tensor.bmm, torch.einsum),
    *(F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d),
)
_know(2, F.scaled_dot_product_attention)
for _name in """
    layer_norm group_norm rms_norm normalize local_response_norm pad interpolate pixel_shuffle pixel_unshuffle unfold
    fold relu relu6 leaky_relu prelu hardtanh hardsigmoid hardswish silu gelu mish elu celu selu softplus softsign
    softmax glu max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
    adaptive_avg_pool2d
    adaptive_avg_pool3d
    """.split():
    _know(0, getattr(F, _name))
_know(0, torch.layer_norm, torch.group_norm, Tensor.__getitem__)
for _name in """
    add sub mul div neg rsub true_divide softmax relu tanh sigmoid exp log rsqrt sqrt pow square abs mean sum clamp
    clamp_min clamp_max ne eq lt gt le ge logical_not roll flip reshape flatten contiguous clone cat stack concat where
    masked_fill repeat_interleave repeat index_select to float double half bfloat16 type_as unflatten silu tril triu
    amax var std cumsum
    """.split():
    for _space in (torch, Tensor):
        if hasattr(_space, _name):
            _know(0, getattr(_space, _name))
for _name in "radd rsub rmul rtruediv rdiv rpow pow eq and or xor invert".split():
    _know(0, getattr(Tensor, f"__{_name}__"))
# Outputs of less than this share of their input are kept themselves: too little to compute it again.
_SMALL = 1 / 8
_CHOICES = 3  # recipes that are noted for one tensor at most


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
        self.operation = ""  # the function that runs another way now, for whoever counts

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        special = _SPECIAL.get(func)
        if special is None and func not in _PRODUCTS or not torch.is_grad_enabled():
            return func(*args, **kwargs)
        if special is not None and "out" not in kwargs and not _claimed():
            if self.depth >= 0 or special in _WITHOUT_RECIPES:
                former, self.operation = self.operation, func.__name__
                out = special(self, *args, **kwargs)
                self.operation = former
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
            self.note(func, args, kwargs, out, _PRODUCTS[func])

    def note(self, func, args, kwargs, out, products: int = 0) -> None:
        """:meth:`record` of any function that gives the same again, whether or not gradients are recorded."""
        if (
            type(out) is not Tensor
            or out.layout is not torch.strided
            or out.is_nested
            or torch._C._functorch.is_functorch_wrapped_tensor(out)
            or not self._fills(out)
        ):
            return
        self.tag(out, self.calls(func, args, kwargs, products))

    def calls(self, func, args, kwargs, products: int = 0) -> list[_Choice]:
        """The recipes that a call's output has, from what is known of its arguments now; none if it can have none."""

        operands: list[Tensor] = []
        try:
            places = slots(args, operands), slots(kwargs, operands)
        except TypeError:  # an argument that may be anything
            return []
        return self._choices(lambda children: _Call(func, *places, children, products), operands, products)

    def _choices(self, make: Callable[[list], _Step], operands: list[Tensor], products: int) -> list[_Choice]:
        """Recipes of one step over recipes of its operands, from the one that repeats most products to the least."""
        choices: list[_Choice] = []
        room = self.depth - products
        while room >= 0 and len(choices) < _CHOICES:
            children, leaves = self.sources(operands, room)
            source = make(children)
            choices.append((source, leaves))
            room = source.depth - products - 1
        return choices

    def _fills(self, out: Tensor) -> bool:
        """Whether the storage holds this tensor and no more, and is new: not a view's, nor a parameter's."""
        storage = out.untyped_storage()
        known = self.tags.get(storage._cdata)
        return (
            storage.nbytes() == out.numel() * out.element_size() > 0
            and storage._cdata not in self.constants
            and (known is None or known.version != out._version)
        )

    def sources(self, operands: Sequence[Tensor], room: int) -> tuple[list, dict[_Leaf, Tensor]]:
        """Each operand's cheapest recipe of at most ``room`` products, and all their roots.

        An operand is its own root if it has no recipe, or if keeping it takes no more bytes than its recipe's roots;
        unless the other operands' roots are all that it takes."""
        known: list = [None] * len(operands)
        leaves: dict[_Leaf, Tensor] = {}
        open_places = []
        for place, tensor in enumerate(operands):
            key = _storage(tensor)
            if key in self.constants and not tensor.requires_grad:
                known[place] = _Constant(tensor)
                continue
            source, roots, price = self.cheapest(tensor, room, leaves.values())
            if source is not None and price < _bytes(tensor):
                known[place] = source
                leaves.update(roots)
            else:
                open_places.append(place)
        for place in open_places:
            others = [operands[other] for other in open_places if other != place and known[other] is None]
            others += [root for leaf, root in leaves.items()]
            source, roots, price = self.cheapest(operands[place], room, others)
            if source is None or price or len(open_places) == 1:
                source = _Leaf()
                roots = {source: operands[place]}
            known[place] = source
            leaves.update(roots)
        return known, leaves

    def cheapest(self, tensor: Tensor, room: int, others: Iterable[Tensor] = ()):
        """(recipe, its roots, bytes that keeping these takes), the recipe None where there is none that holds.

        A tensor that is held already has none: it is its own."""
        key = _storage(tensor)
        tag = None if key in self.held else self.tags.get(key)
        if tag is None or tag.version != tensor._version or tag.dtype != tensor.dtype:
            return None, {}, 0
        best, least, roots = None, 0, {}
        for source, leaves in tag.choices:  # of equal ones the last, which repeats least
            if source.depth <= room and all(version == root._version for root, version in leaves.values()):
                kept = {leaf: root for leaf, (root, _) in leaves.items()}
                price = self._price(kept.values(), others)
                if best is None or price <= least:
                    best, least, roots = source, price, kept
        if best is None:
            return None, {}, 0
        place = (tuple(tensor.shape), tensor.stride(), tensor.storage_offset())
        return best if place == tag.place else _View(best, place), roots, least

    def tag(self, out: Tensor, choices: Sequence[_Choice]) -> None:
        """Note the recipes of ``out``, but those that have a view of it as a root, or far larger roots."""
        storage = out.untyped_storage()
        key, limit = storage._cdata, _bytes(out) / _SMALL
        usable = [
            (source, {leaf: (root, root._version) for leaf, root in leaves.items()})
            for source, leaves in choices
            if not any(_storage(root) == key or _bytes(root) >= limit for root in leaves.values())
        ]
        if not usable:
            return
        tag = self.tags[key] = _Tag()
        tag.storage = weakref.ref(storage, functools.partial(self.tags.pop, key))
        tag.choices = usable
        for source, _ in usable:
            source.describe(out)
        tag.version, tag.dtype = out._version, out.dtype
        tag.place = (tuple(out.shape), out.stride(), out.storage_offset())

    def hold(self, tensor: Tensor) -> None:
        """Note that the tensor's storage is kept for the backward pass."""
        storage = tensor.untyped_storage()
        self.held[storage._cdata] = weakref.ref(storage, functools.partial(self.held.pop, storage._cdata))

    def _price(self, roots: Iterable[Tensor], others: Iterable[Tensor] = ()) -> int:
        """Bytes that keeping these takes beyond what is kept already, or with ``others`` anyway."""
        there = {_storage(other) for other in others}
        bytes_of = {}
        for root in roots:
            key = _storage(root)
            if key not in self.held and key not in self.constants and key not in there:
                bytes_of[key] = _bytes(root)
        return sum(bytes_of.values())

    def kept(self, part: str, *operands: Tensor | None, always: bool = False, shared: bool = False) -> Kept | None:
        """How to keep what a function needs; None if no recipe is worth it and torch may as well do it.

        The operands are weighed one after the other. ``always`` asks for an answer in any case; ``shared`` says that
        others will be made from the same roots, so that roots are worth it that take as much as the operand itself.
        """
        sources: list = []
        leaves: dict[_Leaf, Tensor] = {}
        some = always
        for operand in operands:
            if operand is None:
                sources.append(None)
                continue
            key = _storage(operand)
            if key in self.constants and not operand.requires_grad:
                sources.append(_Constant(operand))
                continue
            source, roots, price = self.cheapest(operand, self.depth)
            if source is not None and (price < _bytes(operand) or shared and price == _bytes(operand)):
                some = True
                sources.append(source)
                leaves.update(roots)
                for root in roots.values():
                    self.hold(root)  # free for the operands that follow
            else:
                leaf = _Leaf()
                sources.append(leaf)
                leaves[leaf] = operand
        for root in leaves.values():
            self.hold(root)
        return Kept(sources, leaves, part) if some else None

    def replaced(self, func, args, kwargs, run: Callable[[], Tensor], products: int = 0):
        """The output of ``run``, which stands for a call of ``func`` that may change its first argument in place."""
        # from what is known before the change
        choices = self.calls(func, args, kwargs, products) if self.watches() else []
        out = run()
        if choices and self._fills(out):
            self.tag(out, choices)
        return out

    def begins(self, input: Tensor) -> bool:
        """Whether a norm's input is kept, and recipes of what comes later begin here."""
        source, _, price = self.cheapest(input, self.depth)
        if source is None or source.depth > self.norm_depth or price > _bytes(input):
            self.tags.pop(_storage(input), None)
            return True
        return False

    # counterparts of medyate.execution.attach

    def assemble(self, layer) -> Tensor:
        """A selected layer's whole weight, for whoever uses it through a function."""
        with torch._C.DisableTorchFunction():
            weight = layer.differentiable()
        self.assembled[id(weight)] = weakref.ref(weight, functools.partial(self.assembled.pop, id(weight))), layer
        return weight

    def project(self, x: Tensor, layer) -> Tensor:
        """A counterpart's convolution or linear layer."""
        with torch._C.DisableTorchFunction():
            out = layer.run(x)
            if self.watches() and self._fills(out):
                self.tag(out, self._choices(lambda children: _Layer(layer, children), [x], 1))
                if layer.channels is not None and len(layer.channels) == x.shape[-1 if layer.geometry.linear else 1]:
                    self.hold(x)
        return out

    def layer_of(self, weight: Tensor):
        """The counterpart whose weight this is, if it is one's."""
        layer = self.layers.get(id(weight))
        if layer is None:
            reference, layer = self.assembled.get(id(weight), (None, None))
            if layer is None or reference() is not weight:
                return None
        return None if layer.inputs_first else layer  # a linear product with this weight is another one


def instead_of(*functions: Callable, recipes: bool = True):
    """Runs the decorated function of a scope and the call's arguments instead of these functions of torch.

    It may return NotImplemented, and torch's own runs. ``recipes=False``: also where nothing is computed again.
    """

    def register(way):
        _SPECIAL.update(dict.fromkeys(functions, way))
        if not recipes:
            _WITHOUT_RECIPES.add(way)
        return way

    return register


# --- where a scope begins and ends -----------------------------------------------------------------

_state = threading.local()


def current() -> Scope | None:
    """The scope of the forward pass that this thread runs, if any."""
    return getattr(_state, "scope", None)


def listening() -> bool:
    """Whether this thread runs in a scope that is told of functions, and not in someone else's checkpoint."""
    return current() is not None and torch.is_grad_enabled() and not _claimed()


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
        if self.module.__dict__.get("forward") is not self:
            return  # someone has put their own in its place since
        if self.former is None:
            del self.module.__dict__["forward"]
        else:
            self.module.__dict__["forward"] = self.former


class Uncompiled(Scoped):
    """The whole model's ``forward``: torch.compile leaves it alone, which would compile it anew at each selection.

    ``watches``: whether it opens a scope as well.
    """

    def __init__(self, module: nn.Module, owner, watches: bool):
        super().__init__(module, owner)
        self.watches = watches

    def __call__(self, *args, **kwargs):
        return _uncompiled()(self, args, kwargs)


@functools.cache
def _uncompiled() -> Callable:
    return torch.compiler.disable(_called)  # not at import, for it imports torch's compiler


def _called(scoped: Uncompiled, args, kwargs):
    with torch.compiler.set_stance("force_eager"):  # what is compiled within would compile the scope, too
        return Scoped.__call__(scoped, *args, **kwargs) if scoped.watches else scoped.__wrapped__(*args, **kwargs)
