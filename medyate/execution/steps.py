"""Listens to optimisers: whatever makes a step, whoever calls it, a model that is attached is told before and after.

torch calls hooks that are common to all optimisers, so nobody has to hand theirs over, and the Trainers that
make their own are heard as well.
"""

from __future__ import annotations

import functools
import gc
import warnings
import weakref
from collections.abc import Iterable

import torch
from torch import nn
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class Steps:
    """Tells ``owner`` (``step_begins``, ``step_ends``) of each step of an optimiser that holds any of its
    parameters (:meth:`hold`), and drops what optimisers know of parameters that have become others (:meth:`forget`).
    """

    def __init__(self, owner):
        self._owner = weakref.ref(owner)
        mine = weakref.ref(self)
        self._handles = [
            register_optimizer_step_pre_hook(functools.partial(_told, mine, "_begin")),
            register_optimizer_step_post_hook(functools.partial(_told, mine, "_end")),
        ]
        weakref.finalize(self, _remove, self._handles)
        self._held: frozenset[int] = frozenset()
        self._changes = 0
        self._changed: dict[int, int] = {}  # id of a parameter -> the change that made it another
        self._seen: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # optimiser -> changes it knows of

    def hold(self, parameters: Iterable[nn.Parameter]) -> None:
        """The parameters whose optimisers are listened to."""
        self._held = frozenset(id(parameter) for parameter in parameters)

    def hears(self, optimizer: torch.optim.Optimizer) -> bool:
        return any(id(parameter) in self._held for group in optimizer.param_groups for parameter in group["params"])

    def forget(self, parameter: nn.Parameter) -> None:
        """What optimisers know of this parameter is of something else now."""
        self._changes += 1
        self._changed[id(parameter)] = self._changes

    def trust(self) -> None:
        """Optimisers' states are of what is trained now: both come from a checkpoint."""
        self._changed = {}

    def drop(self, optimizer: torch.optim.Optimizer) -> None:
        """Drop the states that :meth:`forget` has spoken of since this optimiser's last step."""
        seen = self._seen.get(optimizer, 0)
        stale = {key for key, change in self._changed.items() if change > seen}
        self._seen[optimizer] = self._changes
        held = [p for group in optimizer.param_groups for p in group["params"] if id(p) in stale]
        for parameter in held:
            optimizer.state.pop(parameter, None)
        if held and isinstance(optimizer, torch.optim.LBFGS):  # it keeps one state, of all parameters together
            optimizer.state.clear()
            optimizer._numel_cache = None

    def _begin(self, owner, optimizer, closure: bool) -> None:
        self.drop(optimizer)
        owner.step_begins(optimizer, closure)

    def _end(self, owner, optimizer, closure: bool) -> None:
        owner.step_ends(optimizer, closure)

    def end(self) -> None:
        _remove(self._handles)


def _told(mine, what: str, optimizer, args, kwargs) -> None:
    listener = mine()
    owner = None if listener is None else listener._owner()
    if owner is not None and listener.hears(optimizer):
        closure = (args[1] if len(args) > 1 else kwargs.get("closure")) is not None
        getattr(listener, what)(owner, optimizer, closure)


def _remove(handles: list) -> None:
    for handle in handles:
        handle.remove()


def held(optimizer: torch.optim.Optimizer) -> set[int]:
    """The ids of the parameters that an optimiser has in its groups."""
    return {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}


def unscaled(gradient: torch.Tensor, optimizer: torch.optim.Optimizer) -> torch.Tensor:
    """Without the factor that a GradScaler leaves to optimisers which take it out themselves (``fused=True``)."""
    scale = getattr(optimizer, "grad_scale", None)
    return gradient if scale is None else gradient / scale


def overflowed(optimizer: torch.optim.Optimizer) -> bool:
    """Whether such an optimiser will skip this step."""
    found = getattr(optimizer, "found_inf", None)
    return found is not None and bool(found)


class StepWatch:
    """Warns, once each, of steps that train less than was selected."""

    def __init__(self, attached):
        self.attached = attached
        self.told: set[str] = set()

    def step(self, optimizer: torch.optim.Optimizer, selection, selects: bool, closure: bool) -> None:
        if not selects:
            return
        if selection is None:
            self._tell(
                "start",
                "the classifier alone is trained: next_epoch has not been called; call subnet.next_epoch() at each "
                "epoch's start",
            )
            return
        if not selection.channels:
            return
        weights = {name: self.attached.weight_of(name) for name in selection.channels}
        known = held(optimizer)
        missing = [name for name, weight in weights.items() if id(weight) not in known]
        if missing and "optimiser" not in self.told and not _held_elsewhere(weights[missing[0]], optimizer):
            self._tell(
                "optimiser",
                f"layer {missing[0]!r} is selected, but no optimiser holds its weight; make the optimiser after "
                "Subnet, of subnet.parameters() or model.parameters(), or hand it over: subnet.next_epoch(optimizer)",
            )
        if closure or missing or "gradient" in self.told:
            return
        empty = [name for name, weight in weights.items() if weight.grad is None]
        if empty:
            self._tell(
                "gradient",
                f"layer {empty[0]!r} is selected, but has no gradient at this step: it was not run, or under no_grad, "
                "or in a reentrant torch.utils.checkpoint (allowed: use_reentrant=False)",
            )

    def _tell(self, what: str, text: str) -> None:
        if what not in self.told:
            self.told.add(what)
            warnings.warn(text, stacklevel=8)


def _held_elsewhere(weight: nn.Parameter, optimizer: torch.optim.Optimizer) -> bool:
    """Whether another optimiser holds it. Asked at most once or twice, of all objects that there are."""
    return any(
        p is weight
        for other in gc.get_objects()
        if issubclass(type(other), torch.optim.Optimizer) and other is not optimizer  # a proxy may be dead
        for group in getattr(other, "param_groups", ())
        for p in group["params"]
    )
