"""Gradients to importance: channel norms, RGN (eq. 7), layer RGN (eq. 8) and LaRa (eq. 9)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .costs import Layer


def channel_norms(weight_gradient: Tensor, groups: int = 1) -> Tensor:
    """L2 norm of the weight's derivative per *input* channel.

    ``weight_gradient`` is (C', C/groups, D, D) or (out, in); the result is (C,). A grouped
    convolution's input channel c belongs to group c // (C/groups), and its derivative is that
    group's block of outputs.
    """
    gradient = weight_gradient.detach().double().flatten(2) if weight_gradient.dim() > 2 else (
        weight_gradient.detach().double().unsqueeze(-1)
    )  # fmt: skip
    outputs, per_group, taps = gradient.shape
    blocks = gradient.reshape(groups, outputs // groups, per_group, taps)
    return blocks.square().sum(dim=(1, 3)).sqrt().flatten()


def rgn(norms: Tensor, layer: Layer) -> Tensor:
    """Reweighted gradient norm of each channel, eq. 7: its norm over its memory cost (eq. 4)."""
    return norms / layer.channel_elements


def layer_rgn(norms: Tensor, layer: Layer) -> float:
    """A layer's RGN, eq. 8: the sum of its channels' RGN."""
    return float(norms.sum()) / layer.channel_elements


def lara(norms: Tensor, layer: Layer) -> float:
    """A layer's LaRa, eq. 9: the norm of its whole gradient over the cost of all its channels.

    The whole gradient's Euclidean norm is the root of the channels' squared norms.
    """
    return float(norms.square().sum().sqrt()) / layer.search_elements


def layer_metrics(norms: Mapping[str, Tensor], layers: Sequence[Layer]) -> dict[str, list[float]]:
    """``lara`` and ``layer_rgn`` of each layer in order, from channel norms by layer name."""
    return {
        "lara": [lara(norms[layer.name], layer) for layer in layers],
        "layer_rgn": [layer_rgn(norms[layer.name], layer) for layer in layers],
    }


class Gatherer:
    """Collects whole-gradient channel norms step by step, epoch by epoch.

    ``weights`` are the layers' weight parameters, in order. Call :meth:`step` after each backward
    pass and :meth:`epoch` at each epoch's end. ``last`` and ``mean`` hold one (channels,) vector
    per epoch: the norms of its last step, and the mean over its steps.
    """

    def __init__(self, weights: Sequence[Tensor], layers: Sequence[Layer]):
        self.weights, self.layers = list(weights), tuple(layers)
        self.last: list[Tensor] = []
        self.mean: list[Tensor] = []
        self._start()

    def _start(self) -> None:
        self._sum, self._latest, self._steps = 0.0, None, 0

    def step(self) -> None:
        self._latest = torch.cat(
            [channel_norms(weight.grad, layer.groups) for weight, layer in zip(self.weights, self.layers)]
        )
        self._sum = self._sum + self._latest
        self._steps += 1

    def epoch(self) -> None:
        self.last.append(self._latest.cpu())
        self.mean.append((self._sum / self._steps).cpu())
        self._start()

    def metrics(self) -> dict[str, tuple[float, ...]]:
        """LaRa and layer RGN of each layer, computed from each epoch's mean norms and summed over epochs."""
        counts = [layer.channels for layer in self.layers]
        total = {"lara": torch.zeros(len(counts)).double(), "layer_rgn": torch.zeros(len(counts)).double()}
        for norms in self.mean:
            named = {layer.name: part for layer, part in zip(self.layers, norms.split(counts))}
            for key, values in layer_metrics(named, self.layers).items():
                total[key] += torch.tensor(values, dtype=torch.float64)
        return {key: tuple(values.tolist()) for key, values in total.items()}


def flat(values: Mapping[str, Tensor], layers: Sequence[Layer]) -> Tensor:
    """Channel values by layer name -> one vector over all channels, in the layers' order."""
    return torch.cat([values[layer.name].double() for layer in layers])
