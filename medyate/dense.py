"""Dense gradients, masked: how existing code *simulates* a subnet. For comparison, and for the baseline.

:class:`Dense` offers what :class:`medyate.subnet.Attached` offers. The whole gradient of every layer
with a selected channel is computed, all that torch keeps for it is kept, and what was not selected
is set to zero before the optimiser sees it. Plain SGD then changes the selected channels only;
an optimiser with weight decay or momentum from before would change others too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from .errors import InputError, choose
from .subnet import BATCH_NORMS, _stay_frozen, fitting


class Dense:
    """A model whose gradients are masked. ``select(everything=True)`` trains every parameter."""

    def __init__(
        self, model: nn.Module, *, classifier: str, batch_norm: str = "train", norm_affine: bool = False
    ):
        choose(batch_norm, BATCH_NORMS, "batch norm mode")
        self.model, self.classifier_name = model, classifier
        self.classifier = model.get_submodule(classifier)
        self.batch_norm, self.norm_affine = batch_norm, norm_affine
        self._required = {parameter: parameter.requires_grad for parameter in model.parameters()}
        self._hooks: list = []
        self._chosen: dict[str, Tensor] = {}
        self._masks: dict[str, Tensor] = {}  # by layer, (C', C/groups, 1, ..)
        self._norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if batch_norm == "frozen":
            for norm in self._norms:
                norm.register_forward_pre_hook(_stay_frozen)
        self.select({})

    def select(self, channels: Mapping[str, Sequence[int]], everything: bool = False) -> None:
        """Train these input channels from now on, by layer name."""
        modules = dict(self.model.named_modules())
        wanted = {name: self._checked(name, modules, chosen) for name, chosen in channels.items()}
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._chosen, self._masks = [], {}, {}
        for parameter in self.model.parameters():
            parameter.requires_grad_(everything)
            parameter.grad = None
        affine = self.batch_norm == "train" and (everything or self.norm_affine)
        for norm in self._norms:
            for parameter in norm.parameters(recurse=False):
                parameter.requires_grad_(affine)
        for parameter in self.classifier.parameters():
            parameter.requires_grad_(True)
        if everything:
            return
        for name, indices in wanted.items():
            module = modules[name]
            indices = indices.to(module.weight.device)
            mask = self._masks[name] = _mask(module, indices)
            module.weight.requires_grad_(True)
            self._hooks.append(module.weight.register_hook(lambda grad, mask=mask: grad * mask))
            self._chosen[name] = indices

    @staticmethod
    def _checked(name: str, modules: Mapping[str, nn.Module], chosen: Sequence[int]) -> Tensor:
        module = modules.get(name)
        if not isinstance(module, (nn.Conv2d, nn.Linear)):
            raise InputError(f"layer {name!r} is not a Conv2d or Linear module of the model")
        return fitting(name, chosen, module.weight.shape[1] * getattr(module, "groups", 1))

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def masks(self) -> dict[str, Tensor | None]:
        """What is trained now, by parameter name: a mask that fits its gradient, None for all of it."""
        return {
            name: self._masks.get(name.removesuffix(".weight"))
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }

    def refresh(self, optimizer: torch.optim.Optimizer) -> None:
        """Give the optimiser the parameters that are trained now."""
        for group in optimizer.param_groups[1:]:
            group["params"] = []
        optimizer.param_groups[0]["params"] = self.parameters()

    def gradients(self) -> dict[str, Tensor]:
        """The selected channels' gradients by layer, one row a channel."""
        found = {}
        for name, indices in self._chosen.items():
            module = self.model.get_submodule(name)
            if module.weight.grad is not None:
                groups = getattr(module, "groups", 1)
                found[name] = _per_channel(module.weight.grad, groups).index_select(0, indices)
        return found

    def detach(self) -> nn.Module:
        self.select({})
        for norm in self._norms:
            for key, hook in list(norm._forward_pre_hooks.items()):
                if hook is _stay_frozen:
                    del norm._forward_pre_hooks[key]
        for parameter, required in self._required.items():
            parameter.requires_grad_(required)
        return self.model


def _per_channel(weight: Tensor, groups: int) -> Tensor:
    """(C', C/groups, ..) -> (C, elements per channel)."""
    outputs, per_group = weight.shape[:2]
    blocks = weight.reshape(groups, outputs // groups, per_group, -1)
    return blocks.transpose(1, 2).reshape(groups * per_group, -1)


def _mask(module: nn.Module, indices: Tensor) -> Tensor:
    weight, groups = module.weight, getattr(module, "groups", 1)
    outputs, per_group = weight.shape[:2]
    mask = torch.zeros(groups * per_group, dtype=weight.dtype, device=weight.device)
    mask[indices] = 1
    blocks = mask.view(groups, 1, per_group).expand(groups, outputs // groups, per_group)
    return blocks.reshape(outputs, per_group, *[1] * (weight.dim() - 2))
