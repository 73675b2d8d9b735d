"""Runs and rankings from config to record: bit for bit the same again, after an interruption too."""

import copy
import json
import math
import warnings

import numpy as np
import pytest
import torch
from small_task import TEST, TRAIN, config, digits, numbers, one_thread, rank_config, results  # noqa: F401 (fixtures)

from medyate import networks, strategies
from medyate.errors import InputError
from medyate.networks import schemes
from medyate.runs import finetune, rankings
from medyate.runs import records as runs

pytestmark = pytest.mark.usefixtures("one_thread")


def run(settings, **options):
    record, found = finetune.run(settings, device="cpu", **options)
    assert not found
    return record


# --- the record ----------------------------------------------------------------------------------


def test_a_record_holds_what_was_done(results):
    settings = config()
    rows = []
    record = run(settings, progress=rows.append)
    assert record == json.loads((results / "runs" / f"{settings.id}.json").read_text())
    assert record["id"] == settings.id and record["config"] == settings.as_dict() and record["status"] == "finished"
    assert (record["train_images"], record["test_images"], record["classes"]) == (TRAIN, TEST, 10)
    assert [row["epoch"] for row in record["epochs"]] == [1, 2, 3] and rows == record["epochs"]
    assert record["test_top1_percent"] == record["epochs"][-1]["test_top1_percent"]
    layers = settings.backbone_layers()
    weights = sum(layer.weight_elements for layer in layers)
    activations = sum(layer.activation_elements for layer in layers)
    assert (
        record["network"]["total_elements"]
        == weights + activations
        == 349_080 - sum(layer.channels * layer.weight_elements_per_channel - layer.weight_elements for layer in layers)
    )
    for row in record["epochs"]:
        assert 0.99 * settings.budget <= row["used_elements"] <= settings.budget
        assert row["weight_elements"] + row["activation_elements"] == row["used_elements"]
        assert row["weight_sparsity_percent"] == pytest.approx(100 - 100 * row["weight_elements"] / weights)
        assert row["activation_sparsity_percent"] == pytest.approx(100 - 100 * row["activation_elements"] / activations)
        assert 0 < row["flops_saved_percent"] < 100 and row["train_seconds"] > 0
        assert math.isfinite(row["train_loss"]) and 0 <= row["test_top1_percent"] <= 100
        # whole images are right or wrong
        assert row["test_top1_percent"] * TEST / 100 == pytest.approx(round(row["test_top1_percent"] * TEST / 100))
    explored = [row["explored_percent"] for row in record["epochs"]]
    assert explored == sorted(explored) and explored[0] < explored[-1] <= 100
    space = record["search_space"]
    order = rankings.load("mbv2-w0.35", "trady-fig9").order("lara")
    assert space["layers"] == list(order[: space["K"]])
    by_name = {layer.name: layer for layer in layers}
    assert space["elements"] == sum(by_name[name].search_elements for name in space["layers"])
    assert space["alpha"] == pytest.approx(settings.budget / space["elements"])
    last = record["selection"]
    assert set(last) <= set(space["layers"])
    assert (
        sum(len(chosen) * by_name[name].channel_elements for name, chosen in last.items())
        == record["epochs"][-1]["used_elements"]
    )
    flops = sum(len(chosen) * by_name[name].weight_flops_per_channel for name, chosen in last.items())
    whole = sum(layer.weight_flops for layer in layers)
    assert record["epochs"][-1]["flops_saved_percent"] == pytest.approx(100 - 100 * flops / whole)
    assert not list((results / "checkpoints").iterdir())


def test_the_same_config_reuses_its_record(results, monkeypatch):
    settings = config(strategy="Head only", epochs=1)
    first = run(settings)
    with monkeypatch.context() as patch:
        patch.setattr(finetune.tasks, "load", lambda *_, **__: pytest.fail("the task was loaded"))
        again, found = finetune.run(settings)
        assert found and again == first
        with pytest.raises(InputError, match="is there already, without its weights; --force"):
            finetune.run(settings, save_weights=results / "w.pt")
    anew = run(settings, force=True)
    assert numbers(anew) == numbers(first)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"strategy": "TraDy", "batch_norm": "frozen"},
        {"strategy": "Baseline", "budget": None},
        {"strategy": "LaRa Prob Raw", "probe_batches": 2},
        {"strategy": "SU"},
        {"network": "efficientnet-lite0", "budget": 50_000, "ranking": ..., "batch_norm": "frozen"},
    ],
    ids=str,
)
def test_numbers_repeat_bit_for_bit(results, changes):
    settings = config(**changes)
    first = run(settings)
    torch.manual_seed(12345)  # the global generators play no part
    np.random.seed(1)
    assert numbers(run(settings, force=True)) == numbers(first)


def test_seeds_give_other_numbers(results):
    first, second = (numbers(run(config(seed=seed, epochs=1))) for seed in (0, 1))
    assert first["epochs"][0]["train_loss"] != second["epochs"][0]["train_loss"]
    assert first["selection"] != second["selection"]


def test_streams_of_random_numbers_are_apart():
    seeds = {finetune.generator(seed, stream).initial_seed() for seed in range(200) for stream in finetune._STREAMS}
    assert len(seeds) == 200 * len(finetune._STREAMS)


def test_the_data_do_not_depend_on_the_strategy(results, monkeypatch):
    """The first step of a warm-up changes nothing, so its loss is the same for all."""
    losses = {}
    cross_entropy = torch.nn.functional.cross_entropy

    def watch(output, labels, **options):
        loss = cross_entropy(output, labels, **options)
        if torch.is_grad_enabled():
            seen.append((labels.tolist(), float(loss.detach())))
        return loss

    monkeypatch.setattr(finetune.nn.functional, "cross_entropy", watch)
    for strategy in ("LaRa MeDyate", "SU", "Head only", "TraDy"):
        seen = []
        run(config(strategy=strategy, epochs=1))
        losses[strategy] = seen
    first = losses["Head only"]
    for seen in losses.values():
        assert [labels for labels, _ in seen] == [labels for labels, _ in first]
        assert seen[0][1] == pytest.approx(first[0][1], rel=1e-5)


# --- the schedule ----------------------------------------------------------------------------------


def test_learning_rate_warms_up_and_follows_a_cosine():
    settings, steps = config(epochs=4, warmup_epochs=2, learning_rate=0.125), 3
    rates = [finetune.learning_rate(step, steps, settings) for step in range(steps * settings.total_epochs)]
    assert rates[:6] == pytest.approx([0.125 * step / 6 for step in range(6)])
    assert rates[6:] == pytest.approx([0.125 * (1 + math.cos(math.pi * step / 12)) / 2 for step in range(12)])
    assert rates[0] == 0 and rates[6] == 0.125 and rates[12] == pytest.approx(0.0625)


def test_the_optimiser_gets_these_rates(results, monkeypatch):
    seen = []
    step = torch.optim.SGD.step
    monkeypatch.setattr(
        torch.optim.SGD, "step", lambda self: (seen.append({g["lr"] for g in self.param_groups}), step(self))[1]
    )
    settings = config()
    record = run(settings)
    assert seen == [{finetune.learning_rate(index, 3, settings)} for index in range(9)]
    assert [row["learning_rate"] for row in record["epochs"]] == [rates.pop() for rates in seen[2::3]]


# --- what is trained --------------------------------------------------------------------------------


def changed(settings, path):
    """Names of what a run changed, and by selected layer the input channels whose weights did."""
    record = run(settings, save_weights=path)
    before = networks.build(
        settings.network, weights="random", classes=10, generator=finetune.generator(settings.seed, "classifier")
    ).state_dict()
    after = torch.load(path, weights_only=True)
    assert after.keys() == before.keys()
    names = {name for name in before if not torch.equal(before[name], after[name])}
    channels = {}
    for layer in settings.backbone_layers():
        moved = after[f"{layer.name}.weight"] - before[f"{layer.name}.weight"]
        if layer.kind == "depthwise":
            moved = moved.transpose(0, 1)
        found = moved.transpose(0, 1).flatten(1).abs().sum(1).nonzero().flatten().tolist()
        if found:
            channels[layer.name] = found
    return record, names, channels


STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.mark.parametrize("execution", ["subnet", "dense"])
@pytest.mark.parametrize("batch_norm", ["frozen", "train"])
def test_only_selected_channels_and_the_classifier_change(results, tmp_path, batch_norm, execution):
    settings = config(epochs=1, warmup_epochs=0, batch_norm=batch_norm, execution=execution, learning_rate=0.01)
    record, names, channels = changed(settings, tmp_path / "w.pt")
    selection = record["selection"]
    assert all(set(channels[name]) <= set(selection[name]) for name in channels)
    assert sum(map(len, channels.values())) > 0.5 * sum(map(len, selection.values()))  # dead ones do not move
    others = names - {f"{name}.weight" for name in channels}
    statistics = {name for name in others if name.endswith(STATISTICS)}
    assert others - statistics == {"classifier.weight", "classifier.bias"}
    assert bool(statistics) == (batch_norm == "train")


def test_head_only_changes_the_classifier_and_baseline_everything(results, tmp_path):
    head = config(strategy="Head only", batch_norm="frozen", epochs=1, warmup_epochs=0)
    record, names, _ = changed(head, tmp_path / "head.pt")
    assert names == {"classifier.weight", "classifier.bias"}
    assert record["selection"] == {} and record["epochs"][0]["used_elements"] == 0
    assert record["epochs"][0]["weight_sparsity_percent"] == record["epochs"][0]["flops_saved_percent"] == 100
    base = config(strategy="Baseline", epochs=1, warmup_epochs=0)
    record, names, _ = changed(base, tmp_path / "base.pt")
    assert names == set(torch.load(tmp_path / "base.pt", weights_only=True))
    assert record["epochs"][0]["weight_sparsity_percent"] == record["epochs"][0]["flops_saved_percent"] == 0


def test_su_trains_the_schemes_channels(results, tmp_path):
    settings = config(strategy="SU", budget=66_592, epochs=1, warmup_epochs=0, batch_norm="frozen", learning_rate=0.01)
    record, _, channels = changed(settings, tmp_path / "w.pt")
    layers = settings.backbone_layers()
    model = networks.build("mbv2-w0.35", weights="random", classes=10, generator=finetune.generator(0, "classifier"))
    weights = {layer.name: model.get_submodule(layer.name).weight.detach() for layer in layers}
    scheme = schemes.scheme_selection("mbv2-w0.35", 3, layers, weights)
    assert {name: tuple(chosen) for name, chosen in record["selection"].items()} == dict(scheme.channels)
    assert channels and all(set(channels[name]) <= set(scheme.channels[name]) for name in channels)
    assert record["search_space"]["K"] is None


def test_subnet_and_dense_execution_agree(results):
    """The same selections, the same losses up to rounding, over a short run; norms come from both alike.

    Train-mode batch norm over one pixel makes rounding large: there with selections that do not
    depend on norms.
    """
    frozen = {"batch_norm": "frozen"}
    for changes in (
        frozen,
        {"strategy": "TraDy"},
        {"norm_gradient": "mean_norm", **frozen},
        {"norm_gradient": "mean", **frozen},
        {"metric": "rgn", **frozen},
    ):
        both = [run(config(execution=way, learning_rate=0.003, **changes)) for way in ("subnet", "dense")]
        assert both[0]["selection"] == both[1]["selection"], changes
        for a, b in zip(both[0]["epochs"], both[1]["epochs"], strict=True):
            assert a["used_elements"] == b["used_elements"] and a["selected_channels"] == b["selected_channels"]
            assert a["explored_percent"] == b["explored_percent"]
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-3)
            assert a["test_loss"] == pytest.approx(b["test_loss"], rel=1e-3)


# --- interruption ------------------------------------------------------------------------------------


class Stop(BaseException):
    """A kill."""


RESUMED = [
    {},
    {"norm_gradient": "mean", "execution": "dense"},
    {"norm_gradient": "mean_norm"},
    {"strategy": "LaRa Prob Raw", "probe_batches": 2},
    {"strategy": "Baseline", "budget": None, "momentum": 0.9},
    {"strategy": "SU", "momentum": 0.9, "batch_norm": "frozen"},
    {"strategy": "TraDy", "norm_affine": True},
    {"momentum": 0.9, "batch_norm": "frozen", "learning_rate": 0.01},
]


@pytest.mark.parametrize("changes", RESUMED, ids=str)
def test_interrupted_and_resumed_is_as_if_nothing_had_happened(results, monkeypatch, changes):
    settings = config(epochs=3, **changes)
    expected = run(settings)
    (results / "runs" / f"{settings.id}.json").unlink()
    train, calls = finetune._Loop.train, []

    def stop_within(self, *args):
        calls.append(len(self.rows))
        if len(calls) == 4:  # in the middle of the third epoch, having trained it in part
            train(self, *args)
            raise Stop
        return train(self, *args)

    def stop_after(row):
        if row["epoch"] == 1:
            raise Stop

    with pytest.raises(Stop):
        finetune.run(settings, device="cpu", progress=stop_after)
    assert runs.load(settings.id) is None and (results / "checkpoints" / f"{settings.id}.pt").is_file()
    monkeypatch.setattr(finetune._Loop, "train", stop_within)
    calls.append(None)  # epochs 2 and 3 of this try are calls 2 and 3 of the list
    with pytest.raises(Stop):
        calls.append(None)
        finetune.run(settings, device="cpu")
    assert calls[2:] == [1, 2]
    resumed = run(settings)
    assert calls[4:] == [2, 3]
    assert numbers(resumed) == numbers(expected)
    assert not (results / "checkpoints" / f"{settings.id}.pt").exists()
    assert "earlier" not in resumed["environment"]


def test_a_run_that_goes_on_elsewhere_says_where_its_earlier_epochs_were(results, monkeypatch):
    settings = config(epochs=3)

    def stop_after(count):
        def stop(row):
            if row["epoch"] == count:
                raise Stop

        return stop

    here = dict(runs.environment("cpu"))
    for count, device in ((1, "a GPU"), (2, "a GPU"), (3, here["device"])):
        monkeypatch.setattr(runs, "_processor", lambda device=device: device)
        with pytest.raises(Stop):
            finetune.run(settings, device="cpu", progress=stop_after(count))
    environment = run(settings)["environment"]
    assert environment.pop("earlier") == [{**here, "device": "a GPU", "epochs": 2}]
    assert environment == here


def test_a_damaged_checkpoint_is_worth_nothing(results):
    settings = config()
    expected = run(settings)
    checkpoint = results / "checkpoints" / f"{settings.id}.pt"
    for content in (b"", b"broken", None):
        (results / "runs" / f"{settings.id}.json").unlink()
        if content is None:  # another config's
            torch.save({"config": {"seed": 5}}, checkpoint)
        else:
            checkpoint.write_bytes(content)
        assert numbers(run(settings)) == numbers(expected)


def test_a_checkpoint_whose_optimiser_knows_other_parameters_is_refused(results):
    settings = config(momentum=0.9)

    def stop(row):
        raise Stop

    with pytest.raises(Stop):
        finetune.run(settings, device="cpu", progress=stop)
    checkpoint = results / "checkpoints" / f"{settings.id}.pt"
    state = torch.load(checkpoint, weights_only=False)
    state["optimizer"]["param_groups"][0]["params"] = [0]
    torch.save(state, checkpoint)
    with pytest.raises(InputError, match=r"knows 1 trained parameters, where there are \d+; allowed"):
        finetune.run(settings, device="cpu")
    assert checkpoint.exists()  # nothing is lost
    assert run(settings, force=True)["epochs"]


def test_force_begins_anew(results):
    settings = config()

    def stop(row):
        raise Stop

    with pytest.raises(Stop):
        finetune.run(settings, device="cpu", progress=stop)
    epochs = []
    run(settings, force=True, progress=lambda row: epochs.append(row["epoch"]))
    assert epochs == [1, 2, 3]


# --- bad input and bad luck ---------------------------------------------------------------------------


def test_a_run_that_diverges_leaves_no_record(results):
    settings = config(learning_rate=1e30, warmup_epochs=0, strategy="Baseline", budget=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(finetune.Diverged, match="the loss is .* in epoch 1; a smaller learning rate may help"):
            finetune.run(settings, device="cpu")
    assert runs.load(settings.id) is None


def test_a_damaged_record_is_told_before_anything_is_computed(results, monkeypatch):
    settings = config(strategy="Head only", epochs=1)
    expected = run(settings)
    path = results / "runs" / f"{settings.id}.json"
    path.write_text(path.read_text()[:100])
    with monkeypatch.context() as patch:
        patch.setattr(finetune.tasks, "load", lambda *_, **__: pytest.fail("the task was loaded"))
        with pytest.raises(InputError, match="cannot be read"):
            finetune.run(settings)
    assert len(path.read_text()) == 100
    assert numbers(run(settings, force=True)) == numbers(expected)


@pytest.mark.parametrize("bad", ["runs", "checkpoints", "weights", "device"])
def test_what_cannot_be_written_is_told_before_anything_is_computed(results, monkeypatch, bad):
    results.mkdir()
    (results / bad).write_text("in the way")
    options = {"save_weights": results / bad / "w.pt"} if bad == "weights" else {}
    device = "tpu" if bad == "device" else "cpu"
    monkeypatch.setattr(finetune._Loop, "train", lambda *_: pytest.fail("training began"))
    with pytest.raises(InputError, match=r"^(cannot write|unknown device 'tpu'; allowed: auto, cpu, cuda)[^\n]*$"):
        finetune.run(config(), device=device, **options)
    assert (results / bad).read_text() == "in the way"


def test_cuda_without_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert finetune.device_of("auto") == "cpu"
    with pytest.raises(InputError, match="device 'cuda:0': torch sees no CUDA device here; allowed: auto, cpu"):
        finetune.device_of("cuda:0")


# --- rankings ------------------------------------------------------------------------------------------


def rank(settings, **options):
    record, found = finetune.rank(settings, device="cpu", **options)
    assert not found
    return record


def test_a_ranking_is_what_its_arrays_say(results):
    settings = rank_config()
    record = rank(settings)
    layers = settings.backbone_layers()
    arrays = runs.arrays(record)
    channels = sum(layer.channels for layer in layers)
    assert arrays["channel_norms_last"].shape == arrays["channel_norms_mean"].shape == (3, channels)
    assert not np.array_equal(arrays["channel_norms_last"], arrays["channel_norms_mean"])
    assert record["layers"] == [layer.name for layer in layers]
    for index, layer in enumerate(layers):
        own = arrays["channel_norms_mean"][:, arrays["layer_of_channel"] == index].astype(np.float64)
        assert own.shape[1] == layer.channels
        assert record["layer_rgn"][index] == pytest.approx((own.sum(1) / layer.channel_elements).sum(), rel=1e-5)
        whole = layer.channels * layer.channel_elements
        assert record["lara"][index] == pytest.approx((np.sqrt((own**2).sum(1)) / whole).sum(), rel=1e-5)
    for order, values in (("lara_order", "lara"), ("rgn_order", "layer_rgn")):
        by_name = dict(zip(record["layers"], record[values]))
        assert record[order] == sorted(record["layers"], key=lambda name: -by_name[name])
    found = rankings.load("mbv2-w0.35", record["ranking"])
    assert list(found.lara) == record["lara"] and found.task == "digits" and settings.id in found.source
    again, reused = finetune.rank(settings, device="cpu")
    assert reused and again == record
    # and a run can take it
    used = run(config(ranking=record["ranking"], epochs=1))
    assert used["search_space"]["layers"] == record["lara_order"][: used["search_space"]["K"]]


def test_another_definition_of_norms_is_read_from_the_same_fine_tuning(results, monkeypatch):
    by_norms = rank(rank_config())
    monkeypatch.setattr(finetune._Loop, "train", None)  # nothing is trained again
    settings = rank_config(norm_gradient="mean")
    record = rank(settings)
    assert record["id"] == settings.id != by_norms["id"] == record["derived_from"]
    assert runs.load(settings.id) == record and record["epochs"] == by_norms["epochs"]
    arrays = runs.arrays(record)
    for index, layer in enumerate(settings.backbone_layers()):
        own = arrays["channel_norms_of_mean"][:, arrays["layer_of_channel"] == index].astype(np.float64)
        whole = layer.channels * layer.channel_elements
        assert record["lara"][index] == pytest.approx((np.sqrt((own**2).sum(1)) / whole).sum(), rel=1e-5)
    found = rankings.load("mbv2-w0.35", settings.name)
    assert list(found.lara) == record["lara"] != by_norms["lara"] and settings.name.endswith("-mean")
    again, reused = finetune.rank(settings, device="cpu")
    assert reused and again == record


def test_norms_of_a_ranking_are_those_of_plain_training(results, digits):
    """One epoch again with a plain loop: same data, plain autograd, no class of ours but the network."""
    settings = rank_config(epochs=1, warmup_epochs=0, learning_rate=0.01)
    record = rank(settings)
    model = networks.build("mbv2-w0.35", weights="random", classes=10, generator=finetune.generator(0, "classifier"))
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    layers, total = settings.backbone_layers(), 0
    whole = [0] * len(layers)
    batches = digits.batches("train", 16, generator=finetune.generator(0, "data"), augment=True, channels_last=True)
    for step, (images, labels) in enumerate(batches):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(images), labels).backward()
        norms = []
        for layer in layers:
            gradient = model.get_submodule(layer.name).weight.grad.double()
            norms.append(
                gradient.flatten(1).norm(dim=1)
                if layer.kind == "depthwise"
                else gradient.transpose(0, 1).flatten(1).norm(dim=1)
            )
        last = torch.cat(norms)
        total = total + last
        whole = [one + model.get_submodule(layer.name).weight.grad.double() / 3 for one, layer in zip(whole, layers)]
        optimizer.param_groups[0]["lr"] = 0.01 * (1 + math.cos(math.pi * step / 3)) / 2
        optimizer.step()
    arrays = runs.arrays(record)
    np.testing.assert_allclose(arrays["channel_norms_last"][0], last.numpy(), rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(arrays["channel_norms_mean"][0], total.numpy() / 3, rtol=1e-3, atol=1e-6)
    norms = [
        one.flatten(1).norm(dim=1) if layer.kind == "depthwise" else one.transpose(0, 1).flatten(1).norm(dim=1)
        for one, layer in zip(whole, layers)
    ]
    np.testing.assert_allclose(arrays["channel_norms_of_mean"][0], torch.cat(norms).numpy(), rtol=1e-3, atol=1e-6)


def test_an_interrupted_ranking_keeps_what_it_has_and_goes_on(results):
    settings = rank_config()
    expected = rank(settings)
    arrays = runs.arrays(expected)
    for folder in ("runs", "rankings"):
        for path in (results / folder).iterdir():
            path.unlink()

    def stop(row):
        if row["epoch"] == 2:
            raise KeyboardInterrupt

    partial = rank(settings, progress=stop)
    assert partial["status"] == "interrupted" and len(partial["epochs"]) == 2
    assert np.array_equal(runs.arrays(partial)["channel_norms_mean"], arrays["channel_norms_mean"][:2])
    assert list(rankings.load("mbv2-w0.35", partial["ranking"]).lara) == partial["lara"] != expected["lara"]
    resumed = rank(settings)
    assert numbers(resumed) == numbers(expected) and resumed["status"] == "finished"
    for name, value in runs.arrays(resumed).items():
        assert np.array_equal(value, arrays[name])
    assert list(rankings.load("mbv2-w0.35", resumed["ranking"]).lara) == expected["lara"]


def test_a_ranking_interrupted_at_once_leaves_nothing(results, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(finetune._Loop, "train", stop)
    with pytest.raises(KeyboardInterrupt):
        finetune.rank(rank_config(), device="cpu")
    assert not list((results / "runs").iterdir()) and not list((results / "rankings").iterdir())


# --- Subnet, where runs rely on it ------------------------------------------------------------------------


@pytest.mark.parametrize("execution", ["subnet", "dense"])
@pytest.mark.parametrize("norm_gradient", ["last", "mean_norm", "mean"])
def test_norms_are_those_of_the_named_gradient(norm_gradient, execution):
    """Over two epochs, against plain autograd on a copy: the norms that the second selection is drawn by."""
    from medyate.subnet import Subnet

    torch.manual_seed(0)
    nn = torch.nn
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 1), nn.Flatten(), nn.Linear(64, 3)
    ).double()
    subnet = Subnet(
        model,
        10**6,
        strategies.Strategy("x", "", strategies.MEDYATE),
        input_shape=(3, 8, 8),
        execution=execution,
        norm_gradient=norm_gradient,
    )
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.05)
    for _ in range(3):
        selection = subnet.next_epoch(optimizer)
        assert selection.count == 3 + 6 + 6  # all of them: the whole gradient is the oracle
        steps = {name: [] for name in selection.channels}
        for _ in range(3):
            x, labels = torch.randn(5, 3, 8, 8).double(), torch.randint(3, (5,))
            plain = copy.deepcopy(
                nn.Sequential(
                    *[
                        nn.Conv2d(3, 6, 3),
                        nn.ReLU(),
                        nn.Conv2d(6, 6, 3, groups=6),
                        nn.Conv2d(6, 4, 1),
                        nn.Flatten(),
                        nn.Linear(64, 3),
                    ]
                )
            ).double()
            plain.load_state_dict(model.state_dict())
            nn.functional.cross_entropy(plain(x), labels).backward()
            for name in steps:
                gradient = plain.get_submodule(name).weight.grad
                steps[name].append(gradient.flatten(1) if name == "2" else gradient.transpose(0, 1).flatten(1))
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
        for name, found in subnet.state_dict()["pending"].items():
            rows = torch.stack(steps[name])
            if norm_gradient == "last":
                expected = rows[-1].norm(dim=1)
            elif norm_gradient == "mean_norm":
                expected = rows.norm(dim=2).mean(0)
            else:
                expected = rows.mean(0).norm(dim=1)
            torch.testing.assert_close(found, expected)
