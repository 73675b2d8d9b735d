"""Layers that compute a linear product but are no ``nn.Linear``, turned into one that can be selected."""

from __future__ import annotations

import torch
from torch import nn

from ..errors import InputError


def from_conv1d(model: nn.Module) -> tuple[str, ...]:
    """Replace each ``Conv1D`` of transformers (GPT-2 and its kin) by an ``nn.Linear``; returns their names.

    In place. A Conv1D keeps its weight as (in, out), a linear layer as (out, in): outputs are the same to rounding,
    and the ``state_dict`` has the same names with these weights transposed. ``requires_grad`` is kept; weights that
    several modules share stay shared. Raises :class:`InputError` where there is none, or where one has a hook.
    """
    found = {
        name: module
        for name, module in model.named_modules(remove_duplicate=False)
        if type(module).__name__ == "Conv1D" and hasattr(module, "nf")
    }
    if not found:
        raise InputError("the model has no Conv1D of transformers; allowed: GPT-2 and its kin")
    for name, module in found.items():
        if module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
            raise InputError(f"{name!r} has a hook, which would be lost; allowed: to add hooks afterwards")
    made: dict[int, nn.Linear] = {}
    weights: dict[int, nn.Parameter] = {}
    for name, module in found.items():
        if id(module) not in made:
            made[id(module)] = _linear(module, weights)
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, made[id(module)])
    return tuple(found)


def _linear(module: nn.Module, weights: dict[int, nn.Parameter]) -> nn.Linear:
    inputs, outputs = module.weight.shape
    with torch.device("meta"):
        linear = nn.Linear(inputs, outputs)
    if id(module.weight) not in weights:
        turned = module.weight.detach().t().contiguous()
        weights[id(module.weight)] = nn.Parameter(turned, requires_grad=module.weight.requires_grad)
    linear.weight, linear.bias = weights[id(module.weight)], module.bias
    return linear.train(module.training)
