"""Sweeps: grids, state from records, and runs that survive kills, full disks and damaged files."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import jsonschema
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from medyate import networks
from medyate.cli import sweep as sweep_cli
from medyate.errors import InputError
from medyate.files import paths as storage
from medyate.ranking import smallest_k
from medyate.runs import failures, finetune, rankings
from medyate.runs import locks as claims
from medyate.runs import records as runs
from medyate.runs.config import RankConfig, RunConfig
from medyate.sweeps import cluster, grids, progress, protocols, sweep, worker

SCHEMA = json.loads((storage.CHECKOUT / "results" / "runs.schema.json").read_text())
BASE = {
    "network": "mbv2-w0.35",
    "weights": "random",
    "resolution": 32,
    "epochs": 3,
    "warmup_epochs": 1,
    "batch_size": 8,
    "learning_rate": 0.05,
    "batch_norm": "frozen",
    "ranking": "flowers12-s0-e5",
}


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    """A task "tiny" of two classes, results of one's own, one thread."""
    pixels = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for label, low in (("dark", 0), ("light", 120)):
            folder = tmp_path / "data" / "tiny" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                image = Image.fromarray(pixels.integers(low, low + 130, (32, 32, 3), np.uint8))
                image.save(folder / f"{index}.png")
    monkeypatch.setenv("MEDYATE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "results"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield tmp_path
    torch.set_num_threads(threads)


def config(strategy="LaRa MeDyate", **changes):
    values = {**BASE, "task": "tiny", "strategy": strategy, **changes}
    if strategy in ("Baseline", "Head only", "Det RGN", "SU"):
        values.pop("ranking")
    return RunConfig.of(values).check()


def numbers(record):
    """What must be the same wherever and however often a run was interrupted."""
    timed = [key for key in record["epochs"][0] if key.endswith("_seconds")]
    rows = [{key: value for key, value in row.items() if key not in timed} for row in record["epochs"]]
    dropped = ("seconds", "peak_memory_bytes", "environment", "epochs")
    return {key: value for key, value in record.items() if key not in dropped} | {"epochs": rows}


def valid(record):
    jsonschema.Draft202012Validator(SCHEMA).validate(record)
    return record


# --- grids -------------------------------------------------------------------------------------


def test_the_papers_counts():
    """Sec. 4.3: 189 runs a strategy; Fig. 3: 21 fine-tunings a network; Fig. 6: 44 points."""
    table = grids.get("table1", "paper").configs()
    for strategy in grids.NAMED:
        assert sum(one.strategy == strategy for one in table) == 189
    for strategy in grids.WITHOUT_BUDGET:
        assert sum(one.strategy == strategy for one in table) == 63
    assert len(table) == 8 * 189 + 2 * 63
    assert {one.total_epochs for one in table if one.task == "cifar-10"} == {105}
    assert len(grids.get("fig3", "paper").configs()) == 3 * 21
    assert len(grids.get("fig6", "paper").configs()) == 3 * 44
    assert len(grids.get("fig7", "paper").configs()) == 3 * 4 * 10
    assert len(grids.get("fig11", "paper").configs()) == 3 * 4 * 10


@pytest.mark.parametrize("ranking", ["food10-s0-e5", "flowers12-s0-e5"])
def test_layers_by_alpha(ranking):
    """The K that the sweep `alphas` names are what each alpha gives by the rankings of its runs (eq. 10)."""
    cost = {layer.name: layer.search_elements for layer in networks.backbone("mbv2-w0.35")}
    costs = [cost[name] for name in rankings.load("mbv2-w0.35", ranking).order("lara")]
    for alpha, layers in grids.ALPHA_LAYERS.items():
        assert layers in (None, smallest_k(costs, 27_946, alpha))
    assert {one.ranking for one in grids.get("alphas", "pack").configs()} == {"food10-s0-e5", "flowers12-s0-e5"}


@pytest.mark.parametrize("key", grids.SWEEPS, ids="-".join)
def test_grids(key):
    """Each run once, all by the same protocol, no run ranked by its own task."""
    configs = grids.SWEEPS[key].configs()
    assert configs and len({one.id for one in configs}) == len(configs)
    for one in configs:
        if isinstance(one, RunConfig) and one.ranking:
            assert not one.ranking.startswith(f"{one.task}-s")


def test_the_sweeps_runs_are_of_the_protocol_that_they_are_shown_under():
    def shown(name, scale="pack"):
        return {protocols.names_of(one.as_dict()) for one in grids.get(name, scale).configs()}

    assert shown("authors") == shown("table1", "paper") == shown("fig6", "paper") == {("authors",)}
    assert shown("fig6") == shown("fig7") == shown("fig11") == {("frozen",)}
    assert shown("fig9") == {("short",)} and shown("table1") == {("short",), ("frozen",)}
    # of the ablations those with batch norm's affine trained are of none: they are what lies between two protocols
    ablations = grids.get("ablations").configs()
    assert {one.norm_affine for one in ablations if not protocols.names_of(one.as_dict())} == {True}
    authors = grids.get("authors").configs()
    assert {one.total_epochs for one in authors if one.task == "cub50"} == {205}
    assert {one.ranking for one in authors} == {None, "flowers12-s0-e5-mean", "food10-s0-e5-mean"}


def test_figures_are_parts_of_one_another():
    """Fig. 9 and tier 1 of Fig. 6 are found in Table 1 and Figs. 7, 11: nothing runs twice."""
    for scale in ("paper", "pack"):
        ids = {
            name: {one.id for one in grids.get(name, scale).configs()}
            for name in ("fig6", "fig7", "fig9", "fig11", "table1")
        }
        assert ids["fig9"] <= ids["table1"]
        tier1 = {one.id for one in grids.get("fig6", scale).configs() if one.budget == 27_946}
        assert tier1 <= ids["fig7"] and tier1 <= ids["fig11"]


def test_shipped_records_belong_to_the_pack_grids():
    """A digest of one recorded config, and every shipped record of a pack at 1 + 9 or 1 + 4 epochs."""
    names = ("fig3", "fig6", "fig7", "fig11", "table1", "ablations", "authors", "definitions", "budgets")
    names += ("alphas", "boosts", "far")
    of_packs = {one.id for name in names for one in grids.get(name).configs()}
    assert "mbv2-w0.35-food10-lara-medyate-27946-k5-frozen-s0-4c9ab0d91a" in of_packs
    shipped = [json.loads(file.read_text()) for file in (storage.shipped() / "runs").glob("*.json")]
    for record in shipped:
        one = record["config"]
        if one["task"] in grids.PACKS and one["network"] in grids.CNNS and record["kind"] == "rank":
            assert record["id"] in of_packs
    finished = sum(record["id"] in of_packs for record in shipped)
    assert finished >= min(6, len(shipped))


def test_rankings_that_are_not_here_come_first():
    table = grids.get("table1", "paper")
    needed = table.needed(table.configs())
    assert {(one.network, one.name) for one in needed} == {
        (network, name) for network in grids.CNNS for name in ("flowers-s0-e205-mean", "food-s0-e55-mean")
    }
    assert {one.id for one in needed} <= {one.id for one in grids.get("fig3", "paper").configs()}
    assert grids.get("table1", "pack").needed(grids.get("table1", "pack").configs()) == ()


def test_declared_and_checked_configs_are_the_same():
    declared = RunConfig.of({**BASE, "task": "tiny"}).complete()
    assert declared == config() and declared.id == config().id and "declared" not in declared.as_dict()
    elsewhere = RunConfig.of({**BASE, "task": "not here", "ranking": "nor this"}).complete()
    with pytest.raises(InputError, match="unknown task 'not here'"):
        RunConfig.of(elsewhere.as_dict()).check()
    with pytest.raises(InputError, match="unknown option|unknown run option"):
        RunConfig.of({"bugdet": 1}).complete()


def test_only():
    configs = grids.get("table1").configs()
    kept = grids.only(configs, ["network=MbV2,proxyless", "seed=0", "strategy=lara-medyate", "batch_norm=frozen"])
    expected = [
        one
        for one in configs
        if one.network in ("mbv2-w0.35", "proxyless-w0.3")
        and one.seed == 0
        and one.strategy == "LaRa MeDyate"
        and one.batch_norm == "frozen"
    ]
    assert kept == expected and len(kept) == 2 * 3 * 4
    assert {one.budget for one in grids.only(configs, ["tier=1", "network=mcunet"])} == {15_936}
    assert {one.strategy for one in grids.only(configs, ["tier=none"])} == set(grids.WITHOUT_BUDGET)
    for bad, message in (
        ("seed", "allowed: KEY=VALUE"),
        ("sed=0", "unknown filter 'sed'"),
        ("seed=1", "unknown seed of this sweep '1'; allowed: 0, 42, 100"),
        ("network=mbv3", "mbv3"),
    ):
        with pytest.raises(InputError, match=message):
            grids.only(configs, [bad])
    with pytest.raises(InputError, match="sweep 'table2' has no scale 'quick'; allowed: paper, pack"):
        grids.get("table2", "quick")
    with pytest.raises(InputError, match="unknown scale 'papr'"):
        grids.get("fig6", "papr")


# --- state and estimates -----------------------------------------------------------------------


def fabricated(one, seconds=10.0, status="finished"):
    return {
        "schema": 1,
        "kind": one.kind,
        "id": one.id,
        "status": status,
        "config": one.as_dict(),
        "seconds": seconds,
        "train_images": 50,
        "epochs": [{}] * one.total_epochs,
        "environment": {"device": "abacus"},
    }


def test_state_is_read_from_the_records():
    configs = [config(seed=seed) for seed in range(6)]
    runs.write(fabricated(configs[0]))
    runs.write(fabricated(configs[1], status="interrupted"))
    failures.write(configs[2], finetune.Diverged("the loss is nan"), "a log", "cpu")
    file = runs.write(fabricated(configs[3]))
    file.write_bytes(file.read_bytes()[:100])
    with claims.claim(configs[4].id) as claim:
        claim.tell(epoch=2, epochs=4)
        # a lock says nothing to the process that holds it
        code = (
            "from medyate.runs import locks as claims; import json; "
            f"print(json.dumps(claims.running()[{configs[4].id!r}]))"
        )
        seen = json.loads(
            subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        )
        assert seen["epoch"] == 2 and seen["epochs"] == 4 and seen["pid"] == os.getpid()
    found = progress.state(configs)
    assert found.finished == (configs[0],) and found.failed == (configs[2],)
    assert found.pending == (configs[1], configs[3], configs[4], configs[5])
    assert found.damaged == (str(file),)
    data = progress.summary("some", "quick", found)
    assert (data["runs"], data["finished"], data["pending"], data["failed"]) == (6, 1, 4, 1)
    assert data["failures"] == [{"id": configs[2].id, "kind": "diverged", "message": "the loss is nan"}]
    runs.write(fabricated(configs[3]))  # a record that is whole again is read again
    assert len(progress.state(configs).finished) == 2


def test_a_failure_never_replaces_a_result():
    one = config()
    runs.write(fabricated(one))
    failures.write(one, ValueError("later"), "", "cpu")
    assert progress.state([one]).finished == (one,)
    assert runs.load(one.id)["status"] == "finished"


def test_estimate():
    """Median seconds per image by the closest of what is known, times images and epochs."""
    own = {"network": "mcunet-in1", "ranking": None, "budget": 15_936}  # no shipped record is of 32x32
    one, two = (config("Det RGN", **own, seed=seed) for seed in (0, 1))
    runs.write(fabricated(one, seconds=10.0))
    runs.write(fabricated(two, seconds=30.0))
    # a share of a stack's seconds is no speed
    shared = fabricated(config("Det RGN", **own, seed=3), seconds=0.1)
    shared["environment"] = {**shared.get("environment", {}), "stacked_runs": 12, "device": "a GPU"}
    runs.write(shared)
    todo = [config("Det RGN", **own, seed=2, epochs=7), config("SU", **own)]
    # 20 s for 50 images in 4 epochs: 0.1 s an image; SU by the network's speed
    assert progress.estimate(todo)["hours"] * 3600 == pytest.approx(0.1 * 50 * 8 + 0.1 * 50 * 4)
    assert progress.estimate(todo)["known"] == 2 and "a GPU" not in progress.estimate(todo)["devices"]
    unknown = RunConfig.of(
        {**BASE, "task": "of no size", "network": "mcunet-in1", "strategy": "Head only", "ranking": None}
    ).complete()
    assert progress.estimate([unknown]) == {"hours": None, "known": 0, "devices": []}


# --- one run, interrupted ----------------------------------------------------------------------


class Stop(Exception):
    pass


def stop_after(epoch):
    def progress(row):
        if row["epoch"] == epoch:
            raise Stop

    return progress


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy": "LaRa MeDyate"},
        {"strategy": "LaRa MeDyate", "metric": "rgn", "boosted": True, "norm_gradient": "mean_norm"},
        {"strategy": "Prev MeDyate", "batch_norm": "train", "norm_affine": True, "momentum": 0.9, "weight_decay": 1e-3},
        {"strategy": "TraDy", "execution": "dense"},
        {"strategy": "LaRa Prob Raw", "probe_batches": 2},
        {"strategy": "SU"},
        {"strategy": "Baseline", "batch_norm": "train", "momentum": 0.9},
    ],
    ids=lambda changes: changes["strategy"],
)
@pytest.mark.parametrize("epoch", [1, 3])
def test_an_interrupted_run_ends_alike(changes, epoch, monkeypatch, places):
    """Any strategy, batch norm, momentum: interrupted and continued is bit-equal to uninterrupted."""
    one = config(**{"epochs": 2, **changes})
    expected, _ = finetune.run(one, device="cpu")
    monkeypatch.setenv("MEDYATE_RESULTS", str(places / "other"))
    with pytest.raises(Stop):
        finetune.run(one, device="cpu", progress=stop_after(epoch))
    torch.manual_seed(epoch)  # nothing may hang on the global generator
    epochs = []
    found, was_there = finetune.run(one, device="cpu", progress=lambda row: epochs.append(row["epoch"]))
    assert epochs == list(range(epoch + 1, one.total_epochs + 1)) and not was_there
    assert numbers(valid(found)) == numbers(expected)


def test_an_interrupted_ranking_ends_alike(monkeypatch, places):
    values = {key: value for key, value in BASE.items() if key not in ("ranking", "epochs")}
    one = RankConfig.of({**values, "task": "tiny", "epochs": 2}).check()
    expected, _ = finetune.rank(one, device="cpu")
    arrays, layers = runs.arrays(expected), rankings.load(one.network, one.name)
    monkeypatch.setenv("MEDYATE_RESULTS", str(places / "other"))
    with pytest.raises(Stop):
        finetune.rank(one, device="cpu", progress=stop_after(2))
    found, _ = finetune.rank(one, device="cpu")
    assert numbers(valid(found)) == numbers(expected) and rankings.load(one.network, one.name) == layers
    again = runs.arrays(found)
    assert set(again) == set(arrays) and all(np.array_equal(again[name], arrays[name]) for name in arrays)


def test_a_checkpoint_that_is_cut_off_begins_anew(places):
    one = config(epochs=1)
    with pytest.raises(Stop):
        finetune.run(one, device="cpu", progress=stop_after(1))
    checkpoint = storage.own() / "checkpoints" / f"{one.id}.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    record, _ = finetune.run(one, device="cpu")
    assert len(record["epochs"]) == 2 and not checkpoint.exists()


# --- sweeps, killed ----------------------------------------------------------------------------


def begun(events):
    return [event.config.id for event in events if event.event == "begin"]


def test_a_killed_worker_loses_nothing_and_doubles_nothing(monkeypatch, places):
    """kill -9 in mid-run; the restart does exactly what is missing; results are bit-equal."""
    configs = [config(seed=seed, epochs=4) for seed in range(3)]
    assert list(sweep.run(configs, workers=2, device="cpu")) == ["finished"]
    expected = {one.id: numbers(runs.load(one.id)) for one in configs}
    monkeypatch.setenv("MEDYATE_RESULTS", str(places / "killed"))
    workers, first = {}, []

    def kill(event):
        first.append(event)
        if event.event == "begin":
            workers[event.config.id] = event.data["pid"]
        if event.event == "epoch" and event.config == configs[1] and event.data["epoch"] == 2:
            os.kill(workers[configs[1].id], signal.SIGKILL)

    outcomes = sweep.run(configs, workers=2, device="cpu", on_event=kill)
    assert [one for one, _ in outcomes["killed"]] == [configs[1]] and "signal 9" in outcomes["killed"][0][1]
    assert {one.id for one, _ in outcomes["finished"]} == {configs[0].id, configs[2].id}
    assert progress.state(configs).pending == (configs[1],) and not progress.state(configs).running
    kept = {file: file.read_bytes() for file in (storage.own() / "runs").iterdir()}

    second = []  # one worker has all threads, yet the run goes on with as many as it began with
    outcomes = sweep.run(progress.state(configs).pending, device="cpu", on_event=second.append)
    assert begun(second) == [configs[1].id] and list(outcomes) == ["finished"]
    epochs = [event.data["epoch"] for event in second if event.event == "epoch"]
    assert epochs[0] >= 3 and epochs[-1] == 5  # not from the beginning
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert {one.id: numbers(valid(runs.load(one.id))) for one in configs} == expected
    assert len(list((storage.own() / "runs").glob("*"))) == 3
    assert list((storage.own() / "checkpoints").iterdir()) == []


SWEEP_OF_TWO = """
import json, sys
from medyate.sweeps import sweep
from medyate.runs.config import RunConfig
configs = [RunConfig.of(values).complete() for values in json.load(sys.stdin)]
sweep.run(configs, device="cpu", on_event=lambda event: print(event.event, event.data.get("pid", ""), flush=True))
"""


def test_a_killed_sweep_takes_its_workers_along(places):
    configs = [config(seed=seed, epochs=30) for seed in range(2)]
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP_OF_TWO], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    process.stdin.write(json.dumps([one.as_dict() for one in configs]))
    process.stdin.close()
    pid = int(process.stdout.readline().split()[1])
    assert process.stdout.readline().startswith("epoch")
    assert claims.running()[configs[0].id]["pid"] == pid
    assert sweep.run(configs[:1], device="cpu")["busy"], "a second sweep leaves the run alone"
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 30
    while claims.running() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert claims.running() == {} and progress.state(configs).pending == tuple(configs)


# --- stacks ------------------------------------------------------------------------------------


def alike(record, expected):
    """The same record up to rounding, which training amplifies: ten times as much is allowed in each later epoch.

    A stack's grouped convolutions round unlike single ones, and two channels whose keys are nearly equal may then
    change places in a later draw. Another generator or another step would change most channels.
    """
    mine, other = (
        {(layer, channel) for layer, channels in one["selection"].items() for channel in channels}
        for one in (record, expected)
    )
    assert len(mine & other) > 0.95 * len(mine | other)
    for epoch, (row, wanted) in enumerate(zip(record["epochs"], expected["epochs"], strict=True)):
        for name in set(wanted) - {
            "train_seconds",
            "test_seconds",
            "probe_seconds",
            "selection_seconds",
            "stacked_runs",
        }:
            assert row[name] == pytest.approx(wanted[name], rel=min(1e-2, 1e-4 * 10**epoch)), name


def test_stacks_of_a_sweep(monkeypatch, places):
    """Alike runs in stacks of two, the remainder and what cannot be stacked in processes of their own."""
    configs = [config(seed=seed, epochs=1, learning_rate=0.005) for seed in range(3)]
    odd = config("TraDy", momentum=0.9, epochs=1)
    values = {key: value for key, value in BASE.items() if key not in ("ranking", "epochs")}
    rank = RankConfig.of({**values, "task": "tiny", "epochs": 1}).check()
    expected = {one.id: finetune.run(one, device="cpu")[0] for one in configs}
    monkeypatch.setenv("MEDYATE_RESULTS", str(places / "stacked"))
    events = []
    outcomes = sweep.run(
        [configs[0], odd, configs[1], rank, configs[2]], workers=2, stack=2, device="cpu", on_event=events.append
    )
    assert list(outcomes) == ["finished"] and len(outcomes["finished"]) == 5
    processes = {}
    for event in events:
        if event.event == "begin":
            processes.setdefault(event.data["pid"], []).append(event.config)
    assert {tuple(one.id for one in group) for group in processes.values()} == {
        (odd.id,),
        (rank.id,),
        (configs[2].id,),
        (configs[0].id, configs[1].id),
    }
    assert [event.event for event in events if event.config == configs[1]] == ["begin", "epoch", "epoch", "end"]
    for one in configs:
        record = valid(runs.load(one.id))
        alike(record, expected[one.id])
        assert record["environment"].get("stacked_runs") == (None if one == configs[2] else 2)
    assert list((storage.own() / "checkpoints").iterdir()) == []


def test_a_killed_stack_loses_nothing_and_doubles_nothing(monkeypatch, places):
    """kill -9 in mid-run: what is recorded stays, the others go on at their checkpoints; one of them alone."""
    configs = [config(seed=seed, epochs=epochs, learning_rate=0.005) for seed, epochs in ((0, 1), (1, 3), (2, 3))]
    expected = {one.id: finetune.run(one, device="cpu")[0] for one in configs}
    monkeypatch.setenv("MEDYATE_RESULTS", str(places / "killed"))
    pids, first = {}, []

    def kill(event):
        first.append(event)
        if event.event == "begin":
            pids[event.config.id] = event.data["pid"]
        if event.event == "epoch" and event.config == configs[2] and event.data["epoch"] == 2:
            os.kill(pids[configs[2].id], signal.SIGKILL)

    outcomes = sweep.run(configs, stack=3, device="cpu", on_event=kill)
    assert len(set(pids.values())) == 1
    assert [one for one, _ in outcomes["finished"]] == configs[:1] and [
        one for one, _ in outcomes["killed"]
    ] == configs[1:]
    assert f"log {worker.log_of([one.id for one in configs])}" in outcomes["killed"][0][1]
    kept = runs.path(configs[0].id).read_bytes()
    second = []
    for some in (configs[1:2], configs):  # the second start finds only the last one to do
        pending = [one for one in progress.state(configs).pending if one in some]
        assert list(sweep.run(pending, stack=3, device="cpu", on_event=second.append)) == ["finished"]
    assert begun(second) == [configs[1].id, configs[2].id]
    assert min(event.data["epoch"] for event in second if event.event == "epoch") >= 2
    assert runs.path(configs[0].id).read_bytes() == kept and not progress.state(configs).pending
    for one in configs:
        alike(valid(runs.load(one.id)), expected[one.id])


@given(st.integers(0, 40), st.integers(1, 9), st.integers(1, 9))
def test_shards_keep_stacks_together(count, tasks, stack):
    configs = [replace(CONFIG, seed=seed, batch_norm=("train", "frozen")[seed % 3 == 0]) for seed in range(count)]
    parts = cluster.shards(configs, tasks, stack)
    assert sorted(values["seed"] for part in parts for _, values in part) == list(range(count))
    # a task that does its part in stacks needs no more of them than all the runs on one machine would
    needed = sum(-(-sum(one.batch_norm == norm for one in configs) // stack) for norm in ("train", "frozen"))
    made = sum(
        -(-sum(values["batch_norm"] == norm for _, values in part) // stack)
        for part in parts
        for norm in ("train", "frozen")
    )
    assert made == needed


# --- failures ----------------------------------------------------------------------------------


def test_failures_are_recorded_and_stop_no_other(places):
    """Diverged, missing data, and a good one; only `retry` takes up the failed."""
    bad = config("Baseline", learning_rate=1e38)
    shutil.copytree(places / "data" / "tiny", places / "data" / "gone")
    missing = config(task="gone")
    shutil.rmtree(places / "data" / "gone")
    configs = [bad, missing, config()]
    outcomes = sweep.run(configs, device="cpu")
    assert {name: len(ended) for name, ended in outcomes.items()} == {"failed": 2, "finished": 1}
    found = progress.state(configs)
    assert found.failed == (bad, missing) and found.pending == ()
    records = [valid(failures.load(one.id)) for one in (bad, missing)]
    assert [record["error"]["kind"] for record in records] == ["diverged", "input"]
    for text in (records[0]["error"]["traceback"], records[0]["log"]):
        assert "Diverged" in text and 'File "medyate/runs/finetune.py"' in text and str(storage.CHECKOUT) not in text
    ids = [record["id"] for record in failures.every()]  # beside those that the repository ships
    assert {bad.id, missing.id} <= set(ids) and ids == sorted(set(ids))
    assert records[1]["config"] == missing.as_dict()
    assert bad.id not in [record["id"] for record in runs.every()]

    shutil.copytree(places / "data" / "tiny", places / "data" / "gone")
    assert list(sweep.run([missing], device="cpu")) == ["finished"]
    assert failures.load(missing.id) is None and progress.state(configs).failed == (bad,)


def test_a_truncated_record_is_put_aside_and_run_anew(places):
    one = config(epochs=1)
    expected, _ = finetune.run(one, device="cpu")
    file = runs.path(one.id)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    assert progress.state([one]).damaged == (str(file),)
    told = []
    assert worker.execute(one.kind, one.as_dict(), device="cpu", tell=told.append)["outcome"] == "finished"
    assert "damaged record moved" in told[0]["message"]
    assert file.with_name(f"{file.name}.damaged").read_bytes() == whole[: len(whole) // 2]
    assert numbers(runs.load(one.id)) == numbers(expected)


@pytest.mark.parametrize("what", ["checkpoint", "record"])
def test_a_full_disk_is_reported_and_leaves_the_run_pending(what, monkeypatch):
    one = config(epochs=1)
    ending = {"checkpoint": ".pt", "record": ".json"}[what]
    write = storage.write_bytes

    def full(path, content):
        if path.name.endswith(ending):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write(path, content)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "write_bytes", full)
        ended = worker.execute(one.kind, one.as_dict(), device="cpu")
    assert ended["outcome"] == "full" and "No space left" in ended["message"]
    assert progress.state([one]).pending == (one,)
    assert worker.execute(one.kind, one.as_dict(), device="cpu")["outcome"] == "finished"


def test_a_really_full_disk(places, monkeypatch):
    """A file system of 1 MB: the sweep stops and says so, what was there stays, a larger one finishes."""
    results = places / "small"
    results.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(results)], capture_output=True)
    if mounted.returncode:
        pytest.skip("file systems cannot be mounted here")
    try:
        monkeypatch.setenv("MEDYATE_RESULTS", str(results))
        configs = [config(seed=seed, epochs=1) for seed in range(2)]
        outcomes = sweep.run(configs, device="cpu")  # a checkpoint of MbV2 takes 3 MB
        assert list(outcomes) == ["full"] and len(outcomes["full"]) == 1 and "No space left" in outcomes["full"][0][1]
        assert progress.state(configs).pending == tuple(configs)
        subprocess.run(["mount", "-o", "remount,size=64m", str(results)], check=True)
        assert list(sweep.run(configs, workers=2, device="cpu")) == ["finished"]
    finally:
        subprocess.run(["umount", str(results)], check=True)


def test_a_ranking_comes_before_the_runs_that_need_it(places):
    values = {key: value for key, value in BASE.items() if key not in ("ranking", "epochs")}
    shutil.copytree(places / "data" / "tiny", places / "data" / "other")
    rank = RankConfig.of({**values, "task": "other", "epochs": 1}).check()
    run = RunConfig.of({**BASE, "epochs": 1, "task": "tiny", "ranking": rank.name}).complete()
    assert list(sweep.run([run], device="cpu")) == ["blocked"] and progress.state([run]).pending == (run,)
    grid = grids.Sweep("own", "quick", "", (), (grids.Grid("rank", {"task": ("other",)}, {**values, "epochs": 1}),))
    assert grid.needed([run]) == (rank,)
    events = []
    outcomes = sweep.run([run, rank], workers=2, device="cpu", on_event=events.append)
    assert begun(events) == [rank.id, run.id] and len(outcomes["finished"]) == 2
    assert grid.needed([run]) == ()


# --- commands ----------------------------------------------------------------------------------


@pytest.fixture
def small_sweep(monkeypatch):
    small = grids.Sweep(
        "fig6", "quick", "two runs", (grids.Grid("run", {"seed": (0, 1)}, {**BASE, "epochs": 1, "task": "tiny"}),)
    )
    monkeypatch.setattr(grids, "SWEEPS", {**grids.SWEEPS, ("fig6", "quick"): small})
    return small


def command(*words):
    return CliRunner().invoke(sweep_cli.sweep_group, list(words), catch_exceptions=False)


def test_commands(small_sweep):
    listed = json.loads(command("list", "--json").stdout)
    assert len(listed["sweeps"]) == len(grids.SWEEPS)
    ran = command("run", "fig6", "--scale", "quick", "--device", "cpu", "--only", "seed=1", "--json")
    data = json.loads(ran.stdout)
    assert ran.exit_code == 0 and (data["runs"], data["finished"], data["pending"], data["failed"]) == (1, 1, 0, 0)
    shown = json.loads(command("show", "fig6", "--scale", "quick", "--json").stdout)
    assert (shown["runs"], shown["finished"], shown["pending"], shown["failed"]) == (2, 1, 1, 0)
    assert shown["estimated_runs"] == 1 and shown["estimated_hours"] > 0
    first = small_sweep.configs()[0]
    failures.write(first, ValueError("an accident"), "", "cpu")
    assert "1 failed runs are left out" in command("run", "fig6", "--scale", "quick", "--device", "cpu").stderr
    assert "an accident" in command("status", "fig6", "--scale", "quick").stdout
    again = command("retry", "fig6", "--scale", "quick", "--device", "cpu")
    assert again.exit_code == 0 and "2 runs, 2 finished, 0 pending, 0 failed" in again.stdout
    assert "nothing is pending" in command("submit", "fig6", "--scale", "quick", "--slurm").stdout
    with pytest.raises(InputError, match="--slurm"):
        command("submit", "fig6", "--scale", "quick")


def test_stacks_by_command(small_sweep, monkeypatch):
    ran = command("run", "fig6", "--scale", "quick", "--device", "cpu", "--stack", "2", "--json")
    assert ran.exit_code == 0 and json.loads(ran.stdout)["finished"] == 2
    assert {runs.load(one.id)["environment"]["stacked_runs"] for one in small_sweep.configs()} == {2}
    with pytest.raises(InputError, match="stack 0 is out of range"):
        command("run", "fig6", "--scale", "quick", "--stack", "0", "--device", "cpu")
    with pytest.raises(
        InputError, match="--cuda-graphs with --stack 2 on device 'cpu'; allowed: a stack of at least 2 on cuda"
    ):
        command("run", "fig6", "--scale", "quick", "--stack", "2", "--cuda-graphs", "--device", "cpu")
    grid = grids.Grid("run", {"seed": (3, 4)}, {**BASE, "task": "tiny", "momentum": 0.9})
    monkeypatch.setitem(grids.SWEEPS, ("fig6", "quick"), grids.Sweep("fig6", "quick", "", (grid,)))
    with pytest.raises(InputError, match="--stack 2: no run of these can be stacked: momentum 0.9 cannot be stacked"):
        command("run", "fig6", "--scale", "quick", "--stack", "2", "--device", "cpu")


# --- records and clusters ----------------------------------------------------------------------


def test_shipped_records_are_valid():
    validator = jsonschema.Draft202012Validator(SCHEMA)
    for file in (file for folder in ("runs", "failed") for file in (storage.shipped() / folder).glob("*.json")):
        record = valid(json.loads(file.read_text()))
        assert record["id"] == file.stem
        assert (record["status"] == "failed") == (file.parent.name == "failed")
        assert not re.search(r'File \\"/|/home/|/root/', file.read_text())  # no path of the machine
        broken = {**record, "config": {**record["config"], "seed": "0"}}
        assert not validator.is_valid(broken)


@given(st.integers(0, 4), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_slurm_times(days, hours, mins, seconds):
    total = ((days * 24 + hours) * 60 + mins) * 60 + seconds
    texts = [f"{days}-{hours:02}:{mins:02}:{seconds:02}", f"{24 * days + hours}:{mins}:{seconds}"]
    for text in texts:
        if total < 60:
            with pytest.raises(InputError, match="too short"):
                cluster.minutes(text)
        else:
            assert cluster.minutes(text) == -(-total // 60)


def test_slurm_times_of_few_parts():
    assert [cluster.minutes(text) for text in ("90", "90:00", "2-03", "2-03:30")] == [90, 90, 3060, 3090]
    with pytest.raises(InputError, match="soon"):
        cluster.minutes("soon")


@given(st.integers(0, 50), st.integers(1, 60))
def test_shards_hold_each_run_once(count, tasks):
    configs = [replace(CONFIG, seed=seed) for seed in range(count)]
    parts = cluster.shards(configs, tasks)
    assert sorted(values["seed"] for part in parts for _, values in part) == list(range(count))
    assert len(parts) == min(count, tasks)
    if parts:
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


CONFIG = RunConfig.of({**BASE, "task": "tiny"}).complete()


def test_flat_tables_hold_what_the_records_hold():
    """Every number of a record that is not in a list is found in its row, and every epoch in its own."""
    from medyate.runs import tables as flatten

    one, two = config(epochs=1), config("Head only", epochs=2)
    records = {record["id"]: record for record in (finetune.run(each, device="cpu")[0] for each in (one, two))}
    table = flatten.table().set_index("id").loc[list(records)]
    for run_id, record in records.items():
        row = table.loc[run_id]
        assert row["config.strategy"] == record["config"]["strategy"] and row["config.seed"] == record["config"]["seed"]
        assert row["search_space.elements"] == record["search_space"]["elements"]
        assert row["last.used_elements"] == record["epochs"][-1]["used_elements"]
        assert row["environment.threads"] == 1
    csv = flatten.table().to_csv(index=False).splitlines()
    assert csv[0].count(",") == table.shape[1] and ",27946," in next(line for line in csv if one.id in line)
    epochs = flatten.table(epochs=True)
    for run_id, record in records.items():
        found = epochs[epochs["id"] == run_id]
        assert found["epoch.train_loss"].tolist() == [row["train_loss"] for row in record["epochs"]]
    assert flatten.table("rank")["config.task"].isin(grids.PACKS).any()


def test_the_size_of_table_1():
    """benchmarks/throughput.py's estimate: seven tasks' sizes and epochs, 8 x 9 + 2 x 3 runs of each by network."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("throughput", storage.CHECKOUT / "benchmarks" / "throughput.py")
    throughput = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(throughput)
    sizes = {
        "cifar-10": (50_000, 10_000, 105),
        "cifar-100": (50_000, 10_000, 55),
        "cub": (5_994, 5_794, 205),
        "flowers": (2_040, 6_149, 205),
        "food": (75_750, 25_250, 55),
        "pets": (3_680, 3_669, 205),
        "vww": (115_228, 8_059, 55),
    }
    each = 3 * (8 * 9 + 2 * 3)
    train, test = (each * sum(one[split] * one[2] for one in sizes.values()) for split in (0, 1))
    assert throughput.table1_images() == (7 * each, train, test)
