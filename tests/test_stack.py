"""Runs in a stack are the runs alone, up to rounding; whatever shares it, and whatever happens to one."""

import dataclasses
import math

import pytest
import torch
from hypothesis import given, settings, strategies as st
from small_task import config, digits, rank_config, results  # noqa: F401 (fixtures)
from torch import nn
from torch.nn import functional as F

from medyate import finetune, networks, runs, stack, strategies, tasks, wide
from medyate.dense import Dense
from medyate.errors import InputError


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class DoubleData(tasks.ImageData):
    """The same images in double precision."""

    def batches(self, *arguments, **options):
        return ((images.double(), labels) for images, labels in super(DoubleData, self).batches(*arguments, **options))

    def batches_of_runs(self, *arguments, **options):
        return ((images.double(), labels) for images, labels in super(DoubleData, self).batches_of_runs(*arguments, **options))


@pytest.fixture
def double(results, digits, monkeypatch):
    """All in double precision: what differs then is no rounding."""
    fields = {field.name: getattr(digits, field.name) for field in dataclasses.fields(digits)}
    data, build = DoubleData(**fields), networks.build
    monkeypatch.setattr(finetune.tasks, "load", lambda name, *, resolution: data)
    monkeypatch.setattr(finetune.networks, "build", lambda *names, **options: build(*names, **options).double())
    return results


def stacked(configs, **options):
    """Records of a stack by id; none may be left."""
    found = {}
    left = stack.run(configs, device="cpu", ended=lambda one, record, _: found.update({one.id: record}), **options)
    assert left == [] and set(found) == {one.id for one in configs}
    return found


def alone(configs):
    """Records of the single runs by id; those that are there are moved out of the way."""
    return {one.id: finetune.run(one, device="cpu", force=True)[0] for one in configs}


CLOCKS = ("train_seconds", "test_seconds", "probe_seconds", "selection_seconds")


def assert_equal(single, shared, rel):
    """The same record, numbers of training within ``rel``; what was selected exactly."""
    assert shared["selection"] == single["selection"]
    for key in ("id", "config", "network", "train_images", "test_images", "classes", "search_space", "arrays", "status"):
        assert shared[key] == single[key], key
    assert len(shared["epochs"]) == len(single["epochs"])
    for mine, other in zip(shared["epochs"], single["epochs"]):
        assert set(mine) == set(other) | {"stacked_runs"}
        for name in set(other) - set(CLOCKS):
            expected = pytest.approx(other[name], rel=rel) if name.endswith("_loss") else other[name]
            assert mine[name] == expected, (mine["epoch"], name)


EACH = [
    {"strategy": "LaRa MeDyate"}, {"strategy": "LaRa MeDyate", "norm_gradient": "mean_norm", "seed": 3},
    {"strategy": "Prev MeDyate", "norm_gradient": "mean", "budget": 66_592}, {"strategy": "TraDy", "budget": 93_696},
    {"strategy": "LaRa MeDyate", "metric": "rgn", "boosted": True, "layers": 12, "learning_rate": 0.01},
    {"strategy": "LaRa TraDy", "seed": 42}, {"strategy": "LaRa Prob Raw", "probe_batches": 2}, {"strategy": "LaRa Det Raw", "seed": 1},
    {"strategy": "Det RGN", "ranking": ...}, {"strategy": "SU", "ranking": ...}, {"strategy": "SU", "budget": 66_592, "ranking": ...},
    {"strategy": "Baseline", "ranking": ...}, {"strategy": "Head only", "ranking": ...}, {"strategy": "LaRa MeDyate", "epochs": 3},
]  # fmt: skip


@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_a_stack_is_its_runs_in_double_precision(double, batch_norm):
    """Every strategy, other seeds, budgets, rates and lengths in one stack; records equal to 1e-9."""
    configs = [config(**{"learning_rate": 0.003, "batch_norm": batch_norm, **changes}) for changes in EACH]
    if batch_norm == "train":
        configs += [config(strategy="LaRa MeDyate", learning_rate=0.003, norm_affine=True, seed=7)]
        configs += [config(strategy="LaRa TraDy", learning_rate=0.003, execution="dense", seed=7)]
    assert {one.strategy for one in configs} == set(strategies.STRATEGIES)
    shared, single = stacked(configs), alone(configs)
    for one in configs:
        assert_equal(single[one.id], shared[one.id], 1e-9)
    longest = max(one.epochs for one in configs)
    for one in configs:
        counts = [row["stacked_runs"] for row in shared[one.id]["epochs"]]
        assert counts[:3] == [len(configs)] * 3 and counts[3:] == [1] * (one.epochs == longest)
        environment = shared[one.id]["environment"]
        assert environment["stacked_runs"] == len(configs) and environment["execution"] == "dense"
        assert "stacked_runs" not in single[one.id]["environment"]
