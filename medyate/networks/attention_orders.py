"""Layer orders for attention: what LaRa ranks first there, and two variants of it.

The paper leaves open why LaRa, which wins on convolutions, does worse on transformers (App. A.1).
LaRa (paper eq. 9) divides a layer's gradient norm by the cost of all its channels. Two things set linear
layers of a transformer apart from convolutions, and each suggests a correction:

* **Types.** Query, key, value, projection and the MLP's two layers have widely different gradients
  for reasons of their place in a block (a softmax after them, or none), not of their depth. One order
  over all of them ranks places first and depth second. :func:`by_type` divides a layer's LaRa by the
  mean over the layers of its place (:func:`role`), and so compares like with like.
* **The shared input.** Query, key and value read one input, which needs to be kept once; paper eq. 4 charges
  it three times where they are three layers. :func:`with_shared_input` charges each a share of it.
  (torchvision's Swin has one layer for the three: nothing changes there.)
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ..costs import Layer
from ..errors import InputError, choose
from ..ranking import Ranking

TYPES: Mapping[str, str] = {
    "qkv": r"(query|key|value|qkv|q_proj|k_proj|v_proj|in_proj)$",
    "projection": r"(attention\.output\.dense|attn\.proj|out_proj)$",
    "MLP up": r"((?<!attention\.)intermediate\.dense|mlp\.0|mlp\.fc1|linear1)$",
    "MLP down": r"((?<!attention\.)output\.dense|mlp\.3|mlp\.fc2|linear2)$",
}
OTHER = "other"  # embedding of patches, their merging, a pooler


def layer_type(name: str) -> str:
    """What a layer is within its block, by its name: a key of ``TYPES``, or "other"."""
    return next((kind for kind, pattern in TYPES.items() if re.search(rf"(^|\.){pattern}", name)), OTHER)


def role(name: str) -> str:
    """A layer's place in its block: its type, but query, key and value apart where they are layers of their own."""
    kind = layer_type(name)
    return name.rpartition(".")[2] if kind == "qkv" else kind


def by_type(ranking: Ranking, layers: Sequence[Layer]) -> tuple[float, ...]:
    """LaRa over the mean LaRa of the layer's place, layer by layer as ``ranking.layers``."""
    kinds = [role(name) for name in ranking.layers]
    means = {kind: _mean([v for v, k in zip(ranking.lara, kinds) if k == kind]) for kind in set(kinds)}
    return tuple(value / means[kind] if means[kind] else 0.0 for value, kind in zip(ranking.lara, kinds))


def with_shared_input(ranking: Ranking, layers: Sequence[Layer]) -> tuple[float, ...]:
    """LaRa with the input of query, key and value charged once, a third to each."""
    costs = {layer.name: layer for layer in layers}
    readers = _readers(ranking.layers)
    values = []
    for name, value in zip(ranking.layers, ranking.lara):
        layer = costs[name]
        shared = layer.weight_elements_per_channel + layer.activation_elements_per_channel / readers[name]
        values.append(value * layer.channel_elements / shared)
    return tuple(values)


def _readers(names: Sequence[str]) -> dict[str, int]:
    """How many layers read a layer's input: those of type qkv that share all but their last name."""
    groups: dict[str, int] = {}
    for name in names:
        if layer_type(name) == "qkv":
            place = name.rpartition(".")[0]
            groups[place] = groups.get(place, 0) + 1
    return {name: groups[name.rpartition(".")[0]] if layer_type(name) == "qkv" else 1 for name in names}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


Variant = Callable[[Ranking, Sequence[Layer]], tuple[float, ...]]
VARIANTS: Mapping[str, tuple[Variant, str]] = {
    "typed": (by_type, "LaRa over the mean of the layers of its place in the block"),
    "shared": (with_shared_input, "LaRa with the input of query, key and value charged once"),
}


def variant(ranking: Ranking, layers: Sequence[Layer], how: str) -> Ranking:
    """A ranking whose ``lara`` is a variant, named ``NAME.HOW``: every LaRa strategy takes it as it is.

    Raises :class:`InputError` for an unknown variant, for a ranking that is one already, and for layers
    that the ranking does not know.
    """
    choose(how, VARIANTS, "variant of LaRa")
    if any(ranking.name.endswith(f".{name}") for name in VARIANTS):
        raise InputError(f"ranking {ranking.name!r} is a variant already; allowed: one that was recorded")
    ranking.check(layers)
    compute, text = VARIANTS[how]
    return replace(
        ranking,
        name=f"{ranking.name}.{how}",
        lara=compute(ranking, layers),
        source=f"{text}; from {ranking.name} ({ranking.source})",
    )


def captured(
    norms: Mapping[str, Sequence[float]], layers: Sequence[Layer], order: Sequence[str], budget: int, k: int
) -> float:
    """How much of the squared gradient the best selection from an order's top K layers would hold.

    The share, 0 to 1, of the whole network's squared norm in channels of the K layers, taken by norm
    over cost until the budget is spent (skipping what does not fit). It says what an order makes
    reachable, whatever the channels are then chosen by; ``norms`` are (C,) a layer.
    """
    by_name = {layer.name: layer for layer in layers}
    total = sum(float(value) ** 2 for values in norms.values() for value in values)
    channels = [(float(value) ** 2, by_name[name].channel_elements) for name in order[:k] for value in norms[name]]
    spent, held = 0, 0.0
    for square, cost in sorted(channels, key=lambda one: -one[0] / one[1]):
        if spent + cost <= budget:
            spent, held = spent + cost, held + square
    return held / total if total else 0.0
