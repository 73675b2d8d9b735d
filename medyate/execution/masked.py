"""Dense gradients, masked: how existing code *simulates* a subnet. For comparison, and for the baseline.

:class:`Dense` offers what :class:`medyate.execution.attach.Attached` offers. The whole gradient of every layer
with a selected channel is computed, all that torch keeps for it is kept, and what was not selected
is set to zero before the optimiser sees it. Plain SGD then changes the selected channels only;
an optimiser with weight decay or momentum from before would change others too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from ..errors import InputError, choose
from . import steps
from .attach import fitting, head_of, keep_frozen, plain
from .layers import Split, counterpart
from .modes import BATCH_NORMS


class Dense:
    """A model whose gradients are masked. ``select(everything=True)`` trains every parameter."""

    # see :class:`medyate.execution.attach.Attached`
    before_step: Callable[[torch.optim.Optimizer, bool], None] | None = None
    after_step: Callable[[torch.optim.Optimizer, bool], None] | None = None

    def __init__(
        self, model: nn.Module, *, classifier: str | Sequence[str], batch_norm: str = "train", norm_affine: bool = False
    ):
        choose(batch_norm, BATCH_NORMS, "batch norm mode")
        self.model = model
        self.heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
        self.classifier = head_of(model, self.heads)
        self.batch_norm, self.norm_affine = batch_norm, norm_affine
        self._required = {parameter: parameter.requires_grad for parameter in model.parameters()}
        self._hooks: list = []
        self._chosen: dict[str, Tensor] = {}
        self._masks: dict[str, Tensor] = {}  # by layer, (C', C/groups, 1, ..)
        self._norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        self._frozen = [handle for norm in self._norms if batch_norm == "frozen" for handle in keep_frozen(norm)]
        self._steps = steps.Steps(self)
        self._steps.hold(model.parameters())
        self.select({})

    @property
    def classifier_name(self) -> str:
        return ", ".join(self.heads)

    def select(self, channels: Mapping[str, Sequence[int]], everything: bool = False) -> None:
        """Train these input channels from now on, by layer name."""
        modules = dict(self.model.named_modules())
        wanted = {name: self._checked(name, modules, chosen) for name, chosen in channels.items()}
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._chosen, self._masks = [], {}, {}
        for parameter in self.model.parameters():
            parameter.requires_grad_(everything and self._required[parameter])
            parameter.grad = None
        affine = self.batch_norm == "train" and (everything or self.norm_affine)
        for norm in self._norms:
            for parameter in norm.parameters(recurse=False):
                parameter.requires_grad_(affine and self._required[parameter])
        for parameter in self.classifier.parameters():
            parameter.requires_grad_(self._required[parameter])
        if everything:
            return
        for name, indices in wanted.items():
            module = modules[name]
            weight = _weight_of(module)
            indices = indices.to(weight.device)
            mask = self._masks[name] = _usual(module, _mask(module, indices))
            weight.requires_grad_(True)
            self._hooks.append(weight.register_hook(lambda grad, mask=mask: grad * mask))
            self._chosen[name] = indices

    @staticmethod
    def _checked(name: str, modules: Mapping[str, nn.Module], chosen: Sequence[int]) -> Tensor:
        module = modules.get(name)
        if module is None or not isinstance(module, _PRODUCTS) and _split(module) is None:
            raise InputError(f"layer {name!r} is not a convolution, Linear or attention module of the model")
        return fitting(name, chosen, _usual(module, _weight_of(module)).shape[1] * getattr(module, "groups", 1))

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is or may be trained: all that was not frozen before."""
        return [parameter for parameter, required in self._required.items() if required]

    def active(self) -> list[nn.Parameter]:
        """Those that are trained now."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def masks(self) -> dict[str, Tensor | None]:
        """What is trained now, by parameter name: a mask that fits its gradient, None for all of it."""
        masks = {id(self.weight_of(name)): mask for name, mask in self._masks.items()}
        return {
            name: masks.get(id(parameter))
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def refresh(self, optimizer: torch.optim.Optimizer) -> None:
        """See to it that the optimiser holds what is trained now; what is missing comes to its first group."""
        held = steps.held(optimizer)
        optimizer.param_groups[0]["params"] += [p for p in self.active() if id(p) not in held]

    def weight_of(self, name: str) -> nn.Parameter:
        """The parameter by which a layer is trained."""
        return _weight_of(self.model.get_submodule(name))

    def trust(self) -> None:
        """Nothing is ever dropped here."""

    def expect(self, *_) -> None:
        """Nothing is saved here, so samples of any size are welcome."""

    def step_begins(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        if self.before_step is not None:
            self.before_step(optimizer, closure)

    def step_ends(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        if self.after_step is not None:
            self.after_step(optimizer, closure)

    def gradients(self, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Tensor]:
        """The selected channels' gradients by layer, one row a channel; of those layers alone that ``optimizer``
        trains, if one is given."""
        held, gradients = None if optimizer is None else steps.held(optimizer), {}
        for name, indices in self._chosen.items():
            module = self.model.get_submodule(name)
            weight = _weight_of(module)
            if weight.grad is not None and (held is None or id(weight) in held):
                per_channel = _per_channel(_usual(module, weight.grad), getattr(module, "groups", 1))
                gradients[name] = per_channel.index_select(0, indices)
        return gradients

    def detach(self, twin: nn.Module | None = None) -> nn.Module:
        """The model as it was, with what was trained; of a copy, ``twin``, nothing needs to be taken back."""
        if twin is not None:
            return plain(twin)
        self.select({})
        for handle in self._frozen:
            handle.remove()
        self._steps.end()
        for parameter, required in self._required.items():
            parameter.requires_grad_(required)
        return self.model


_PRODUCTS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def _split(module: nn.Module) -> type[Split] | None:
    new = counterpart(type(module))
    return new if new is not None and issubclass(new, Split) else None


def _weight_of(module: nn.Module) -> nn.Parameter:
    new = _split(module)
    return cast(nn.Parameter, module._parameters["weight" if new is None else new.weight_name])


def _usual(module: nn.Module, tensor: Tensor) -> Tensor:
    """The weight of transformers' ``Conv1D``, (in, out), or something of its shape, as (out, in), and back."""
    new = _split(module)
    return tensor.t() if new is not None and new.inputs_first else tensor


def _per_channel(weight: Tensor, groups: int) -> Tensor:
    """(C', C/groups, ..) -> (C, elements per channel)."""
    outputs, per_group = weight.shape[:2]
    blocks = weight.reshape(groups, outputs // groups, per_group, -1)
    return blocks.transpose(1, 2).reshape(groups * per_group, -1)


def _mask(module: nn.Module, indices: Tensor) -> Tensor:
    weight, groups = _usual(module, _weight_of(module)), getattr(module, "groups", 1)
    outputs, per_group = weight.shape[:2]
    mask = torch.zeros(groups * per_group, dtype=weight.dtype, device=weight.device)
    mask[indices] = 1
    blocks = mask.view(groups, 1, per_group).expand(groups, outputs // groups, per_group)
    return blocks.reshape(outputs, per_group, *[1] * (weight.dim() - 2))
