"""Whole runs of transformers, on a few sentences and a few digits: the same loop as for CNNs, dense gradients as
reference."""

import json
from pathlib import Path

import jsonschema
import pytest
import torch
from small_task import TEXT, cut, numbers, sentences, tokenizer  # noqa: F401 (fixtures)

from medyate import costs, networks, ranking, tasks
from medyate.execution.modes import RECOMPUTE
from medyate.files import paths as storage
from medyate.runs import finetune, rankings
from medyate.runs import records as runs
from medyate.runs.config import RankConfig, RunConfig

pytest.importorskip("transformers")
SCHEMA = json.loads((Path(__file__).resolve().parents[2] / "results/runs.schema.json").read_text())
pytestmark = pytest.mark.usefixtures("tokenizer")


def config(**changes):
    return RunConfig.of({**TEXT, **changes}).check()


@pytest.mark.parametrize("strategy", ["LaRa MeDyate", "LaRa Det Raw"])
def test_a_run_is_within_its_budget_and_repeats(sentences, strategy):
    one = config(strategy=strategy)
    record, _ = finetune.run(one, device="cpu")
    jsonschema.validate(record, SCHEMA)
    assert record["network"]["layers"] == 37 and record["classes"] == 3
    assert all(row["used_elements"] <= one.budget for row in record["epochs"])
    chosen = {name for name in record["selection"]}
    assert chosen <= set(record["search_space"]["layers"])
    again, _ = finetune.run(one, device="cpu", force=True)
    assert numbers(again) == numbers(record)


def test_subnet_and_dense_gradients_train_alike(sentences):
    both = [
        finetune.run(config(strategy="LaRa MeDyate", execution=how, norm_gradient="mean_norm"), device="cpu")[0]
        for how in ("subnet", "dense")
    ]
    for ours, theirs in zip(*(record["epochs"] for record in both)):
        assert ours["selected_channels"] == theirs["selected_channels"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-4)
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-4)


def test_recompute_is_the_configs(sentences):
    """What is computed again changes what is kept, no number beyond rounding; the record says it."""
    records = {}
    for mode in RECOMPUTE:
        one = config(strategy="LaRa MeDyate", recompute=mode)
        tuning = finetune.Tuning(one, "cpu")
        assert tuning.subnet.attached.recompute == mode
        tuning.subnet.detach()
        records[mode], _ = finetune.run(one, device="cpu")
        jsonschema.validate(records[mode], SCHEMA)
        assert records[mode]["config"].get("recompute", "layers") == mode
    assert len({record["id"] for record in records.values()}) == len(RECOMPUTE)
    for record in records.values():
        assert [row["train_loss"] for row in record["epochs"]] == pytest.approx(
            [row["train_loss"] for row in records["none"]["epochs"]], rel=1e-4
        )


def test_an_interrupted_run_ends_as_an_uninterrupted_one(sentences):
    one = config(strategy="LaRa MeDyate")
    whole, _ = finetune.run(one, device="cpu")

    class Stop(Exception):
        pass

    def stop(row):
        if row["epoch"] == 2:
            raise Stop

    with pytest.raises(Stop):
        finetune.run(one, device="cpu", force=True, progress=stop)
    assert (storage.own() / "checkpoints" / f"{one.id}.pt").is_file()
    (storage.own() / "runs" / f"{one.id}.json").unlink()  # the first run's
    resumed, was_there = finetune.run(one, device="cpu")
    assert not was_there and numbers(resumed) == numbers(whole)


@pytest.mark.parametrize("strategy", ["LaRa MeDyate", "LaRa Det Raw", "Head only"])
def test_a_frozen_encoder_reads_each_text_once_and_changes_no_number(sentences, strategy, monkeypatch):
    own = {} if strategy == "Head only" else {"layers": 1}  # LaRa's first layer is the pooler
    one = (
        config(strategy=strategy, **own)
        if own
        else RunConfig.of(
            {k: v for k, v in TEXT.items() if k not in ("budget", "ranking")} | {"strategy": strategy}
        ).check()
    )
    tuning = finetune.Tuning(one, "cpu")
    readings = []
    tuning.model.body.encoder.register_forward_hook(lambda module, inputs, output: readings.append(len(output[0])))
    assert tuning.reads_once
    tuning.choose()
    tuning.train(tuning.optimizer)
    tuning.test()
    assert sum(readings) == len(sentences.train) + len(sentences.test)
    once, _ = finetune.run(one, device="cpu", force=True)
    jsonschema.validate(once, SCHEMA)
    assert once["environment"]["encoder"] == "read once" and "encoder_seconds" in once["epochs"][0]
    monkeypatch.setattr(finetune.Tuning, "reads_once", False)
    ever, _ = finetune.run(one, device="cpu", force=True)
    assert "encoder" not in ever["environment"] and not any("encoder_seconds" in row for row in ever["epochs"])
    assert once["selection"] == ever["selection"]
    for ours, theirs in zip(once["epochs"], ever["epochs"]):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=1e-5)
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=1e-5)


@pytest.mark.parametrize("changes", [{"layers": 2}, {"strategy": "Prev MeDyate"}, {"strategy": "Baseline"}])
def test_an_encoder_that_may_change_is_read_every_time(sentences, changes):
    values = TEXT | {"strategy": "LaRa MeDyate"} | changes
    if values["strategy"] == "Baseline":
        values = {k: v for k, v in values.items() if k not in ("budget", "ranking")}
    assert not finetune.Tuning(RunConfig.of(values).check(), "cpu").reads_once


def test_a_ranking_is_of_the_whole_network_s_gradients(sentences):
    one = RankConfig.of({key: value for key, value in TEXT.items() if key not in ("ranking", "budget")}).check()
    record, _ = finetune.rank(one, device="cpu")
    jsonschema.validate(record, SCHEMA)
    norms = runs.arrays(record)["channel_norms_mean"]
    layers = costs.layers(networks.skeleton("minilm-l6"), (32,))
    assert norms.shape == (3, sum(layer.channels for layer in layers)) and (norms >= 0).all()
    assert rankings.load("minilm-l6", record["ranking"]).order("lara") == tuple(record["lara_order"])


def test_swin_runs_from_random_weights(tmp_path, monkeypatch):
    """The machinery alone: nothing is learnt from random weights and a few digits."""
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path / "cache"))
    digits = cut(tasks.load("digits", resolution=32))
    monkeypatch.setattr(finetune.tasks, "load", lambda name, *, resolution: digits)
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "results"))
    layers = networks.get("swin-t")
    names = tuple(layer.name for layer in costs.layers(networks.skeleton("swin-t"), layers.input_shape(32)))
    values = tuple(torch.rand(len(names), generator=torch.Generator().manual_seed(0)).tolist())
    rankings.save(ranking.Ranking("swin-t", "made", names, values, values))
    one = RunConfig.of(
        {
            "network": "swin-t",
            "task": "digits",
            "weights": "random",
            "resolution": 32,
            "epochs": 1,
            "warmup_epochs": 1,
            "batch_size": 16,
            "ranking": "made",
            "budget": 112_640,
            "strategy": "LaRa MeDyate",
            "learning_rate": 0.01,
        }
    ).check()
    record, _ = finetune.run(one, device="cpu")
    jsonschema.validate(record, SCHEMA)
    assert one.batch_norm == "frozen" and record["network"]["layers"] == 52
    assert all(0 < row["used_elements"] <= 112_640 for row in record["epochs"])
