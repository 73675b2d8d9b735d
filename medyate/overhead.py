"""What MeDyate adds between epochs (Sec. 3.5), and what a step really holds.

Eqs. 11 to 13 assume channels of one size; here each sum runs over the selected channels as they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .costs import Layer


@dataclass(frozen=True)
class Operations:
    """Operations of one epoch. ``norm``: eq. 11; ``sampling``: ``|zeta| log2 N`` of eq. 12;
    ``derivatives``: eq. 13 times the batch size, which eq. 13 leaves out."""

    channels: int
    norm: int
    sampling: int
    derivatives: int

    @property
    def share(self) -> float:
        """(norm + sampling) / derivatives."""
        return (self.norm + self.sampling) / self.derivatives


def operations(
    channels: Mapping[str, Sequence[int]], layers: Sequence[Layer], pool: int, steps: int, batch_size: int
) -> Operations:
    """Count one epoch's operations for selected ``channels`` (by layer name).

    ``pool`` is N, the number of channels in the search space; ``steps`` is M, the epoch's steps.
    """
    by_name = {layer.name: layer for layer in layers}
    count = sum(len(chosen) for chosen in channels.values())
    norm = sum(len(chosen) * by_name[name].weight_elements_per_channel for name, chosen in channels.items())
    once = sum(len(chosen) * by_name[name].weight_flops_per_channel for name, chosen in channels.items())
    return Operations(
        channels=count,
        norm=norm,
        sampling=math.ceil(count * math.log2(max(2, pool))),
        derivatives=steps * batch_size * once,
    )


EXECUTIONS = {
    "all trained, batch norm train": ("Baseline", "dense", "train"),
    "masked dense gradients, batch norm train": (None, "dense", "train"),
    "masked dense gradients, batch norm frozen": (None, "dense", "frozen"),
    "subnet, batch norm train": (None, "subnet", "train"),
    "subnet, batch norm frozen": (None, "subnet", "frozen"),
}


def held_bytes(network: str, channels: Mapping[str, Sequence[int]], batch_size: int = 8) -> dict[str, dict[str, int]]:
    """Bytes that one real training step holds for the backbone, by execution and part.

    The step runs on random weights and images (what is held depends on shapes only), with the
    given channels selected. See :mod:`medyate.memory` for the parts.
    """
    import torch

    from . import memory, networks
    from .dense import Dense
    from .subnet import attach

    size = networks.get(network).resolution
    found = {}
    for name, (everything, execution, batch_norm) in EXECUTIONS.items():
        generator = torch.Generator().manual_seed(0)
        model = networks.build(network, weights="random", classes=10, generator=generator)
        images = torch.rand((batch_size, 3, size, size), generator=generator)
        labels = torch.zeros(batch_size, dtype=torch.long)
        if execution == "dense":
            attached = Dense(model, classifier="classifier", batch_norm=batch_norm)
            attached.select({} if everything else channels, everything=bool(everything))
        else:
            attached = attach(model, example=images[:1], classifier="classifier", batch_norm=batch_norm)
            attached.select(channels)
        model.train()
        optimizer = torch.optim.SGD(attached.parameters(), lr=0.0)
        kept = memory.measure(model, model.classifier, optimizer, images, labels)
        found[name] = dict(kept.backbone)
    return found
