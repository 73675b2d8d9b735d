"""A model, a budget and a strategy: the training loop of Algorithm 1 around one's own loop.

>>> subnet = medyate.Subnet(model, budget=27_946, strategy="LaRa MeDyate", ranking=ranking)
>>> optimizer = torch.optim.SGD(subnet.parameters(), lr=0.125)
>>> for epoch in range(epochs):
...     subnet.next_epoch(optimizer)          # a new selection
...     for images, labels in loader:
...         optimizer.zero_grad()
...         loss_function(model(images), labels).backward()
...         optimizer.step()
>>> subnet.detach()                           # model is a plain module again
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from . import costs, strategies
from .errors import InputError, choose, whole
from .execution import coverage, promise
from .execution.attach import Attached, attach
from .execution.masked import Dense
from .execution.modes import COUNTS, EXECUTIONS, RECOMPUTE
from .execution.preliminary import rank as rank
from .execution.steps import StepWatch, overflowed, unscaled
from .importance import NORM_GRADIENTS
from .probing import inputs
from .probing.heads import heads as heads_of
from .probing.inputs import loss_of
from .ranking import Ranking
from .selection import Selection, Selector
from .strategies import Needs


class Subnet:
    """Fine-tunes ``model`` under a memory budget. The model is changed in place until ``detach``.

    Parameters
    ----------
    model
        any torch model.
    budget
        elements (4 bytes each in fp32) for one sample, a hard bound. Ignored by Baseline and Head only.
    strategy
        a name of :data:`medyate.strategies.STRATEGIES`, or a Strategy.
    ranking
        a :class:`medyate.ranking.Ranking` of the model's layers; LaRa, Prev and TraDy need one
        (:func:`medyate.execution.preliminary.rank` makes it).
    input_shape
        one sample's shape, for the costs; of a model of several inputs their shapes, see
        :func:`medyate.probing.inputs.shapes_of`. Larger samples are refused in training.
    classifier
        what is trained always, outside the budget: names of modules or parameters, one or several. None
        takes the layers that the output comes from (``subnet.coverage.classifier``).
    k
        number of layers K in place of the strategy's rule.
    batch_norm, norm_affine, recompute
        see :func:`medyate.execution.attach.attach`.
    norm_gradient
        which gradient a channel's norm is taken from (the paper leaves it open). "last", the
        default, is what paper eq. 11 charges, one pass over C'D^2 per channel and epoch, and needs no
        memory beyond the gradient that is there anyway.
    count
        "paper", or "everything" for a budget that also pays for masks and whatever else is measured to be kept.
    fill
        "skip" or "stop" at the budget, see :mod:`medyate.sampling`.

    Raises
    ------
    InputError
        before anything is changed.
    """

    def __init__(
        self,
        model: nn.Module,
        budget: int | None = None,
        strategy: str | strategies.Strategy = "LaRa MeDyate",
        *,
        ranking: Ranking | None = None,
        input_shape: inputs.Shapes = (3, 128, 128),
        classifier: str | Sequence[str] | None = None,
        k: int | None = None,
        batch_norm: str = "frozen",
        norm_affine: bool = False,
        recompute: str = "layers",
        execution: str = "subnet",
        depthwise: str = "eq4",
        norm_gradient: str = "last",
        count: str = "paper",
        fill: str = "skip",
        seed: int = 0,
        generator: torch.Generator | None = None,
        scheme: Selection | None = None,
        check: bool = True,
    ):
        choose(execution, EXECUTIONS, "execution")
        choose(norm_gradient, NORM_GRADIENTS, "norm gradient")
        choose(count, COUNTS, "count")
        choose(recompute, RECOMPUTE, "recompute mode")
        if isinstance(strategy, str):
            strategy = strategies.get(strategy)
        self.model, self.strategy, self.norm_gradient = model, strategy, norm_gradient
        walked, heads = costs.walk(model, input_shape, depthwise), heads_of(model, input_shape, classifier)
        self.coverage = coverage.of(model, walked, heads)
        self.layers = tuple(layer for layer in walked if layer.name in set(self.coverage.selectable))
        if not self.layers:
            raise InputError(f"there is no layer to select: {self.coverage}")
        options: dict[str, Any] = {"classifier": heads, "batch_norm": batch_norm, "norm_affine": norm_affine}
        everything: dict[str, Any] | None = {"recompute": recompute, **options} if count == "everything" else None
        more = promise.overheads(model, self.layers, input_shape, **everything) if everything else None
        if generator is None:
            generator = torch.Generator().manual_seed(whole(seed, "seed", 0))
        self.selector = Selector(
            strategy, self.layers, budget, generator, ranking=ranking, k=k, fill=fill, scheme=scheme, overheads=more
        )
        self._promise: promise.Promise | None = None
        if execution == "dense" or strategy.needs(Needs.EVERYTHING):
            dense = Dense(model, **options)
            if strategy.needs(Needs.EVERYTHING):
                dense.select({}, everything=True)
            self.attached: Attached | Dense = dense
        else:
            example = None
            if check:
                call = inputs.example(input_shape, model, next(model.parameters()).device)
                example = None if inputs.has_integers(call) else call
                if strategy.needs(Needs.BUDGET) and count == "paper":
                    self._promise = promise.Promise(model, self.selector, input_shape, recompute=recompute, **options)
            self.attached = attach(model, example=example, recompute=recompute, **options)
        self.attached.expect({layer.name: layer.activation_elements_per_channel for layer in self.layers}, input_shape)
        self.attached.before_step, self.attached.after_step = self._before_step, self._after_step
        self._watch = StepWatch(self.attached)
        if self.coverage.surprises and strategy.needs(Needs.BUDGET):
            warnings.warn(str(self.coverage), stacklevel=2)
        self.selection: Selection | None = None
        self._latest: dict[str, Tensor] = {}  # norms of the last step
        self._gathered: dict[str, tuple[Tensor, int]] = {}  # sum over steps, number of steps
        self._pending: dict[str, Tensor] | None = None

    def parameters(self) -> list[nn.Parameter]:
        """What is trained: selected weights and the classifier. The same objects for the whole training."""
        return self.attached.parameters()

    def next_epoch(
        self, optimizer: torch.optim.Optimizer | None = None, whole_gradient: Mapping[str, Tensor] | None = None
    ) -> Selection:
        """Choose the channels of the next epoch; call it at each epoch's start.

        MeDyate reads the norms at each step of the optimiser, as it finds the gradients: summed over what was
        accumulated, without a GradScaler's factor, clipped if they are. Where steps are taken without one of
        torch's optimisers, it reads the gradients that the epoch before left behind, which must not have been
        cleared then. The oracles need ``whole_gradient``: channel norms of every layer, from
        :meth:`channel_norms_of`.

        The optimiser may be left out, if it was made after ``Subnet`` of ``subnet.parameters()`` or
        ``model.parameters()``; one that was made otherwise is given what it lacks. What an optimiser knows of a layer's
        channels of before, as momentum, is dropped with them.
        """
        norms = whole_gradient
        for name, values in (norms or {}).items():
            if not torch.isfinite(values).all():
                raise InputError(
                    f"the whole gradient's norms of layer {name!r} hold {values[~torch.isfinite(values)][0]}; allowed: "
                    "finite norms, of finite inputs and weights"
                )
        if self.strategy.needs(Needs.OWN_GRADIENT) and self.selection is not None:
            norms = self._norms()
        chosen = self.selector.select(norms)
        self._apply(chosen)
        if optimizer is not None:
            self.attached.refresh(optimizer)
        if self._promise is not None:
            self._promise.check(self.attached, chosen)
        return chosen

    def _apply(self, selection: Selection) -> None:
        self.selection = selection
        if isinstance(self.attached, Dense) and self.strategy.needs(Needs.EVERYTHING):
            self.attached.select({}, everything=True)
        else:
            self.attached.select(selection.channels)
        self._gathered, self._latest, self._pending = {}, {}, None

    def _before_step(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        self._watch.step(optimizer, self.selection, self.strategy.needs(Needs.BUDGET), closure)
        if not closure:
            self._read(optimizer)

    def _after_step(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        if closure:  # the gradients of a step that computes them itself
            self._read(optimizer)

    def _read(self, optimizer: torch.optim.Optimizer) -> None:
        """Note this step's norms."""
        if not self.strategy.needs(Needs.OWN_GRADIENT) or self.selection is None or overflowed(optimizer):
            return
        for name, gradient in self.attached.gradients(optimizer).items():
            rows = unscaled(gradient.double(), optimizer)
            if self.gathers:
                self._add(name, rows)
            else:
                self._latest[name] = rows.norm(dim=1)

    def _add(self, name: str, rows: Tensor) -> None:
        value = rows.double().norm(dim=1) if self.norm_gradient == "mean_norm" else rows.double()
        total, steps = self._gathered.get(name, (0, 0))
        self._gathered[name] = (total + value, steps + 1)

    @property
    def gathers(self) -> bool:
        """Whether every step's gradients count for the norms, not the last step's alone."""
        return self.strategy.needs(Needs.OWN_GRADIENT) and self.norm_gradient != "last"

    def gather(self) -> None:
        """Count the gradients that the weights hold, where a caller sets them without an optimiser's step."""
        for name, rows in self.attached.gradients().items():
            self._add(name, rows)

    def _norms(self, partly: bool = False) -> dict[str, Tensor]:
        """The selected channels' norms by layer, (k,) each, in the selection's order."""
        norms = dict(self._pending or {})
        if self.norm_gradient == "last":
            left = {} if norms or self._latest else self.attached.gradients()
            norms |= self._latest or {name: rows.double().norm(dim=1) for name, rows in left.items()}
        else:
            means = {name: total / steps for name, (total, steps) in self._gathered.items()}
            norms |= {name: value.norm(dim=1) if value.dim() > 1 else value for name, value in means.items()}
        if not (self._latest or self._gathered or self._pending) and any(
            not x.isfinite().all() for x in norms.values()
        ):
            warnings.warn(
                "the epoch's gradients overflowed and no step was taken: its norms are passed over", stacklevel=3
            )
            return {}
        selected = self.selection.channels if self.selection is not None else {}
        missing = [name for name in selected if name not in norms]
        if missing and not partly:
            raise InputError(
                f"layer {missing[0]!r} has no gradient from the epoch before; allowed: next_epoch after at least one "
                "step of an optimiser, and a layer that gradients reach (not under no_grad, nor in a reentrant "
                "torch.utils.checkpoint: use_reentrant=False)"
            )
        return {name: norms[name].cpu() for name in selected if name in norms}

    def channel_norms_of(
        self, batches: Iterable, loss_function: Callable[..., Tensor] | None = None, layers: Sequence[str] | None = None
    ) -> dict[str, Tensor]:
        """Channel norms of the whole gradient, averaged over ``batches``: what an oracle knows.

        Of all layers, or of ``layers`` alone, which costs what comes after the first of them. Weights, running
        statistics and the present selection stay as they are.
        """
        everything = {
            layer.name: range(layer.channels) for layer in self.layers if layers is None or layer.name in layers
        }
        self.attached.select(everything)
        total: dict[str, Tensor] = {}
        count = 0
        try:
            with inputs.same_buffers(self.model):
                for count, batch in enumerate(batches, 1):
                    loss = loss_of(self.model, batch, loss_function)
                    if not torch.isfinite(loss):
                        raise InputError(
                            f"the loss is {loss.item()} in batch {count}; allowed: finite inputs, labels and weights"
                        )
                    weights = self.attached.active()
                    for parameter, gradient in zip(weights, torch.autograd.grad(loss, weights, allow_unused=True)):
                        parameter.grad = gradient
                    for name, rows in self.attached.gradients().items():
                        total[name] = total.get(name, 0) + rows
        finally:
            for parameter in self.parameters():
                parameter.grad = None
            self.attached.select(self.selection.channels if self.selection else {})
        return {name: (rows.double() / count).norm(dim=1).cpu() for name, rows in total.items()}

    def state_dict(self) -> dict:
        """All that later steps and epochs depend on, beside the model's own state and the optimiser's."""
        pending = None
        if self.strategy.needs(Needs.OWN_GRADIENT) and self.selection is not None:
            pending = self._norms(partly=True)
        state = {"selector": self.selector.state_dict(), "pending": pending}
        return state | ({"gathered": dict(self._gathered)} if self._gathered else {})

    def load_state_dict(self, state: Mapping) -> None:
        """Continue where :meth:`state_dict` was taken, in any order with the model's and the optimiser's states."""
        self.selector.load_state_dict(state["selector"])
        if self.selector.last is not None:
            self._apply(self.selector.last)
            self.attached.trust()
        self._pending, self._gathered = state["pending"], dict(state.get("gathered", {}))

    def detach(self, twin: nn.Module | None = None) -> nn.Module:
        """The model as a plain module with the trained weights; or ``twin``, a copy of it (an average's
        ``AveragedModel.module``), as one."""
        return self.attached.detach(twin)

    def __enter__(self) -> Subnet:
        return self

    def __exit__(self, *_exception) -> None:
        self.detach()
