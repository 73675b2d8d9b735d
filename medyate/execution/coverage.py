"""What of a model can be selected, what cannot, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from torch import nn

from ..costs import Layer
from ..probing.heads import is_inside
from .layers import COUNTERPARTS, Split, counterpart, hooked

ALLOWED = (
    "Conv1d, Conv2d, Conv3d, Linear and MultiheadAttention modules of torch.nn itself, transformers' Conv1D, without "
    "hooks or parametrisations, outside the classifier"
)


def obstacles(model: nn.Module, heads: Sequence[str]) -> dict[str, str]:
    """Each module's name -> why it cannot be selected, "" if it can; for a model that is attached, too."""
    holders: dict[int, list[str]] = {}
    for name, module in model.named_modules():
        for parameter in module._parameters.values():
            if parameter is not None:
                holders.setdefault(id(parameter), []).append(name)
    return {name: _obstacle(name, module, heads, holders) for name, module in model.named_modules()}


def _obstacle(name: str, module: nn.Module, heads: Sequence[str], holders: Mapping[int, list[str]]) -> str:
    kind = type(module)
    is_split = issubclass(kind, Split)
    new = kind if is_split else counterpart(kind)
    called = kind.__name__.removeprefix("Subnet") if is_split else kind.__name__
    if is_inside(name, heads):
        return f"it is a {called} of the classifier"
    if new is None or not issubclass(new, Split):
        base = next((base.__name__ for base in COUNTERPARTS if isinstance(module, base)), None)
        if base is not None and new is None:
            return f"it is a {called}, a kind of {base} that may compute something else"
        return f"it is a {called}"
    if not is_split and hooked(module):
        return f"it is a {called} with a hook or a parametrisation"
    weight = module._parameters.get(new.weight_name)
    if weight is None:
        return f"it is a {called} whose queries, keys and values have a weight each"
    others = [other for other in holders[id(weight)] if other != name]
    return f"it shares its weight with {others[0]!r}" if others else ""


@dataclass(frozen=True)
class Coverage:
    """The layers that selections choose from, beside the rest of a model.

    ``selectable`` and ``obstacles`` (why not, by layer) are in order of execution and in the model's; elements
    count weights of two dimensions or more, outside the classifier. ``str`` gives one line.
    """

    classifier: tuple[str, ...]
    selectable: tuple[str, ...]
    obstacles: Mapping[str, str]
    selectable_elements: int
    weight_elements: int
    misses_products: bool  # whether any of the obstacles keeps from selection what has a cost
    early: tuple[str, ...] = ()  # layers of the classifier that run before all that can be selected

    @property
    def surprises(self) -> bool:
        """Whether there is something that a user should know before training."""
        return self.misses_products or bool(self.early)

    @property
    def share(self) -> float:
        """Of the backbone's weights that can be selected."""
        return self.selectable_elements / self.weight_elements if self.weight_elements else 1.0

    def __str__(self) -> str:
        line = (
            f"{len(self.selectable)} layers can be selected, {100 * self.share:.0f} % of the weights outside the "
            f"classifier ({', '.join(self.classifier)})"
        )
        reasons: dict[str, list[str]] = {}
        for name, reason in self.obstacles.items():
            reasons.setdefault(reason, []).append(repr(name))
        told = [
            f"{', '.join(names[:2])}{f' and {len(names) - 2} more' if len(names) > 2 else ''}: {reason}"
            for reason, names in reasons.items()
        ]
        line += f"; not {'; not '.join(told)}" if told else ""
        if self.early:
            line += (
                f"; {self.early[0]!r} of the classifier runs before all of them: it is trained always, outside the "
                "budget, by a gradient that goes through the whole network, unless classifier= names another"
            )
        return f"{line}; allowed: {ALLOWED}"


def of(model: nn.Module, layers: Iterable[Layer], heads: Sequence[str]) -> Coverage:
    """The coverage of a model; ``layers`` are what :func:`medyate.costs.walk` finds in it."""
    modules, why = dict(model.named_modules()), obstacles(model, heads)
    of_heads = {
        id(parameter)
        for owner, module in modules.items()
        for name, parameter in module.named_parameters(recurse=False)
        if is_inside(owner, heads) or f"{owner}.{name}" in heads
    }
    # a weight that a head shares, as language models' embeddings do, is trained with it
    ran = [layer.name for layer in layers]
    products = [name for name in ran if not (is_inside(name, heads) or of_heads & _weights(modules.get(name)))]
    reasons, selectable = {}, []
    for name in products:
        reason = why.get(name, "it is no module")
        if not reason and not weight_of(modules[name]).requires_grad:
            reason = "requires_grad=False: it was frozen before"
        if reason:
            reasons[name] = reason
        else:
            selectable.append(name)
    misses = bool(reasons)
    inside, elements, taken = set(selectable), 0, 0
    for name, parameter in model.named_parameters():
        owner = name.rpartition(".")[0]
        if parameter.dim() < 2 or id(parameter) in of_heads or name in heads:
            continue
        elements += parameter.numel()
        if owner in inside:
            taken += parameter.numel()
        elif owner not in reasons:
            reasons[owner] = why.get(owner) or "no product of its own with this weight in the forward pass"
    first = ran.index(selectable[0]) if selectable else 0
    early = tuple(name for name in ran[:first] if name not in products)
    return Coverage(tuple(heads), tuple(selectable), reasons, taken, elements, misses, early)


def _weights(module: nn.Module | None) -> set[int]:
    matrices = () if module is None else module.parameters(recurse=False)
    return {id(parameter) for parameter in matrices if parameter.dim() > 1}


def weight_of(module: nn.Module) -> nn.Parameter:
    """The weight of a layer that can be selected, before it is attached."""
    weight = module._parameters[_split(module).weight_name]
    assert weight is not None  # else it has an obstacle
    return weight


def is_transposed(module: nn.Module) -> bool:
    """Whether this weight is (in, out)."""
    return _split(module).inputs_first


def _split(module: nn.Module) -> type[Split]:
    return cast(type[Split], counterpart(type(module)))
