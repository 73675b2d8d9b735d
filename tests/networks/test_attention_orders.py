"""Variants of LaRa for attention: by hand, and brute force over selections."""

import itertools

import pytest
import torch

from medyate import costs, networks
from medyate.errors import InputError
from medyate.networks import attention_orders as orders
from medyate.ranking import Ranking

pytest.importorskip("transformers")


def layers_of(name):
    return costs.layers(networks.skeleton(name), networks.get(name).input_shape())


@pytest.mark.parametrize(
    "name, counts",
    [
        ("bert-base", {"qkv": 36, "projection": 12, "MLP up": 12, "MLP down": 12, "other": 1}),
        ("swin-t", {"qkv": 12, "projection": 12, "MLP up": 12, "MLP down": 12, "other": 4}),
    ],
)
def test_every_layer_has_its_type(name, counts):
    kinds = [orders.layer_type(layer.name) for layer in layers_of(name)]
    assert {kind: kinds.count(kind) for kind in dict.fromkeys(counts)} == counts


BLOCK = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)


def small(values):
    names = tuple(f"layer.{block}.{name}" for block in range(2) for name in BLOCK)
    layers = [costs.linear_layer(name, (6, 4), tokens=9) for name in names]
    return Ranking("small", "made", names, tuple(values), tuple(values)), layers


def test_by_type_compares_like_with_like():
    ranking, layers = small([6, 3, 3, 1, 8, 2] + [2, 3, 1, 3, 2, 6])
    found = dict(zip(ranking.layers, orders.variant(ranking, layers, "typed").lara))
    assert found["layer.0.attention.self.query"] == pytest.approx(6 / 4)
    assert found["layer.1.attention.self.value"] == pytest.approx(1 / 2)
    assert found["layer.0.attention.output.dense"] == pytest.approx(1 / 2)
    assert found["layer.1.output.dense"] == pytest.approx(6 / 4)


def test_the_shared_input_is_charged_once():
    ranking, layers = small([1.0] * 12)
    found = dict(zip(ranking.layers, orders.variant(ranking, layers, "shared").lara))
    # 6 weights and 9 tokens a channel; a third of the tokens for query, key and value
    assert found["layer.0.attention.self.key"] == pytest.approx((6 + 9) / (6 + 3))
    assert found["layer.0.attention.output.dense"] == found["layer.1.intermediate.dense"] == 1.0


def test_one_layer_for_query_key_and_value_shares_with_nobody():
    layers = layers_of("swin-t")
    names = tuple(layer.name for layer in layers)
    ranking = Ranking("swin-t", "made", names, tuple(range(len(names))), tuple(range(len(names))))
    assert orders.variant(ranking, layers, "shared").lara == ranking.lara


def test_captured_is_bounded_by_brute_force():
    generator = torch.Generator().manual_seed(1)
    layers = [costs.linear_layer("a", (3, 4), 2), costs.linear_layer("b", (5, 3), 2)]
    norms = {layer.name: torch.rand(layer.channels, generator=generator).tolist() for layer in layers}
    channels = [(value**2, layer.channel_elements) for layer in layers for value in norms[layer.name]]
    total = sum(square for square, _ in channels)
    for budget in (5, 12, 19, 41):
        best = max(
            sum(square for square, _ in some) / total
            for size in range(len(channels) + 1)
            for some in itertools.combinations(channels, size)
            if sum(cost for _, cost in some) <= budget
        )
        found = orders.captured(norms, layers, ("b", "a"), budget, 2)
        largest = max(square for square, cost in channels) / total
        assert best - largest - 1e-12 <= found <= best + 1e-12  # greedy: short of the best by one channel at most
    assert orders.captured(norms, layers, ("b", "a"), 10**6, 2) == pytest.approx(1)
    assert orders.captured(norms, layers, ("b", "a"), 10**6, 1) == pytest.approx(sum(v**2 for v in norms["b"]) / total)


def test_bad_input():
    ranking, layers = small([1.0] * 12)
    with pytest.raises(InputError, match="'squared'; allowed: typed, shared"):
        orders.variant(ranking, layers, "squared")
    with pytest.raises(InputError, match="'made.typed' is a variant already"):
        orders.variant(orders.variant(ranking, layers, "typed"), layers, "shared")
