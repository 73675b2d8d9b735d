"""Runs in a stack are the runs alone, up to rounding; whatever shares it, and whatever happens to one."""

import copy
import json
import warnings

import jsonschema
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_task import EACH, config, digits, double, one_thread, rank_config, results  # noqa: F401 (fixtures)
from torch import nn
from torch.nn import functional as F

from medyate import networks, strategies, tasks
from medyate.errors import InputError
from medyate.execution.masked import Dense
from medyate.files import paths as storage
from medyate.networks import convolutional
from medyate.networks.architectures import MBV2
from medyate.runs import failures, finetune
from medyate.runs import records as runs
from medyate.sweeps import stack, wide, worker

SCHEMA = json.loads((storage.CHECKOUT / "results" / "runs.schema.json").read_text())


pytestmark = pytest.mark.usefixtures("one_thread")


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
    for key in (
        "id",
        "config",
        "network",
        "train_images",
        "test_images",
        "classes",
        "search_space",
        "arrays",
        "status",
    ):
        assert shared[key] == single[key], key
    assert len(shared["epochs"]) == len(single["epochs"])
    for mine, other in zip(shared["epochs"], single["epochs"]):
        assert set(mine) - {"cuda_graphs"} == set(other) | {"stacked_runs"}
        for name in set(other) - set(CLOCKS):
            expected = pytest.approx(other[name], rel=rel) if name.endswith("_loss") else other[name]
            assert mine[name] == expected, (mine["epoch"], name)


# Every strategy in one mode of batch norm, by turns: what a strategy does in a stack does not depend on it.
# Train-mode batch norm over the one pixel of the last layers makes rounding grow, up to 1e-5 in nine
# steps of 0.003 between the single run's own two ways of execution: smaller steps.
MODES = {"frozen": (0.003, EACH[::2]), "train": (0.0001, EACH[1::2])}


def test_all_strategies_are_stacked():
    assert {one["strategy"] for _, some in MODES.values() for one in some} == set(strategies.STRATEGIES)


@pytest.mark.parametrize("batch_norm", MODES)
def test_a_stack_is_its_runs_in_double_precision(double, batch_norm):
    """Other strategies, seeds, budgets, rates and lengths in one stack; records equal to 1e-9."""
    rate, some = MODES[batch_norm]
    configs = [config(**{"learning_rate": rate, "batch_norm": batch_norm, "epochs": 1, **changes}) for changes in some]
    if batch_norm == "train":
        configs += [config(strategy="LaRa MeDyate", learning_rate=rate, norm_affine=True, seed=7, epochs=1)]
    shared, single = stacked(configs), alone(configs)
    for one in configs:
        assert_equal(single[one.id], shared[one.id], 1e-9)
        first, *_, last = single[one.id]["epochs"]
        assert abs(first["train_loss"] - last["train_loss"]) > 1e-6  # something was learnt that could differ
        counts = [row["stacked_runs"] for row in shared[one.id]["epochs"]]
        assert counts == [len(configs)] * 2 + [sum(other.epochs == 2 for other in configs)] * (one.epochs == 2)
        environment = shared[one.id]["environment"]
        assert environment["stacked_runs"] == len(configs) and environment["execution"] == "dense"
        assert "stacked_runs" not in single[one.id]["environment"]


SMALL = {"epochs": 1, "learning_rate": 0.003, "batch_norm": "frozen"}


def test_neither_size_nor_order_of_a_stack_matters(results):
    """Single precision: the same selections, losses up to rounding; for one run alone in a stack as well."""
    configs = [
        config(**SMALL, **changes)
        for changes in ({"strategy": "LaRa MeDyate"}, {"strategy": "TraDy", "seed": 5}, {"strategy": "LaRa Prob Raw"})
    ]
    single = alone(configs)
    for order in ([0, 1, 2], [2, 0, 1], [1], [0, 2]):
        some = [configs[index] for index in order]
        for one in some:
            (results / "runs" / f"{one.id}.json").unlink()
        shared = stacked(some)
        for one in some:
            assert_equal(single[one.id], shared[one.id], 1e-5)
            jsonschema.Draft202012Validator(SCHEMA).validate(shared[one.id])
            assert runs.load(one.id) == shared[one.id]
            seconds = sum(row[name] for row in shared[one.id]["epochs"] for name in CLOCKS)
            assert shared[one.id]["seconds"] == pytest.approx(seconds)


def test_records_that_are_there_are_not_run_again(results, monkeypatch):
    configs = [config(**SMALL, strategy="Head only", seed=seed) for seed in range(2)]
    first, _ = finetune.run(configs[0], device="cpu")
    told = []
    assert (
        stack.run(
            configs, device="cpu", ended=lambda one, record, was_there: told.append((one, record == first, was_there))
        )
        == []
    )
    assert told == [(configs[0], True, True), (configs[1], False, False)]


# --- interruption -----------------------------------------------------------------------------------


class Stop(BaseException):
    """A kill."""


@pytest.mark.parametrize("first", ["stack", "alone"])
def test_stacks_and_single_runs_go_on_from_each_others_checkpoints(double, monkeypatch, first):
    """Interrupted in a stack and continued alone, and the other way round: the uninterrupted run's record."""
    configs = [
        config(**{**SMALL, "epochs": 2}, **changes)
        for changes in ({}, {"norm_gradient": "mean_norm"}, {"strategy": "LaRa Prob Raw", "probe_batches": 1})
    ]
    expected = alone(configs)

    def stop(*told):
        if told[-1]["epoch"] == 2 and told[0] in (told[-1], configs[-1]):
            raise Stop

    for one in configs:
        (double / "runs" / f"{one.id}.json").unlink()
    if first == "stack":
        with pytest.raises(Stop):
            stack.run(configs, device="cpu", progress=stop)
        sizes = [file.stat().st_size for file in (double / "checkpoints").glob("*.pt")]
        assert len(sizes) == 3 and max(sizes) < 8e6  # the run's own weights, not the stack's
        found = {one.id: finetune.run(one, device="cpu")[0] for one in configs}
    else:
        for one in configs[:2]:  # the third begins when these have done two epochs of three
            with pytest.raises(Stop):
                finetune.run(one, device="cpu", progress=stop)
        found = stacked(configs)
    for one in configs:
        for row in found[one.id]["epochs"]:
            row.setdefault("stacked_runs", 1)
        assert_equal(expected[one.id], found[one.id], 1e-9)
    assert not list((double / "checkpoints").iterdir())


# --- misfortune ---------------------------------------------------------------------------------------


def outcomes_of(configs, **options):
    told = []
    found = worker.execute_stack(
        [one.as_dict() for one in configs],
        device="cpu",
        tell=lambda run_id, event: told.append((run_id, event)),
        **options,
    )
    ends = {run_id: event["outcome"] for run_id, event in told if event["event"] == "end"}
    assert ends == {run_id: outcome["outcome"] for run_id, outcome in found.items()} and len(found) == len(configs)
    return ends, told


def test_a_run_that_diverges_is_recorded_and_stops_no_other(results):
    good = [config(**SMALL, seed=seed) for seed in (0, 1)]
    bad = config(**{**SMALL, "epochs": 2, "warmup_epochs": 0, "learning_rate": 1e38}, strategy="Baseline", ranking=...)
    expected = alone(good)
    for one in good:
        (results / "runs" / f"{one.id}.json").unlink()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        ends, told = outcomes_of([good[0], bad, good[1]])
    assert ends == {good[0].id: "finished", bad.id: "failed", good[1].id: "finished"}
    assert any(
        run_id == bad.id and event["event"] == "warning" and "Diverged" in event["message"] for run_id, event in told
    )
    failure = failures.load(bad.id)
    assert failure["error"]["kind"] == "diverged" and "in epoch 1" in failure["error"]["message"]
    jsonschema.Draft202012Validator(SCHEMA).validate(failure)
    for one in good:
        record = runs.load(one.id)
        assert_equal(expected[one.id], record, 1e-5)
        assert [row["stacked_runs"] for row in record["epochs"]] == [3, 2]
    assert not list((results / "checkpoints").iterdir())


def test_a_runs_own_error_and_one_of_all(results, monkeypatch):
    """A run that fails on its own goes on alone; where the shared step fails, all do, and finish."""
    configs = [config(**SMALL, seed=seed) for seed in (0, 1)]
    expected = alone(configs)
    choose, step = finetune.Tuning.choose, wide.Wide.step

    def accident(self, *arguments):
        if self.config == configs[1] and self.rows and "in a stack" in arguments_of:
            arguments_of.clear()
            raise RuntimeError("an accident")
        return choose(self, *arguments)

    def too_large(self, *arguments):
        raise torch.OutOfMemoryError("too small a GPU")

    for patch, stays in (((finetune.Tuning, "choose", accident), [2, 1]), ((wide.Wide, "step", too_large), None)):
        for one in configs:
            (results / "runs" / f"{one.id}.json").unlink()
        arguments_of = {"in a stack"}
        with monkeypatch.context() as patched:
            patched.setattr(*patch)
            ends, told = outcomes_of(configs)
        assert set(ends.values()) == {"finished"}
        gone = [run_id for run_id, event in told if event["event"] == "warning"]
        assert gone == ([configs[1].id] if stays else [one.id for one in configs])
        for one in configs:
            record = runs.load(one.id)
            counts = [row.pop("stacked_runs", 0) for row in record["epochs"]]
            assert counts == ([0, 0] if stays is None else [2, 1] if one == configs[0] else [2, 0])
            for row in record["epochs"]:
                row["stacked_runs"] = 0
            assert_equal(expected[one.id], record, 1e-5)
    assert wide.Wide.step is step


def test_what_cannot_be_stacked_is_told(results):
    one = config(**SMALL)
    for other, message in (
        (
            config(**{**SMALL, "batch_norm": "train"}),
            "batch_norm 'train' beside 'frozen' cannot be stacked; allowed: runs of the same network,",
        ),
        (config(**SMALL, batch_size=8), "batch_size 8 beside 16"),
        (
            config(**SMALL, network="mcunet-in1", ranking=..., strategy="Head only"),
            "network 'mcunet-in1' beside 'mbv2-w0.35'",
        ),
        (config(**SMALL, momentum=0.9), "momentum 0.9 cannot be stacked, a stack takes plain steps; allowed: 0"),
        (
            config(network="swin-t", ranking=..., strategy="Head only", batch_norm="frozen"),
            "network 'swin-t' cannot be stacked; allowed: mbv2-w0.35,",
        ),
        (rank_config(), "kind 'rank' cannot be stacked; allowed: run"),
        (one, "a run is twice in a stack"),
    ):
        with pytest.raises(InputError, match=message):
            stack.run([one, other], device="cpu")
    with pytest.raises(InputError, match="a stack of 0 runs"):
        stack.run([], device="cpu")
    assert stack.key(rank_config()) is stack.key(config(momentum=0.9)) is None
    assert stack.key(one) == stack.key(
        config(**{**SMALL, "epochs": 5, "learning_rate": 1.0}, seed=3, strategy="SU", ranking=...)
    )
    odd = nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4))
    with pytest.raises(InputError, match=r"layer '1' \(GroupNorm\) cannot be stacked; allowed: Conv2d,"):
        wide.Wide([odd], batch_norm="train")
    with pytest.raises(InputError, match="networks of different shapes"):
        wide.Wide([nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 5))], batch_norm="train")


# --- the wide network -------------------------------------------------------------------------------


def several(name, runs, weights="random"):
    """Networks of one shape with different weights and statistics, in double precision."""
    models = []
    for seed in range(runs):
        generator = torch.Generator().manual_seed(seed)
        model = networks.build(name, weights=weights, classes=5, generator=generator).double()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.uniform_(-0.5, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                with torch.no_grad():
                    module.weight.uniform_(0.5, 1.5, generator=generator)
        models.append(model)
    return models


@pytest.mark.parametrize("name", [name for name, network in networks.NETWORKS.items() if network.has_batch_norm])
@pytest.mark.parametrize("training", [True, False])
def test_a_wide_network_is_vmap_of_the_single_one(name, training):
    """Outputs and running statistics, against torch.func.vmap over functional_call."""
    models = [model.train(training) for model in several(name, 3)]
    x = torch.randn(3, 4, 3, 48, 48, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parameters, buffers = torch.func.stack_module_state(models)
    base = copy.deepcopy(models[0]).to("meta")
    counters = {name for name in buffers if name.endswith("num_batches_tracked")}
    together = wide.Wide(models, batch_norm="train")

    def call(parameters, buffers, x):
        return torch.func.functional_call(base, (parameters, buffers), (x,)), buffers

    expected, after = torch.func.vmap(call)(parameters, {name: value.clone() for name, value in buffers.items()}, x)
    together.network.train(training)
    found = together.network(x.transpose(0, 1).flatten(1, 2).contiguous(memory_format=torch.channels_last))
    torch.testing.assert_close(found.transpose(0, 1), expected, rtol=1e-9, atol=1e-9)
    for index, model in enumerate(models):  # they are views: what the wide network has learnt, they have
        for name, value in model.named_buffers():
            if name not in counters:
                torch.testing.assert_close(value, after[name][index], rtol=1e-9, atol=1e-9)


def tiny(seed, bias):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1, bias=bias),
        nn.BatchNorm2d(6),
        nn.ReLU6(),
        nn.Conv2d(6, 6, 3, groups=6, padding=1),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Conv2d(6, 4, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ).double()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(0, 10**6), st.sampled_from(["train", "frozen"]), st.booleans())
def test_steps_are_those_of_sgd_on_masked_gradients(runs, seed, batch_norm, captured):
    """Random selections, some all, some none; weights, statistics and last gradients after three steps of each run."""
    torch.manual_seed(seed)
    models = [tiny(seed + index, bias=seed % 2 == 0) for index in range(runs)]
    denses = [Dense(model, classifier="9", batch_norm=batch_norm, norm_affine=False) for model in models]
    for dense in denses:
        kind = torch.randint(3, ()).item()
        chosen = {
            name: torch.randperm(count)[: torch.randint(1, count + 1, ())].tolist()
            for name, count in (("0", 3), ("3", 6), ("6", 6))
            if torch.rand(()) < 0.6
        }
        dense.select(chosen if kind else {}, everything=kind == 2)
    singles = copy.deepcopy(models)  # tensor hooks are not copied: the masks are applied by hand below
    masks = [dense.masks() for dense in denses]
    together = wide.Wide(models, batch_norm=batch_norm, capture=rerun if captured else None)
    together.train_only(masks)
    together.begin_epoch()
    losses, right = torch.zeros(runs).double(), torch.zeros(runs).long()
    for size in (5, 5, 2):
        x, labels, rates = (
            torch.randn(runs, size, 3, 9, 9).double(),
            torch.randint(3, (size, runs)),
            torch.rand(runs).double(),
        )
        together.step(x.transpose(0, 1).flatten(1, 2), labels, rates)
        for index, model in enumerate(singles):
            model.train()
            model.zero_grad()
            output = model(x[index])
            loss = F.cross_entropy(output, labels[:, index])
            loss.backward()
            losses[index] += loss.detach() * size
            right[index] += (output.argmax(1) == labels[:, index]).sum()
            for name, parameter in model.named_parameters():
                if name in masks[index]:
                    if masks[index][name] is not None:
                        parameter.grad *= masks[index][name]
                    parameter.data -= rates[index] * parameter.grad
    together.end_epoch()
    assert together.count == 12 and torch.equal(together.right, right)
    torch.testing.assert_close(together.loss_sum, losses)
    for model, single, mine in zip(models, singles, masks):
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, single.state_dict()[name], msg=lambda text, name=name: f"{name}: {text}")
        for name, parameter in model.named_parameters():
            if name in mine:
                torch.testing.assert_close(parameter.grad, single.get_parameter(name).grad)
            else:
                assert parameter.grad is None


def test_masks_change_without_a_new_capture():
    """What is captured reads masks where they lie; other layers need a new capture."""
    model, calls = tiny(0, True), []
    together = wide.Wide([model], batch_norm="frozen", capture=lambda *arguments: calls.append(1) or rerun(*arguments))
    dense = Dense(model, classifier="9", batch_norm="frozen")
    x, labels, rates = torch.randn(4, 3, 9, 9).double(), torch.randint(3, (4, 1)), torch.full((1,), 0.1).double()
    for chosen, captures in (({"0": [0]}, 1), ({"0": [1, 2]}, 1), ({"6": [3]}, 2), ({"6": [5]}, 2)):
        dense.select(chosen)
        together.train_only([dense.masks()])
        together.begin_epoch()
        before = copy.deepcopy(model.state_dict())
        together.step(x, labels, rates)
        assert len(calls) == captures
        [(name, indices)] = chosen.items()
        moved = (model.state_dict()[f"{name}.weight"] - before[f"{name}.weight"]).flatten(2).abs().sum((0, 2))
        assert moved.nonzero().flatten().tolist() == indices
        assert [key for key, value in model.state_dict().items() if not torch.equal(value, before[key])] == [
            f"{name}.weight",
            "9.weight",
            "9.bias",
        ]


def rerun(function, inputs):
    """Stands in for a CUDA graph: runs the function on the captured inputs, into the captured outputs."""
    for _ in range(2):  # a capture's warm-up trains, too
        function(*inputs)
    outputs = [output.clone() for output in function(*inputs)]

    def replay():
        for mine, new in zip(outputs, function(*inputs), strict=True):
            mine.copy_(new)

    return outputs, replay


def test_a_capture_that_fails_leaves_no_trace():
    def fails(function, inputs):
        function(*inputs)
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    found = {}
    for capture in (None, fails):
        model = tiny(0, True)
        together = wide.Wide([model], batch_norm="train", capture=capture)
        together.train_only([{name: None for name, _ in model.named_parameters()}])
        together.begin_epoch()
        torch.manual_seed(1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(3):
                together.step(
                    torch.randn(4, 3, 9, 9).double(), torch.randint(3, (4, 1)), torch.full((1,), 0.1).double()
                )
        assert [str(one.message) for one in caught] == [
            "a step cannot be captured, it runs as it is: operation not permitted when stream is capturing"
        ] * bool(capture)
        together.end_epoch()
        found[capture] = model.state_dict()
    for name, value in found[None].items():
        assert torch.equal(value, found[fails][name]), name


def test_int8_networks_stack_with_their_biases(results):
    """Folded networks have convolutions with a bias, which Baseline trains."""
    torch.manual_seed(0)
    models = [convolutional.build(MBV2, 3, folded=True).double() for _ in range(2)]
    x = torch.randn(2, 2, 3, 32, 32).double()
    expected = torch.stack([model(one) for model, one in zip(models, x)], 1)
    found = wide.Wide(models, batch_norm="frozen").network(x.transpose(0, 1).flatten(1, 2))
    torch.testing.assert_close(found, expected)


# --- data -----------------------------------------------------------------------------------------------


def test_batches_of_runs_are_the_runs_batches(digits):
    """Bit for bit on the CPU; the whole-batch way of other devices, run here, up to eight bits' rounding."""
    generators = [finetune.generator(seed, "data") for seed in (0, 1, 0)]
    together = list(digits.batches_of_runs(16, generators))
    drawn = [digits._drawn(finetune.generator(seed, "data")) for seed in (0, 1, 0)]
    for run, seed in enumerate((0, 1, 0)):
        generator = finetune.generator(seed, "data")
        single = list(digits.batches("train", 16, generator=generator, augment=True, channels_last=True))
        assert len(single) == len(together) and torch.equal(generator.get_state(), generators[run].get_state())
        for (images, labels), (wide_images, wide_labels) in zip(single, together):
            assert torch.equal(wide_images[:, 3 * run : 3 * run + 3], images) and torch.equal(
                wide_labels[:, run], labels
            )
            assert wide_images.is_contiguous(memory_format=torch.channels_last)
    indices = torch.stack([order[:16] for order, _ in drawn], 1)
    draws = tasks.augment.Draws.interleaved([draws[:16] for _, draws in drawn])
    other = digits._beside_on(torch.device("cpu"), indices, draws.to("cpu"))
    for run, (order, draws) in enumerate(drawn):
        single = digits._augmented_on(torch.device("cpu"), order[:16], draws[:16])
        torch.testing.assert_close(other[:, 3 * run : 3 * run + 3], single, rtol=0, atol=1e-5)
