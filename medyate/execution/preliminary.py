"""The offline phase for a model of one's own: a preliminary fine-tuning that ranks its layers (Sec. 3.4)."""

from __future__ import annotations

import copy
import numbers
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor, nn

from .. import costs, importance
from ..errors import InputError, whole
from ..probing import inputs
from ..probing.heads import heads as heads_of
from ..probing.inputs import loss_of
from ..ranking import Ranking
from . import coverage


def rank(
    model: nn.Module,
    batches: Iterable,
    *,
    epochs: int = 1,
    learning_rate: float = 0.01,
    input_shape: inputs.Shapes = (3, 128, 128),
    classifier: str | Sequence[str] | None = None,
    loss_function: Callable[..., Tensor] | None = None,
    name: str = "own",
) -> Ranking:
    """A ranking of one's own model: a preliminary fine-tuning of a *copy* of it, all layers trained.

    ``batches`` is iterated once per epoch (a DataLoader, or a list of batches). This needs the
    memory of full fine-tuning: it is the offline phase (Sec. 3.4), done once, away from the
    device, on any task at hand; the order of layers carries over to other tasks.
    """
    whole(epochs, "epochs", 1)
    if not (isinstance(learning_rate, numbers.Real) and 0 <= learning_rate < float("inf")):
        raise InputError(f"learning_rate {learning_rate!r}; allowed: a finite number, at least 0")
    try:
        model = copy.deepcopy(model).train()
    except RuntimeError as error:  # torch's, of a weight that the old weight_norm has computed
        raise InputError(
            f"the model cannot be copied: {str(error).splitlines()[0]}; allowed: torch.nn.utils.parametrizations."
            "weight_norm in place of torch.nn.utils.weight_norm, or a model that has not run yet"
        ) from error
    layers, heads = costs.walk(model, input_shape), heads_of(model, input_shape, classifier)
    covered = coverage.of(model, layers, heads)
    layers = tuple(layer for layer in layers if layer.name in set(covered.selectable))
    if not layers:
        raise InputError(f"there is no layer to rank: {covered}")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=learning_rate)
    weights = [coverage.weight_of(model.get_submodule(layer.name)) for layer in layers]
    transposed = [layer.name for layer in layers if coverage.is_transposed(model.get_submodule(layer.name))]
    gatherer = importance.Gatherer(weights, layers, transposed)
    for epoch in range(epochs):
        steps = 0
        for batch in batches:
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(model, batch, loss_function)
            if not torch.isfinite(loss):
                raise InputError(
                    f"the loss is {loss.item()} in batch {steps + 1} of epoch {epoch + 1}; allowed: finite inputs and "
                    "labels, and a learning_rate at which training does not diverge"
                )
            loss.backward()
            untouched = [layer.name for layer, weight in zip(layers, weights) if weight.grad is None]
            if untouched:
                raise InputError(
                    f"layer {untouched[0]!r} gets no gradient; allowed: layers that are run in training, not under "
                    "no_grad nor in a reentrant torch.utils.checkpoint (use_reentrant=False), or frozen ones "
                    "(requires_grad_(False)), which are not ranked"
                )
            gatherer.step()
            optimizer.step()
            steps += 1
        if not steps:
            raise InputError("batches gave nothing; allowed: an iterable that gives batches anew each epoch")
        gatherer.epoch()
    metrics = gatherer.metrics()
    return Ranking(
        network=type(model).__name__,
        name=name,
        layers=tuple(layer.name for layer in layers),
        lara=metrics["lara"],
        layer_rgn=metrics["layer_rgn"],
        source=f"a fine-tuning of {epochs} epochs of the model itself",
    )
