"""What is really held for the backward pass, counted over every saved tensor.

The paper's unit counts the selected weights' gradients and the selected inputs. An execution also
holds one bit per rectified output behind the first selected layer, whatever train-mode batch norm
saves, and what other operations of the model save: in a transformer the inputs of layer norms above all.
:func:`measure` counts all of it on a real step, with recipes (:mod:`medyate.recompute`) at what they are made from.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from . import kernels
from .costs import Layer, example_input, on_meta
from .errors import InputError, choose

PARTS = (
    "selected_activations", "masks", "batch_norm", "other", "weight_gradients", "optimizer_state",
)  # fmt: skip
# Parts that are named only where something is held: what transformers keep (medyate.recompute).
TRANSFORMER_PARTS = {
    "layer_norm": "the layer norms' inputs and their statistics, two numbers a token",
    "attention": "queries, keys, values, masks, probabilities, outputs of attention",
    "activations": "inputs of GELU and SiLU, outputs of tanh",
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

    @property
    def total_bytes(self) -> int:
        return sum(self.backbone.values())


_NAMED = {
    "layer_norm": (nn.functional.layer_norm, torch.layer_norm),
    "attention": (
        nn.functional.scaled_dot_product_attention, nn.functional.multi_head_attention_forward,
        nn.functional.softmax, torch.softmax, Tensor.softmax, torch.matmul, Tensor.matmul, torch.bmm, Tensor.bmm,
        torch.baddbmm, Tensor.baddbmm,
    ),
    "activations": (nn.functional.gelu, nn.functional.silu, torch.tanh, Tensor.tanh),
}  # fmt: skip
_PART_OF = {function: part for part, functions in _NAMED.items() for function in functions}


class _Named(TorchFunctionMode):
    """Tells the counter which function saves."""

    def __init__(self, inside: list[str]):
        super().__init__()
        self.inside = inside

    def __torch_function__(self, func, types, args=(), kwargs=None):
        part = _PART_OF.get(func)
        if part is None or "classifier" in self.inside:
            return func(*args, **(kwargs or {}))
        self.inside.append(part)
        try:
            return func(*args, **(kwargs or {}))
        finally:
            self.inside.pop()


class _Counter:
    """Counts each saved storage once, by the part that saved it first; parameters are not counted."""

    only_counts = True  # its hooks change nothing of what is saved

    def __init__(self, model: nn.Module, classifier: nn.Module):
        self.model = model
        self.parts = dict.fromkeys((*PARTS, *TRANSFORMER_PARTS, "classifier"), 0)
        # storages that are there anyway: weights, running statistics
        self.seen = {_storage(t) for t in [*model.parameters(), *model.buffers()]}
        self.noted: dict[int, str] = {}
        self.inside: list[str] = []
        self.handles = []
        for module in model.modules():
            part = (
                "classifier" if module is classifier
                else "batch_norm" if isinstance(module, nn.modules.batchnorm._BatchNorm)
                else None
            )  # fmt: skip
            if part:
                self.handles.append(module.register_forward_pre_hook(self._enter(part)))
                if part != "classifier":  # all that follows the classifier is the loss
                    self.handles.append(module.register_forward_hook(self._leave))
        self.keep_alive: list[Tensor] = []

    def _enter(self, part):
        return lambda *_: self.inside.append(part)

    def _leave(self, *_):
        self.inside.pop()

    def note(self, tensor: Tensor, part: str) -> None:
        self.noted[_storage(tensor)] = part

    def pack(self, tensor: Tensor) -> Tensor:
        key = _storage(tensor)
        if key not in self.seen:
            self.seen.add(key)
            self.keep_alive.append(tensor)  # an address must not be used twice while we count
            part = self.noted.get(key) or (self.inside[-1] if self.inside else "other")
            self.parts[part] += tensor.untyped_storage().nbytes()
        return tensor

    def __enter__(self):
        kernels.saved_listener = self.note
        self.hooks = torch.autograd.graph.saved_tensors_hooks(self.pack, lambda tensor: tensor)
        self.hooks.__enter__()
        self.named = _Named(self.inside)
        self.named.__enter__()
        return self

    def __exit__(self, *exception):
        self.named.__exit__(*exception)
        self.hooks.__exit__(*exception)
        kernels.saved_listener = None
        for handle in self.handles:
            handle.remove()


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


class _Live(TorchDispatchMode):
    """Sums the storages that operators make, until they are freed. What is there before does not count."""

    def __init__(self):
        super().__init__()
        self.live: dict[int, tuple] = {}  # address of the storage -> its weak reference
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

        def freed(_reference):
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
    return Kept(parts, outside, peak.bytes, len(images))


# --- masks, from shapes ------------------------------------------------------------------------


class _Rectified(TorchFunctionMode):
    """Counts rectified outputs between layers, in order of execution, on the meta device.

    Other functions whose gradient needs a tensor have no place in this count, and are refused."""

    def __init__(self, names: dict[int, str]):
        super().__init__()
        self.names, self.events = names, []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = on_meta(func, args, kwargs)
        name = getattr(func, "__name__", "")
        if func in _PART_OF:
            raise InputError(
                f"the model calls {name!r}, whose gradient keeps more than masks (medyate.recompute); allowed: count 'paper', or "
                "models of convolutions, batch norms and ReLUs"
            )
        if func in (torch.conv2d, nn.functional.linear):
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            if id(weight) in self.names:
                self.events.append(("layer", self.names[id(weight)]))
        elif name in ("relu", "relu_", "relu6", "hardtanh", "hardtanh_"):
            self.events.append(("bits", out.numel()))
        return out


def mask_overheads(model: nn.Module, layers: Sequence[Layer], input_shape: Sequence[int]) -> dict[str, int]:
    """What must be kept for masks if a layer is the first that is selected, in elements, by layer.

    One bit per rectified output behind it, each mask rounded up to whole bytes, the sum to whole
    elements; for one sample.
    """
    state = {
        name: torch.empty_like(tensor, device="meta")
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    names = {id(state[name]): name.rpartition(".")[0] for name, _ in model.named_parameters()}
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), _Rectified(names) as watch:
            torch.func.functional_call(model, state, (example_input(input_shape, model),))
    finally:
        for module, mode in modes.items():
            module.training = mode
    overheads, behind_bytes = {}, 0
    for kind, value in reversed(watch.events):
        if kind == "bits":
            behind_bytes += -(-value // 8)
        else:
            overheads[value] = -(-behind_bytes // BYTES_PER_ELEMENT)
    return {layer.name: overheads[layer.name] for layer in layers}


# --- one report, for the command line and the notebook -------------------------------------------


def report(
    network: str,
    budget: int | None = None,
    strategy: str = "LaRa MeDyate",
    *,
    resolution: int = 128,
    batch_size: int = 1,
    batch_norm: str = "frozen",
    ranking: str | None = None,
    count: str = "paper",
    seed: int = 0,
    classes: int = 10,
    device: str = "cpu",
) -> dict:
    """What one step of a strategy holds on a network, beside the budget and full fine-tuning.

    Random weights and images: what is held does not depend on them. The selection is the
    strategy's first (for an oracle, of random gradients). All ``*_bytes`` are measured but for
    ``budget_bytes`` and ``outside_paper_unit``.
    """
    from . import config as configs

    # the same checks, defaults and options as a run's
    checked = configs.RunConfig(
        network=network, task=configs.stand_in_task(network), strategy=strategy, budget=budget, resolution=resolution,
        weights="random", batch_norm=batch_norm, ranking=ranking, count=count, seed=seed, batch_size=batch_size,
    )  # fmt: skip
    ready = _Prepared(checked, classes, device)
    ours, selection, layers = ready.step(batch_size), ready.selection, ready.layers
    everything = configs.RunConfig(
        network=network, task=configs.stand_in_task(network), strategy="Baseline", resolution=resolution, weights="random",
        batch_norm="train", batch_size=batch_size, seed=seed,
    )  # fmt: skip
    full = _Prepared(everything, classes, device).step(batch_size)
    parts = [*PARTS, *(part for part in TRANSFORMER_PARTS if part in ours.backbone or part in full.backbone)]
    used = selection.used_elements(layers) if checked.budget else 0
    return {
        "network": checked.network,
        "strategy": checked.strategy,
        "budget": checked.budget,
        "resolution": resolution,
        "batch_size": batch_size,
        "batch_norm": batch_norm,
        "count": count,
        "device": device,
        "used_elements": used,
        "selected_channels": selection.count,
        "budget_bytes": None if checked.budget is None else BYTES_PER_ELEMENT * checked.budget,
        "kept_bytes": {part: ours.backbone.get(part, 0) for part in parts},
        "kept_total_bytes": ours.total_bytes,
        "peak_bytes": ours.peak_bytes,
        "classifier_bytes": ours.classifier_bytes,
        "full_finetuning_bytes": full.total_bytes,
        "full_finetuning_kept_bytes": {part: full.backbone.get(part, 0) for part in parts},
        "outside_paper_unit": {
            "masks": "one bit per rectified output behind the first selected layer",
            "batch_norm": "what train-mode batch norm saves; nothing where it is frozen",
            "batch": f"the unit counts one sample's activations; this step has {batch_size}",
            "classifier": "the classifier and the loss stand outside the budget",
        },
    }


def compare(
    network: str,
    budgets: Sequence[int],
    strategy: str = "LaRa MeDyate",
    *,
    batch_sizes: Sequence[int] = (1, 32),
    batch_norms: Sequence[str] = ("frozen", "train"),
    resolution: int = 128,
    seed: int = 0,
    device: str = "cpu",
) -> list[dict]:
    """The paper's accounting beside the measurement: a row per budget, batch norm mode and batch size.

    Each row has ``budget_bytes`` (the paper's, for one sample), ``paid_bytes`` (what the selection
    costs by eq. 4 for the whole batch: its activations once a sample, its gradients once), every
    part of ``Kept.backbone`` as ``<part>_bytes``, ``kept_total_bytes`` and ``full_finetuning_bytes``
    (train-mode batch norm, the same batch). Random weights, as in :func:`report`. Raises
    :class:`InputError` for a strategy without a budget.
    """
    from . import config as configs, strategies

    budgeted = [name for name, entry in strategies.STRATEGIES.items() if entry.uses_budget]
    choose(strategies.get(strategy).name, budgeted, "strategy with a budget")

    def prepared(strategy: str, budget: int | None, batch_norm: str):
        checked = configs.RunConfig(
            network=network, task=configs.stand_in_task(network), strategy=strategy, budget=budget, resolution=resolution,
            weights="random", batch_norm=batch_norm, seed=seed,
        )  # fmt: skip
        return checked, _Prepared(checked, 10, device)

    _, everything = prepared("Baseline", None, "train")
    full = {size: everything.step(size).total_bytes for size in batch_sizes}
    rows = []
    for budget in budgets:
        for batch_norm in batch_norms:
            checked, ready = prepared(strategy, budget, batch_norm)
            activations = ready.selection.activation_elements(ready.layers)
            weights = ready.selection.weight_elements(ready.layers)
            for size in batch_sizes:
                kept = ready.step(size)
                rows.append(
                    {
                        "network": checked.network,
                        "budget": budget,
                        "batch_norm": batch_norm,
                        "batch_size": size,
                        "budget_bytes": BYTES_PER_ELEMENT * budget,
                        "paid_bytes": BYTES_PER_ELEMENT * (size * activations + weights),
                        **{f"{part}_bytes": held for part, held in kept.backbone.items()},
                        "kept_total_bytes": kept.total_bytes,
                        "full_finetuning_bytes": full[size],
                    }
                )
    return rows


class _Prepared:
    """A network with a strategy's first selection, on random weights, ready to take a step."""

    def __init__(self, config, classes: int, device: str):
        from . import dynamic, networks, ranking as rankings
        from .finetune import generator, scheme_for

        self.config, self.classes, self.device = config, classes, device
        model = networks.build(config.network, weights="random", classes=classes)
        self.model = model.to(device, memory_format=torch.channels_last).train()
        self.layers = config.backbone_layers()
        self.shape = config.input_shape
        self.subnet = dynamic.Subnet(
            model, config.budget, config.declaration, input_shape=self.shape, classifier="classifier",
            ranking=rankings.load(config.network, config.ranking) if config.ranking else None,
            batch_norm=config.batch_norm, count=config.count, generator=generator(config.seed, "selection"),
            scheme=scheme_for(config, self.layers, model),
        )  # fmt: skip
        needed = self.subnet.strategy.needs_whole_gradient
        whole = self.subnet.channel_norms_of([self.batch(config.batch_size)]) if needed else None
        self.optimizer = torch.optim.SGD(self.subnet.parameters(), lr=0.0)
        self.selection = self.subnet.next_epoch(self.optimizer, whole)

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(self.config.seed)
        labels = torch.arange(size, device=self.device) % self.classes
        if len(self.shape) == 1:  # token numbers, no padding
            return torch.randint(1000, 20_000, (size, *self.shape), generator=generator).to(self.device), labels
        images = torch.randn((size, *self.shape), generator=generator)
        return images.to(self.device, memory_format=torch.channels_last), labels

    def step(self, size: int) -> Kept:
        return measure(self.model, self.subnet.attached.classifier, self.optimizer, *self.batch(size))
