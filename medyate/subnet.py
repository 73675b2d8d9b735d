"""Runs a model so that only what a selection pays for is kept for the backward pass (eqs. 2, 3).

:func:`attach` turns the Conv2d, Linear, BatchNorm2d, ReLU and ReLU6 modules of any model into their
counterparts below, in place, by changing their class; :meth:`Attached.detach` turns them back. The
model stays the same object, its ``state_dict`` keeps its form, and the user's loop does not change.
What else transformers consist of is functions, and stays; :mod:`medyate.recompute` watches them.

A *selected* layer splits its weight in two: ``selected_weight``, a compact parameter of the
selected input channels, which is what the optimiser sees, and the frozen rest. Together they take
the memory of the weight alone; the whole is assembled when it is used. So gradients and optimiser
states exist for selected channels only, and no layer's weight is held twice.
"""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from . import kernels, recompute as recomputing
from .errors import InputError, choose

BATCH_NORMS = {
    "frozen": "running statistics, kept as they are: what the budget really covers",
    "train": "batch statistics, running statistics updated: the paper's way",
}


# --- the counterparts --------------------------------------------------------------------------


class _Split:
    """What a selected Conv2d and Linear share: a weight in two parts, and the compact gradient."""

    # set by attach()
    layer_name: str
    geometry: kernels.Geometry
    pads: bool = False  # the input is padded in a step of its own
    norm: nn.BatchNorm2d | None = None  # a frozen batch norm folded into this layer
    rectifies: bool = False  # an activation folded into this layer ..
    ceiling: float | None = None  # .. ReLU (None) or ReLU6

    @property
    def weight(self) -> Tensor:
        """The whole weight in its usual form, differentiable in ``selected_weight``."""
        whole = self._parameters.get("weight")
        if whole is not None:
            return whole
        scope = recomputing.current()
        return self._assemble() if scope is None else scope.assemble(self)

    @property
    def channels(self) -> Tensor | None:
        return self._buffers.get("selected_channels")

    @property
    def selected_weight(self) -> nn.Parameter | None:
        return self._parameters.get("selected_weight")

    def _assemble(self) -> Tensor:
        parts = torch.cat([self.selected_weight, self._buffers["frozen_weight"]], dim=self._side)
        ordered = parts.index_select(self._side, self._buffers["assembly"])
        return ordered if self.geometry.groups == 1 else self._from_compact(ordered)

    # A grouped convolution's compact layout is (C, C'/groups, D, D): row c holds the weights that
    # channel c has in its own group's outputs. Other layers': (C', C, ..).
    @property
    def _side(self) -> int:
        return 1 if self.geometry.groups == 1 else 0

    def _to_compact(self, weight: Tensor) -> Tensor:
        if self.geometry.groups == 1:
            return weight
        groups, outputs = self.geometry.groups, self.geometry.outputs
        blocks = weight.reshape(groups, outputs, *weight.shape[1:])
        return blocks.transpose(1, 2).reshape(-1, outputs, *weight.shape[2:])

    def _from_compact(self, compact: Tensor) -> Tensor:
        groups, outputs = self.geometry.groups, self.geometry.outputs
        blocks = compact.reshape(groups, -1, outputs, *compact.shape[2:])
        return blocks.transpose(1, 2).reshape(groups * outputs, -1, *compact.shape[2:])

    def select(self, channels: Tensor) -> None:
        """Train the input channels of these sorted indices; an empty vector freezes the layer."""
        self.release()
        if len(channels) == 0:
            return
        whole = self._parameters.pop("weight")
        compact = self._to_compact(whole.detach())
        count = compact.shape[self._side]
        channels = channels.to(compact.device)
        rest = torch.ones(count, dtype=torch.bool, device=compact.device)
        rest[channels] = False
        order = torch.cat([channels, rest.nonzero().squeeze(1)])
        self._parameters["selected_weight"] = nn.Parameter(compact.index_select(self._side, channels))
        buffers = {
            "frozen_weight": compact.index_select(self._side, order[len(channels) :]),
            "selected_channels": channels,
            "assembly": torch.argsort(order),
        }
        for name, value in buffers.items():
            self.register_buffer(name, value, persistent=False)
        # The parameter object is kept, without its memory, so that what refers to it still does.
        self.__dict__["_whole"] = whole
        whole.data = whole.data.new_empty(0)

    def release(self) -> None:
        """Put the two parts together again; the layer is frozen and its weight a plain parameter."""
        if self.selected_weight is None:
            return
        with torch.no_grad():
            assembled = self._assemble()
        whole = self.__dict__.pop("_whole")
        whole.data = assembled
        del self._parameters["selected_weight"]
        for name in ("frozen_weight", "selected_channels", "assembly"):
            del self._buffers[name]
            self._non_persistent_buffers_set.discard(name)
        self._parameters["weight"] = whole
        self._parameters["bias"] = self._parameters.pop("bias")  # the usual order: weight, bias

    # The folded weight is made for each use and not kept: it would be a second copy of the network.

    def scale(self) -> Tensor | None:
        """The folded batch norm's factor per output channel; None without one."""
        return None if self.norm is None else kernels.scale_of(self.norm)

    def folded_weight(self, scale: Tensor | None) -> Tensor:
        """The whole weight times the folded batch norm's factor; for passes that record no gradient."""
        weight = self._parameters.get("weight")
        weight = self._assemble() if weight is None else weight
        return weight if scale is None else weight * scale.view(-1, 1, 1, 1)

    def output(self, x: Tensor) -> Tensor:
        """What the layer gives for an input that is padded already, batch norm and activation included."""
        scale = self.scale()
        weight, bias = self.folded_weight(scale), self._parameters["bias"]
        if scale is not None:
            shift = kernels.shift_of(self.norm, scale)
            bias = shift if bias is None else torch.addcmul(shift, bias, scale)
        if weight.dtype != x.dtype:  # autocast
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        if not self.rectifies:
            return self.geometry.forward(x, weight, bias)
        return self.geometry.rectified(x, weight, bias, self.ceiling)

    def chosen(self, x: Tensor) -> Tensor:
        """The selected channels of the input; the input itself, not a copy, where that is all."""
        linear = self.geometry.linear
        channels = self.channels
        if len(channels) == x.shape[-1 if linear else 1]:
            # a view would keep all of what it is a view of
            return x if x.untyped_storage().nbytes() == x.numel() * x.element_size() else x.clone()
        return x.index_select(-1, channels) if linear else kernels.gather(x, channels)

    def compact_gradient(self, grad: Tensor, chosen: Tensor, scale: Tensor | None) -> Tensor:
        """The gradient of ``selected_weight``; the folded scale belongs to each output channel."""
        kernel = (1, 1) if self.geometry.linear else tuple(self.selected_weight.shape[2:])
        chosen = self.padded(chosen)
        owners = self.channels
        if self.geometry.groups > 1:
            owners = owners // (self.in_channels // self.geometry.groups)
        found = self.geometry.weight_gradient(grad, chosen, owners, kernel)
        if scale is not None:
            scale = scale.to(found.dtype)
            if self.geometry.groups == 1:
                found = found * scale.view(-1, *[1] * (found.dim() - 1))
            else:
                found = found * scale[self.geometry.outputs_of(owners)][..., None, None]
        return found.to(self.selected_weight.dtype)

    def state(self) -> tuple:
        """Changes whenever something that the backward pass reads does."""
        selected, whole = self.selected_weight, self._parameters.get("weight")
        rest = self._buffers["frozen_weight"] if whole is None else whole
        state = (id(selected), 0 if selected is None else selected._version, rest._version)
        return state if self.norm is None else state + kernels.norm_state(self.norm)

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if kind == "meta":  # whoever asks for shapes wants the model's own layers
            raise InputError(f"layer {self.layer_name!r} runs as part of a subnet; detach the model first")
        if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(kind))
            with torch.autocast(kind, enabled=False):
                out = self._run(x)
        else:
            out = self._run(x)
        if self.norm is not None:
            self.norm.__dict__["expected"] = id(out)
        return out

    def _run(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            selected = self.selected_weight
            _refuse_gradients(self, selected)
            if x.requires_grad or selected is not None:
                return kernels.Project.apply(x, selected, self)
        with torch.no_grad():
            return self.output(self.padded(x))

    def padded(self, x: Tensor) -> Tensor:
        """The input after a padding step of the layer's own."""
        return x

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        super()._save_to_state_dict(destination, prefix, keep_vars)
        compact = destination.pop(prefix + "selected_weight", None)
        if compact is not None:
            whole = self._assemble()
            destination[prefix + "weight"] = whole if keep_vars else whole.detach()
            if prefix + "bias" in destination:  # the usual order: weight, bias
                destination.move_to_end(prefix + "bias")

    def _load_from_state_dict(self, state_dict, prefix, *rest):
        if self.selected_weight is None:
            return super()._load_from_state_dict(state_dict, prefix, *rest)
        channels = self.channels
        selected = self.selected_weight
        self.release()
        super()._load_from_state_dict(state_dict, prefix, *rest)
        self.select(channels)
        # the optimiser holds the parameter object: it takes the new values
        with torch.no_grad():
            selected.copy_(self.selected_weight)
        self._parameters["selected_weight"] = selected


class SubnetConv2d(_Split, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 3:  # one image without a batch dimension
            return super().forward(x.unsqueeze(0)).squeeze(0)
        return super().forward(x)

    def padded(self, x: Tensor) -> Tensor:
        """Padding by other than zeros, or by more on one side, is a step of its own, as in torch."""
        if not self.pads:
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return nn.functional.pad(x, self._reversed_padding_repeated_twice, mode=mode)


class SubnetLinear(_Split, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        scope = recomputing.current()
        return self.run(x) if scope is None else scope.project(x, self)

    def run(self, x: Tensor) -> Tensor:
        """The layer itself, whoever watches."""
        if x.dim() == 1:
            return super().forward(x.unsqueeze(0)).squeeze(0)
        return super().forward(x)


class SubnetReLU(nn.ReLU):
    ceiling: float | None = None
    absorbed: bool = False  # part of the convolution before it

    def forward(self, x: Tensor) -> Tensor:
        if self.absorbed:
            return x
        if torch.is_grad_enabled() and x.requires_grad:
            return kernels.Rectify.apply(x, self.ceiling, self.inplace)
        return kernels.rectify_(x, self.ceiling) if self.inplace else kernels.rectify(x, self.ceiling)


class SubnetReLU6(nn.ReLU6):
    ceiling: float | None = 6.0
    absorbed: bool = False
    forward = SubnetReLU.forward


class SubnetBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that stays frozen whatever ``model.train()`` says."""

    absorbed: bool = False  # part of the convolution before it ..
    expected: int | None = None  # .. whose output, by identity, is what must come in next

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            _refuse_gradients(self)
        if not self.absorbed:
            return kernels.Scale.apply(x, self)
        if self.expected != id(x):
            raise RuntimeError(
                "a batch norm was folded into a layer whose output does not come to it; attach with fold=False"
            )
        return x


def _refuse_gradients(module: nn.Module, selected: nn.Parameter | None = None) -> None:
    """What is frozen here gets no gradient, so that none may be asked for."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.requires_grad and parameter is not selected:
            raise InputError(
                f"{name!r} of {getattr(module, 'layer_name', type(module).__name__)!r} requires a gradient but is frozen; "
                "allowed: to select the layer's channels, or to detach the model first"
            )


_COUNTERPARTS = {
    nn.Conv2d: SubnetConv2d,
    nn.Linear: SubnetLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: SubnetLinear,  # nn.MultiheadAttention's projection
    nn.ReLU: SubnetReLU,
    nn.ReLU6: SubnetReLU6,
    nn.BatchNorm2d: SubnetBatchNorm2d,
}
SELECTABLE = (nn.Conv2d, nn.Linear)
# A model that has one of these outside its classifier runs under a scope (medyate.recompute).
_WATCHED = (nn.Linear, nn.LayerNorm, nn.MultiheadAttention)


# --- attaching ---------------------------------------------------------------------------------


def attach(
    model: nn.Module,
    *,
    classifier: str,
    batch_norm: str = "frozen",
    norm_affine: bool = False,
    fold: bool = True,
    recompute: str = "layers",
    example: Tensor | None = None,
) -> Attached:
    """Turn ``model`` into one that keeps only what a selection pays for. In place.

    ``classifier`` names the module (Linear) that is trained always; it stays as it is. Everything
    else is frozen until :meth:`Attached.select`. ``batch_norm`` is "frozen" or "train";
    ``norm_affine`` trains batch norm's weight and bias as well (with "train" only).
    ``fold`` lets a frozen batch norm and the activation behind it run inside the convolution
    where torch.fx shows that nothing else sees what is between them; a hook that is registered
    later on such a convolution sees what comes out of all three. In a network of convolutions,
    functional activations (``F.relu``) stay torch's own: their gradients are right, but they keep a
    whole tensor.

    ``recompute`` is for transformers, more exactly for models with a linear layer, a layer norm or
    an ``nn.MultiheadAttention`` outside the classifier; others ignore it. What their gradients need
    besides the selected channels is computed again in the backward pass (:mod:`medyate.recompute`):

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
    ``torch.utils.checkpoint`` and functions that :mod:`medyate.recompute` does not know stay torch's
    own; gradients are right in any case.

    With an ``example`` input, the attached model's output is checked against the model's own; a
    model for which they differ (one that counts on a side effect of an in-place operation, say)
    is given back unchanged with an :class:`InputError`.
    """
    choose(batch_norm, BATCH_NORMS, "batch norm mode")
    choose(recompute, recomputing.RECOMPUTE, "recompute mode")
    if norm_affine and batch_norm != "train":
        raise InputError(f"norm_affine {norm_affine!r} needs batch norm mode 'train', not {batch_norm!r}")
    modules = dict(model.named_modules())
    choose(classifier, modules, "classifier module")
    if any(type(module) in _COUNTERPARTS.values() for module in modules.values()):
        raise InputError("the model is attached already; detach it first")
    attached = Attached(model, classifier, batch_norm, norm_affine, recompute)
    expected = _output(model, example) if example is not None else None
    try:
        attached._enter(fold)
        if expected is not None:
            found = _output(model, example)
            tolerance = 1e-3 if expected.dtype == torch.float32 else 1e-6
            if not torch.allclose(found, expected, rtol=tolerance, atol=tolerance * float(expected.abs().max())):
                raise InputError(
                    "the model gives another output when its layers run as a subnet; it may count on the side "
                    "effect of an in-place operation or call a layer's weight in a way of its own"
                )
    except BaseException:
        attached.detach()
        raise
    return attached


def _output(model: nn.Module, example: Tensor) -> Tensor:
    """The model's output in evaluation mode, without a trace of it left."""
    with _evaluation(model), torch.no_grad():
        return model(example.clone()).float().clone()


@contextmanager
def _evaluation(model: nn.Module):
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


class Attached:
    """A model that runs as a subnet; made by :func:`attach`."""

    def __init__(
        self, model: nn.Module, classifier: str, batch_norm: str, norm_affine: bool, recompute: str = "layers"
    ):
        self.model, self.classifier_name = model, classifier
        self.batch_norm, self.norm_affine, self.recompute = batch_norm, norm_affine, recompute
        self.classifier = model.get_submodule(classifier)
        self._entered: dict[nn.Module, type] = {}
        self._handles: list = []
        self._scoped: list[recomputing.Scoped] = []
        self._required = {parameter: parameter.requires_grad for parameter in model.parameters()}

    def _enter(self, fold: bool) -> None:
        model = self.model
        inside_classifier = set(self.classifier.modules())
        chains = _chains(model) if fold and self.batch_norm == "frozen" else {}
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        for parameter in self.classifier.parameters():
            parameter.requires_grad_(True)
        for name, module in model.named_modules():
            if module in inside_classifier:
                continue
            if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) not in _COUNTERPARTS:
                if self._freezes(module):  # another kind of batch norm: torch's own, with running statistics
                    self._handles.append(module.register_forward_pre_hook(_stay_frozen))
            if self.norm_affine and isinstance(module, nn.modules.batchnorm._BatchNorm):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(True)
            new = _COUNTERPARTS.get(type(module))
            if new is None or (new is SubnetBatchNorm2d and not self._freezes(module)):
                continue
            if _hooked(module) and issubclass(new, _Split):
                continue  # a hook or parametrisation of the user's: the module stays as it is
            self._entered[module] = type(module)
            module.__class__ = new
            if isinstance(module, SubnetConv2d):
                padding = _padding(module)
                module.__dict__.update(
                    layer_name=name,
                    pads=padding is None,
                    geometry=kernels.Geometry(
                        module.stride, padding or (0, 0), module.dilation, module.groups,
                        module.out_channels // module.groups,
                    ),
                )  # fmt: skip
            elif isinstance(module, SubnetLinear):
                module.__dict__.update(
                    layer_name=name, geometry=kernels.Geometry(None, None, None, 1, module.out_features, True)
                )
        for convolution, (norm, activation) in chains.items():
            # A chain is folded only if all of its modules were turned.
            if isinstance(convolution, SubnetConv2d) and isinstance(norm, SubnetBatchNorm2d):
                convolution.__dict__["norm"] = norm
                norm.__dict__["absorbed"] = True
                if isinstance(activation, (SubnetReLU, SubnetReLU6)):
                    convolution.__dict__.update(rectifies=True, ceiling=activation.ceiling)
                    activation.__dict__["absorbed"] = True

        others = [module for module in model.modules() if module not in inside_classifier]
        if any(isinstance(module, _WATCHED) for module in others):
            self._scoped = [recomputing.Scoped(module, self) for module in others if _runs(module)]
            for scoped in self._scoped:
                scoped.enter()

    def scope(self) -> recomputing.Scope:
        """What watches one forward pass."""
        layers = {
            id(module._parameters["weight"]): module
            for module in self._entered
            if isinstance(module, SubnetLinear) and "weight" in module._parameters
        }
        constants = {
            tensor.untyped_storage()._cdata
            for module in self.model.modules()
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None
        }
        return recomputing.Scope(self.recompute, layers, constants)

    def _freezes(self, norm: nn.BatchNorm2d) -> bool:
        return self.batch_norm == "frozen" and norm.track_running_stats

    def select(self, channels: Mapping[str, Sequence[int]]) -> None:
        """Train these input channels from now on, by layer name; all others are frozen.

        Compact parameters are made anew, so an optimiser must be told (:meth:`refresh`). Raises
        :class:`InputError` for a layer that is not there or cannot be selected, and for channels
        that it does not have, before anything is changed.
        """
        wanted = {name: self._checked(name, chosen) for name, chosen in channels.items()}
        for module in self._entered:
            if isinstance(module, _Split):
                module.select(wanted.get(module.layer_name, torch.empty(0, dtype=torch.long)))

    def _checked(self, name: str, chosen: Sequence[int]) -> Tensor:
        layers = {module.layer_name: module for module in self._entered if isinstance(module, _Split)}
        if name not in layers:
            modules = dict(self.model.named_modules())
            if name not in modules:
                raise InputError(f"the selection names layer {name!r}, which the model does not have")
            raise InputError(
                f"layer {name!r} ({type(modules[name]).__name__}) cannot be selected; allowed: Conv2d and Linear "
                "modules of torch.nn itself, without hooks or parametrisations, outside the classifier"
            )
        module = layers[name]
        count = module.in_features if module.geometry.linear else module.in_channels
        indices = fitting(name, chosen, count)
        weight = module.__dict__.get("_whole", module._parameters.get("weight"))
        users = [
            other for other, holder in self.model.named_modules()
            if holder is not module and any(p is weight for p in holder._parameters.values())
        ]  # fmt: skip
        if users:
            raise InputError(f"layer {name!r} cannot be selected: it shares its weight with {users[0]!r}")
        return indices

    @property
    def selected(self) -> dict[str, SubnetConv2d | SubnetLinear]:
        """The selected layers by name."""
        return {
            module.layer_name: module
            for module in self._entered
            if isinstance(module, _Split) and module.selected_weight is not None
        }

    def parameters(self) -> list[nn.Parameter]:
        """Everything that is trained now: compact weights, the classifier, batch norm if asked for."""
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    def refresh(self, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimiser the present compact weights in place of former ones, in its first group.

        States of former compact weights are dropped with them. The first group is in the order of
        :meth:`parameters`, so that an optimiser made anew takes a saved one's states.
        """
        present = self.parameters()
        known = {id(parameter) for parameter in present}
        elsewhere = set()
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                if id(parameter) not in known:
                    optimizer.state.pop(parameter, None)
            group["params"] = [parameter for parameter in group["params"] if id(parameter) in known]
            if group is not optimizer.param_groups[0]:
                elsewhere |= {id(parameter) for parameter in group["params"]}
        optimizer.param_groups[0]["params"] = [p for p in present if id(p) not in elsewhere]

    def gradients(self) -> dict[str, Tensor]:
        """The selected weights' gradients by layer, one row a channel: (k, elements per channel)."""
        return {
            name: _rows(module, module.selected_weight.grad)
            for name, module in self.selected.items()
            if module.selected_weight.grad is not None
        }

    def detach(self) -> nn.Module:
        """Give the model back as it was, with the weights that were trained."""
        for module, former in self._entered.items():
            if isinstance(module, _Split):
                module.release()
            for name in ("layer_name", "geometry", "pads", "norm", "rectifies", "ceiling", "absorbed", "expected"):
                module.__dict__.pop(name, None)
            module.__class__ = former
        self._entered = {}
        for scoped in self._scoped:
            scoped.leave()
        self._scoped = []
        for handle in self._handles:
            handle.remove()
        self._handles = []
        for parameter, required in self._required.items():
            parameter.requires_grad_(required)
        return self.model


def _runs(module: nn.Module) -> bool:
    """Whether a module's forward may open a scope."""
    return not isinstance(module, (_Split, nn.ModuleList, nn.ModuleDict, torch.jit.ScriptModule))


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


def _stay_frozen(norm: nn.Module, _inputs) -> None:
    norm.training = False  # whatever model.train() has said


def _rows(module: _Split, gradient: Tensor) -> Tensor:
    return (gradient.transpose(0, 1) if module.geometry.groups == 1 else gradient).flatten(1)


def _hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
        or module._backward_pre_hooks or hasattr(module, "parametrizations")
    )  # fmt: skip


def _padding(module: nn.Conv2d) -> tuple[int, int] | None:
    """The padding that the products do themselves; None where a step of its own pads (:meth:`padded`)."""
    if module.padding_mode != "zeros":
        return None
    if module.padding == "valid":
        return (0, 0)
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
        return None if any(amount % 2 for amount in total) else tuple(amount // 2 for amount in total)
    return tuple(module.padding)


def _chains(model: nn.Module) -> dict[nn.Module, tuple[nn.Module, nn.Module | None]]:
    """Convolution -> (batch norm, activation) where nothing else sees what is between them.

    Read off the graphs that torch.fx traces in training and evaluation mode; a model that cannot
    be traced has no chains, and runs without folding.
    """
    found = []
    modes = {module: module.training for module in model.modules()}
    for training in (True, False):
        model.train(training)
        try:
            graph = torch.fx.Tracer().trace(model)
        except Exception:  # tracing runs the user's code on proxies, which may raise anything
            return {}
        finally:
            for module, mode in modes.items():
                module.training = mode
        found.append(_chains_of(graph, dict(model.named_modules())))
    first, second = found
    return {conv: chain for conv, chain in first.items() if second.get(conv) == chain}


def _chains_of(graph: torch.fx.Graph, modules: Mapping[str, nn.Module]):
    calls: dict[nn.Module, int] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls[modules[node.target]] = calls.get(modules[node.target], 0) + 1

    def only_user(node, kinds) -> tuple:
        users = list(node.users)
        if len(users) == 1 and users[0].op == "call_module" and len(users[0].args) == 1:
            module = modules[users[0].target]
            if type(module) in kinds and calls[module] == 1 and not _hooked(module):
                return users[0], module
        return None, None

    chains = {}
    for node in graph.nodes:
        if node.op == "call_module" and type(modules[node.target]) is nn.Conv2d:
            convolution = modules[node.target]
            if calls[convolution] > 1:
                continue
            norm_node, norm = only_user(node, (nn.BatchNorm2d,))
            if norm is not None and norm.track_running_stats:
                _, activation = only_user(norm_node, (nn.ReLU, nn.ReLU6))
                chains[convolution] = (norm, activation)
    return chains
