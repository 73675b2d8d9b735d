"""Several networks of one shape as one network of as many groups: each operation serves all of them.

A small network gives a GPU little to do: most of a step is the time between two operations. ``runs``
networks of the same shape, each with its own weights and its own batch, are one network whose
channels are theirs side by side:

* images (B, runs * 3, H, W), the channels of run r after those of run r - 1;
* a convolution of g groups becomes one of runs * g groups, its weight the weights one after another;
* batch norm works channel by channel, so its statistics stay each run's own;
* activations, padding, pooling and sums do not look at channels at all;
* the classifier is a batched product, its logits (B, runs, classes).

This is what ``torch.func.vmap`` over ``torch.func.functional_call`` makes of them (a test compares),
without an interpreter between torch and the operations. The parameters of the single networks become
*views* of the wide one's: what trains the wide one has trained them, and what reads or evaluates or
saves a single one needs to know nothing of this.

Gradients are dense and masked: every layer with a selected channel in any run computes its whole
gradient, in all of them, and keeps its whole input. This is for machines with plenty of memory.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..errors import InputError, choose
from ..execution.attach import _stay_frozen
from ..execution.modes import BATCH_NORMS
from ..networks.convolutional import SamePad2d
from ..probing.inputs import same_buffers

BY_CHANNEL = (nn.ReLU, nn.ReLU6, nn.Identity, nn.AdaptiveAvgPool2d, nn.AvgPool2d, nn.Flatten, SamePad2d)
GRAPH_WARM_UPS = 3  # what torch's documentation of CUDA graphs takes
Capture = Callable[[Callable, Sequence[Tensor]], tuple[list[Tensor], Callable[[], None]]]


class WideLinear(nn.Module):
    """``runs`` linear layers: (B, runs * in) -> (B, runs, out). Weight (runs * out, in), bias (runs * out,)."""

    def __init__(self, runs: int, single: nn.Linear):
        super().__init__()
        self.runs = runs
        self.weight = nn.Parameter(single.weight.detach().repeat(runs, 1))
        self.bias = None if single.bias is None else nn.Parameter(single.bias.detach().repeat(runs))

    def forward(self, x: Tensor) -> Tensor:
        x = x.unflatten(1, (self.runs, -1)).transpose(0, 1)
        weight = self.weight.unflatten(0, (self.runs, -1)).transpose(1, 2)
        if self.bias is None:
            return torch.bmm(x, weight).transpose(0, 1)
        return torch.baddbmm(self.bias.unflatten(0, (self.runs, 1, -1)), x, weight).transpose(0, 1)


def _widened(module: nn.Module, runs: int, name: str) -> nn.Module | None:
    """The module for ``runs`` runs, its parameters not yet set; None for one that stays as it is."""
    if type(module) in BY_CHANNEL:
        return None
    if type(module) is nn.Conv2d and module.padding_mode == "zeros":
        return nn.utils.skip_init(
            nn.Conv2d,
            module.in_channels * runs,
            module.out_channels * runs,
            module.kernel_size,
            module.stride,
            module.padding,
            module.dilation,
            module.groups * runs,
            module.bias is not None,
            device=module.weight.device,
            dtype=module.weight.dtype,
        )
    if type(module) is nn.BatchNorm2d and module.affine and module.track_running_stats and module.momentum is not None:
        norm = nn.BatchNorm2d(
            module.num_features * runs,
            module.eps,
            module.momentum,
            device=module.weight.device,
            dtype=module.weight.dtype,
        )
        norm.num_batches_tracked = None  # the single networks' count
        return norm
    if type(module) is nn.Linear:
        return WideLinear(runs, module)
    raise InputError(
        f"layer {name!r} ({type(module).__name__}) cannot be stacked; allowed: Conv2d, BatchNorm2d, Linear, "
        + ", ".join(kind.__name__ for kind in BY_CHANNEL)
    )


class Wide:
    """Networks that train in one: ``network`` is the wide one, ``models`` the single ones, parts of it.

    ``models``: networks of one shape, on one device. ``batch_norm``: "train" or "frozen".
    ``capture``: :func:`cuda_graph` for steps that are captured once and replayed, None for steps as
    they are. Raises :class:`InputError` for networks that cannot be stacked.
    """

    def __init__(self, models: Sequence[nn.Module], *, batch_norm: str, capture: Capture | None = None):
        choose(batch_norm, BATCH_NORMS, "batch norm mode")
        self.models, self.runs = list(models), len(models)
        shapes = [
            {name: (value.shape, value.dtype, value.device) for name, value in model.state_dict().items()}
            for model in models
        ]
        if any(other != shapes[0] for other in shapes):
            raise InputError(
                "networks of different shapes, types or devices cannot be stacked; allowed: the same network in each "
                "run"
            )
        first = next(models[0].parameters())
        self.network = self._build(batch_norm)
        self._norms = [m for model in models for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
        self._counts_batches = batch_norm == "train"
        self._parameters = dict(self.network.named_parameters())
        self._masks: dict[str, Tensor] = {}
        self.trained: tuple[str, ...] = ()
        self.loss_sum = torch.zeros(self.runs, device=first.device, dtype=first.dtype)
        self.right = torch.zeros(self.runs, device=first.device, dtype=torch.long)
        self._runner = self._step if capture is None else Replayed(self._step, self._state, capture)

    def _build(self, batch_norm: str) -> nn.Module:
        network = copy.deepcopy(self.models[0])
        for name, module in list(network.named_modules()):
            if not list(module.children()):
                wide = _widened(module, self.runs, name)
                if wide is not None:
                    network.set_submodule(name, wide)
                    if batch_norm == "frozen" and isinstance(wide, nn.BatchNorm2d):
                        wide.register_forward_pre_hook(_stay_frozen)
        singles = [dict(model.named_modules()) for model in self.models]
        for path, module in network.named_modules():
            for name, value in (*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)):
                parts = [getattr(single[path], name) for single in singles]
                joined = torch.cat([part.detach() for part in parts])
                if joined.dim() == 4:
                    joined = joined.contiguous(memory_format=torch.channels_last)
                value.data = joined
                for single, part, view in zip(singles, parts, joined.chunk(self.runs), strict=True):
                    if isinstance(part, nn.Parameter):
                        part.data = view  # the parameter stays the same object, for hooks and optimisers
                    else:
                        single[path]._buffers[name] = view
        return network.requires_grad_(False)

    def train_only(self, masks: Sequence[Mapping[str, Tensor | None]]) -> None:
        """What each run trains from now on: by parameter name a mask of its gradient, None for all of it.

        See :meth:`medyate.execution.masked.Dense.masks`; other parameters stay.
        """
        trained = tuple(name for name in self._parameters if any(name in mine for mine in masks))
        joined = {}
        for name in trained:
            if not all(name in mine and mine[name] is None for mine in masks):
                joined[name] = torch.stack([self._mask(name, mine) for mine in masks])
        if trained == self.trained and joined.keys() == self._masks.keys():
            for name, mask in joined.items():
                self._masks[name].copy_(mask)  # in place: a captured step reads it there
            return
        self.trained, self._masks = trained, joined
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in trained)
            parameter.grad = None
        if isinstance(self._runner, Replayed):
            self._runner.forget()

    def _mask(self, name: str, mine: Mapping[str, Tensor | None]) -> Tensor:
        """(n, C/groups, 1, ..), of the run's part of the parameter."""
        parameter = self._parameters[name]
        shape = (len(parameter) // self.runs, *parameter.shape[1:2], *[1] * (parameter.dim() - 2))
        if name in mine and mine[name] is not None:
            return mine[name].expand(shape)
        return torch.full(shape, float(name in mine), device=parameter.device, dtype=parameter.dtype)

    def _parts(self, value: Tensor) -> Tensor:
        """(runs * n, ..) -> (runs, n, ..), a view."""
        return value.unflatten(0, (self.runs, -1))

    @property
    def captured(self) -> bool:
        """Whether steps are captured and replayed; not where capturing failed."""
        return isinstance(self._runner, Replayed) and not self._runner.failed

    def begin_epoch(self) -> None:
        """Zero the sums of :meth:`step`."""
        self.network.train()
        self.loss_sum.zero_()
        self.right.zero_()
        self.count = self._steps = 0

    def step(self, images: Tensor, labels: Tensor, rates: Tensor) -> None:
        """One step of SGD of every run on its own batch, at its own learning rate.

        images: (B, runs * 3, H, W); labels: (B, runs); rates: (runs,), all on the device, which is
        asked for nothing. Adds each run's summed loss to ``loss_sum`` and its right answers to
        ``right`` (runs,), and B to ``count``.
        """
        self._gradients = self._runner(images, labels, rates)
        self.count += len(labels)
        self._steps += 1

    def _step(self, images: Tensor, labels: Tensor, rates: Tensor) -> list[Tensor]:
        trained = [self._parameters[name] for name in self.trained]
        for parameter in trained:
            parameter.grad = None
        output = self.network(images)
        losses = self._losses(output, labels)
        losses.sum().backward()
        gradients = [parameter.grad for parameter in trained]
        with torch.no_grad():
            for name, parameter, gradient in zip(self.trained, trained, gradients, strict=True):
                whole, part = self._parts(parameter), self._parts(gradient)
                if name in self._masks:
                    part.mul_(self._masks[name])
                whole.addcmul_(part, rates.view(-1, *[1] * (part.dim() - 1)), value=-1)
            self.loss_sum += losses.detach() * len(labels)
            self.right += (output.argmax(-1) == labels).sum(0)
        return gradients

    def lend_gradients(self) -> None:
        """Put each run's part of the last step's gradients into its own network, where it trains them."""
        for name, gradient in zip(self.trained, self._gradients, strict=True):
            for model, part in zip(self.models, gradient.chunk(self.runs), strict=True):
                parameter = model.get_parameter(name)
                if parameter.requires_grad:
                    parameter.grad = part

    def end_epoch(self) -> None:
        """Leave the single networks as an epoch of their own would: gradients, batches counted."""
        self.lend_gradients()
        for norm in self._norms if self._counts_batches else ():
            norm.num_batches_tracked += self._steps

    def mean_gradients(self, names: Sequence[str], batches: Iterable[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        """The whole gradients of the named parameters, averaged over ``batches`` as :meth:`step` takes
        them: (runs, n, ..) each. Weights, running statistics and what is trained stay as they are."""
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in names)
        parameters = [self._parameters[name] for name in names]
        self.network.train()
        total, count = [torch.zeros_like(parameter) for parameter in parameters], 0
        with same_buffers(self.network):
            for images, labels in batches:
                torch._foreach_add_(
                    total, torch.autograd.grad(self._losses(self.network(images), labels).sum(), parameters)
                )
                count += 1
        for name, parameter in self._parameters.items():
            parameter.requires_grad_(name in self.trained)
        return {name: self._parts(value) / count for name, value in zip(names, total, strict=True)}

    @staticmethod
    def _losses(output: Tensor, labels: Tensor) -> Tensor:
        """Each run's mean loss, (runs,). No run's depends on another's weights: their sum has the gradients of all."""
        return F.cross_entropy(output.movedim(-1, 1), labels, reduction="none").mean(0)

    def beside(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The same batch for every run: (B, 3, H, W) and (B,) -> (B, runs * 3, H, W) and (B, runs)."""
        images = images.repeat(1, self.runs, 1, 1).contiguous(memory_format=torch.channels_last)
        return images, labels[:, None].expand(-1, self.runs)

    def _state(self) -> list[Tensor]:
        """All that a step changes, but for gradients."""
        return [*self._parameters.values(), *self.network.buffers(), self.loss_sum, self.right]


# --- CUDA graphs ---------------------------------------------------------------------------------


def cuda_graph(
    function: Callable[..., list[Tensor]], inputs: Sequence[Tensor]
) -> tuple[list[Tensor], Callable[[], None]]:
    """Capture ``function(*inputs)`` as torch's documentation says: its outputs, and what replays it into them."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(GRAPH_WARM_UPS):
            function(*inputs)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = function(*inputs)
    return outputs, graph.replay


class Replayed:
    """A function of tensors, captured for each shape of its arguments and then replayed.

    ``capture`` is :func:`cuda_graph`, or what stands in for it. ``state`` gives the tensors that the
    function changes in place: capturing runs the function, so they are put back. The outputs are
    valid until the next call. Where capturing fails, a warning says so and the function runs as it is.
    """

    def __init__(self, function: Callable[..., list[Tensor]], state: Callable[[], list[Tensor]], capture: Capture):
        self._function, self._state, self._capture = function, state, capture
        self._captured: dict[tuple, tuple] = {}
        self.failed = False

    def forget(self) -> None:
        """Capture anew: the function works on other tensors now."""
        self._captured = {}

    def __call__(self, *arguments: Tensor) -> list[Tensor]:
        shapes = tuple(argument.shape for argument in arguments)
        if not self.failed and shapes not in self._captured:
            self._try(shapes, arguments)
        if self.failed:
            return self._function(*arguments)
        inputs, outputs, replay = self._captured[shapes]
        for mine, given in zip(inputs, arguments, strict=True):
            mine.copy_(given)
        replay()
        return outputs

    def _try(self, shapes: tuple, arguments: Sequence[Tensor]) -> None:
        inputs = [argument.clone() for argument in arguments]
        state = self._state()
        before = [value.detach().clone() for value in state]
        try:
            self._captured[shapes] = (inputs, *self._capture(self._function, inputs))
        except RuntimeError as error:
            self.failed = True
            warnings.warn(f"a step cannot be captured, it runs as it is: {str(error).splitlines()[0]}", stacklevel=4)
        with torch.no_grad():
            for value, former in zip(state, before, strict=True):
                value.copy_(former)
