"""What the recorded rankings say beyond the paper: guesses between networks, and shared search spaces."""

import numpy as np
import pandas as pd
import pytest

from medyate import notebook
from medyate.paper import beyond
from medyate.ranking import ALPHA_OPT


def test_kinds_are_the_layers_places_in_their_blocks():
    names = [layer.name for layer in notebook.backbone("mbv2-w0.35")]
    assert {beyond.kind(name) for name in names} == {"stem", "dw", "pw1", "pw2", "mix"}


def test_a_network_guesses_itself_and_one_of_another_depth_by_the_same_curve():
    names = [layer.name for layer in notebook.backbone("mbv2-w0.35")]
    values = np.random.default_rng(0).lognormal(size=len(names))
    np.testing.assert_allclose(np.exp(beyond.guessed(values, names, names)), values)
    # values that fall with depth, each kind from a height of its own
    height = {"stem": 3.0, "dw": 2.0, "pw1": 1.0, "pw2": 0.5, "mix": 0.1}

    def metric(network):
        own = [layer.name for layer in notebook.backbone(network)]
        return own, [np.exp(height[beyond.kind(name)] - 4 * d) for name, d in zip(own, np.linspace(0, 1, len(own)))]

    source, known = metric("mbv2-w0.35")
    target, true = metric("proxyless-w0.3")
    guess = beyond.guessed(known, source, target)
    inside = [
        min(i for i, n in enumerate(source) if beyond.kind(n) == beyond.kind(name)) / (len(source) - 1)
        <= index / (len(target) - 1)
        <= max(i for i, n in enumerate(source) if beyond.kind(n) == beyond.kind(name)) / (len(source) - 1)
        for index, name in enumerate(target)
    ]
    assert sum(inside) > 40
    np.testing.assert_allclose(guess[inside], np.log(true)[inside], atol=1e-12)
    assert np.isnan(beyond.guessed([1.0], ["stem.conv"], ["b1.dw.conv"])).all()


def test_the_search_space_is_the_smallest_that_alpha_allows():
    layers = notebook.backbone("mbv2-w0.35")
    values = pd.Series(np.random.default_rng(1).random(len(layers)), index=[layer.name for layer in layers])
    cost = {layer.name: layer.search_elements for layer in layers}
    for budget in (27_946, 93_696):
        top = beyond.top_layers(values, layers, budget)
        size = sum(cost[name] for name in top)
        assert budget <= ALPHA_OPT * size and budget > ALPHA_OPT * (size - cost[top[-1]])
        assert min(values[top]) >= max(values.drop(top))


def test_equal_rankings_share_everything_and_others_what_sets_say(monkeypatch):
    layers = notebook.backbone("mbv2-w0.35")
    names = [layer.name for layer in layers]
    first = pd.Series(np.linspace(2, 1, len(names)), index=names)
    second = pd.Series(np.linspace(1, 2, len(names)), index=names)
    table = pd.DataFrame({"a, 0": first, "a, 1": second, "b, 0": first})
    monkeypatch.setattr(beyond.recorded, "layer_metric", lambda *_: table[["a, 0", "b, 0"]])
    frame = pd.DataFrame({"network": ["mbv2-w0.35"]})
    found = beyond.agreement(frame)
    assert found.jaccard.tolist() == found.memory.tolist() == [1.0] * 3 and found.rho.tolist() == [pytest.approx(1)] * 3
    monkeypatch.setattr(beyond.recorded, "layer_metric", lambda *_: table)
    found = beyond.agreement(frame).iloc[0]
    one, other = (set(beyond.top_layers(values, layers, 27_946)) for values in (first, second))
    # pairs of two tasks: (a, 0) with (b, 0), equal; (a, 1) with (b, 0), reversed
    assert found.jaccard == pytest.approx((1 + len(one & other) / len(one | other)) / 2) and found.rho == pytest.approx(
        0
    )
