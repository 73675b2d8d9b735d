"""What is really held for the backward pass, counted over every saved tensor.

The paper's unit counts the selected weights' gradients and the selected inputs. An execution also
holds one bit per rectified output behind the first selected layer, whatever train-mode batch norm
saves, and what other operations of the model save: in a transformer the inputs of layer norms above all.
:func:`measure` counts all of it on a real step, with recipes (:mod:`medyate.execution.recompute`) at what
they are made from.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from ..probing import inputs
from . import kernels, recompute
from .layers import Split, SubnetBatchNorm2d

PARTS = ("selected_activations", "masks", "batch_norm", "other", "weight_gradients", "optimizer_state")
# Parts that are named only where something is held: what transformers keep (medyate.execution.recompute).
TRANSFORMER_PARTS = {
    "layer_norm": "the layer norms' inputs and their statistics, two numbers a token",
    "attention": "queries, keys, values, masks, probabilities, outputs of attention",
    "activations": "inputs of GELU and SiLU, outputs of tanh",
    "products": "factors of gates and other products",
    "pools": "inputs of pooling and its indices",
    "recipes": "other tensors that what is not kept is computed from again",
}
BYTES_PER_ELEMENT = 4  # the paper's unit is an fp32 number


@dataclass(frozen=True)
class Kept:
    """Bytes that one training step holds. ``backbone`` by part, each of :data:`PARTS` and those of
    :data:`TRANSFORMER_PARTS` of which something is held; what belongs to the classifier and
    the loss, which stand outside the budget, in ``classifier_bytes``. ``peak_bytes`` is the most
    that the step held at once beyond what was there before it, outputs in passing included: the
    allocator's own figure on CUDA; on the CPU the sum of all live tensors after each operator (what
    an operator needs within itself is not seen there)."""

    backbone: Mapping[str, int]
    classifier_bytes: int
    peak_bytes: int
    batch_size: int
    operations: Mapping[str, int] = field(default_factory=dict)  # saved for the backbone, by the function that saves

    @property
    def total_bytes(self) -> int:
        return sum(self.backbone.values())


_NAMED = {
    "layer_norm": "layer_norm group_norm rms_norm instance_norm local_response_norm",
    "attention": """scaled_dot_product_attention multi_head_attention_forward softmax matmul __matmul__ bmm baddbmm
        einsum""",
    "activations": """gelu silu mish hardswish elu celu selu softplus softsign logsigmoid glu tanh sigmoid exp abs
        square pow __pow__ sqrt rsqrt""",
    "products": "mul mul_ div div_ true_divide __rtruediv__ multiply",
    "pools": """max_pool1d max_pool2d max_pool3d avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d
        adaptive_avg_pool2d""",
}
_PART_OF = {name: part for part, names in _NAMED.items() for name in names.split()}


class _Named(TorchFunctionMode):
    """Tells the counter which function saves."""

    def __init__(self, inside: list[str]):
        super().__init__()
        self.inside = inside

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name = getattr(func, "__name__", "")
        if "classifier" in self.inside or name.startswith("__get"):
            return func(*args, **(kwargs or {}))
        self.inside.append(name)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.inside.pop()


class _Counter:
    """Counts each saved storage once, by the part that saved it first; parameters are not counted."""

    def __init__(self, model: nn.Module, classifier: nn.Module):
        self.model = model
        self.parts = dict.fromkeys((*PARTS, *TRANSFORMER_PARTS, "classifier"), 0)
        # storages that are there anyway: weights, running statistics
        self.seen = {_storage(t) for t in [*model.parameters(), *model.buffers()]}
        self.operations: dict[str, int] = {}
        self.noted: dict[int, tuple[str, str]] = {}
        self.inside: list[str] = []
        self.has_left = False  # the classifier, which none of its layers runs in now
        self.handles = []
        heads = set(classifier) if isinstance(classifier, nn.ModuleList) else {classifier}
        for module in model.modules():
            part = (
                "classifier"
                if module in heads
                else "batch_norm"
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and not isinstance(module, SubnetBatchNorm2d)
                else None
            )
            if part:
                leave = self._leave_head if part == "classifier" else self._leave
                self.handles.append(module.register_forward_pre_hook(self._enter(part)))
                self.handles.append(module.register_forward_hook(leave))
            elif isinstance(module, Split):
                self.handles.append(module.register_forward_pre_hook(self._resume))
        self.keep_alive: list[Tensor] = []

    def _enter(self, part):
        return lambda *_: self.inside.append(part)

    def _leave(self, *_):
        self.inside.pop()

    # All that follows the classifier is the loss, until a layer of the backbone runs again: there may be several
    # heads, some of them on the way, and one whose weight an encoder shares runs first.

    def _leave_head(self, *_):
        self.has_left = True

    def _resume(self, *_):
        if self.has_left:
            self.inside[:] = [part for part in self.inside if part != "classifier"]
            self.has_left = False

    def note(self, tensor: Tensor, part: str) -> None:
        scope = recompute.current()
        operation = scope.operation if scope is not None else ""
        self.noted[_storage(tensor)] = part, operation or part

    def pack(self, tensor: Tensor) -> Tensor:
        key = _storage(tensor)
        if key not in self.seen:
            self.seen.add(key)
            self.keep_alive.append(tensor)  # an address must not be used twice while we count
            held = tensor.untyped_storage().nbytes()
            operation = self.inside[-1] if self.inside else "other"
            known = [part for part in self.inside if part in ("classifier", "batch_norm")]
            part = known[-1] if known else _PART_OF.get(operation, "other")
            part, operation = self.noted.get(key, (part, operation))
            self.parts[part] += held
            if part != "classifier":
                self.operations[operation] = self.operations.get(operation, 0) + held
        return tensor

    def __enter__(self):
        self.token = kernels.saved_listener.set(self.note)
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)
        self.hooks.__enter__()
        self.named = _Named(self.inside)
        self.named.__enter__()
        return self

    def __exit__(self, *exception):
        self.named.__exit__(*exception)
        self.hooks.__exit__(*exception)
        kernels.saved_listener.reset(self.token)
        for handle in self.handles:
            handle.remove()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def saved(attached, call: inputs.Call) -> tuple[dict[str, int], dict[str, int]]:
    """What a forward pass of an attached model saves for the backbone's backward pass, in bytes by part and by
    operation. With dropout and batch norm as in training, unless the model does not run so (a detector wants its
    targets then), and without a trace: running statistics stay as they are."""
    counter, samples = _in_training(attached, call)
    if counter is None:
        counter, samples = _counted(attached, call, training=False), 1
    counter.parts.pop("classifier")
    one, every = (
        {name: -(-size // samples) for name, size in of.items()} for of in (counter.parts, counter.operations)
    )
    return one, every


def _in_training(attached, call: inputs.Call) -> tuple[_Counter | None, int]:
    """A training pass's counter and its samples: two where batch norm has but one value of one sample. None where the
    model does not run."""
    for samples in (1, 2):
        try:
            return _counted(attached, call, training=True), samples
        except Exception as error:  # the user's code without what it gets in training may raise anything
            if inputs.ONE_VALUE not in str(error):
                break
        call = tree_map_only(Tensor, lambda one: torch.cat([one, one]), call)
    return None, 1


def _counted(attached, call: inputs.Call, training: bool) -> _Counter:
    model, trains = attached.model, attached.batch_norm == "train"
    with inputs.same_buffers(model, wanted=training and trains), inputs.evaluation(model):
        for module in model.modules():
            module.training = training and (trains or not isinstance(module, nn.modules.batchnorm._BatchNorm))
        with torch.random.fork_rng(devices=[]), torch.enable_grad(), _Counter(model, attached.classifier) as counter:
            model(*call[0], **call[1])
    return counter


class _Live(TorchDispatchMode):
    """Sums the storages that operators make, until they are freed. What is there before does not count."""

    def __init__(self):
        super().__init__()
        self.live: dict[int, weakref.ref] = {}  # address of the storage -> its weak reference
        self.former: set[int] = set()
        self.held_bytes = self.peak_bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        for tensor in tree_leaves((args, kwargs)):
            if isinstance(tensor, Tensor) and tensor.untyped_storage()._cdata not in self.live:
                self.former.add(tensor.untyped_storage()._cdata)
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return out

    def _add(self, storage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self.live or key in self.former:
            return

        def freed(_reference: weakref.ref):
            self.held_bytes -= size
            del self.live[key]

        self.live[key] = weakref.ref(storage, freed)
        self.held_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)


class _Peak:
    """The most that tensors held at once within the block, beyond what was there at its beginning."""

    def __init__(self, device: torch.device):
        self.device, self.bytes, self.live = device, 0, _Live()

    def __enter__(self) -> _Peak:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            self.live.__enter__()
        return self

    def __exit__(self, *exception) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self.before
        else:
            self.live.__exit__(*exception)
            self.bytes = self.live.peak_bytes


def measure(
    model: nn.Module,
    classifier: nn.Module,
    optimizer: torch.optim.Optimizer,
    images: Tensor,
    labels: Tensor,
    loss_function: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy,
) -> Kept:
    """Run one training step (the weights do change) and count what it holds.

    Saved tensors are counted at the end of the forward pass, each storage once; the input images
    count where a layer saves them. Weight gradients and optimiser states are those of the backbone.
    """
    optimizer.zero_grad(set_to_none=True)
    with _Peak(images.device) as peak:
        with _Counter(model, classifier) as counter:
            loss = loss_function(model(images), labels)
        # the counter's own references must not be part of the peak
        counter.keep_alive.clear()
        loss.backward()
        optimizer.step()
    head = {id(parameter) for parameter in classifier.parameters()}
    parts = dict(counter.parts)
    outside = parts.pop("classifier")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = 0 if parameter.grad is None else parameter.grad.untyped_storage().nbytes()
            state = sum(
                value.untyped_storage().nbytes()
                for value in optimizer.state.get(parameter, {}).values()
                if isinstance(value, Tensor)
            )
            if id(parameter) in head:
                outside += gradient + state
            else:
                parts["weight_gradients"] += gradient
                parts["optimizer_state"] += state
    parts = {part: size for part, size in parts.items() if size or part in PARTS}
    return Kept(parts, outside, peak.bytes, len(images), counter.operations)
