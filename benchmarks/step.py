"""Benchmark: a training step, full, masked, ours, of the classifier alone, and by LoRA.

    python benchmarks/step.py [--network NAME] [--tier N] [--strategy S] [--batch-size N]...
                              [--threads N] [--clock wall|cpu] [--rounds N] [--json FILE]

All executions are built in one process and take their steps by turns, so that whatever else the
machine does meets all of them alike; a row is the median over the rounds, and a ratio the median of
the rounds' ratios. ``--clock cpu`` counts the process's own time, for a machine that does other work
too; with it, use one thread. Weights are random: time and memory do not depend on them. LoRA needs
``pip install peft==0.21.2`` and is left out, with a word, where that is absent. Where ``medyate
compile`` has been run, ours is measured with its library and without.
"""

import argparse
import dataclasses
import functools
import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from medyate import networks
from medyate.costs import Layer
from medyate.execution import compiled
from medyate.execution import measure as memory
from medyate.execution.layers import Split
from medyate.execution.masked import Dense
from medyate.networks import schemes
from medyate.runs import rankings
from medyate.runs.config import RunConfig
from medyate.runs.finetune import scheme_for
from medyate.selection import Selection
from medyate.subnet import Subnet

CLASSES = 10
OURS = "ours"
PEFT = "0.21.2"


@dataclasses.dataclass
class Contender:
    """``step`` does a whole training step; ``kept_bytes`` (by part in ``kept``) and ``trained`` are the backbone's."""

    name: str
    step: Callable[[], object]
    kept_bytes: int | None
    trained: int
    kept: memory.Kept | None = None


def build(network: str, device: str) -> nn.Module:
    model = networks.build(network, weights="random", classes=CLASSES, generator=torch.Generator().manual_seed(0))
    return model.to(device, memory_format=torch.channels_last).train()


def training(name, model, attached, images, labels) -> Contender:
    """A contender that trains what ``attached`` says, by plain SGD."""
    parameters = attached.parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.01)
    kept = memory.measure(model, attached.classifier, optimizer, images, labels)
    inside = {id(parameter) for parameter in attached.classifier.parameters()}

    def step():
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()

    trained = sum(p.numel() for p in attached.active() if id(p) not in inside)
    return Contender(name, step, kept.total_bytes, trained, kept)


class _Trained:
    """What :func:`training` asks of an attached model, for one that peft has changed."""

    def __init__(self, model: nn.Module, classifier: nn.Module):
        self.model, self.classifier = model, classifier

    def parameters(self):
        return [parameter for parameter in self.model.parameters() if parameter.requires_grad]

    active = parameters


def lora(network: str, weights: int, images, labels, layers: tuple[Layer, ...]) -> Contender | None:
    """LoRA on all pointwise convolutions, of the rank that trains about as many ``weights``; the batch
    norms stay frozen, as the adapted network's do."""
    try:
        from medyate.networks._torchvision import torchvision

        torchvision()  # transformers imports it where it is installed
        import peft
    except ImportError:
        return None
    pointwise = [layer for layer in layers if layer.kind == "pointwise"]
    rank = max(1, round(weights / sum(layer.channels + layer.out_channels for layer in pointwise)))
    model = build(network, images.device.type)
    options = peft.LoraConfig(
        r=rank, target_modules=[layer.name for layer in pointwise], modules_to_save=["classifier"], lora_dropout=0.0
    )
    adapted = peft.get_peft_model(model, options).train()
    for module in adapted.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.register_forward_pre_hook(lambda module, _inputs: module.eval() and None)
    classifier = adapted.base_model.model.classifier
    found = training(
        f"LoRA, rank {rank} (peft {peft.__version__})", adapted, _Trained(adapted, classifier), images, labels
    )
    inside = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
    found.trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad) - inside
    return found


def contenders(config: RunConfig, batch_size: int, device: str) -> tuple[list[Contender], Selection, tuple[Layer, ...]]:
    network, shape, layers = config.network, (3, config.resolution, config.resolution), config.backbone_layers()
    images = torch.randn((batch_size, *shape), generator=torch.Generator().manual_seed(0))
    images = images.to(device, memory_format=torch.channels_last)
    labels = torch.arange(batch_size, device=device) % CLASSES
    found = []
    for batch_norm in ("train", "frozen"):
        model = build(network, device)
        attached = Dense(model, classifier="classifier", batch_norm=batch_norm)
        attached.select({}, everything=True)
        found.append(training(f"full fine-tuning, batch norm {batch_norm}", model, attached, images, labels))
    model = build(network, device)
    subnet = Subnet(
        model,
        config.budget,
        config.declaration,
        input_shape=shape,
        classifier="classifier",
        seed=0,
        ranking=rankings.load(network, config.ranking) if config.ranking else None,
        scheme=scheme_for(config, layers, model),
    )
    selection = subnet.next_epoch()
    ours = training(OURS, model, subnet.attached, images, labels)
    for batch_norm in ("train", "frozen"):
        masked = build(network, device)
        attached = Dense(masked, classifier="classifier", batch_norm=batch_norm)
        attached.select(selection.channels)
        found.append(training(f"dense-masked, batch norm {batch_norm}", masked, attached, images, labels))
    found.append(ours)
    if device == "cpu" and compiled.library() is not None:
        found.append(dataclasses.replace(ours, name=f"{OURS}, not compiled", step=compiled.using(False)(ours.step)))
    head = build(network, device)
    head_only = Subnet(head, strategy="Head only", input_shape=shape, classifier="classifier")
    head_only.next_epoch()
    found.append(training("classifier only", head, head_only.attached, images, labels))
    found.append(products(subnet, images))
    adapter = lora(network, ours.trained, images, labels, layers)
    if adapter is not None:
        found.append(adapter)
    plain = build(network, device).eval()

    def forward():
        with torch.no_grad():
            plain(images)

    found.append(Contender("forward pass alone", forward, None, 0))
    return found, selection, layers


def products(subnet: Subnet, images: torch.Tensor) -> Contender:
    """The convolutions, input gradients and selected weight gradients of ours one after another, on tensors that are
    there: no module, no autograd, no folding, no masks. What an execution by these operators takes at least."""
    inputs: dict[Split, torch.Tensor] = {}
    splits = [module for module in subnet.model.modules() if isinstance(module, Split)]
    handles = [
        module.register_forward_pre_hook(lambda module, given: inputs.setdefault(module, given[0])) for module in splits
    ]
    with torch.no_grad():
        subnet.model(images)
    for handle in handles:
        handle.remove()
    ahead, calls = True, []
    for module, x in inputs.items():
        geometry, padded = module.geometry, module.padded(x)
        with torch.no_grad():
            weight, gradient = module.folded_weight(module.scale()), torch.rand_like(module.output(padded, folds=True))
        given = (padded, weight, torch.zeros(len(weight), device=x.device))
        if module.activation is None:
            calls.append(functools.partial(geometry.forward, *given))
        else:
            calls.append(functools.partial(geometry.rectified, *given, module.activation.ceiling))
        if not ahead:
            calls.append(functools.partial(geometry.input_gradient, gradient, weight, tuple(padded.shape)))
        if module.selected_weight is not None:
            ahead = False
            calls.append(functools.partial(module.compact_gradient, gradient, module.chosen(x), None))

    def step():
        with torch.no_grad():
            for call in calls:
                call()

    return Contender("our products alone", step, None, 0)


def milliseconds(
    found: list[Contender], rounds: int, device: str, clock: Callable[[], float]
) -> dict[str, list[float]]:
    """Each contender's time, round by round."""

    def wait():
        if device == "cuda":
            torch.cuda.synchronize()

    spent: dict[str, list[float]] = {one.name: [] for one in found}
    for number in range(rounds + 2):  # two that warm up
        for one in found:
            wait()
            begun = clock()
            one.step()
            wait()
            if number >= 2:
                spent[one.name].append((clock() - begun) * 1e3)
    return spent


def bound(selection: Selection, layers: tuple[Layer, ...]) -> dict[str, int]:
    """Multiply-accumulates of one image: what any execution of this selection has to do."""
    names = [layer.name for layer in layers]
    first = min(names.index(name) for name in selection.channels)
    # an input gradient takes as many products as the layer itself, and so does a whole weight gradient
    return {
        "forward": sum(layer.weight_flops for layer in layers),
        "input_gradients": sum(layer.weight_flops for layer in layers[first + 1 :]),
        "selected_weight_gradients": selection.weight_flops(layers),
    }


def measured(config: RunConfig, batch_size: int, rounds: int, device: str, clock: Callable[[], float]) -> dict:
    found, selection, layers = contenders(config, batch_size, device)
    spent = milliseconds(found, rounds, device, clock)
    rows = []
    for one in found:
        times = spent[one.name]
        rows.append(
            {
                "name": one.name,
                "milliseconds": statistics.median(times),
                "images_per_second": batch_size / statistics.median(times) * 1e3,
                "times_ours": statistics.median(a / b for a, b in zip(times, spent[OURS])),
                "kept_bytes": one.kept_bytes,
                "trained_backbone_weights": one.trained,
            }
        )
    operations = bound(selection, layers)
    return {
        "device": device,
        "batch_size": batch_size,
        "rows": rows,
        "operations": operations,
        "bound_times_forward": sum(operations.values()) / operations["forward"],
        "step_times_forward": statistics.median(a / b for a, b in zip(spent[OURS], spent["forward pass alone"])),
    }


def show(result: dict) -> None:
    print(f"\n{result['device']}, batch {result['batch_size']}")
    print(f"  {'':38s} {'ms':>8s} {'images/s':>9s} {'time / ours':>11s} {'bytes kept':>12s} {'weights':>9s}")
    for row in result["rows"]:
        kept = "" if row["kept_bytes"] is None else f"{row['kept_bytes']:,}"
        print(
            f"  {row['name']:38s} {row['milliseconds']:8.1f} {row['images_per_second']:9,.0f} "
            f"{row['times_ours']:11.2f} {kept:>12s} {row['trained_backbone_weights']:9,}"
        )
    parts = ", ".join(f"{name.replace('_', ' ')} {value / 1e6:.2f}" for name, value in result["operations"].items())
    print(
        f"  million multiply-accumulates an image: {parts}. Bound by operations: {result['bound_times_forward']:.2f} "
        f"forward passes; ours takes {result['step_times_forward']:.2f} of plain ones."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", default="mbv2-w0.35")
    parser.add_argument("--tier", type=int, default=1, choices=range(1, 6), help="the SU scheme's budget")
    parser.add_argument("--strategy", default="LaRa MeDyate")
    parser.add_argument("--batch-size", type=int, action="append", help="default: 1, 8 and 32")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    network = networks.get(options.network)
    layers = networks.backbone(network.name)
    config = RunConfig(
        network=network.name,
        task="digits",
        strategy=options.strategy,
        weights="random",
        resolution=network.resolution,
        budget=schemes.budget(network.name, options.tier, layers),
    ).check()
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    print(
        f"{network.label}, tier {options.tier}: {config.strategy}, {config.budget:,} elements ({4 * config.budget:,} "
        f"bytes); torch {torch.__version__}, {options.threads} threads; {options.clock} clock, medians of "
        f"{options.rounds} rounds"
    )
    results = []
    for device in ("cpu", *(["cuda"] if torch.cuda.is_available() else [])):
        for batch_size in options.batch_size or (1, 8, 32):
            results.append(measured(config, batch_size, options.rounds, device, clock))
            show(results[-1])
            if not any("LoRA" in row["name"] for row in results[-1]["rows"]):
                print(f"  LoRA is left out: pip install peft=={PEFT}")
    if options.json:
        content = {
            "network": network.name,
            "tier": options.tier,
            "strategy": config.strategy,
            "budget": config.budget,
            "torch": torch.__version__,
            "clock": options.clock,
            "threads": options.threads,
            "rounds": options.rounds,
            "machine": platform.machine(),
            "results": results,
        }
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
