"""Runs a model once where only shapes matter, and tells what it passes through: above all its products.

The run is on the ``meta`` device, where nothing is computed and no memory is taken. Functions of torch are
seen, not modules: so are layers that hooks on modules miss, such as the functional ``qkv`` of torchvision's
Swin, and inputs at the size at which they are really used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..errors import InputError
from . import inputs
from .inside import inside

# of a function of torch, its arguments and what came out: something to note, or None
See = Callable[[Callable, tuple, Mapping[str, Any], Any, Mapping[int, str]], Any]

_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
# Torch computes the shapes of these by long detours on the meta device, a second for a network.
_SAME_SHAPE = {torch.batch_norm, nn.functional.batch_norm, nn.functional.hardtanh, nn.functional.relu6}
_SUMS = {torch.add, torch.Tensor.add, torch.Tensor.__add__}


@dataclass(frozen=True)
class Product:
    """A convolution, or a linear product (``groups`` 0), of an input with a weight of the model."""

    name: str  # of the weight, without ".weight"
    weight: tuple[int, ...]
    input: tuple[int, ...]
    output: tuple[int, ...]
    groups: int
    has_bias: bool

    @property
    def input_size(self) -> tuple[int, ...]:
        """A convolution's (H, W), in as many dimensions as it has."""
        return self.input[2 - len(self.weight) :]

    @property
    def output_size(self) -> tuple[int, ...]:
        return self.output[2 - len(self.weight) :]

    @property
    def rows(self) -> int:
        """How many vectors a linear product takes."""
        return prod(self.input[:-1])


def product(func: Callable, args: tuple, kwargs: Mapping[str, Any], out: Any, names: Mapping[int, str]):
    """The :class:`Product` that a function of torch is; None where it is none of a weight in ``names``."""
    if func is torch.addmm:  # bias, input and weight (in, out), as in transformers' Conv1D
        given = dict(zip(("input", "mat1", "mat2"), args), **kwargs)
        x, weight = given["mat1"], given["mat2"]
        if id(weight) not in names or len(args) + len(kwargs) > 3:
            return None
        return Product(names[id(weight)], tuple(weight.shape[::-1]), tuple(x.shape), tuple(out.shape), 0, True)
    if func not in _CONVOLUTIONS and func is not nn.functional.linear:
        return None
    given = dict(zip(("input", "weight", "bias"), args), **kwargs)
    weight, x = given["weight"], given["input"]
    if id(weight) not in names:
        return None
    groups = x.shape[1 - weight.dim()] // weight.shape[1] if func in _CONVOLUTIONS else 0
    has_bias = given.get("bias") is not None
    return Product(names[id(weight)], tuple(weight.shape), tuple(x.shape), tuple(out.shape), groups, has_bias)


def trace(model: nn.Module, input_shape: inputs.Shapes, see: See) -> list[Any]:
    """What ``see`` notes of each function on one sample's way through the model, in order.

    ``input_shape`` is without the batch dimension; for a model of several inputs see
    :func:`medyate.probing.inputs.shapes_of`. The model is not changed and nothing is computed, unless it looks at
    numbers on its way: then it runs once for real. Raises :class:`InputError` where it cannot run on the shape.
    """
    state = inputs.meta_state(model)
    try:
        with inputs.evaluation(model), torch.no_grad(), _Watch(state, see) as watch:
            given, named = inputs.example(input_shape, model)
            torch.func.functional_call(model, state, given, named, tie_weights=False)
    except InputError:
        raise
    except Exception as first:  # the user's code on tensors without content may raise anything
        try:
            given, named = inputs.example(input_shape, model, next(model.parameters()).device)
            with inputs.evaluation(model), torch.no_grad(), _Watch(dict(model.named_parameters()), see) as watch:
                model(*given, **named)
        except Exception as error:
            raise inputs.does_not_run(input_shape, error) from first
    return watch.seen


class _Watch(TorchFunctionMode):
    """Notes what ``see`` says; ``tensors`` are the model's, by their full names."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], see: See):
        super().__init__()
        self.names = {id(tensor): name.rpartition(".")[0] for name, tensor in tensors.items() if tensor.dim() > 1}
        self.see = see
        self.seen: list[Any] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is nn.functional.multi_head_attention_forward:
            with self:  # its products come one by one
                return inside(func)(*args, **kwargs)
        out = _run(func, args, kwargs)
        noted = self.see(func, args, kwargs, out, self.names)
        if noted is not None:
            self.seen.append(noted)
        return out


def _run(func, args, kwargs):
    """``func``; on meta tensors only the shape of what comes out matters."""
    same = func in _SAME_SHAPE and args and args[0].is_meta
    if func in _SUMS and len(args) == 2 and all(isinstance(arg, torch.Tensor) for arg in args):
        same = args[0].is_meta and args[0].shape == args[1].shape and args[0].dtype == args[1].dtype
    return torch.empty_like(args[0]) if same else func(*args, **kwargs)
