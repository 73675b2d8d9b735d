"""The counterparts of torch's layers: what :func:`medyate.execution.attach.attach` turns a model's modules into.

A layer's weight stays what and where it is. A *selected* layer has, beside it, ``selected_weight``: a compact
parameter of the selected input channels, which is what the optimiser sees. Gradients and optimiser states
exist for selected channels only; of weights, these are held a second time, at most what the budget counts
for their gradients.
"""

from __future__ import annotations

import copy
import math
import weakref
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..errors import InputError
from . import distributed, kernels
from . import functions as _functions  # noqa: F401  what a scope runs instead of torch's own
from . import recompute as recomputing

COPIED_WHOLE = "medyate: a copy that trains by itself"  # a key among what copy.deepcopy remembers


if TYPE_CHECKING:
    _Beside = nn.Module  # what each counterpart is besides
else:
    _Beside = object


class Split(_Beside):
    """What a selected convolution and linear layer share: a compact weight beside the whole, and its gradient.

    ``selected_weight`` is one object from attaching to detaching, so that optimisers, parameter groups, lists for
    clipping and whoever else holds it hold it for the whole training; a selection gives it other content and
    another size, nothing where the layer is frozen. Whole and compact weight hold the same numbers: after a
    change of either, the other is told before it is used (:meth:`agree`).
    """

    # set by attach()
    layer_name: str
    geometry: kernels.Geometry
    pads: bool = False  # the input is padded in a step of its own
    norm: nn.BatchNorm2d | None = None  # a frozen batch norm folded into this layer
    activation: Any = None  # the ReLU or ReLU6 behind it
    gates: tuple = ()  # the modules whose forward pass brings this layer's output to its batch norm
    budgeted: int | None = None  # elements of a sample's input, per channel, that the budget counts
    is_copy: bool = False  # of an attached model: it shares the compact weights, and does not use them
    weight_name, bias_name = "weight", "bias"
    compiles = False  # whether medyate.execution.compiled knows this kind
    inputs_first = False  # whether the whole weight is (in, out) where torch's own linear layers have (out, in)
    in_channels: int
    _parameters: dict[str, Any]  # None for a bias that is not there

    @property
    def weight(self) -> Tensor:
        """The whole weight in its usual form, differentiable in ``selected_weight`` where gradients are recorded."""
        return self.whole()

    def whole(self) -> Tensor:
        self.agree()
        if self.selected_weight is None or not torch.is_grad_enabled():
            return self._parameters[self.weight_name]
        scope = recomputing.current()
        return self.differentiable() if scope is None else scope.assemble(self)

    def differentiable(self) -> Tensor:
        return _Whole.apply(self.selected_weight, self)

    @property
    def bias_vector(self) -> nn.Parameter | None:
        return self._parameters[self.bias_name]

    @property
    def channels(self) -> Tensor | None:
        """The selected input channels, sorted; None where the layer is frozen."""
        return self.__dict__.get("selected_channels")

    @property
    def taken(self) -> Tensor:
        """:attr:`channels` of a layer that is selected."""
        return self.__dict__["selected_channels"]

    @property
    def selected_weight(self) -> nn.Parameter | None:
        """The compact parameter of the selected channels; None where the layer is frozen."""
        return None if self.channels is None else self._parameters["selected_weight"]

    # A grouped convolution's compact layout is (k, C'/groups, D, D): row i holds the weights that the
    # selected channel i has in its own group's outputs. Other layers': (C', k, ..).

    def _owners(self) -> tuple[Tensor, Tensor]:
        per_group = self.in_channels // self.geometry.groups
        return self.taken // per_group, self.taken % per_group

    def _blocks(self, weight: Tensor) -> Tensor:
        return weight.unflatten(0, (self.geometry.groups, self.geometry.outputs))

    def part(self, weight: Tensor) -> Tensor:
        """The selected channels' part of a tensor of the whole weight's shape, copied."""
        if self.geometry.groups == 1:
            return weight.index_select(1, self.taken)
        group, place = self._owners()
        return self._blocks(weight)[group, :, place].contiguous()

    def _put(self, weight: Tensor, part: Tensor) -> None:
        if self.geometry.groups == 1:
            weight.index_copy_(1, self.taken, part)
        else:
            group, place = self._owners()
            self._blocks(weight)[group, :, place] = part

    def enter(self) -> None:
        """A compact parameter of no channels: the layer is frozen."""
        self._parameters["selected_weight"] = nn.Parameter(self._nothing())

    def _nothing(self) -> Tensor:
        weight = self._parameters[self.weight_name].detach()
        if self.geometry.groups == 1:
            return weight.new_empty((weight.shape[0], 0, *weight.shape[2:]))
        return weight.new_empty((0, self.geometry.outputs, *weight.shape[2:]))

    def select(self, channels: Tensor) -> bool:
        """Train the input channels of these sorted indices; an empty vector freezes the layer.

        Returns whether others than before are trained now.
        """
        self.agree()
        selected, former = self._parameters["selected_weight"], self.channels
        selected.grad = None
        channels = channels.to(selected.device)
        if len(channels) == (0 if former is None else len(former)) and (
            former is None or torch.equal(channels, former)
        ):
            return False
        self.geometry.changed()
        if len(channels):
            self.__dict__["selected_channels"] = channels
            self._lay_out()
            _become(selected, self.part(self._parameters[self.weight_name].detach()))
            self._know()
        else:
            del self.__dict__["selected_channels"]
            _become(selected, self._nothing())
        return True

    def _lay_out(self) -> None:
        """A weight that is trained has the usual strides until :meth:`leave`: others round otherwise."""
        weight = self._parameters[self.weight_name]
        usual = torch.empty(weight.shape, device="meta").stride()
        if weight.stride() != usual:
            self.__dict__["strides"] = weight.stride()
            weight.data = weight.data.new_empty(weight.shape).copy_(weight.data)

    def _versions(self) -> tuple[int, int, int]:
        selected, whole = self._parameters["selected_weight"], self._parameters[self.weight_name]
        return selected._version, whole._version, id(whole)

    def _know(self) -> None:
        self.__dict__["known"] = self._versions()

    def agree(self) -> None:
        """Tell the whole weight what the compact one has become, or, where that is as it was, the other way about."""
        if self.channels is None or self.is_copy:
            return
        known, now = self.__dict__["known"], self._versions()
        if now != known:
            self.give() if now[0] != known[0] else self.fetch()

    @torch.no_grad()
    def give(self) -> None:
        """The compact weight's numbers to the whole one."""
        self._put(self._parameters[self.weight_name], self._parameters["selected_weight"])
        self._know()

    @torch.no_grad()
    def fetch(self) -> None:
        """The whole weight's numbers to the compact one."""
        self._parameters["selected_weight"].copy_(self.part(self._parameters[self.weight_name]))
        self._know()

    def leave(self) -> None:
        """Only the whole weight is left."""
        self.agree()
        self.geometry.changed()
        del self._parameters["selected_weight"]
        strides = self.__dict__.pop("strides", None)
        if strides is not None:
            weight = self._parameters[self.weight_name]
            former = torch.empty_strided(weight.shape, strides, dtype=weight.dtype, device=weight.device)
            weight.data = former.copy_(weight.data)
        for name in ("selected_channels", "known"):
            self.__dict__.pop(name, None)

    def __deepcopy__(self, memo: dict):
        """A copy of the model alone, as moving averages make it, shares the compact weights and ignores them."""
        self.agree()
        selected = self._parameters["selected_weight"]
        alone = not memo.get(COPIED_WHOLE)
        if alone:
            memo[id(selected)] = selected
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(copy.deepcopy(self.__dict__, memo))
        if alone:
            twin.__dict__["is_copy"] = True
            twin.__dict__.pop("selected_channels", None)
        elif self.channels is not None:
            twin._know()
        return twin

    def _apply(self, *args, **kwargs):
        self.agree()
        if self.is_copy:  # what it shares stays where it is
            selected = self._parameters.pop("selected_weight")
            super()._apply(*args, **kwargs)
            self._parameters["selected_weight"] = selected
            return self
        super()._apply(*args, **kwargs)
        if self.channels is not None:
            self.__dict__["selected_channels"] = self.channels.to(self._parameters[self.weight_name].device)
            self._know()
        return self

    # The folded weight is made for each use and not kept: it would be a second copy of the network.

    def scale(self) -> Tensor | None:
        """The folded batch norm's factor per output channel; None without one."""
        return None if self.norm is None else kernels.scale_of(self.norm)

    def folded_weight(self, scale: Tensor | None) -> Tensor:
        """The whole weight times the folded batch norm's factor; for passes that record no gradient."""
        weight = self._parameters[self.weight_name]
        return weight if scale is None else weight * scale.view(-1, *[1] * (weight.dim() - 1))

    def folds(self) -> bool:
        """Whether the batch norm and activation behind it run within this layer now.

        Not where the layer is called by itself, outside the forward pass in which they follow it, nor where
        someone has put a hook between them: they would see what comes out of all three.
        """
        if self.norm is None or not any(gate.depth for gate in self.gates):
            return False
        return not (hooked(self) or hooked(self.norm) or (self.activation is not None and hooked(self.activation)))

    def output(self, x: Tensor, folds: bool = False) -> Tensor:
        """What the layer gives for an input that is padded already; ``folds``: behind batch norm and activation."""
        scale = self.scale() if folds else None
        weight: Tensor = self.folded_weight(scale)
        bias: Tensor | None = self.bias_vector
        if scale is not None:
            shift = kernels.shift_of(self.norm, scale)
            bias = shift if bias is None else torch.addcmul(shift, bias, scale)
        if weight.dtype != x.dtype:  # autocast
            weight, bias = weight.to(x.dtype), None if bias is None else bias.to(x.dtype)
        if not folds or self.activation is None:
            return self.geometry.forward(x, weight, bias)
        return self.geometry.rectified(x, weight, bias, self.activation.ceiling)

    def chosen(self, x: Tensor) -> Tensor:
        """The selected channels of the input; the input itself, not a copy, where that is all."""
        linear = self.geometry.linear
        channels = self.taken
        if len(channels) == x.shape[-1 if linear else 1]:
            # a view would keep all of what it is a view of
            return x if x.untyped_storage().nbytes() == x.numel() * x.element_size() else x.clone()
        return x.index_select(-1, channels) if linear else kernels.gather(x, channels)

    def compact_gradient(self, grad: Tensor, chosen: Tensor, scale: Tensor | None) -> Tensor:
        """The gradient of ``selected_weight``; the folded scale belongs to each output channel."""
        selected = self._parameters["selected_weight"]
        kernel = () if self.geometry.linear else tuple(selected.shape[2:])
        chosen = self.padded(chosen)
        owners = self.taken if self.geometry.groups == 1 else self._owners()[0]
        gradient = self.geometry.weight_gradient(grad, chosen, owners, kernel)
        if scale is not None:
            scale = scale.to(gradient.dtype)
            if self.geometry.groups > 1:
                scale = scale[self.geometry.outputs_of(owners)]
            gradient = gradient * scale.view(*scale.shape, *[1] * (gradient.dim() - scale.dim()))
        return gradient.to(selected.dtype)

    def state(self) -> tuple:
        """Changes whenever something that the backward pass reads does."""
        selected, whole = self.selected_weight, self._parameters[self.weight_name]
        state = (whole._version, id(self.channels), -1 if selected is None else selected._version)
        return state if self.norm is None else state + kernels.norm_state(self.norm)

    def run(self, x: Tensor) -> Tensor:
        """The layer itself, whoever watches, for a batch."""
        kind = x.device.type
        if kind == "meta":  # whoever asks for shapes wants the model's own layers
            raise InputError(f"layer {self.layer_name!r} runs as part of a subnet; detach the model first")
        folds = self.folds()
        if torch.is_autocast_enabled(kind) and x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(kind))
            with torch.autocast(kind, enabled=False):
                out = self._run(x, folds)
        else:
            out = self._run(x, folds)
        if folds:
            self.norm.__dict__["expected"] = weakref.ref(out)
        return out

    def _run(self, x: Tensor, folds: bool) -> Tensor:
        self.agree()
        selected = None
        if torch.is_grad_enabled():
            selected = self.selected_weight
            _refuse_gradients(self)
            if selected is not None:
                self._check_size(x)
                distributed.synchronise(self, selected)
        library = kernels.library_for(x) if self.compiles and not self.pads else None
        if library is not None and self._parameters["weight"].dtype is torch.float32:
            return self._run_compiled(library, x, selected, folds)
        if torch.is_grad_enabled() and (x.requires_grad or selected is not None):
            return kernels.Project.apply(x, selected, self, folds)
        with torch.no_grad():
            return self.output(self.padded(x), folds)

    def _run_compiled(self, library: Any, x: Tensor, selected: nn.Parameter | None, folds: bool) -> Tensor:
        tensors = (x, selected, self.channels, self._parameters["weight"], self._parameters["bias"])
        layer = self.geometry.compiled(library, self.layer_name)
        norm = self.norm
        if norm is None or not folds:
            return library.project(*tensors, None, None, None, None, 0.0, -1.0, layer)
        statistics, affine = norm._buffers, norm._parameters
        folded = (statistics["running_var"], statistics["running_mean"], affine["weight"], affine["bias"], norm.eps)
        ceiling = -1.0
        if self.activation is not None:
            ceiling = math.inf if self.activation.ceiling is None else self.activation.ceiling
        return library.project(*tensors, *folded, ceiling, layer)

    def _check_size(self, x: Tensor) -> None:
        """The budget holds for inputs up to the size that it was computed for."""
        if self.budgeted is None:
            return
        if self.geometry.linear:
            samples, count = self.__dict__["batch"][0], x[..., 0].numel()
            if samples and count > self.budgeted * samples:
                raise InputError(
                    f"layer {self.layer_name!r} takes {count:,} vectors from a batch of {samples:,} where the budget "
                    f"counts {self.budgeted:,} a sample; allowed: a layer whose vectors input_shape tells, or this one "
                    "as part of classifier, or frozen (requires_grad_(False)) before Subnet and rank"
                )
        elif math.prod(x.shape[2:]) > self.budgeted:
            raise InputError(
                f"layer {self.layer_name!r} sees {math.prod(x.shape[2:]):,} values a channel where the budget counts "
                f"{self.budgeted:,}: the batch is larger than input_shape; give Subnet and rank the batch's own shape"
            )

    def padded(self, x: Tensor) -> Tensor:
        """The input after a padding step of the layer's own."""
        return x

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        self.agree()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        del destination[prefix + "selected_weight"]

    def _load_from_state_dict(self, *args):
        selected = self._parameters.pop("selected_weight")
        try:
            super()._load_from_state_dict(*args)
        finally:
            self._parameters["selected_weight"] = selected
        self.agree()


def _become(parameter: nn.Parameter, content: Tensor) -> None:
    """Give a parameter content of another shape."""
    # What autograd has noted of the former shape it forgets with another type only, while a graph is still there.
    other = torch.float64 if content.dtype == torch.float32 else torch.float32
    parameter.data = content.new_empty(0, dtype=other)
    parameter.data = content


class _Convolution(Split):
    padding_mode: Any
    _reversed_padding_repeated_twice: Any

    def forward(self, x: Tensor) -> Tensor:
        scope = recomputing.current()
        return self.run(x) if scope is None else scope.project(x, self)

    def run(self, x: Tensor) -> Tensor:
        if x.dim() < self._parameters["weight"].dim():  # one image without a batch dimension
            return super().run(x.unsqueeze(0)).squeeze(0)
        return super().run(x)

    def padded(self, x: Tensor) -> Tensor:
        """Padding by other than zeros, or by more on one side, is a step of its own, as in torch."""
        if not self.pads:
            return x
        mode = "constant" if self.padding_mode == "zeros" else self.padding_mode
        return nn.functional.pad(x, self._reversed_padding_repeated_twice, mode=mode)

    @property
    def input_channels(self) -> int:
        return self.in_channels


# Their weight is a property that is read; what is written is the parameter of that name.
class SubnetConv1d(_Convolution, nn.Conv1d):  # type: ignore[override]
    pass


class SubnetConv2d(_Convolution, nn.Conv2d):  # type: ignore[override]
    compiles = True


class SubnetConv3d(_Convolution, nn.Conv3d):  # type: ignore[override]
    pass


class SubnetLinear(Split, nn.Linear):  # type: ignore[override]
    def forward(self, x: Tensor) -> Tensor:
        scope = recomputing.current()
        return self.run(x) if scope is None else scope.project(x, self)

    def run(self, x: Tensor) -> Tensor:
        if x.dim() == 1:
            return super().run(x.unsqueeze(0)).squeeze(0)
        return super().run(x)

    @property
    def input_channels(self) -> int:
        return self.in_features


class SubnetConv1D(Split, nn.Module):
    """Transformers' ``Conv1D``, a linear layer whose weight is (in, out); so is its compact weight, (k, out)."""

    inputs_first = True
    nx: int
    nf: int

    def forward(self, x: Tensor) -> Tensor:
        scope = recomputing.current()
        return self.run(x) if scope is None else scope.project(x, self)

    def run(self, x: Tensor) -> Tensor:
        return super().run(x.unsqueeze(0)).squeeze(0) if x.dim() == 1 else super().run(x)

    @property
    def input_channels(self) -> int:
        return self.nx

    def part(self, weight: Tensor) -> Tensor:
        return weight.index_select(0, self._places())

    def _places(self) -> Tensor:
        return self.__dict__["selected_channels"]

    def _put(self, weight: Tensor, part: Tensor) -> None:
        weight.index_copy_(0, self._places(), part)

    def _nothing(self) -> Tensor:
        return self._parameters["weight"].detach().new_empty((0, self.nf))

    def folded_weight(self, scale: Tensor | None) -> Tensor:
        return self._parameters["weight"].t()

    def compact_gradient(self, grad: Tensor, chosen: Tensor, scale: Tensor | None) -> Tensor:
        gradient = chosen.flatten(0, -2).t() @ grad.flatten(0, -2)
        return gradient.to(self._parameters["selected_weight"].dtype)


class SubnetMultiheadAttention(Split, nn.MultiheadAttention):
    """Its one weight for query, key and value is a linear layer; torch's own function calls it."""

    weight_name, bias_name = "in_proj_weight", "in_proj_bias"

    @property
    def in_proj_weight(self) -> Tensor:  # type: ignore[override]
        return self.whole()

    @property
    def input_channels(self) -> int:
        return self.embed_dim


class _Whole(torch.autograd.Function):
    """A selected layer's whole weight, for who uses it through a function; its gradient's selected part is kept."""

    @staticmethod
    def forward(ctx, selected: Tensor, layer: Split) -> Tensor:
        ctx.layer, ctx.channels = layer, layer.channels
        return layer._parameters[layer.weight_name].detach()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        if ctx.layer.channels is not ctx.channels:
            raise RuntimeError(f"layer {ctx.layer.layer_name!r} was changed between forward and backward")
        return ctx.layer.part(grad), None


class Absorbed:
    """A module that may run as part of the convolution before it: then what it takes in is its output already."""

    expected: weakref.ref | None = None  # what comes in then

    def is_done(self, x: Tensor) -> bool:
        expected = self.__dict__.pop("expected", None)
        if expected is None:
            return False
        if expected() is not x:
            raise RuntimeError(
                f"a {type(self).__name__.removeprefix('Subnet')} was folded into a layer whose output does not come "
                "to it; attach with fold=False"
            )
        return True


class SubnetReLU(Absorbed, nn.ReLU):
    ceiling: float | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.is_done(x):
            return x
        if recomputing.listening():  # as a function, whose recipe is noted
            if self.ceiling is None:
                return nn.functional.relu(x, self.inplace)
            return nn.functional.hardtanh(x, 0.0, self.ceiling, self.inplace)
        if torch.is_grad_enabled() and x.requires_grad:
            return kernels.rectified(x, self.ceiling, self.inplace)
        return kernels.rectify_(x, self.ceiling) if self.inplace else kernels.rectify(x, self.ceiling)


class SubnetReLU6(Absorbed, nn.ReLU6):
    ceiling: float | None = 6.0
    forward = SubnetReLU.forward  # type: ignore[assignment]  # torch calls the argument `input`


class SubnetBatchNorm2d(Absorbed, nn.BatchNorm2d):
    """A batch norm that stays frozen whatever ``model.train()`` says."""

    follower: Absorbed | None = None  # the activation that is folded with it

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_grad_enabled():
            _refuse_gradients(self)
        if not self.is_done(x):
            if recomputing.listening():  # as a function, whose recipe is noted
                statistics, affine = self._buffers, self._parameters
                mean, var = statistics["running_mean"], statistics["running_var"]
                return nn.functional.batch_norm(x, mean, var, affine["weight"], affine["bias"], False, 0.0, self.eps)
            return kernels.Scale.apply(x, self)
        if self.follower is not None:
            self.follower.__dict__["expected"] = weakref.ref(x)
        return x

    def reset_running_stats(self) -> None:
        refuse_new_statistics()


def refuse_new_statistics() -> None:
    """What a frozen batch norm answers to ``torch.optim.swa_utils.update_bn``."""
    raise InputError(
        "the batch norms are frozen: their statistics stay as they are; allowed: to detach the model first "
        "(of a copy, Subnet.detach(copy)), or batch_norm='train'"
    )


def _refuse_gradients(module: nn.Module) -> None:
    """What is frozen here gets no gradient, so that none may be asked for."""
    for name, parameter in module._parameters.items():
        if parameter is not None and parameter.requires_grad and name != "selected_weight":
            raise InputError(
                f"{name!r} of {getattr(module, 'layer_name', type(module).__name__)!r} requires a gradient but is "
                "frozen; allowed: to select the layer's channels, or to detach the model first"
            )


COUNTERPARTS = {
    nn.Conv1d: SubnetConv1d,
    nn.Conv2d: SubnetConv2d,
    nn.Conv3d: SubnetConv3d,
    nn.Linear: SubnetLinear,
    nn.modules.linear.NonDynamicallyQuantizableLinear: SubnetLinear,  # nn.MultiheadAttention's projection
    nn.MultiheadAttention: SubnetMultiheadAttention,
    nn.ReLU: SubnetReLU,
    nn.ReLU6: SubnetReLU6,
    nn.BatchNorm2d: SubnetBatchNorm2d,
}


def counterpart(kind: type[nn.Module]) -> type[nn.Module] | None:
    """What modules of this class are turned into; None for those that stay. (Transformers is not imported for its
    ``Conv1D``, which there is only if somebody else has imported it.)"""
    if kind.__name__ == "Conv1D" and kind.__module__ == "transformers.pytorch_utils":
        return SubnetConv1D
    return COUNTERPARTS.get(kind)


def is_counterpart(module: nn.Module) -> bool:
    return type(module) is SubnetConv1D or type(module) in COUNTERPARTS.values()


SELECTABLE = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.MultiheadAttention)


def rows(module: Split, gradient: Tensor) -> Tensor:
    outputs_first = module.geometry.groups == 1 and not module.inputs_first
    return (gradient.transpose(0, 1) if outputs_first else gradient).flatten(1)


def hooked(module: nn.Module) -> bool:
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "parametrizations" in module._modules
    )


def padding_of(module: Any) -> tuple[int, ...] | None:
    """The padding that the products do themselves; None where a step of its own pads (:meth:`padded`)."""
    if module.padding_mode != "zeros":
        return None
    if module.padding == "valid":
        return (0, 0)
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size)]
        return None if any(amount % 2 for amount in total) else tuple(amount // 2 for amount in total)
    return tuple(module.padding)
