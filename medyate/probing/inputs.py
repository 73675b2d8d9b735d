"""What goes into a model and what comes out of it: shapes to inputs, batches to calls, outputs to logits."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from ..errors import InputError

#: One shape, a sequence of them, or a mapping from argument to shape.
Shapes = Sequence[int] | Sequence[Sequence[int]] | Mapping[str, Sequence[int]]
Call = tuple[tuple, dict[str, Any]]  # positional and keyword arguments
ONE_VALUE = "more than 1 value per channel"  # torch's of batch norm in training, with one pixel of one sample
BATCHES = (
    "(inputs, labels), where inputs may be a tuple or a mapping of the model's arguments; or a mapping with 'labels'"
)


def shapes_of(input_shape: Shapes) -> tuple[tuple[tuple[int, ...], ...], dict[str, tuple[int, ...]]]:
    """One sample's shapes: of the positional arguments, and of those by name.

    ``input_shape`` is one shape, (3, 128, 128); several, ((3, 32, 32), ()); or shapes by the name of the
    argument, {"input_ids": (77,), "pixel_values": (3, 224, 224)}.
    """
    if isinstance(input_shape, Mapping):
        return (), {name: tuple(shape) for name, shape in input_shape.items()}
    shape: tuple[Any, ...] = tuple(input_shape)
    if any(isinstance(one, (tuple, list, torch.Size)) for one in shape):
        return tuple(tuple(one) for one in shape), {}
    return (shape,), {}


def example(input_shape: Shapes, model: nn.Module, device: torch.device | str = "meta") -> Call:
    """A model's arguments for one sample, as :func:`shapes_of` reads them.

    A shape of two or more dimensions means numbers of the model's own precision; a shorter one integers, token
    numbers (T,), a class or a time step (), or where the model does not run on these numbers too: features (F,).
    """
    return _made(input_shape, model, device, integers(input_shape, model))


def _made(input_shape: Shapes, model: nn.Module, device: torch.device | str, whole: Sequence[bool]) -> Call:
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    generator = torch.Generator().manual_seed(0)  # its own: torch's global one is the user's

    def one(shape: tuple[int, ...], is_whole: bool) -> Tensor:
        if str(device) == "meta":
            return torch.empty((1, *shape), dtype=torch.long if is_whole else dtype, device="meta")
        if is_whole:
            return torch.ones((1, *shape), dtype=torch.long, device=device)
        return torch.rand((1, *shape), generator=generator).to(device, dtype)

    positional, named = shapes_of(input_shape)
    kinds = iter(whole)
    return tuple(one(shape, next(kinds)) for shape in positional), {
        name: one(shape, next(kinds)) for name, shape in named.items()
    }


def integers(input_shape: Shapes, model: nn.Module) -> tuple[bool, ...]:
    """Which of a model's arguments are integers, in the order of :func:`shapes_of`.

    Of a shape (F,) the model tells: one that has no embedding is run on numbers first, one that has and takes several
    such arguments on every combination until it runs; nothing of it is left behind.
    """
    positional, named = shapes_of(input_shape)
    shapes = [*positional, *named.values()]
    is_short = [len(shape) < 2 for shape in shapes]
    unclear = [place for place, shape in enumerate(shapes) if len(shape) == 1]
    embeds = any(isinstance(module, (nn.Embedding, nn.EmbeddingBag)) for module in model.modules())
    first = next(model.parameters(), None)
    if not unclear or first is None or first.is_meta or embeds and len(unclear) == 1:
        return tuple(is_short)
    for choice in itertools.islice(itertools.product((embeds, not embeds), repeat=len(unclear)), _TRIALS):
        whole = list(is_short)
        for place, value in zip(unclear, choice):
            whole[place] = value
        given, by_name = _made(input_shape, model, first.device, whole)
        try:
            with evaluation(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
                model(*given, **by_name)
        except Exception:  # the user's code on inputs that it is not made for may raise anything
            continue
        return tuple(whole)
    return tuple(is_short)


_TRIALS = 16  # combinations of kinds of arguments at most


def has_integers(call: Call) -> bool:
    """Whether an example holds integers, of which it need not mean anything: not any number is a token."""
    return any(isinstance(leaf, Tensor) and not leaf.is_floating_point() for leaf in tree_leaves(call))


def does_not_run(input_shape: Shapes, error: Exception) -> InputError:
    """What is told where the user's model raises ``error`` on an example."""
    told = (str(error) or type(error).__name__).splitlines()[0]
    return InputError(f"the model does not run on one input of shape {input_shape!r}: {told}")


def meta_state(model: nn.Module) -> dict[str, Tensor]:
    """The model's parameters and buffers by name, without memory: on the meta device.

    A module that is registered under several names has one here, and tensors that are one stay one:
    :func:`torch.func.functional_call` with ``tie_weights=False`` then leaves the model as it found it.
    """
    twins: dict[int, Tensor] = {}
    for name, parameter in (*model.named_parameters(), *model.named_buffers()):
        if torch.nn.parameter.is_lazy(parameter):
            raise InputError(
                f"{name!r} has no shape yet, as its module is lazy; allowed: a model that has run on a batch once"
            )

    def twin(tensor: Tensor) -> Tensor:
        return twins.setdefault(id(tensor), torch.empty_like(tensor, device="meta"))

    return {
        f"{prefix}.{name}" if prefix else name: twin(tensor)
        for prefix, module in model.named_modules()
        for name, tensor in (*module._parameters.items(), *module._buffers.items())
        if tensor is not None
    }


@contextmanager
def same_buffers(model: nn.Module, wanted: bool = True) -> Iterator[None]:
    """The model's buffers (running statistics, counters) get back the values that they had; unless not ``wanted``."""
    kept = [(buffer, buffer.clone()) for buffer in model.buffers() if wanted and not buffer.is_meta]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in kept:
                buffer.copy_(value)


@contextmanager
def evaluation(model: nn.Module) -> Iterator[None]:
    """The model in evaluation mode; each module gets its own mode back, and is :func:`untouched`."""
    with untouched(model):
        model.eval()
        yield


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Each module gets its attributes back, its mode among them.

    Anchors, masks and position codes that a model computes at its first forward pass and keeps would be on the meta
    device for good, of an example's size, or a tracer's proxies.
    """
    noted = [
        (space, dict(space))
        for module in model.modules()
        for space in (module.__dict__, *(value for value in module.__dict__.values() if type(value) is dict))
    ]
    lists = [(value, list(value)) for space, _ in noted for value in space.values() if type(value) is list]
    try:
        yield
    finally:
        for space, former in noted:
            if any(space.get(key, noted) is not value for key, value in former.items()) or len(space) != len(former):
                space.clear()
                space.update(former)
        for value, content in lists:
            value[:] = content


def tensors(output: Any) -> list[Tensor]:
    """The floating-point tensors of an output of any form: a tensor, a tuple, a mapping, a dataclass.

    An output with ``logits`` gives these, and what else is named as a prediction ("pred_boxes").
    """
    if isinstance(output, Mapping):
        named = {key: value for key, value in output.items() if "logits" in str(key) or str(key).startswith("pred")}
        output = named or dict(output)
    elif hasattr(output, "logits"):
        output = output.logits
    return [leaf for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def logits(output: Any) -> Tensor:
    """What a loss takes from a model's output: itself, its ``logits``, or the first tensor of a tuple.

    Raises :class:`InputError` where there is no such tensor.
    """
    if isinstance(output, Tensor):
        return output
    scores = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if scores is None and isinstance(output, (tuple, list)) and output:
        scores = output[0]
    if not isinstance(scores, Tensor):
        raise InputError(
            f"the model gives a {type(output).__name__} without logits; allowed: a tensor, a tuple that begins with "
            "one, an output with 'logits', or a loss_function that takes what the model gives"
        )
    return scores


def moved(value: Any, device: torch.device) -> Any:
    """Tensors within tuples, lists and mappings, on a device."""
    if isinstance(value, Mapping) and not isinstance(value, dict):  # transformers' BatchEncoding
        value = dict(value)
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)


def split(batch: Any) -> tuple[Call, Any]:
    """A batch -> the model's arguments, and the labels. :class:`InputError` for what is no batch."""
    if isinstance(batch, Mapping):
        named = dict(batch)
        key = next((key for key in ("labels", "label") if key in named), None)
        if key is None:
            raise InputError(f"a batch with {', '.join(map(repr, named))} has no labels; allowed: {BATCHES}")
        labels = named.pop(key)
        return ((), named), labels
    if not isinstance(batch, (tuple, list)) or len(batch) != 2:
        what = f"{type(batch).__name__} of {len(batch)}" if isinstance(batch, (tuple, list)) else type(batch).__name__
        raise InputError(f"a batch is a {what}; allowed: {BATCHES}")
    inputs, labels = batch
    if isinstance(inputs, Mapping):
        return ((), dict(inputs)), labels
    if isinstance(inputs, (tuple, list)):
        return (tuple(inputs), {}), labels
    return ((inputs,), {}), labels


def loss_of(model: nn.Module, batch: Any, loss_function: Callable[..., Tensor] | None = None) -> Tensor:
    """The loss of a batch, which is brought to the model's device.

    ``loss_function`` takes the model's output, whatever it is, and the labels; None is cross entropy
    of the output's logits.
    """
    device = next(model.parameters()).device
    (given, named), labels = moved(split(batch), device)
    try:
        output = model(*given, **named)
    except (TypeError, ValueError, RuntimeError) as error:
        if reason := _no_input(model, given, named, error):
            raise InputError(reason) from error
        raise
    if loss_function is not None:
        return loss_function(output, labels)
    scores = logits(output)
    try:
        return nn.functional.cross_entropy(scores, labels)
    except (TypeError, ValueError, IndexError, RuntimeError) as error:
        raise InputError(
            f"the labels are {_told(labels)} where the logits are {_told(scores)}: "
            f"{(str(error).splitlines() or [type(error).__name__])[0]}; allowed: int64 numbers of classes from 0 to "
            f"{scores.shape[1] - 1 if scores.dim() > 1 else 0}, one a sample, or a loss_function of one's own"
        ) from error


def _told(value: Any) -> str:
    if not isinstance(value, Tensor):
        return f"a {type(value).__name__}"
    span = (
        f" from {value.min().item()} to {value.max().item()}" if value.numel() and not value.is_floating_point() else ""
    )
    return f"{str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}{span}"


def _no_input(model: nn.Module, given: tuple, named: Mapping[str, Any], error: Exception) -> str | None:
    """Why a batch is none for the model; None where the model's own code is at fault."""
    if ONE_VALUE in str(error):
        return (
            "a batch of one sample leaves batch norm in training a single value a channel; allowed: batches of at "
            "least 2 samples (drop_last=True), or a larger input"
        )
    try:
        inspect.signature(model.forward).bind(*given, **named)
    except TypeError as wrong:
        names = ", ".join(inspect.signature(model.forward).parameters)
        return (
            f"the batch gives {len(given)} arguments in order and {', '.join(map(repr, named)) or 'none'} by name, "
            f"where the model takes {names}: {wrong}; allowed: {BATCHES}"
        )
    leaves = tree_leaves((given, dict(named)))
    kinds = [type(leaf) for leaf in leaves]
    if other := next((kind.__name__ for kind in kinds if kind.__module__ == "numpy"), None):
        return f"a batch holds a numpy {other}; allowed: tensors"
    if any(isinstance(leaf, Tensor) and leaf.dtype == torch.uint8 for leaf in leaves):
        return "a batch holds inputs of uint8; allowed: floating-point numbers, as the model's own weights"
    return None
