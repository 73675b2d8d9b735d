"""Which layers a model's output comes from: its heads.

The autograd graph knows. From the output backward, the first operations that bring in a matrix of
parameters are the heads' own, whatever their modules are called, whether they are Linear, Conv2d or a
module that normalises its weight first, and however many there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import InputError, choose
from . import inputs, tracing

_BATCH_NORMS = {torch.batch_norm, nn.functional.batch_norm}
_PRODUCTS = ("Convolution", "Addmm", "Mm", "Bmm", "MkldnnConvolution")  # of autograd's nodes
_CLAMPS = {nn.functional.hardtanh, nn.functional.relu6}


class _Short(TorchFunctionMode):
    """Spares the meta device its long detours, without losing the graph."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func in _CLAMPS and args:
            return args[0].clone()
        if func in _BATCH_NORMS and args:
            return args[0].clone()  # a norm is no head
        return func(*args, **(kwargs or {}))


def heads(
    model: nn.Module, input_shape: inputs.Shapes, classifier: str | Sequence[str] | None = None
) -> tuple[str, ...]:
    """What is trained always and stands outside the budget: names of modules, or of parameters.

    ``classifier`` names them; None asks the model: the layers that its output comes from
    (:func:`find`). Raises :class:`InputError` for names that the model does not have.
    """
    if classifier is None:
        return find(model, input_shape)
    names = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    modules = {name for name, module in model.named_modules() if name and any(True for _ in module.parameters())}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    for name in names:
        if name not in modules and name not in parameters:
            products = tracing.trace(model, input_shape, tracing.product)
            choose(name, [one.name for one in products], "classifier layer")
    if not names:
        raise InputError("classifier () names nothing; allowed: names of modules, or None to find the head")
    return names


def is_inside(name: str, heads: Sequence[str]) -> bool:
    """Whether a layer belongs to one of the heads."""
    return any(name == head or name.startswith(f"{head}.") or head == f"{name}.weight".lstrip(".") for head in heads)


def find(model: nn.Module, input_shape: inputs.Shapes) -> tuple[str, ...]:
    """The names of the heads: modules, or parameters of modules that hold more than their head.

    Runs the model once on the meta device, or, where it cannot run there, on its own. Raises
    :class:`InputError` where the output does not tell.
    """
    parameters: dict[int, str] = {}
    try:
        state = {
            name: tensor.requires_grad_() if tensor.is_floating_point() else tensor
            for name, tensor in inputs.meta_state(model).items()
        }
        parameters = {id(tensor): name for name, tensor in state.items()}  # of tied ones the last name
        given, named = inputs.example(input_shape, model)
        with inputs.evaluation(model), torch.enable_grad(), _Short():
            data = _followed((given, named))
            output = torch.func.functional_call(model, state, *_call(data), tie_weights=False)
    except Exception as error:  # the user's code on tensors without content may raise anything
        if isinstance(error, InputError):
            raise
        output, data, parameters = _for_real(model, input_shape)
    nearest = _nearest(inputs.tensors(output), parameters, {id(tensor) for tensor in _leaves(data)})
    names = _named(model, nearest)
    if not names:
        raise InputError("the model's head cannot be told from its output; say which with classifier=NAME")
    return names


def _call(data) -> tuple[tuple, dict]:
    given, named = data
    return given, named


def _leaves(data) -> list[Tensor]:
    given, named = data
    return [*given, *named.values()]


def _followed(data):
    """The inputs as leaves of the graph, where they can be."""
    for tensor in _leaves(data):
        if tensor.is_floating_point():
            tensor.requires_grad_()
    return data


def _for_real(model: nn.Module, input_shape: inputs.Shapes):
    first = next(model.parameters(), None)
    required = {parameter: parameter.requires_grad for parameter in model.parameters()}
    try:
        for parameter in required:
            parameter.requires_grad_(parameter.is_floating_point())
        data = _followed(inputs.example(input_shape, model, "cpu" if first is None else first.device))
        with inputs.evaluation(model), torch.enable_grad():
            output = model(*data[0], **data[1])
    except Exception as error:
        raise inputs.does_not_run(input_shape, error) from error
    finally:
        for parameter, needed in required.items():
            parameter.requires_grad_(needed)
    return output, data, {id(p): name for name, p in model.named_parameters(remove_duplicate=False)}


def _nearest(outputs: Iterable[Tensor], parameters: Mapping[int, str], data: set[int]) -> set[str]:
    """The parameters of the first operations, from the outputs backward, that take in a matrix of them."""
    roots = [tensor.grad_fn for tensor in outputs if tensor.grad_fn is not None]
    seen: dict = {}  # node -> whether data come through it
    below: dict = {}  # node without data -> the parameters that it is made of

    def children(node):
        return [child for child, _ in node.next_functions if child is not None]

    stack = [(root, False) for root in roots]
    while stack:
        node, done = stack.pop()
        if node in seen:
            continue
        if not done:
            stack.append((node, True))
            stack += [(child, False) for child in children(node) if child not in seen]
            continue
        variable = getattr(node, "variable", None)
        if variable is not None:
            seen[node] = id(variable) in data
            below[node] = frozenset([variable]) if id(variable) in parameters else frozenset()
        else:
            inner = children(node)
            # an input that asks for no gradient is data as well, but not the constants of other functions
            takes = node.name().startswith(_PRODUCTS) and any(child is None for child, _ in node.next_functions)
            seen[node] = takes or node.name().startswith("Embedding") or any(seen[child] for child in inner)
            below[node] = frozenset().union(*(below[child] for child in inner if not seen[child]))
    nearest: set[str] = set()
    visited, queue = set(), [root for root in roots if seen[root]]
    while queue:
        node = queue.pop()
        if node in visited:
            continue
        visited.add(node)
        if any(variable.dim() > 1 for variable in below[node]):
            nearest |= {parameters[id(variable)] for variable in below[node]}
        else:
            queue += [child for child in children(node) if seen[child]]
    return nearest


def _named(model: nn.Module, parameters: set[str]) -> tuple[str, ...]:
    """Parameters' names -> the modules that hold no other matrix, in the model's order."""
    matrices = [name for name, tensor in model.named_parameters(remove_duplicate=False) if tensor.dim() > 1]
    names = []
    for matrix in matrices:
        if matrix in parameters:
            owner = matrix.rpartition(".")[0].partition(".parametrizations")[0]
            alone = owner and all(name in parameters for name in matrices if name.startswith(f"{owner}."))
            names.append(owner if alone else matrix)
    return tuple(dict.fromkeys(names))
