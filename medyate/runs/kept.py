"""What a step of a configured run really holds."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import networks, strategies
from ..errors import InputError, choose
from ..execution.measure import BYTES_PER_ELEMENT, PARTS, TRANSFORMER_PARTS, Kept, measure
from ..execution.promise import BeyondBudget
from ..probing.inputs import ONE_VALUE
from ..selection import Selection
from .config import RunConfig, stand_in_task
from .finetune import subnet_of


class Step:
    """A network that is ready to take training steps as a config says, to count what they hold.

    Weights and images are random: what is held depends on shapes alone. Trained are the channels of the strategy's
    first selection (for an oracle, of random gradients), or ``channels``, by layer name.
    """

    def __init__(
        self,
        config: RunConfig,
        *,
        channels: Mapping[str, Sequence[int]] | None = None,
        classes: int = 10,
        device: str = "cpu",
    ):
        config = config.complete()
        self.config, self.classes, self.device = config, classes, device
        model = networks.build(config.network, weights="random", classes=classes)
        self.model = model.to(device, memory_format=torch.channels_last).train()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BeyondBudget)  # what is held beyond the budget is what is asked for here
            self.subnet = subnet_of(config, self.model)
            needed = channels is None and self.subnet.selector.needs_whole_gradient
            whole = self.subnet.channel_norms_of([self._batch(config.batch_size)]) if needed else None
            self.optimizer = torch.optim.SGD(self.subnet.parameters(), lr=0.0)
            if channels is None:
                self.selection = self.subnet.next_epoch(self.optimizer, whole)
            else:
                self.selection = Selection({name: tuple(chosen) for name, chosen in channels.items()})
                self.subnet.attached.select(self.selection.channels)
                self.subnet.attached.refresh(self.optimizer)

    def _batch(self, size: int) -> tuple[Tensor, Tensor]:
        shape, source = self.config.input_shape, torch.Generator().manual_seed(self.config.seed)
        labels = torch.arange(size, device=self.device) % self.classes
        if len(shape) == 1:  # token numbers, no padding
            return torch.randint(1000, 20_000, (size, *shape), generator=source).to(self.device), labels
        images = torch.randn((size, *shape), generator=source)
        return images.to(self.device, memory_format=torch.channels_last), labels

    def held(self, batch_size: int) -> Kept:
        """What one training step of ``batch_size`` samples holds, by part."""
        try:
            return measure(self.model, self.subnet.attached.classifier, self.optimizer, *self._batch(batch_size))
        except ValueError as error:  # torch's of train-mode batch norm, where a channel is one number
            if ONE_VALUE not in str(error):
                raise
            raise InputError(
                f"resolution {self.config.resolution!r} with batch size {batch_size!r} leaves batch norm in mode "
                "'train' a single value a channel; allowed: a higher resolution, or a batch of at least 2"
            ) from error


WAYS = {
    "all trained, batch norm train": ("Baseline", "subnet", "train"),
    "masked dense gradients, batch norm train": (None, "dense", "train"),
    "masked dense gradients, batch norm frozen": (None, "dense", "frozen"),
    "subnet, batch norm train": (None, "subnet", "train"),
    "subnet, batch norm frozen": (None, "subnet", "frozen"),
}


def _checked(network: str, **options: Any) -> RunConfig:
    """A run's config, with a run's checks and defaults: random weights, and a task that only names its classes."""
    return RunConfig(network=network, task=stand_in_task(network), weights="random", **options).check()


def held_bytes(network: str, channels: Mapping[str, Sequence[int]], batch_size: int = 8) -> dict[str, dict[str, int]]:
    """Bytes that one training step holds for the backbone, by way of :data:`WAYS` and part, ``channels`` selected."""
    held = {}
    for name, (strategy, execution, batch_norm) in WAYS.items():
        config = _checked(
            network,
            strategy=strategy or "Head only",  # which trains what is selected here, and asks for no ranking
            execution=execution,
            batch_norm=batch_norm,
            resolution=networks.get(network).resolution,
        )
        step = Step(config, channels=None if strategy else channels)
        held[name] = dict(step.held(batch_size).backbone)
    return held


def report(
    network: str,
    budget: int | None = None,
    strategy: str = "LaRa MeDyate",
    *,
    resolution: int = 128,
    batch_size: int = 1,
    batch_norm: str = "frozen",
    ranking: str | None = None,
    count: str = "paper",
    seed: int = 0,
    classes: int = 10,
    device: str = "cpu",
) -> dict:
    """What one step of a strategy holds on a network, beside the budget and full fine-tuning.

    Random weights and images: what is held does not depend on them. The selection is the
    strategy's first (for an oracle, of random gradients). All ``*_bytes`` are measured but for
    ``budget_bytes`` and ``outside_paper_unit``.
    """
    alike: dict[str, Any] = {"resolution": resolution, "batch_size": batch_size, "seed": seed}
    checked = _checked(
        network, strategy=strategy, budget=budget, batch_norm=batch_norm, ranking=ranking, count=count, **alike
    )
    step = Step(checked, classes=classes, device=device)
    ours, selection, layers = step.held(batch_size), step.selection, checked.backbone_layers()
    everything = _checked(network, strategy="Baseline", batch_norm="train", **alike)
    full = Step(everything, classes=classes, device=device).held(batch_size)
    parts = [*PARTS, *(part for part in TRANSFORMER_PARTS if part in ours.backbone or part in full.backbone)]
    used = selection.used_elements(layers) if checked.budget else 0
    return {
        "network": checked.network,
        "strategy": checked.strategy,
        "budget": checked.budget,
        "resolution": resolution,
        "batch_size": batch_size,
        "batch_norm": batch_norm,
        "count": count,
        "device": device,
        "used_elements": used,
        "selected_channels": selection.count,
        "budget_bytes": None if checked.budget is None else BYTES_PER_ELEMENT * checked.budget,
        "kept_bytes": {part: ours.backbone.get(part, 0) for part in parts},
        "kept_total_bytes": ours.total_bytes,
        "peak_bytes": ours.peak_bytes,
        "classifier_bytes": ours.classifier_bytes,
        "full_finetuning_bytes": full.total_bytes,
        "full_finetuning_kept_bytes": {part: full.backbone.get(part, 0) for part in parts},
        "outside_paper_unit": {
            "masks": "one bit per rectified output after the first selected layer",
            "batch_norm": "what train-mode batch norm saves; nothing where it is frozen",
            "batch": f"the unit counts one sample's activations; this step has {batch_size}",
            "classifier": "the classifier and the loss stand outside the budget",
        },
    }


def compare(
    network: str,
    budgets: Sequence[int],
    strategy: str = "LaRa MeDyate",
    *,
    batch_sizes: Sequence[int] = (1, 32),
    batch_norms: Sequence[str] = ("frozen", "train"),
    resolution: int = 128,
    seed: int = 0,
    device: str = "cpu",
) -> list[dict]:
    """The paper's accounting beside the measurement: a row per budget, batch norm mode and batch size.

    Each row has ``budget_bytes`` (the paper's, for one sample), ``paid_bytes`` (what the selection
    costs by paper eq. 4 for the whole batch: its activations once a sample, its gradients once), every
    part of ``Kept.backbone`` as ``<part>_bytes``, ``kept_total_bytes`` and ``full_finetuning_bytes``
    (train-mode batch norm, the same batch). Random weights, as in :func:`report`. Raises
    :class:`InputError` for a strategy without a budget.
    """
    budgeted = [name for name, entry in strategies.STRATEGIES.items() if entry.uses_budget]
    choose(strategies.get(strategy).name, budgeted, "strategy with a budget")

    alike: dict[str, Any] = {"resolution": resolution, "seed": seed}
    everything = Step(_checked(network, strategy="Baseline", batch_norm="train", **alike), device=device)
    full = {size: everything.held(size).total_bytes for size in batch_sizes}
    rows = []
    for budget in budgets:
        for batch_norm in batch_norms:
            checked = _checked(network, strategy=strategy, budget=budget, batch_norm=batch_norm, **alike)
            ready = Step(checked, device=device)
            layers = checked.backbone_layers()
            activations = ready.selection.activation_elements(layers)
            weights = ready.selection.weight_elements(layers)
            for size in batch_sizes:
                kept = ready.held(size)
                rows.append(
                    {
                        "network": checked.network,
                        "budget": budget,
                        "batch_norm": batch_norm,
                        "batch_size": size,
                        "budget_bytes": BYTES_PER_ELEMENT * budget,
                        "paid_bytes": BYTES_PER_ELEMENT * (size * activations + weights),
                        **{f"{part}_bytes": held for part, held in kept.backbone.items()},
                        "kept_total_bytes": kept.total_bytes,
                        "full_finetuning_bytes": full[size],
                    }
                )
    return rows
