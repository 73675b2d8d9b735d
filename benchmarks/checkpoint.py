"""Benchmark: recipes beside ``torch.utils.checkpoint`` around each half of a transformer's block.

    python benchmarks/checkpoint.py [--network NAME]... [--batch-size N] [--rounds N]

A block's halves are attention with its norm and the MLP with its norm, wrapped by hand: torch's checkpoint has to be
told where a region begins and ends. The same selection (28 kB of channels from all layers) in each way; bytes kept,
the peak, and a step's processor time on one thread, by turns, over that of ``recompute="layers"``.
"""

import argparse
import statistics
import time
import types

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformer_step import batch, build, uniform

from medyate import costs, networks
from medyate.execution import measure as memory
from medyate.execution.attach import attach

NETWORKS = ("swin-t", "minilm-l6")
BUDGET = 27_946


def _swin(block, x):
    def attention(x):
        return x + block.stochastic_depth(block.attn(block.norm1(x)))

    def mlp(x):
        return x + block.stochastic_depth(block.mlp(block.norm2(x)))

    return checkpoint(mlp, checkpoint(attention, x, use_reentrant=False), use_reentrant=False)


def _bert(layer, hidden_states, attention_mask=None, *_, **named):
    def attention(x):
        out = layer.attention(x, attention_mask, **named)
        return out[0] if isinstance(out, tuple) else out

    def mlp(x):
        return layer.output(layer.intermediate(x), x)

    return checkpoint(mlp, checkpoint(attention, hidden_states, use_reentrant=False), use_reentrant=False)


HALVES = {"SwinTransformerBlock": _swin, "BertLayer": _bert}


def wrap(model: nn.Module) -> None:
    """Both halves of each block run in a region of their own."""
    for module in model.modules():
        way = HALVES.get(type(module).__name__)
        if way is not None:
            module.forward = types.MethodType(way, module)


def measured(network: str, size: int, rounds: int) -> None:
    layers = costs.layers(networks.skeleton(network), networks.get(network).input_shape())
    selection = uniform(layers, BUDGET)
    x, labels = batch(network, size)
    steps, kept = {}, {}
    for way in ("none", "layers", "blocks", "checkpoint"):
        model = build(network)
        if way == "checkpoint":
            wrap(model)
        attached = attach(model, classifier="classifier", recompute="none" if way == "checkpoint" else way)
        attached.select(selection.channels)
        optimizer = torch.optim.SGD(attached.parameters(), lr=0.0)
        kept[way] = memory.measure(model, attached.classifier, optimizer, x, labels)

        def step(model=model, optimizer=optimizer):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()

        steps[way] = step
    spent: dict[str, list[float]] = {way: [] for way in steps}
    for _ in range(rounds):
        for way, step in steps.items():
            begun = time.process_time()
            step()
            spent[way].append(time.process_time() - begun)
    print(f"\n{network}, batch {size}")
    for way, held in kept.items():
        ratio = statistics.median(a / b for a, b in zip(spent[way], spent["layers"]))
        print(
            f"  {way:12s} kept {held.total_bytes:12,} peak {held.peak_bytes:12,} time of layers {ratio:.2f}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--network", action="append", choices=NETWORKS, help="default: both")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for network in options.network or NETWORKS:
        measured(network, options.batch_size, options.rounds)


if __name__ == "__main__":
    main()
