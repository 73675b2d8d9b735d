"""What masks take, from shapes alone."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from ..costs import Layer
from ..probing import inputs, tracing
from .measure import BYTES_PER_ELEMENT


def _layer_or_bits(func, args, kwargs, out, names) -> str | int | None:
    """A layer's name, or how many outputs were rectified."""
    if getattr(func, "__name__", "") in ("relu", "relu_", "relu6", "hardtanh", "hardtanh_"):
        return out.numel()
    product = tracing.product(func, args, kwargs, out, names)
    return None if product is None else product.name


def mask_overheads(model: nn.Module, layers: Sequence[Layer], input_shape: inputs.Shapes) -> dict[str, int]:
    """What must be kept for masks if a layer is the first that is selected, in elements, by layer.

    One bit per rectified output behind it, each mask rounded up to whole bytes, the sum to whole
    elements; for one sample. For models that keep nothing else: see :func:`medyate.execution.promise.overheads`.
    """
    overheads, behind_bytes = {}, 0
    for passed in reversed(tracing.trace(model, input_shape, _layer_or_bits)):
        if isinstance(passed, int):
            behind_bytes += -(-passed // 8)
        else:
            overheads[passed] = -(-behind_bytes // BYTES_PER_ELEMENT)
    return {layer.name: overheads[layer.name] for layer in layers}
