"""Compact weights under DistributedDataParallel: their gradients are averaged as it averages its own.

DDP lays out its buckets when it wraps a model, from the sizes that parameters have then, and compact weights change
theirs with every selection. So it is told to leave them alone (``_ddp_params_and_buffers_to_ignore``, as
PyTorch's own sharded modules do), and each is averaged here when its gradient is there.
"""

from __future__ import annotations

import zlib

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError

IGNORED = "_ddp_params_and_buffers_to_ignore"


def synchronise(layer, selected: nn.Parameter) -> None:
    """For a selected layer's forward pass: have the gradient averaged where this is a pass of DDP's."""
    if not (dist.is_available() and dist.is_initialized()):
        return
    wrapper = DistributedDataParallel._active_ddp_module
    if wrapper is None:
        return
    if id(selected) in {id(parameter) for parameter in wrapper._module_parameters}:
        raise InputError(
            "DistributedDataParallel wraps the model in another module, or wrapped it before Subnet was made; allowed: "
            "Subnet(model, ..) first, then DistributedDataParallel(model)"
        )
    known = selected.__dict__.get("medyate_group")
    if known is None:
        selected.register_post_accumulate_grad_hook(_average)
    if layer.__dict__.get("agreed") is not layer.channels:
        _compare(layer, wrapper.process_group)
        layer.__dict__["agreed"] = layer.channels
    selected.__dict__["medyate_group"] = (wrapper.process_group, wrapper.require_backward_grad_sync)


def _average(selected: nn.Parameter) -> None:
    group, wanted = selected.__dict__["medyate_group"]
    if wanted:
        dist.all_reduce(selected.grad, group=group)
        selected.grad /= group.size()


def _compare(layer, group) -> None:
    """All processes must train the same channels."""
    mine = zlib.crc32(layer.channels.cpu().numpy().tobytes())
    device = layer.channels.device
    bounds = torch.tensor([mine, -mine], dtype=torch.long, device=device)
    dist.all_reduce(bounds, op=dist.ReduceOp.MAX, group=group)
    if int(bounds[0]) != -int(bounds[1]):
        raise InputError(
            f"layer {layer.layer_name!r}: processes have selected different channels; allowed: the same seed and the "
            "same ranking in all of them"
        )


def ignore(model: nn.Module, names: list[str]) -> None:
    """Tell a DDP that will wrap ``model`` to leave these parameters alone."""
    model.__dict__[IGNORED] = [*model.__dict__.get(IGNORED, []), *names]


def heed(model: nn.Module, names: list[str]) -> None:
    """Take :func:`ignore` back."""
    rest = [name for name in model.__dict__.get(IGNORED, []) if name not in set(names)]
    model.__dict__.pop(IGNORED, None)
    if rest:
        model.__dict__[IGNORED] = rest
