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

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from . import costs, importance, memory, strategies
from .dense import Dense
from .errors import InputError, choose, whole
from .ranking import Ranking
from .recompute import RECOMPUTE
from .strategies import Selection, Selector
from .subnet import attach

EXECUTIONS = {
    "subnet": "keeps only what the selection pays for",
    "dense": "dense gradients, masked: nothing is saved (for comparison)",
}
NORM_GRADIENTS = {
    "last": "the gradient of the epoch's last step: one pass over it, as eq. 11 counts",
    "mean_norm": "the mean over the epoch's steps of each step's norm",
    "mean": "the norm of the epoch's mean gradient (a second gradient is kept)",
}
COUNTS = {
    "paper": "the paper's unit: selected weights and activations (eq. 4)",
    "everything": "masks behind the first selected layer count against the budget too",
}


class Subnet:
    """Fine-tunes ``model`` under a memory budget. The model is changed in place until ``detach``.

    Parameters
    ----------
    model
        any torch model that ends in a Linear classifier.
    budget
        elements (4 bytes each in fp32) for one sample, a hard bound. Ignored by Baseline and Head only.
    strategy
        a name of :data:`medyate.strategies.STRATEGIES`, or a Strategy.
    ranking
        a :class:`medyate.ranking.Ranking` of the model's layers; LaRa, Prev and TraDy need one
        (:func:`medyate.dynamic.rank` makes it).
    input_shape
        one sample's shape, for the costs.
    k
        number of layers K in place of the strategy's rule.
    batch_norm, norm_affine, recompute
        see :func:`medyate.subnet.attach`.
    norm_gradient
        which gradient a channel's norm is taken from (the paper leaves it open). "last", the
        default, is what eq. 11 charges, one pass over C'D^2 per channel and epoch, and needs no
        memory beyond the gradient that is there anyway.
    count
        "paper", or "everything" for a budget that also pays for masks.
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
        input_shape: Sequence[int] = (3, 128, 128),
        classifier: str | None = None,
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
        if strategy.uses_budget:
            whole(budget, "budget", 1)
        self.model, self.strategy, self.norm_gradient = model, strategy, norm_gradient
        found = costs.walk(model, input_shape, depthwise)
        name = classifier or costs.classifier_name(model, found)
        choose(name, [layer.name for layer in found], "classifier layer")
        self.layers = tuple(layer for layer in found if layer.name != name)
        overheads = None
        if count == "everything":
            overheads = memory.mask_overheads(model, self.layers, input_shape)
        if generator is None:
            generator = torch.Generator().manual_seed(whole(seed, "seed", 0))
        self.selector = Selector(
            strategy, self.layers, budget or 0, generator,
            ranking=ranking, k=k, fill=fill, scheme=scheme, overheads=overheads,
        )  # fmt: skip
        options = {"classifier": name, "batch_norm": batch_norm, "norm_affine": norm_affine}
        if execution == "dense" or strategy.choice == "all":
            self.attached = Dense(model, **options)
        else:
            example = None
            if check and len(input_shape) > 1:
                one = next(model.parameters())
                # a generator of its own: torch's global one is the user's
                example = torch.rand((1, *input_shape), generator=torch.Generator().manual_seed(0))
                example = example.to(one.device, one.dtype)
            self.attached = attach(model, example=example, recompute=recompute, **options)
        self.selection: Selection | None = None
        self._gathered: dict[str, tuple[Tensor, int]] = {}  # sum over steps, number of steps
        self._hooks: list = []
        self._pending: dict[str, Tensor] | None = None

    def parameters(self) -> list[nn.Parameter]:
        """What is trained now: selected weights and the classifier."""
        return self.attached.parameters()

    def next_epoch(
        self,
        optimizer: torch.optim.Optimizer | None = None,
        whole_gradient: Mapping[str, Tensor] | None = None,
    ) -> Selection:
        """Choose the channels of the next epoch; call it at each epoch's start.

        MeDyate reads the norms from the gradients that the epoch before left behind, so they must
        not have been cleared. The oracles need ``whole_gradient``: channel norms of every layer,
        from :meth:`channel_norms_of`. The optimiser's parameters are exchanged for the new ones.
        """
        norms = whole_gradient
        if self.strategy.choice == "medyate" and self.selection is not None:
            norms = self._pending if self._pending is not None else self._norms()
        self._pending = None
        self._apply(self.selector.select(norms))
        if optimizer is not None:
            self.attached.refresh(optimizer)
        return self.selection

    def _apply(self, selection: Selection) -> None:
        self.selection = selection
        if self.strategy.choice == "all":
            self.attached.select({}, everything=True)
        else:
            self.attached.select(selection.channels)
        for hook in self._hooks:  # a weight that is masked outlives the selection, its hook must not
            hook.remove()
        self._gathered, self._hooks = {}, []
        if self.gathers:
            for parameter in self._selected_weights():
                self._hooks.append(parameter.register_post_accumulate_grad_hook(self._gather))

    def _selected_weights(self) -> list[nn.Parameter]:
        inside = {id(parameter) for parameter in self.attached.classifier.parameters()}
        return [p for p in self.parameters() if id(p) not in inside and p.dim() > 1]

    def _gather(self, parameter: nn.Parameter) -> None:
        for name, rows in self.attached.gradients().items():
            owner = self.model.get_submodule(name)
            if getattr(owner, "selected_weight", owner.weight) is parameter:
                self._add(name, rows)

    def _add(self, name: str, rows: Tensor) -> None:
        value = rows.double().norm(dim=1) if self.norm_gradient == "mean_norm" else rows.double()
        total, steps = self._gathered.get(name, (0, 0))
        self._gathered[name] = (total + value, steps + 1)

    @property
    def gathers(self) -> bool:
        """Whether every step's gradients count for the norms, not the last step's alone."""
        return self.strategy.choice == "medyate" and self.norm_gradient != "last"

    def gather(self) -> None:
        """Count the gradients that the weights hold, for who puts them there without a backward pass."""
        for name, rows in self.attached.gradients().items():
            self._add(name, rows)

    def _norms(self) -> dict[str, Tensor]:
        """The selected channels' norms by layer, (k,) each, in the selection's order."""
        if self.norm_gradient == "last":
            found = {name: rows.double().norm(dim=1) for name, rows in self.attached.gradients().items()}
        else:
            found = {name: total / steps for name, (total, steps) in self._gathered.items()}
            if self.norm_gradient == "mean":
                found = {name: rows.norm(dim=1) for name, rows in found.items()}
        missing = [name for name in self.selection.channels if name not in found]
        if missing:
            raise InputError(
                f"layer {missing[0]!r} has no gradient from the epoch before; call next_epoch before gradients "
                "are cleared and after at least one backward pass"
            )
        return {name: found[name].cpu() for name in self.selection.channels}

    def channel_norms_of(
        self,
        batches: Iterable[tuple[Tensor, Tensor]],
        loss_function: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
        layers: Sequence[str] | None = None,
    ) -> dict[str, Tensor]:
        """Channel norms of the whole gradient, averaged over ``batches``: what an oracle knows.

        Of all layers, or of ``layers`` alone, which costs what lies behind the first of them.
        Weights, running statistics and the present selection stay as they are.
        """
        kept = {name: value.clone() for name, value in self.model.named_buffers() if "running" in name or "tracked" in name}
        everything = {layer.name: range(layer.channels) for layer in self.layers if layers is None or layer.name in layers}
        self.attached.select(everything)
        total, count = {}, 0
        for images, labels in batches:
            loss = loss_function(self.model(images), labels)
            weights = self.parameters()
            for parameter, gradient in zip(weights, torch.autograd.grad(loss, weights)):
                parameter.grad = gradient
            for name, rows in self.attached.gradients().items():
                total[name] = total.get(name, 0) + rows
            count += 1
        for parameter in self.parameters():
            parameter.grad = None
        self.attached.select(self.selection.channels if self.selection else {})
        buffers = dict(self.model.named_buffers())
        with torch.no_grad():
            for name, value in kept.items():
                buffers[name].copy_(value)
        return {name: (rows.double() / count).norm(dim=1).cpu() for name, rows in total.items()}

    def state_dict(self) -> dict:
        """At an epoch's end: all that later epochs depend on, beside the model's own state."""
        pending = None
        if self.strategy.choice == "medyate" and self.selection is not None:
            pending = self._pending if self._pending is not None else self._norms()
        return {"selector": self.selector.state_dict(), "pending": pending}

    def load_state_dict(self, state: Mapping) -> None:
        """Continue at an epoch's end. Load the model's state first, make the optimiser after."""
        self.selector.load_state_dict(state["selector"])
        if self.selector.last is not None:
            self._apply(self.selector.last)
        self._pending = state["pending"]

    def detach(self) -> nn.Module:
        """The model as a plain module with the trained weights."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        return self.attached.detach()

    def __enter__(self) -> Subnet:
        return self

    def __exit__(self, *_exception) -> None:
        self.detach()


def rank(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    *,
    epochs: int = 1,
    learning_rate: float = 0.01,
    input_shape: Sequence[int] = (3, 128, 128),
    classifier: str | None = None,
    loss_function: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
    name: str = "own",
) -> Ranking:
    """A ranking of one's own model: a preliminary fine-tuning of a *copy* of it, all layers trained.

    ``batches`` is iterated once per epoch (a DataLoader, or a list of batches). This needs the
    memory of full fine-tuning: it is the offline phase (Sec. 3.4), done once, away from the
    device, on any task at hand; the order of layers carries over to other tasks.
    """
    whole(epochs, "epochs", 1)
    model = copy.deepcopy(model).train()
    found = costs.layers(model, input_shape, classifier)
    optimizer = torch.optim.SGD(model.requires_grad_(True).parameters(), lr=learning_rate)
    weights = [model.get_submodule(layer.name).weight for layer in found]
    gatherer = importance.Gatherer(weights, found)
    for _ in range(epochs):
        steps = 0
        for images, labels in batches:
            optimizer.zero_grad(set_to_none=True)
            loss_function(model(images), labels).backward()
            gatherer.step()
            optimizer.step()
            steps += 1
        if not steps:
            raise InputError("batches gave nothing; allowed: an iterable that gives batches anew each epoch")
        gatherer.epoch()
    return Ranking(
        network=type(model).__name__, name=name, layers=tuple(layer.name for layer in found),
        **gatherer.metrics(), source=f"a fine-tuning of {epochs} epochs of the model itself",
    )  # fmt: skip
