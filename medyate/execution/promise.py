"""What a selection will really keep, known before training: by a forward pass of one sample.

The budget pays for selected activations and gradients (eq. 4); an execution keeps more. :func:`warn` says so where it
is much, :func:`overheads` lets a budget pay for all of it.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence

import torch
from torch import nn

from ..costs import Layer
from ..probing import inputs
from .attach import attach
from .masks import mask_overheads
from .measure import saved

TOLERATED = 1.25  # times budget and masks
_STOPS = 24  # layers from which on what is kept is measured; for those between, what the one before keeps


class BeyondBudget(UserWarning):
    """Much more is kept for the backward pass than the budget pays for."""


def warn(model: nn.Module, selector, call: inputs.Call, **options) -> None:
    """Warn once, with operations, bytes and what would help, if the first selection, or one like it, keeps more than
    1.25 times its budget and masks for one sample. The model, attached with these ``options`` for it, is given back.

    ``selector`` is a :class:`medyate.selection.Selector`, which is left as it is; ``call`` the model's arguments for
    one sample.
    """
    trial = copy.deepcopy(selector)
    ones = {layer.name: torch.ones(layer.channels) for layer in trial.space.layers}
    selection = trial.select(ones if trial.needs_whole_gradient else None)
    channels, budget = selection.channels, selector.budget
    weight_elements = selection.weight_elements(selector.layers)
    size = next(model.parameters()).element_size()
    gradients = size * weight_elements
    attached = attach(model, **options)
    try:
        attached.select(channels)
        parts, operations = saved(attached, call)
        kept = sum(parts.values()) + gradients
        promised = size * budget + parts["masks"]
        if kept <= TOLERATED * promised:
            return
        helps = []
        further = {"none": "layers", "layers": "blocks"}.get(attached.recompute)
        if further is not None:
            former, attached.recompute = attached.recompute, further
            less = sum(saved(attached, call)[0].values()) + gradients
            attached.recompute = former
            if less < kept:
                helps.append(f"recompute={further!r} (keeps {less:,} bytes)")
        if attached.batch_norm == "train" and parts.get("batch_norm"):
            helps.append(f"batch_norm='frozen' (drops the batch norms' {parts['batch_norm']:,} bytes)")
        helps.append("count='everything' (the budget pays for all of it, by fewer channels)")
    finally:
        attached.detach()
    beside = {name: size for name, size in operations.items() if name not in ("selected_activations", "masks")}
    most = sorted(beside.items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} {size:,}" for name, size in most[:5])
    if len(most) > 5:
        named += f", {len(most) - 5} others {sum(size for _, size in most[5:]):,}"
    warnings.warn(
        f"one sample keeps {kept:,} bytes, {kept / promised:.1f} times the budget and its masks ({promised:,} bytes); "
        f"beside what the budget pays for, by operation: {named}; what would help: {'; '.join(helps)}",
        BeyondBudget,
        stacklevel=3,
    )


def overheads(model: nn.Module, layers: Sequence[Layer], input_shape: inputs.Shapes, **options) -> dict[str, int]:
    """What must be kept beside selected activations and gradients if a layer is the first that is selected, in
    elements for one sample, by layer.

    Of a model that keeps nothing but masks it follows from shapes; else it is measured, by forward passes of the
    model attached with these ``options``, with a channel of every layer behind selected. The model is given back as it
    was.
    """
    attached = attach(model, **options)
    try:
        if attached.is_plain and attached.batch_norm == "frozen":
            attached.detach()
            return mask_overheads(model, layers, input_shape)
        call = inputs.example(input_shape, model, next(model.parameters()).device)
        found, step = {}, max(1, -(-len(layers) // _STOPS))
        for place, layer in enumerate(layers):
            if place % step == 0:
                attached.select({behind.name: [0] for behind in layers[place:]})
                parts = saved(attached, call)[0]
                held = sum(size for part, size in parts.items() if part != "selected_activations")
            found[layer.name] = -(-held // next(model.parameters()).element_size())
        return found
    finally:
        attached.detach()
