"""Gradients to importance: channel norms, RGN (paper eq. 7), layer RGN (paper eq. 8) and LaRa (paper eq. 9)."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from .costs import Layer
from .errors import choose

# which gradient an epoch's norms are taken from; the paper leaves it open
NORM_GRADIENTS = {
    "last": "the gradient of the epoch's last step: one pass over it, as paper eq. 11 counts",
    "mean_norm": "the mean over the epoch's steps of each step's norm",
    "mean": "the norm of the epoch's mean gradient (a second gradient is kept)",
}


def channel_norms(weight_gradient: Tensor, groups: int = 1) -> Tensor:
    """L2 norm of the weight's derivative per *input* channel.

    ``weight_gradient`` is (C', C/groups, D, D) or (out, in); the result is (C,). A grouped convolution's input channel
    c belongs to group c // (C/groups), and its derivative is that group's block of outputs.
    """
    outputs, per_group = weight_gradient.shape[:2]
    blocks = weight_gradient.detach().double().reshape(groups, outputs // groups, per_group, -1)
    return blocks.square().sum(dim=(1, 3)).sqrt().flatten()


def rgn(norms: Tensor, layer: Layer) -> Tensor:
    """Reweighted gradient norm of each channel, paper eq. 7: its norm over its memory cost (paper eq. 4)."""
    return norms / layer.channel_elements


def layer_rgn(norms: Tensor, layer: Layer) -> float:
    """A layer's RGN, paper eq. 8: the sum of its channels' RGN."""
    return float(norms.sum()) / layer.channel_elements


def lara(norms: Tensor, layer: Layer) -> float:
    """A layer's LaRa, paper eq. 9: the norm of its whole gradient over the cost of all its channels.

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

    ``weights`` are the layers' weight parameters, in order; those of layers in ``transposed`` are (in, out). Call
    :meth:`step` after each backward pass and ``epoch`` at each epoch's end. ``last``, ``mean`` and ``of_mean`` hold
    one (channels,) vector per epoch: the norms of its last step's gradient, the mean of all its steps' norms, and the
    norms of its steps' mean gradient. The paper does not say which of them it means.
    """

    def __init__(self, weights: Sequence[Tensor], layers: Sequence[Layer], transposed: Collection[str] = ()):
        self.weights, self.layers, self.transposed = list(weights), tuple(layers), frozenset(transposed)
        self.last: list[Tensor] = []
        self.mean: list[Tensor] = []
        self.of_mean: list[Tensor] = []
        self._start()

    def _start(self) -> None:
        self._steps, self._latest, self._sum = 0, torch.zeros(()), torch.zeros(())
        self._gradients = [torch.zeros_like(weight) for weight in self.weights]

    def _norms(self, gradients: Sequence[Tensor]) -> Tensor:
        usual = [one.t() if layer.name in self.transposed else one for one, layer in zip(gradients, self.layers)]
        return torch.cat([channel_norms(one, layer.groups) for one, layer in zip(usual, self.layers)])

    def step(self) -> None:
        # a weight that the loss does not reach has a gradient of zero
        latest = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in self.weights]
        for total, gradient in zip(self._gradients, latest):
            total += gradient
        self._latest = self._norms(latest)
        self._sum = self._sum + self._latest
        self._steps += 1

    def epoch(self) -> None:
        self.last.append(self._latest.cpu())
        self.mean.append((self._sum / self._steps).cpu())
        self.of_mean.append(self._norms(self._gradients).cpu() / self._steps)
        self._start()

    def gathered(self, norm_gradient: str) -> list[Tensor]:
        """One of the three vectors per epoch, named as :data:`NORM_GRADIENTS` name it."""
        choose(norm_gradient, NORM_GRADIENTS, "norm gradient")
        return {"last": self.last, "mean_norm": self.mean, "mean": self.of_mean}[norm_gradient]

    def metrics(self, norm_gradient: str = "mean_norm") -> dict[str, tuple[float, ...]]:
        """LaRa and layer RGN of each layer, computed from each epoch's norms and summed over epochs."""
        counts = [layer.channels for layer in self.layers]
        total = {"lara": torch.zeros(len(counts)).double(), "layer_rgn": torch.zeros(len(counts)).double()}
        for norms in self.gathered(norm_gradient):
            named = {layer.name: part for layer, part in zip(self.layers, norms.split(counts))}
            for key, values in layer_metrics(named, self.layers).items():
                total[key] += torch.tensor(values, dtype=torch.float64)
        return {key: tuple(values.tolist()) for key, values in total.items()}
