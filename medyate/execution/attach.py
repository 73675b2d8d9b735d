"""Runs a model so that only what a selection pays for is kept for the backward pass (eqs. 2, 3).

:func:`attach` turns the Conv2d, Linear, BatchNorm2d, ReLU and ReLU6 modules of any model into their
counterparts below, in place, by changing their class; :meth:`Attached.detach` turns them back. The
model stays the same object, its ``state_dict`` keeps its form, and the user's loop does not change.
What else transformers consist of is functions, and stays; :mod:`medyate.execution.recompute` watches them.

The counterparts themselves are in :mod:`medyate.execution.layers`.
"""

from __future__ import annotations

import copy
import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, choose
from ..probing import inputs
from . import coverage, distributed, kernels, steps
from . import recompute as recomputing
from .folding import chains, graphs, is_plain
from .layers import (
    COPIED_WHOLE,
    COUNTERPARTS,
    Split,
    SubnetBatchNorm2d,
    counterpart,
    hooked,
    is_counterpart,
    padding_of,
    refuse_new_statistics,
    rows,
)
from .modes import BATCH_NORMS, RECOMPUTE


def attach(
    model: nn.Module,
    *,
    classifier: str | Sequence[str],
    batch_norm: str = "frozen",
    norm_affine: bool = False,
    fold: bool = True,
    recompute: str = "layers",
    example: Tensor | inputs.Call | None = None,
) -> Attached:
    """Turn ``model`` into one that keeps only what a selection pays for. In place.

    ``classifier`` names what is trained always, modules or parameters, one or several; it stays as it is. Everything
    else is frozen until :meth:`Attached.select`. ``batch_norm`` is "frozen" or "train";
    ``norm_affine`` trains batch norm's weight and bias as well (with "train" only).
    ``fold`` lets a frozen batch norm and the activation behind it run inside the convolution
    where torch.fx shows that nothing else sees what is between them; a layer that is called by itself, or that
    someone has put a hook on since, gives its own output. A model of which torch.fx can tell that it
    keeps nothing but masks runs as it is; any other is watched (:mod:`medyate.execution.recompute`), so that
    its functions keep bits, shapes or recipes too.

    ``recompute`` says how much of what gradients need besides the selected channels is computed again in the
    backward pass. In networks of convolutions "layers" repeats at most two products in a row, which leaves a block's
    narrow input in place of its activations' inputs, "blocks" up to six. In transformers:

    * "layers" keeps the input of each layer norm that the gradient passes, and its mean and
      deviation, T (C + 2) numbers for T tokens of C features; in front of the first selected
      layer it keeps nothing but what the first attention behind it is computed from;
    * "blocks" keeps half as many of these inputs;
    * "none" keeps what torch keeps: queries, keys, values, attention's output or probabilities, and
      the inputs of layer norm and GELU.

    A step takes longer by the products that are repeated, 7 of the 12 in a block of BERT with "layers", 8
    with "blocks": measured, 1.3 and 1.4 times "none" (``benchmarks/README.md``), for about a fifth and a
    tenth of what it keeps. Weights that are used through a function, ``F.linear(x, layer.weight,
    layer.bias)``, get compact gradients as well. Dropout that is on, regions of
    ``torch.utils.checkpoint`` and functions that :mod:`medyate.execution.recompute` does not know stay torch's
    own; gradients are right in any case.

    With an ``example`` input, the attached model's output is checked against the model's own; a
    model for which they differ (one that counts on a side effect of an in-place operation, say)
    is given back unchanged with an :class:`InputError`.
    """
    choose(batch_norm, BATCH_NORMS, "batch norm mode")
    choose(recompute, RECOMPUTE, "recompute mode")
    if norm_affine and batch_norm != "train":
        raise InputError(f"norm_affine {norm_affine!r} needs batch norm mode 'train', not {batch_norm!r}")
    modules = dict(model.named_modules())
    heads = (classifier,) if isinstance(classifier, str) else tuple(classifier)
    for name in heads:
        if name not in dict(model.named_parameters(remove_duplicate=False)):
            choose(name, modules, "classifier module")
    if is_attached(model):
        raise InputError("the model is attached already; detach it first")
    refuse_compiled(model)
    attached = Attached(model, heads, batch_norm, norm_affine, recompute)
    if isinstance(example, Tensor):
        example = ((example,), {})
    if example is not None:
        for name, parameter in model.named_parameters():
            if not torch.isfinite(parameter).all():
                raise InputError(f"parameter {name!r} holds values that are not finite; allowed: finite weights")
    expected = _output(model, example) if example is not None else None
    try:
        attached._enter(fold)
        if example is not None and expected is not None:
            _compare(expected, _output(model, example), next(model.parameters()).dtype)
    except BaseException:
        attached.detach()
        raise
    return attached


# How far two ways to compute the same may be apart, relative to the largest output, after the roundings of a
# whole network.
_TOLERANCES = {torch.float64: 1e-6, torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def _compare(expected: list[Tensor], actual: list[Tensor], precision: torch.dtype) -> None:
    tolerance = _TOLERANCES.get(precision, 1e-3)
    for one, other in zip(expected, actual, strict=True):
        if one.numel() and not torch.allclose(
            other, one, rtol=tolerance, atol=tolerance * float(one.abs().max()), equal_nan=True
        ):
            raise InputError(
                "the model gives another output when its layers run as a subnet; it may count on the side "
                "effect of an in-place operation or call a layer's weight in a way of its own"
            )


def _output(model: nn.Module, example: inputs.Call) -> list[Tensor]:
    """The model's output in evaluation mode, without a trace of it left."""
    given, named = copy.deepcopy(example)
    with inputs.evaluation(model), torch.no_grad(), torch.random.fork_rng(devices=[]):
        return [tensor.to(torch.float64) for tensor in inputs.tensors(model(*given, **named))]


def is_attached(model: nn.Module) -> bool:
    return any(is_counterpart(module) for module in model.modules())


def refuse_compiled(model: nn.Module) -> None:
    """A compiled model would be compiled anew at each selection."""
    if any(isinstance(module, torch._dynamo.eval_frame.OptimizedModule) for module in model.modules()):
        raise InputError("a compiled model cannot be attached; allowed: the model itself, without torch.compile")


def _check_sizes(input_shape: inputs.Shapes, batch: list[int], _module, given: tuple, named: dict) -> None:
    """Before the model's forward pass; notes the batch's size for its layers."""
    if not torch.is_grad_enabled():
        return
    positional, by_name = inputs.shapes_of(input_shape)
    first = next((value for value in (*given, *named.values()) if isinstance(value, (Tensor, list, tuple))), None)
    shape = next(iter((*positional, *by_name.values())), ())
    batch[0] = 0
    if isinstance(first, (list, tuple)) or first is not None and first.dim() == len(shape) + 1:
        batch[0] = len(first)
    tensors = [value for value in (*given, *named.values()) if isinstance(value, Tensor)]
    if len(positional) == 1:
        pairs = list(zip(tensors, positional))  # the first tensor, whatever it is called
    else:
        pairs = [*zip(given, positional), *((named[name], shape) for name, shape in by_name.items() if name in named)]
    for value, shape in pairs:
        if isinstance(value, Tensor) and value.dim() > len(shape) and value[:1].numel() > math.prod(shape):
            raise InputError(
                f"a sample is {tuple(value.shape[1:])} where the budget counts input_shape {shape}; allowed: smaller "
                "samples, or the samples' own shape as input_shape, for the ranking as well"
            )


def _forget_size(batch: list[int], _module, _inputs, _output) -> None:
    """After it: what calls the model by parts may have batches of another size."""
    batch[0] = 0


class _Gate:
    """Whether a module's forward pass runs now."""

    def __init__(self):
        self.depth = 0

    def enter(self, _module, _inputs) -> None:
        self.depth += 1

    def leave(self, _module, _inputs, _output) -> None:
        self.depth -= 1


class Attached:
    """A model that runs as a subnet; made by :func:`attach`.

    ``before_step`` and ``after_step``, where they are set, are called around each step of an optimiser that holds
    any of its parameters, with the optimiser and whether the step got a closure.
    """

    before_step: Callable[[torch.optim.Optimizer, bool], None] | None = None
    after_step: Callable[[torch.optim.Optimizer, bool], None] | None = None

    def __init__(
        self, model: nn.Module, heads: Sequence[str], batch_norm: str, norm_affine: bool, recompute: str = "layers"
    ):
        self.model, self.heads = model, tuple(heads)
        self.batch_norm, self.norm_affine, self.recompute = batch_norm, norm_affine, recompute
        self.classifier = head_of(model, self.heads)
        self._entered: list[nn.Module] = []
        self._handles: list = []
        self.is_plain = False  # nothing in it keeps anything beside its counterparts
        self._required = {parameter: parameter.requires_grad for parameter in model.parameters()}
        self._steps: steps.Steps | None = None

    @property
    def steps(self) -> steps.Steps:
        """What is known of optimisers' steps, of a model that is attached."""
        assert self._steps is not None
        return self._steps

    @property
    def classifier_name(self) -> str:
        return ", ".join(self.heads)

    def _enter(self, fold: bool) -> None:
        model = self.model
        trained = set(map(id, self.classifier.parameters()))
        inside = {module for name in self.heads for module in _module(model, name).modules()}
        traced = graphs(model)
        folded = chains(model, traced) if fold and self.batch_norm == "frozen" else {}
        self.is_plain = is_plain(traced, model, inside)
        for parameter in model.parameters():  # the classifier stays as the user has it, frozen in part or not
            if id(parameter) not in trained:
                parameter.requires_grad_(False)
                parameter.grad = None  # of a training before; it would stay for the whole of this one
        for name, module in model.named_modules():
            if module in inside:
                continue
            self._turn(name, module)
        gates: dict[nn.Module, _Gate] = {}
        for convolution, (norm, activation) in folded.items():
            # A chain is folded only if all of its modules were turned.
            if isinstance(convolution, Split) and isinstance(norm, SubnetBatchNorm2d):
                if type(activation) not in COUNTERPARTS.values():
                    activation = None
                convolution.__dict__.update(norm=norm, activation=activation)
                norm.__dict__["follower"] = activation
                around = [module for module in (model, *model.children()) if norm in set(module.modules())]
                around = [module for module in around if convolution in set(module.modules()) - {module}]
                for module in around:
                    gates.setdefault(module, _Gate())
                convolution.__dict__["gates"] = tuple(gates[module] for module in around)
        for module, gate in gates.items():
            self._handles.append(module.register_forward_pre_hook(gate.enter))
            self._handles.append(module.register_forward_hook(gate.leave, always_call=True))
        others = [module for module in model.modules() if module not in inside]
        watches = not self.is_plain
        if watches:
            for module in others:
                if _runs(module) and module is not model:
                    recomputing.Scoped(module, self).enter()
        if _runs(model):
            recomputing.Uncompiled(model, self, watches).enter()
        distributed.ignore(model, self._compact_names())
        self._steps = steps.Steps(self)
        self._steps.hold(self.parameters())

    def _turn(self, name: str, module: nn.Module) -> None:
        is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
        if is_norm and type(module) not in COUNTERPARTS and self._freezes(module):
            self._handles += keep_frozen(module)  # another kind of batch norm: torch's own, with running statistics
        if self.norm_affine and is_norm:
            for parameter in module.parameters(recurse=False):
                parameter.requires_grad_(self._required[parameter])
        new = counterpart(type(module))
        if new is None or (new is SubnetBatchNorm2d and not self._freezes(module)):
            return
        if issubclass(new, Split):
            if hooked(module):
                return  # a hook or parametrisation of the user's: the module stays as it is
            if new.weight_name not in module._parameters or module._parameters[new.weight_name] is None:
                return  # attention whose queries, keys and values have other sizes, and a weight each
            module.__dict__.update(layer_name=name, **_products(module, new))
        self._entered.append(module)
        module.__dict__["former"] = type(module)
        module.__class__ = new
        if isinstance(module, Split):
            module.enter()

    def _compact_names(self) -> list[str]:
        return [f"{module.layer_name}.selected_weight" for module in self.splits()]

    def splits(self) -> list[Split]:
        """The layers that can be selected."""
        return [module for module in self._entered if isinstance(module, Split)]

    def scope(self) -> recomputing.Scope:
        """What watches one forward pass."""
        layers = {
            id(module._parameters[module.weight_name]): module for module in self.splits() if module.geometry.linear
        }
        constants = {
            tensor.untyped_storage()._cdata
            for module in self.model.modules()
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None
        }
        return recomputing.Scope(self.recompute, layers, constants)

    def _freezes(self, norm: nn.Module) -> bool:
        return self.batch_norm == "frozen" and bool(norm.track_running_stats)

    def expect(self, elements: Mapping[str, int], input_shape: inputs.Shapes) -> None:
        """Refuse, from now on, to train on samples that are larger than ``input_shape``.

        ``elements``: what each layer keeps of a sample, for a channel, at most; convolutions are asked as well, for
        the model may be called by parts, and linear layers, which may take more vectors of a sample in training than
        in evaluation mode, as a detector's do.
        """
        batch = [0]
        for module in self.splits():
            module.__dict__.update(budgeted=elements.get(module.layer_name), batch=batch)
        check, forget = functools.partial(_check_sizes, input_shape, batch), functools.partial(_forget_size, batch)
        self._handles.append(self.model.register_forward_pre_hook(check, with_kwargs=True))
        self._handles.append(self.model.register_forward_hook(forget, always_call=True))

    def select(self, channels: Mapping[str, Sequence[int]]) -> None:
        """Train these input channels from now on, by layer name; all others are frozen.

        A compact weight gets other content and another size and stays the same parameter. What optimisers know
        of it (momentum, Adam's moments) belongs to the channels of before and is dropped before their next step,
        except where a layer's channels are the same as before. Raises
        :class:`InputError` for a layer that is not there or cannot be selected, and for channels
        that it does not have, before anything is changed.
        """
        why = coverage.obstacles(self.model, self.heads) if channels else {}
        wanted = {name: self._checked(name, chosen, why) for name, chosen in channels.items()}
        nothing = torch.empty(0, dtype=torch.long)
        for module in self.splits():
            if module.select(wanted.get(module.layer_name, nothing)):
                self.steps.forget(module._parameters["selected_weight"])

    def _checked(self, name: str, chosen: Sequence[int], why: Mapping[str, str]) -> Tensor:
        if name not in why:
            raise InputError(f"the selection names layer {name!r}, which the model does not have")
        if why[name]:
            raise InputError(f"layer {name!r} cannot be selected: {why[name]}; allowed: {coverage.ALLOWED}")
        return fitting(name, chosen, self._split(name).input_channels)

    @property
    def selected(self) -> dict[str, Split]:
        """The selected layers by name."""
        return {module.layer_name: module for module in self.splits() if module.selected_weight is not None}

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is or will be trained: compact weights, those of no channels now included, the
        classifier, batch norm if asked for. The same objects for the whole training."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def active(self) -> list[nn.Parameter]:
        """Those of :meth:`parameters` that are trained now."""
        return [parameter for parameter in self.parameters() if parameter.numel()]

    def refresh(self, optimizer: torch.optim.Optimizer) -> None:
        """See to it that an optimiser holds all of :meth:`parameters`, and drop its states of former channels.

        What is missing, because the optimiser was made of other parameters, comes to the group that holds
        the layer's whole weight, or, where none does, to the only group. Raises :class:`InputError` where there
        are several groups to choose from.
        """
        held = steps.held(optimizer)
        for parameter in self.parameters():
            if id(parameter) not in held:
                self._group_of(parameter, optimizer)["params"].append(parameter)
        self.steps.drop(optimizer)

    def _group_of(self, parameter: nn.Parameter, optimizer: torch.optim.Optimizer) -> dict:
        groups = optimizer.param_groups
        for module in self.splits():
            if module._parameters["selected_weight"] is parameter:
                whole = module._parameters[module.weight_name]
                groups = [group for group in groups if any(p is whole for p in group["params"])] or groups
        if len(groups) > 1:
            name = next(name for name, one in self.model.named_parameters() if one is parameter)
            raise InputError(
                f"none of the optimiser's {len(groups)} groups holds {name!r}; allowed: to make it, after Subnet, of "
                "model.named_parameters() or subnet.parameters()"
            )
        return groups[0]

    def step_begins(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Called before any optimiser's step."""
        for module in self.selected.values():
            # changes that leave no trace (weight.data) are the whole weight's, unless the compact one shows some
            module.give() if module._versions()[0] != module.__dict__["known"][0] else module.fetch()
        if self.before_step is not None:
            self.before_step(optimizer, closure)

    def step_ends(self, optimizer: torch.optim.Optimizer, closure: bool) -> None:
        """Called after any optimiser's step."""
        for module in self.selected.values():
            module.give()
        if self.after_step is not None:
            self.after_step(optimizer, closure)

    def weight_of(self, name: str) -> nn.Parameter:
        """The parameter by which a layer is trained."""
        return self._split(name)._parameters["selected_weight"]

    def _split(self, name: str) -> Any:
        return self.model.get_submodule(name)

    def trust(self) -> None:
        """What optimisers know now, or will load, is of the present selection."""
        self.steps.trust()

    def gradients(self, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Tensor]:
        """The selected weights' gradients by layer, one row a channel: (k, elements per channel); of those layers
        alone that ``optimizer`` trains, if one is given."""
        held = None if optimizer is None else steps.held(optimizer)
        weights = ((module, module._parameters["selected_weight"]) for module in self.selected.values())
        return {
            module.layer_name: rows(module, weight.grad)
            for module, weight in weights
            if weight.grad is not None and (held is None or id(weight) in held)
        }

    def detach(self, twin: nn.Module | None = None) -> nn.Module:
        """Give the model back as it was, with the weights that were trained; or a copy of it, ``twin``."""
        if twin is not None and twin is not self.model:
            return plain(twin).requires_grad_(True)
        names = self._compact_names()
        plain(self.model)
        self._entered = []
        for handle in self._handles:
            handle.remove()
        self._handles = []
        distributed.heed(self.model, names)
        if self._steps is not None:
            self._steps.end()
        for parameter, required in self._required.items():
            parameter.requires_grad_(required)
        return self.model

    def __deepcopy__(self, memo: dict) -> Attached:
        """With its model, which then trains by itself; or as a part of a copy of the model alone, which only runs."""
        alone = id(self.model) in memo
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        apart = {"_steps", "before_step", "after_step", *(("_handles", "_required") if alone else ())}
        memo[COPIED_WHOLE] = not alone
        twin.__dict__.update(copy.deepcopy({k: v for k, v in self.__dict__.items() if k not in apart}, memo))
        memo[COPIED_WHOLE] = False
        if not alone:
            twin._steps = steps.Steps(twin)
            twin._steps.hold(twin.parameters())
        return twin


def plain(model: nn.Module) -> nn.Module:
    """Turn a model, or a copy of one, back into torch's own layers."""
    for module in model.modules():
        if is_counterpart(module):
            if isinstance(module, Split):
                module.leave()
            module.__class__ = module.__dict__.pop("former")
            for name in _OURS:
                module.__dict__.pop(name, None)
        scoped = module.__dict__.get("forward")
        if isinstance(scoped, recomputing.Scoped):
            scoped.leave()
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                if isinstance(getattr(hook, "__self__", None), (_Gate, _Frozen)) or getattr(hook, "func", None) in (
                    _check_sizes,
                    _forget_size,
                ):
                    del hooks[key]
                    module._forward_hooks_always_called.pop(key, None)
        if isinstance(module.__dict__.get("reset_running_stats"), functools.partial):
            del module.__dict__["reset_running_stats"]
    return model


_OURS = "layer_name geometry pads norm activation gates budgeted batch is_copy agreed follower expected".split()


def _products(module: Any, new: type[Split]) -> dict:
    """What a turned layer's products need besides tensors."""
    if not hasattr(module, "kernel_size"):
        weight = module._parameters[new.weight_name]
        return {"geometry": kernels.Geometry(None, None, None, 1, weight.shape[1 if new.inputs_first else 0], True)}
    padding = padding_of(module)
    still = (0,) * len(module.kernel_size)
    return {
        "pads": padding is None,
        "geometry": kernels.Geometry(
            module.stride, padding or still, module.dilation, module.groups, module.out_channels // module.groups
        ),
    }


def _module(model: nn.Module, name: str) -> nn.Module:
    """The module of this name; of a parameter's name an empty one: its neighbours are no part of the head."""
    modules = dict(model.named_modules())
    return modules[name] if name in modules else nn.Module()


def head_of(model: nn.Module, names: Sequence[str]) -> nn.Module:
    """What is trained always, as one module: the head itself where it is one module, else a list of its parts."""
    parts = dict(model.named_modules()) | {
        name: nn.ParameterList([parameter])
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if name in names
    }
    heads = [parts[name] for name in names]
    return heads[0] if len(heads) == 1 else nn.ModuleList(heads)


def _runs(module: nn.Module) -> bool:
    """Whether a module's forward may open a scope."""
    return not isinstance(module, (Split, nn.ModuleList, nn.ModuleDict, torch.jit.ScriptModule))


def fitting(name: str, chosen: Sequence[int], count: int) -> Tensor:
    """Channels of a layer that has ``count`` of them, as sorted indices; refuses what does not fit."""
    chosen = chosen.tolist() if isinstance(chosen, Tensor) else list(chosen)
    try:
        indices = sorted({operator.index(channel) for channel in chosen})
        fits = len(indices) == len(chosen) and (not indices or (indices[0] >= 0 and indices[-1] < count))
    except TypeError:
        fits = False
    if not fits:
        raise InputError(
            f"layer {name!r}: channels {chosen[:8]!r} do not fit; allowed: different integers from 0 to {count - 1}"
        )
    return torch.tensor(indices, dtype=torch.long)


class _Frozen:
    """A batch norm of any kind runs in evaluation mode, whatever ``model.train()`` says, and keeps its own."""

    def __init__(self):
        self.modes: list[bool] = []

    def begin(self, norm: nn.Module, _inputs) -> None:
        self.modes.append(norm.training)
        norm.training = False

    def end(self, norm: nn.Module, _inputs, _output) -> None:
        norm.training = self.modes.pop()


def keep_frozen(norm: nn.Module) -> list:
    """Freeze a batch norm's statistics; returns handles whose ``remove`` ends that."""
    frozen = _Frozen()
    return [
        norm.register_forward_pre_hook(frozen.begin),
        norm.register_forward_hook(frozen.end, always_call=True),
        _Attribute(norm, "reset_running_stats", functools.partial(refuse_new_statistics)),
    ]


class _Attribute:
    """An attribute of a module that is there until it is removed."""

    def __init__(self, module: nn.Module, name: str, value):
        self.module, self.name = module, name
        module.__dict__[name] = value

    def remove(self) -> None:
        self.module.__dict__.pop(self.name, None)


def _stay_frozen(norm: nn.Module, _inputs) -> None:
    norm.training = False  # whatever model.train() has said; for copies that are thrown away
