"""Which batch norms and activations run inside the convolution in front of them."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

import torch
from torch import nn

from ..probing import inputs
from .layers import COUNTERPARTS, hooked

# What keeps nothing for the backward pass, beside counterparts.
_KEEP_NOTHING = {
    *(nn.Identity, nn.Flatten, operator.add, operator.iadd, operator.getitem, getattr),
    *(torch.add, torch.flatten, torch.cat),
    *("size", "dim", "view", "reshape", "flatten", "mean", "add", "contiguous", "permute", "transpose"),
}


def graphs(model: nn.Module) -> list[torch.fx.Graph]:
    """What torch.fx traces in training and in evaluation mode; empty for a model that cannot be traced."""
    traced = []
    for training in (True, False):
        try:
            with inputs.untouched(model):  # torch.fx leaves constants that it meets (``_tensor_constant0``)
                model.train(training)
                traced.append(torch.fx.Tracer().trace(model))
        except Exception:  # tracing runs the user's code on proxies, which may raise anything
            return []
    return traced


def is_plain(traced: Sequence[torch.fx.Graph], model: nn.Module, inside_classifier: set[nn.Module]) -> bool:
    """Whether all functions and modules of the graphs keep nothing by themselves, so that no scope
    (:mod:`medyate.execution.recompute`) need watch them, which takes time."""
    modules = dict(model.named_modules(remove_duplicate=False))

    def plain(node: torch.fx.Node) -> bool:
        if node.op == "call_module":
            module = modules[node.target]
            pooled = type(module) is nn.AdaptiveAvgPool2d and module.output_size in (1, (1, 1))
            return type(module) in {*COUNTERPARTS, *_KEEP_NOTHING} or pooled or module in inside_classifier
        return node.op not in ("call_function", "call_method") or node.target in _KEEP_NOTHING

    return bool(traced) and all(plain(node) for graph in traced for node in graph.nodes)


def chains(model: nn.Module, traced: Sequence[torch.fx.Graph]) -> dict[nn.Module, tuple[nn.Module, nn.Module | None]]:
    """Convolution -> (batch norm, activation) where nothing else sees what is between them.

    Read off the graphs of training and evaluation mode; a model that cannot be traced has no chains,
    and runs without folding.
    """
    if not traced:
        return {}
    first, second = (_found(graph, dict(model.named_modules(remove_duplicate=False))) for graph in traced)
    return {conv: chain for conv, chain in first.items() if second.get(conv) == chain}


def _found(graph: torch.fx.Graph, modules: Mapping[str, nn.Module]):
    calls: dict[nn.Module, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[modules[node.target]] = calls.get(modules[node.target], 0) + 1

    def only_user(node, kinds) -> tuple:
        users = list(node.users)
        if len(users) == 1 and users[0].op == "call_module" and len(users[0].args) == 1:
            module = modules[users[0].target]
            if type(module) in kinds and calls[module] == 1 and not hooked(module):
                return users[0], module
        return None, None

    chains = {}
    for node in graph.nodes:
        if node.op == "call_module" and type(modules[node.target]) is nn.Conv2d:
            convolution = modules[node.target]
            if calls[convolution] > 1:
                continue
            norm_node, norm = only_user(node, (nn.BatchNorm2d,))
            if norm is not None and norm.track_running_stats:
                _, activation = only_user(norm_node, (nn.ReLU, nn.ReLU6))
                chains[convolution] = (norm, activation)
    return chains
