"""What a selection will really keep, known before training: by a forward pass of one sample.

The budget pays for selected activations and gradients (eq. 4); an execution keeps more. :class:`Promise` says so where
it is much, :func:`overheads` lets a budget pay for all of it.
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


class Promise:
    """Watches that what is kept for one sample stays within 1.25 times the budget and its masks, and warns once if not.

    Asked of the first selection, or one like it, before the model is changed; then of each selection that begins
    further forward than all before, since what is kept beside the budget begins with the first selected layer. The
    model, attached with these ``options`` for the first question, is given back. ``selector`` is a
    :class:`medyate.selection.Selector`, which is left as it is.
    """

    def __init__(self, model: nn.Module, selector, input_shape: inputs.Shapes, **options):
        self._model, self._selector, self._input_shape = model, selector, input_shape
        self._place = {layer.name: place for place, layer in enumerate(selector.layers)}
        self._foremost, self._has_warned = len(self._place), False
        trial = copy.deepcopy(selector)
        ones = {layer.name: torch.ones(layer.channels) for layer in trial.space.layers}
        selection = trial.select(ones if trial.needs_whole_gradient else None)
        attached = attach(model, **options)
        try:
            attached.select(selection.channels)
            told = self._told(attached, selection)
        finally:
            attached.detach()
        self._warn(told)

    def check(self, attached, selection) -> None:
        """Warn of a selection of an attached model, if it keeps too much and none before did."""
        is_known = self._begins(selection) >= self._foremost
        if self._has_warned or is_known or (attached.is_plain and attached.batch_norm == "frozen"):
            return
        self._warn(self._told(attached, selection))

    def _begins(self, selection) -> int:
        """The place of the first selected layer in the network."""
        return min((self._place[name] for name in selection.channels), default=self._foremost)

    def _warn(self, told: str | None) -> None:
        if told:
            self._has_warned = True
            warnings.warn(told, BeyondBudget, stacklevel=4)  # where the user made a Subnet, or began an epoch

    def _told(self, attached, selection) -> str | None:
        """What is said of a selection that keeps too much: operations, bytes, what would help."""
        self._foremost = self._begins(selection)
        size = next(self._model.parameters()).element_size()
        gradients = size * selection.weight_elements(self._selector.layers)
        # made for each question: a sample that is held for the whole training may take more than the budget
        call = inputs.example(self._input_shape, self._model, next(self._model.parameters()).device)
        parts, operations = saved(attached, call)
        kept = sum(parts.values()) + gradients
        promised = size * self._selector.budget + parts["masks"]
        if kept <= TOLERATED * promised:
            return None
        helps = []
        further = {"none": "layers", "layers": "blocks"}.get(attached.recompute)
        if further is not None:
            former, attached.recompute = attached.recompute, further
            try:
                less = sum(saved(attached, call)[0].values()) + gradients
            finally:
                attached.recompute = former
            if less < kept:
                helps.append(f"recompute={further!r} (keeps {less:,} bytes)")
        if attached.batch_norm == "train" and parts.get("batch_norm"):
            helps.append(f"batch_norm='frozen' (drops the batch norms' {parts['batch_norm']:,} bytes)")
        helps.append("count='everything' (the budget pays for all of it, by fewer channels)")
        beside = {name: size for name, size in operations.items() if name not in ("selected_activations", "masks")}
        most = sorted(beside.items(), key=lambda item: -item[1])
        named = ", ".join(f"{name} {size:,}" for name, size in most[:5])
        if len(most) > 5:
            named += f", {len(most) - 5} others {sum(size for _, size in most[5:]):,}"
        return (
            f"one sample keeps {kept:,} bytes, {kept / promised:.1f} times the budget and its masks ({promised:,} "
            f"bytes); beside what the budget pays for, by operation: {named}; what would help: {'; '.join(helps)}"
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
        elements_of, step = {}, max(1, -(-len(layers) // _STOPS))
        for place, layer in enumerate(layers):
            if place % step == 0:
                attached.select({behind.name: [0] for behind in layers[place:]})
                parts = saved(attached, call)[0]
                held = sum(size for part, size in parts.items() if part != "selected_activations")
            elements_of[layer.name] = -(-held // next(model.parameters()).element_size())
        return elements_of
    finally:
        attached.detach()
