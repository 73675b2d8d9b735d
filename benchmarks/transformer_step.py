"""Benchmark: what a training step of a transformer keeps and how long it takes, in each way to train it.

    python benchmarks/transformer_step.py [--network NAME]... [--budget N]... [--batch-size N]
                                          [--last-block] [--threads N] [--clock wall|cpu] [--rounds N] [--json FILE]

Ways: full fine-tuning, dense-masked, ours in each recompute mode, the classifier alone, and LoRA (left out, with a
word, without ``pip install peft==0.21.2``). The selection is a uniform draw of channels under the budget, from all
layers or from the last block's alone. As in step.py all ways take their steps by turns, times are medians over the
rounds, weights and inputs are random (text: 128 tokens, a quarter of each second sample is padding).
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from step import PEFT, Contender, _Trained, bound, milliseconds, training
from torch import nn

from medyate import costs, networks
from medyate.costs import Layer
from medyate.execution.attach import attach
from medyate.execution.masked import Dense
from medyate.execution.modes import RECOMPUTE
from medyate.sampling import sample
from medyate.selection import Selection

NETWORKS = ("swin-t", "bert-base", "roberta-base", "minilm-l6")
CLASSES = 10
OURS = "ours, recompute layers"


def build(network: str) -> nn.Module:
    return networks.build(network, weights="random", classes=CLASSES, generator=torch.Generator().manual_seed(0))


def uniform(layers: Sequence[Layer], budget: int, seed: int = 0) -> Selection:
    """Channels of all ``layers`` with equal chances, until the budget is met."""
    owners = [(layer.name, channel) for layer in layers for channel in range(layer.channels)]
    prices = torch.tensor([layer.channel_elements for layer in layers for _ in range(layer.channels)])
    taken = sample(prices, torch.ones(len(owners)), budget, torch.Generator().manual_seed(seed))
    chosen: dict[str, list[int]] = {}
    for index in taken.tolist():
        name, channel = owners[index]
        chosen.setdefault(name, []).append(channel)
    return Selection({name: tuple(sorted(channels)) for name, channels in chosen.items()})


def last_block(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """The layers of the last transformer block: those that share the name of the block of the last projection."""

    def block(name: str) -> str:
        parts = name.split(".")
        places = [i for i, part in enumerate(parts) if part.isdigit()]
        # features.7.1.mlp.0 of Swin: stage and block; body.encoder.layer.11.output.dense: the block
        depth = places[1] if parts[0] == "features" else places[0]
        return ".".join(parts[: depth + 1])

    inside = [layer for layer in layers if "attn.qkv" in layer.name or "attention.self.query" in layer.name]
    name = block(inside[-1].name)
    return tuple(layer for layer in layers if layer.name.startswith(name + "."))


def lora_targets(network: str, layers: Sequence[Layer]) -> list[Layer]:
    """Query and value, LoRA's usual places; for Swin the MLPs, as torchvision's attention takes the weights of qkv and
    projection past peft's modules, which would then not train at all."""
    wanted = ("mlp.0", "mlp.3") if network == "swin-t" else ("self.query", "self.value")
    return [layer for layer in layers if layer.name.endswith(wanted)]


def lora(network: str, weights: int, x, labels, layers: Sequence[Layer]) -> Contender | None:
    """LoRA of the rank that trains about as many weights, at least 1."""
    try:
        from medyate.networks._torchvision import torchvision

        torchvision()  # transformers imports it where it is installed
        import peft
    except ImportError:
        return None
    targets = lora_targets(network, layers)
    rank = max(1, round(weights / sum(layer.channels + layer.out_channels for layer in targets)))
    model = build(network)
    options = peft.LoraConfig(
        r=rank, target_modules=[layer.name for layer in targets], modules_to_save=["classifier"], lora_dropout=0.0
    )
    adapted = peft.get_peft_model(model, options).train()
    classifier = adapted.base_model.model.classifier
    inner = adapted.base_model.model  # peft's own forward expects a model of transformers
    found = training(f"LoRA, rank {rank} (peft {peft.__version__})", inner, _Trained(inner, classifier), x, labels)
    inside = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
    found.trained = sum(p.numel() for p in inner.parameters() if p.requires_grad) - inside
    return found


def ways(network: str, selection: Selection, layers: Sequence[Layer], x, labels) -> list[Contender]:
    model = build(network)
    attached = Dense(model, classifier="classifier")
    attached.select({}, everything=True)
    found = [training("full fine-tuning", model, attached, x, labels)]
    model = build(network)
    attached = Dense(model, classifier="classifier")
    attached.select(selection.channels)
    found.append(training("dense-masked", model, attached, x, labels))
    for mode in RECOMPUTE:
        model = build(network)
        attached = attach(model, classifier="classifier", recompute=mode)
        attached.select(selection.channels)
        found.append(training(f"ours, recompute {mode}", model, attached, x, labels))
    model = build(network)
    attached = attach(model, classifier="classifier")
    found.append(training("classifier only", model, attached, x, labels))
    ours = next(one for one in found if one.name == OURS)
    adapter = lora(network, ours.trained, x, labels, layers)
    return found if adapter is None else [*found, adapter]


def batch(network: str, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = networks.get(network).input_shape()
    if len(shape) == 1:
        x = torch.randint(1000, 20_000, (size, *shape), generator=generator)
        x[1::2, 3 * shape[0] // 4 :] = build(network).pad
    else:
        x = torch.randn((size, *shape), generator=generator)
    return x, torch.arange(size) % CLASSES


def measured(network: str, budget: int, size: int, last: bool, rounds: int, clock: Callable[[], float]) -> dict:
    layers = costs.layers(networks.skeleton(network), networks.get(network).input_shape())
    selection = uniform(last_block(layers) if last else layers, budget)
    x, labels = batch(network, size)
    found = ways(network, selection, layers, x, labels)
    spent = milliseconds(found, rounds, "cpu", clock) if rounds else {}
    rows = []
    for one in found:
        times = spent.get(one.name)
        rows.append(
            {
                "name": one.name,
                "milliseconds": statistics.median(times) if times else None,
                "times_ours": statistics.median(a / b for a, b in zip(times, spent[OURS])) if times else None,
                "kept": {part: value for part, value in one.kept.backbone.items() if value},
                "kept_bytes": one.kept.total_bytes,
                "peak_bytes": one.kept.peak_bytes,
                "trained_backbone_weights": one.trained,
            }
        )
    names = [layer.name for layer in layers]
    return {
        "network": network,
        "budget": budget,
        "batch_size": size,
        "last_block": last,
        "used_elements": selection.used_elements(layers),
        "paid_bytes": 4 * (size * selection.activation_elements(layers) + selection.weight_elements(layers)),
        "channels": selection.count,
        "layers": len(selection.channels),
        "first_layer": names[min(names.index(name) for name in selection.channels)],
        "operations": bound(selection, layers),
        "rows": rows,
    }


def show(result: dict) -> None:
    where = "last block" if result["last_block"] else "all layers"
    print(
        f"\n{result['network']}, budget {result['budget']:,} ({where}), batch {result['batch_size']}: "
        f"{result['channels']:,} channels of {result['layers']} layers from {result['first_layer']} on; paid for: "
        f"{result['paid_bytes']:,} bytes"
    )
    print(f"  {'':28s} {'ms':>8s} {'/ ours':>7s} {'bytes kept':>13s} {'/ paid':>7s} {'peak':>13s} {'weights':>11s}")
    for row in result["rows"]:
        spent = "" if row["milliseconds"] is None else f"{row['milliseconds']:8.0f}"
        ratio = "" if row["times_ours"] is None else f"{row['times_ours']:7.2f}"
        print(
            f"  {row['name']:28s} {spent:>8s} {ratio:>7s} {row['kept_bytes']:13,} "
            f"{row['kept_bytes'] / result['paid_bytes']:7.1f} {row['peak_bytes']:13,} "
            f"{row['trained_backbone_weights']:11,}"
        )
        print("      " + ", ".join(f"{part.replace('_', ' ')} {value:,}" for part, value in row["kept"].items()))
    parts = ", ".join(f"{name.replace('_', ' ')} {value / 1e6:,.1f}" for name, value in result["operations"].items())
    print(f"  million multiply-accumulates of a sample in linear layers: {parts}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", action="append", choices=NETWORKS, help="default: all four")
    parser.add_argument("--budget", type=int, action="append", help="elements; default: the paper's for the network")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--last-block", action="store_true", help="channels of the last block alone")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    parser.add_argument("--rounds", type=int, default=5, help="0: bytes alone")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    clock = time.perf_counter if options.clock == "wall" else time.process_time
    print(
        f"torch {torch.__version__}, {options.threads} threads, {platform.machine()}; {options.clock} clock, "
        f"medians of {options.rounds} rounds"
    )
    results = []
    for network in options.network or NETWORKS:
        for budget in options.budget or networks.get(network).budgets:
            results.append(measured(network, budget, options.batch_size, options.last_block, options.rounds, clock))
            show(results[-1])
            if not any("LoRA" in row["name"] for row in results[-1]["rows"]):
                print(f"  LoRA is left out: pip install peft=={PEFT}")
    if options.json:
        content = {"torch": torch.__version__, "clock": options.clock, "threads": options.threads, "results": results}
        options.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
