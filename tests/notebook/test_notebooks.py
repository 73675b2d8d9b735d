"""The notebooks: with other parameters, with wrong ones, from other folders; and what they share."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medyate import notebook, ranking, strategies
from medyate.errors import InputError
from medyate.paper import values as paper
from medyate.runs import rankings

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


def run_record(accuracy, **config):
    """A record as a finished run writes it, with made-up numbers, for a network of the paper."""
    strategy = strategies.get(config.get("strategy", "LaRa MeDyate"))
    defaults = {
        "network": "mbv2-w0.35",
        "weights": "imagenet",
        "task": "food10",
        "strategy": strategy.name,
        "budget": 27_946,
        "epochs": 5,
        "warmup_epochs": 1,
        "seed": 0,
        "resolution": 128,
        "batch_size": 32,
        "learning_rate": 0.125,
        "momentum": 0.0,
        "weight_decay": 0.0,
        "batch_norm": "train",
        "norm_affine": False,
        "layers": None,
        "order": strategy.order,
        "metric": strategy.metric,
        "boosted": strategy.boosted,
        "ranking": "flowers12" if strategy.order else None,
        "norm_gradient": "last",
        "probe_batches": 8,
        "fill": "skip",
        "count": "paper",
        "depthwise": "eq4",
        "execution": "subnet",
    }
    config = defaults | config
    k = config["layers"] or 20
    budget = config["budget"] or 0
    epochs = [
        {
            "epoch": epoch,
            "learning_rate": 0.1,
            "train_loss": 1.0,
            "train_top1_percent": 50.0,
            "test_loss": 1.0,
            "test_top1_percent": accuracy,
            "train_seconds": 2.0,
            "test_seconds": 0.5,
            "selected_channels": 300,
            "selected_layers": 15,
            "used_elements": budget - 100,
            "weight_elements": 20_000,
            "activation_elements": 7_846,
            "weight_sparsity_percent": 93.0 + 0.1 * epoch,
            "activation_sparsity_percent": 99.1,
            "flops_saved_percent": 95.0,
            "explored_percent": 100 * (1 - 0.8**epoch),
            "selection_seconds": 0.01,
            "probe_seconds": 0.0,
        }
        for epoch in range(1, config["epochs"] + config["warmup_epochs"] + 1)
    ]
    digest = abs(hash(json.dumps(config, sort_keys=True)))
    return {
        "schema": 1,
        "kind": "run",
        "id": f"run-{digest}",
        "status": "finished",
        "config": config,
        "network": {"total_elements": 1_252_320, "weight_elements": 288_864, "activation_elements": 963_456},
        "search_space": {"K": k, "layers": [], "elements": 9_000 * k, "alpha": budget / (9_000 * k)},
        "epochs": epochs,
        "test_top1_percent": accuracy,
        "seconds": 15.0,
        "peak_memory_bytes": 1,
        "selection": {},
        "train_images": 1_500,
        "test_images": 500,
        "classes": 10,
        "environment": {"device": "cpu", "commit": "0" * 40},
        "arrays": None,
    }


def rank_record(task, seed, folder, epochs=6, network="mbv2-w0.35"):
    """A record as a finished ranking writes it, and its arrays, with made-up norms."""
    layers = notebook.backbone(network)
    generator = np.random.default_rng([seed, len(task)])
    channels = sum(layer.channels for layer in layers)
    base = np.random.default_rng(0).lognormal(size=channels) * 0.1
    norms = np.stack([base * generator.lognormal(sigma=0.3 / (1 + e), size=channels) / (1 + e) for e in range(epochs)])
    owner = np.repeat(np.arange(len(layers)), [layer.channels for layer in layers])
    lara = [float(np.sqrt((norms[:, owner == i] ** 2).sum()) / layer.search_elements) for i, layer in enumerate(layers)]
    rgn = [float(norms[:, owner == i].sum() / layer.channel_elements) for i, layer in enumerate(layers)]
    config = {
        "network": network,
        "task": task,
        "epochs": epochs - 1,
        "warmup_epochs": 1,
        "seed": seed,
        "weights": "imagenet",
        "resolution": 128,
        "batch_size": 32,
        "learning_rate": 0.125,
        "batch_norm": "train",
        "depthwise": "eq4",
    }
    name = f"rank-{network}-{task}-s{seed}"
    arrays = {"channel_norms_mean": norms, "channel_norms_last": norms, "layer_of_channel": owner}
    np.savez_compressed(folder / f"{name}.npz", **{key: np.asarray(value) for key, value in arrays.items()})
    return {
        "schema": 1,
        "kind": "rank",
        "id": name,
        "status": "finished",
        "config": config,
        "arrays": f"{name}.npz",
        "layers": [layer.name for layer in layers],
        "lara": lara,
        "layer_rgn": rgn,
        "epochs": [],
        "seconds": 1.0,
        "test_top1_percent": 75.0,
        "environment": {"device": "cpu", "commit": "0" * 40},
    }


@pytest.fixture
def records(tmp_path, monkeypatch):
    """Writes records into a folder of one's own, and hides those that ship with the checkout."""
    from medyate.files import paths as storage

    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("MEDYATE_FIGURES", str(tmp_path / "figures"))
    shipped = storage.folders("paper")
    monkeypatch.setattr(storage, "folders", lambda kind: shipped if kind == "paper" else [tmp_path / "results" / kind])
    folder = tmp_path / "results" / "runs"
    folder.mkdir(parents=True)

    def write(*found):
        for record in found:
            (folder / f"{record['id']}.json").write_text(json.dumps(record))

    return write


def papermill(name, tmp_path, cwd=None, **parameters):
    """Execute a notebook as a user would; returns the process and the texts that it displayed."""
    words = [sys.executable, "-m", "papermill", str(ROOT / "notebooks" / f"{name}.ipynb"), str(tmp_path / "out.ipynb")]
    for key, value in parameters.items():
        words += ["-p", key, str(value)]
    environment = {"MEDYATE_FIGURES": str(tmp_path / "figures")}
    import os

    done = subprocess.run(
        [*words, "-k", "python3", "--no-progress-bar"],
        capture_output=True,
        text=True,
        cwd=cwd or tmp_path,
        env=os.environ | environment,
        timeout=240,
        stdin=subprocess.DEVNULL,
    )
    out = tmp_path / "out.ipynb"
    shown = ""
    if out.exists():
        for cell in json.loads(out.read_text())["cells"]:
            for output in cell.get("outputs", []):
                shown += "".join(output.get("text", [])) + json.dumps(output.get("data", {}), ensure_ascii=False)
    return done, shown


# --- the files ---


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_is_stripped_paired_and_has_one_cell_of_parameters(path):
    import jupytext

    content = json.loads(path.read_text())
    assert all(not cell.get("outputs") and cell.get("execution_count") is None for cell in content["cells"])
    tagged = [cell for cell in content["cells"] if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) == 1
    lines = [line for line in "".join(tagged[0]["source"]).splitlines() if line.strip()]
    assert 1 <= len(lines) <= 8
    assert all(" = " in line and ": " in line.split("=")[0] and "  # " in line for line in lines), lines
    script = jupytext.read(path.with_suffix(".py"))
    assert [cell.source for cell in script.cells] == ["".join(cell["source"]) for cell in content["cells"]]
    assert not any("raises-exception" in cell["metadata"].get("tags", []) for cell in content["cells"])


def test_there_is_a_notebook_for_every_figure_and_table():
    wanted = {f"fig{number}" for number in range(1, 12)} | {"table1", "table2", "table3"}
    assert wanted <= {path.stem for path in NOTEBOOKS}


# --- executed ---


def test_fig6_for_one_budget_from_another_folder(tmp_path):
    done, shown = papermill("fig6", tmp_path, budget=27946)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Passed unknown parameter" not in done.stderr and "data:image/svg+xml" in shown
    assert {path.suffix for path in (tmp_path / "figures").glob("fig6a.*")} == {".svg", ".pdf", ".csv"}
    table = pd.read_csv(tmp_path / "figures" / "fig6a.csv")
    assert set(table.series) == {"27,946 (110 kB)"} and set(table[table.source == "paper"].layers) >= {5, 20, 52}


def test_fig6_where_nothing_was_recorded_says_so_and_how_to_run_it(tmp_path):
    done, shown = papermill("fig6", tmp_path, network="proxyless-w0.3", task="digits", epochs=7)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Nothing recorded" in shown
    assert (
        "medyate fig6 -p network proxyless-w0.3 -p task digits -p budget all -p epochs 7 -p seeds 0 -p protocol frozen "
        "-p ranking declared -p mode missing" in shown
    )
    assert "data:image/svg+xml" in shown  # the paper's curves


@pytest.mark.parametrize(
    ("name", "parameters", "files"),
    [
        ("fig2", {"length": 9, "tasks": "digits"}, {"fig2"}),
        ("fig9", {"network": "mcunet-in1", "budget": 15936}, {"fig9a", "fig9b", "fig9-bytes"}),
        ("fig10", {"group": "SwinT", "collapsed": False}, {"fig10-swint"}),
        ("table1", {"networks": "mcunet,proxyless", "tasks": "food10,cub50"}, set()),
    ],
)
def test_other_parameters(tmp_path, name, parameters, files):
    done, shown = papermill(name, tmp_path, **parameters)
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Passed unknown parameter" not in done.stderr
    figures = tmp_path / "figures"
    assert {path.stem for path in figures.glob("*.svg")} == files
    assert all((figures / f"{name}.{end}").stat().st_size > 500 for name in files for end in ("svg", "pdf"))


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        (
            "fig6",
            {"budget": "abc"},
            "budget 'abc' is not an integer; allowed: a number of elements such as 27946, or 'all'",
        ),
        ("fig6", {"network": "resnet"}, "unknown network 'resnet'; allowed: "),
        ("fig5", {"layer": "b99.dw"}, "unknown layer 'b99.dw'; allowed: stem, b0.dw"),
        ("fig8", {"networks": "mbv2-w0.35,vgg"}, "unknown network 'vgg'; allowed: "),
    ],
)
def test_wrong_parameters_end_in_one_line_before_anything_is_computed(tmp_path, name, parameters, message):
    done, shown = papermill(name, tmp_path, **parameters)
    assert done.returncode != 0
    lines = [line for line in done.stderr.splitlines() if "InputError: " in line]
    assert lines and message in lines[-1]
    assert "data:image" not in shown and not (tmp_path / "figures").exists()


# --- parameters ---


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"network": 3}, "network 3 is not a name; allowed: mbv2-w0.35"),
        ({"task": "nowhere"}, "unknown task 'nowhere'"),
        ({"budget": 0, "network": "mbv2-w0.35"}, "budget 0 is out of range"),
        (
            {"budget": 24, "network": "mbv2-w0.35"},
            "budget 24 is below the cheapest channel of 'mbv2-w0.35'; allowed: at least 25",
        ),
        ({"budget": True}, "budget True is not an integer"),
        ({"budget": 27946.0}, "budget 27946.0 is not an integer"),
        ({"epochs": "ten"}, "epochs 'ten' is out of range"),
        ({"epochs": 0}, "epochs 0 is out of range"),
        ({"seeds": "a,b"}, "seeds 'a,b' are not seeds"),
        ({"seeds": []}, "seeds [] are not seeds"),
        ({"seeds": -1}, "seeds -1 are not seeds"),
        ({"mode": "rerun"}, "unknown mode 'rerun'; allowed: recorded, missing, fresh"),
        ({"strategy": "Magic"}, "unknown strategy 'Magic'; allowed: SU, Det RGN"),
        ({"networks": 7}, "networks 7 is not a list of names; allowed: 'all', mbv2-w0.35"),
        ({"layer": 1.5}, "layer 1.5 is not a layer"),
    ],
)
def test_parameters_quote_what_is_wrong_and_list_what_is_allowed(records, given, message):
    with pytest.raises(InputError) as caught:
        notebook.Parameters("fig6", **given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_parameters_take_what_papermill_gives(records):
    config = notebook.Parameters(
        "fig6", network="MbV2-w0.35", task="DIGITS", budget=27946, seeds="0, 42", mode="recorded"
    )
    assert (config.network, config.task, config.budgets, config.seeds) == ("mbv2-w0.35", "digits", (27946,), (0, 42))
    with pytest.raises(dataclasses.FrozenInstanceError):
        config.budget = 1
    assert config.command() == (
        "medyate fig6 -p network mbv2-w0.35 -p task digits -p budget 27946 -p seeds 0,42 -p mode missing"
    )
    assert notebook.Parameters("fig6", network="mcunet", budget="all").budgets[::2] == paper.budgets("mcunet-in1")


# --- recorded runs ---


def test_a_protocol_is_what_its_declaration_says():
    from medyate.sweeps import protocols

    def names(**changes):
        return protocols.names_of(run_record(60, **changes)["config"])

    assert names() == ("short",) and names(batch_norm="frozen") == ("frozen",)
    assert names(norm_affine=True, warmup_epochs=5, epochs=50) == ("authors",)
    # other epochs than the paper's of the task, another warm-up, step or fill: none
    for changes in (
        {"norm_affine": True, "warmup_epochs": 5, "epochs": 100},
        {"norm_affine": True},
        {"warmup_epochs": 5},
        {"learning_rate": 0.05},
        {"fill": "stop"},
        {"execution": "dense"},
        {"norm_gradient": "mean"},
    ):
        assert names(**changes) == ()
    # strategy, K, ranking and what a page varies are none of it
    assert names(strategy="SU", layers=None, ranking=None, seed=7, epochs=3, task="digits", resolution=32) == ("short",)
    assert names(network="minilm-l6", task="rte", batch_norm="frozen", learning_rate=0.03) == ("short", "frozen")
    assert [protocols.get("authors").epochs(task) for task in ("food10", "cifar10", "cub50", "own")] == [
        50,
        100,
        200,
        None,
    ]
    # never a ranking of the task itself
    for one in protocols.PROTOCOLS.values():
        assert not any(one.ranking(task).startswith(f"{task}-") for task in protocols.PAPER_EPOCHS)
    with pytest.raises(InputError, match="unknown protocol 'long'; allowed: short, authors, frozen"):
        protocols.get("long")


def test_a_page_shows_one_protocol_and_one_ranking_and_says_which_others_exist(records):
    authors = {"norm_affine": True, "warmup_epochs": 5, "epochs": 50}
    records(
        run_record(60),
        run_record(70, **authors),
        run_record(71, seed=1, **authors),
        run_record(80, batch_norm="frozen"),
    )
    records(run_record(61, ranking="trady-fig9"), run_record(62, strategy="SU", layers=None))

    def shown(**changes):
        config = notebook.Parameters("fig8", networks="all", tasks="all", seeds="all", epochs="all", **changes)
        found = notebook.strategy_runs(config)
        return sorted(found.test_top1_percent), notebook.other_ways(config)

    accuracies, others = shown()
    assert (
        accuracies == [60, 62]
        and "`authors` (2 runs), `frozen` (1 runs)" in others
        and "`trady-fig9` (1 runs)" in others
    )
    assert shown(ranking="trady-fig9")[0] == [61, 62]
    accuracies, others = shown(protocol="authors")
    assert accuracies == [70, 71] and "`short` (3 runs)" in others
    assert shown(protocol="frozen")[0] == [80]


def test_runs_that_no_page_can_show_are_listed_with_the_reason(records):
    shown = [run_record(60), run_record(60, layers=7), run_record(60, order="rgn", metric="rgn", layers=9)]
    shown += [run_record(60, boosted=True), run_record(60, ranking="some"), run_record(60, strategy="SU", layers=None)]
    lost = [run_record(60, learning_rate=0.05), run_record(60, strategy="LaRa Det Raw", metric="rgn")]
    lost.append(run_record(60, network="minilm-l6", task="rte", batch_norm="frozen", learning_rate=0.5))
    records(*shown, *lost)
    found = notebook.unused()
    assert dict(zip(found["id"], found.why)) == {
        lost[0]["id"]: "of no declared protocol",
        lost[1]["id"]: "a strategy with options that no figure has",
        lost[2]["id"]: "a learning rate that the sweeps of its network do not declare",
    }


def test_flags_are_chance_and_the_settings_own_head(records):
    records(run_record(70, strategy="Head only", budget=None), run_record(69.9), run_record(70.1, seed=1))
    records(run_record(12.6, seed=2), run_record(12.8, seed=3), run_record(50, batch_norm="frozen"))
    found = notebook.flagged(notebook.table()).set_index("test_top1_percent").flag
    assert found.to_dict() == {
        70: "",
        69.9: "below Head only",
        70.1: "",
        12.8: "below Head only",
        12.6: "at chance",  # 10 % and two standard errors over 500 images are 12.68 %
        50: "",  # no Head only of its protocol to compare with
    }


def test_over_layers_takes_one_protocol_and_one_strategy(records):
    records(
        *[run_record(60 + k / 10, layers=k) for k in (5, 20, 52)],
        run_record(99, layers=10, strategy="LaRa TraDy"),
        run_record(98, layers=10, batch_norm="frozen"),
        run_record(97, layers=10, metric="rgn"),
        run_record(96, layers=10, seed=1),
        run_record(61.9),  # K = 20 by the rule: the same run as with K given
    )
    config = notebook.Parameters("fig6", network="mbv2-w0.35", task="food10", budget="all", epochs=5, seeds=0)
    found = notebook.over_layers(config, {"x": strategies.get("LaRa MeDyate")})
    assert list(found.layers) == [5, 20, 52] and set(found.series) == {"x"}
    assert set(found.columns) == set(notebook.OVER_LAYERS)
    best = notebook.best_alphas(found, "mbv2-w0.35")
    assert list(best.layers) == [52]
    assert best.alpha_percent[0] == pytest.approx(100 * 27_946 / (9_000 * 52))
    assert best.budget_percent[0] == pytest.approx(100 * 27_946 / 1_252_320)
    # the same with another metric is another series, and Prev MeDyate is LaRa MeDyate by RGN order
    wanted = {
        "rgn": strategies.with_options(strategies.get("LaRa MeDyate"), metric="rgn"),
        "prev": strategies.with_options(strategies.get("LaRa MeDyate"), order="rgn"),
    }
    records(run_record(50, layers=15, strategy="Prev MeDyate"))
    found = notebook.over_layers(config, wanted)
    assert dict(zip(found.series, found.top1_percent)) == {"rgn": 97, "prev": 50}


def test_cells_pair_only_what_differs_in_nothing_but_the_strategy(records):
    for seed in (0, 1, 2):
        records(run_record(70 + seed, seed=seed), run_record(69 + 0.9 * seed, seed=seed, strategy="LaRa TraDy"))
    records(run_record(10, strategy="SU", batch_norm="frozen"), run_record(99, layers=3, seed=5))
    # a seed that one of them lacks, and a cell of one seed
    records(run_record(99, seed=6), run_record(90, task="cub50"), run_record(10, task="cub50", strategy="LaRa TraDy"))
    config = notebook.Parameters("fig8", networks="all", tasks="all", seeds="all", epochs="all")
    runs = notebook.strategy_runs(config)
    cells = notebook.cells(runs)
    assert list(cells.columns) == ["LaRa TraDy", "LaRa MeDyate"]
    assert cells.to_numpy().tolist() == [[pytest.approx(69.9), 71]] and notebook.leader(cells) == "LaRa MeDyate"
    used = notebook.complete(runs, ["LaRa TraDy", "LaRa MeDyate"])
    assert sorted(used.seed) == [0, 0, 1, 1, 2, 2] and set(used.task) == {"food10"}
    assert notebook.cells(runs, outcome="test_loss").to_numpy().tolist() == [[1, 1]]


def test_twins_differ_in_one_entry_alone(records):
    records(
        run_record(70),
        run_record(64, batch_norm="frozen"),
        run_record(71, seed=1),
        run_record(65, seed=2, batch_norm="frozen"),
    )
    records(
        run_record(72, strategy="SU", layers=None),
        run_record(60, strategy="SU", layers=None, batch_norm="frozen"),
        run_record(50, strategy="SU", execution="dense"),
    )
    found = notebook.twins(notebook.table(), "batch_norm", ("frozen", "train"))
    assert sorted(zip(found.strategy, found.frozen, found.train)) == [("LaRa MeDyate", 64, 70), ("SU", 60, 72)]
    assert notebook.twins(notebook.table(), "execution", ("subnet", "dense"))["dense"].tolist() == [50]


def test_nothing_recorded_gives_empty_tables_not_errors(records):
    config = notebook.Parameters("fig6", network="mcunet", task="digits", budget="all", seeds="all", epochs="all")
    assert notebook.over_layers(config, {"x": strategies.get("LaRa MeDyate")}).empty
    assert notebook.cells(notebook.strategy_runs(config)).empty
    assert notebook.protocol_note(notebook.over_layers(config, {})) == "No runs of ours."


def test_the_grid_is_the_papers_and_keeps_to_the_pages_protocol(records, tmp_path):
    layers = [layer.name for layer in notebook.backbone("mbv2-w0.35")]
    (tmp_path / "results" / "rankings").mkdir()
    rankings.save(ranking.Ranking("mbv2-w0.35", "some", tuple(layers), (1.0,) * 52, (1.0,) * 52))
    config = notebook.Parameters(
        "fig7",
        network="mbv2-w0.35",
        task="digits",
        budget=27946,
        epochs=5,
        seeds="0,1",
        mode="missing",
        protocol="frozen",
    )
    wanted = {"prev": strategies.with_options(strategies.get("LaRa MeDyate"), order="rgn", metric="rgn")}
    grid = notebook.grid_over_layers(config, wanted)
    assert [one.layers for one in grid] == [k for k in sorted(set(paper.curves("fig7").layers)) for _ in (0, 1)]
    assert {(one.batch_norm, one.warmup_epochs, one.order, one.metric) for one in grid} == {("frozen", 1, "rgn", "rgn")}
    recorded = dataclasses.replace(config, mode="recorded")
    assert notebook.grid_over_layers(recorded, wanted) == []


@pytest.mark.parametrize(("mode", "forced"), [("missing", False), ("fresh", True)])
def test_modes_run_what_they_say(records, monkeypatch, capsys, mode, forced):
    from medyate.runs import finetune

    started = []

    def start(config, force):
        started.append((config.strategy, config.seed, force))
        return {"test_top1_percent": 50.0}, not force

    monkeypatch.setattr(finetune, "run", start)
    config = notebook.Parameters("table1", networks="mbv2-w0.35", tasks="digits", epochs=1, seeds="0,1", mode=mode)
    grid = notebook.grid_of_strategies(config, names=("SU", "Head only"), budgets=(27_946, 30_000))
    notebook.run(grid, config)
    # SU has no scheme of 30,000 elements; Head only has no budget, so it runs once
    assert started == [("SU", 0, forced), ("SU", 1, forced), ("Head only", 0, forced), ("Head only", 1, forced)]
    assert ("ran" if forced else "recorded already") in capsys.readouterr().out
    recorded = notebook.Parameters("table1", networks="mbv2-w0.35", tasks="all", epochs=1, seeds=0, mode="recorded")
    assert notebook.grid_of_strategies(recorded) == []
    with pytest.raises(
        InputError, match="tasks 'all' cannot be run in mode 'missing'; allowed: names with commas between"
    ):
        notebook.Parameters("table1", networks="all", tasks="all", epochs="all", seeds="all", mode="missing")


def test_tables_set_ours_beside_the_papers_cell(records):
    records(
        *[run_record(60.0 + seed, seed=seed) for seed in (0, 1, 2)], run_record(75.5, strategy="Baseline", budget=None)
    )
    config = notebook.Parameters("table1", networks="all", tasks="all", epochs="all", seeds="all", mode="recorded")
    table = notebook.our_table(1, config).set_index("strategy")
    ours = table.loc["LaRa MeDyate"]
    assert (ours["top-1 (%)"], ours.n, ours["paper (%)"]) == (61.0, 3, 63.7)
    assert ours.difference == pytest.approx(-2.7)
    assert ours["95 % low"] == pytest.approx(61 - 4.302653 / 3**0.5)
    assert table.loc["Baseline", "paper (%)"] == 70.79 and pd.isna(table.loc["Baseline", "95 % low"])
    assert notebook.our_table(2, config).empty
    theirs = notebook.paper_table(1, notebook.Parameters("table1", networks="mcunet", tasks="food10"))
    assert set(theirs.network) == {"mcunet-in1"} and "63.70 ± 0.16" not in set(theirs.Food)
    row = theirs[(theirs["budget (elements)"] == 15_936) & (theirs.strategy == "LaRa MeDyate")].iloc[0]
    assert (row.Food, row["from"]) == ("67.39 ± 0.12", "Table 1")
    assert set(theirs[theirs.strategy == "SU"]["from"]) == {"TraDy, Table 1"}


def test_recorded_rankings(records, tmp_path):
    folder = tmp_path / "results" / "runs"
    records(*[rank_record(task, seed, folder) for task in ("food10", "flowers12") for seed in (0, 1)])
    config = notebook.Parameters("fig3", networks="all", tasks="all", epochs="all", seeds="all")
    found = notebook.rankings(config)
    assert len(found) == 4
    metric = notebook.layer_metric(found, "lara")
    assert metric.shape == (52, 4) and "food10, 1" in metric
    norms, layer_of, names = notebook.channel_norms(found.iloc[0]["id"])
    assert norms.shape == (6, len(layer_of)) and names[notebook.layer_index("b1.pw1", names)] == "b1.pw1.conv"
    with pytest.raises(InputError, match="layer 52 is out of range"):
        notebook.layer_index(52, names)


# --- tables on a page ---


def test_latex_escapes_and_aligns():
    text = notebook.latex(pd.DataFrame({"a_b": [1.234, np.nan], "c%": ["x & y", "±"]}))
    assert r"a\_b & c\% \\" in text and r"1.23 & x \& y \\" in text and r"-- & $\pm$ \\" in text


def test_what_a_transformer_page_runs_is_what_it_shows(monkeypatch):
    """Every run of Table 3's grid passes the filter of the table's own runs, the baseline at its own rate."""
    pytest.importorskip("transformers")
    from medyate.paper import recorded
    from medyate.sweeps import grids

    config = notebook.Parameters(
        "table3", networks="minilm-l6", tasks="docstrings", epochs=4, seeds="all", mode="missing"
    )
    grid = notebook.grid_of_strategies(config, [*grids.APPENDIX, "Baseline"])
    assert {one.learning_rate for one in grid if one.strategy == "Baseline"} == {grids.transformer_rate("Baseline")}
    frame = pd.DataFrame([{**one.as_dict(), "id": one.id, "K": None} for one in grid])
    monkeypatch.setattr(recorded, "table", lambda kind="run": frame)
    assert set(recorded.strategy_runs(config, 3)["id"]) == {one.id for one in grid}


def test_where_there_is_nothing_to_say_nothing_is_shown(monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", shown.append)
    notebook.say("")
    notebook.say(" \n")
    assert shown == []
    notebook.say("some")
    assert [one.data for one in shown] == ["some"]


def test_runs_over_layers_of_two_tasks_do_not_displace_each_other(records):
    """The same K, budget and seed on another task, or for other epochs, is another run."""
    records(run_record(70, layers=7), run_record(60, layers=7, task="flowers12"), run_record(80, layers=7, epochs=6))
    config = notebook.Parameters("ledger", network="mbv2-w0.35", budget="all", epochs="all", seeds="all")
    found = notebook.over_layers(config, {"x": strategies.get("LaRa MeDyate")})
    assert sorted(found.top1_percent) == [60, 70, 80]
    # but K as the rule gives it and the same K given are one
    records(run_record(71, layers=None))
    k = notebook.table().set_index("test_top1_percent").K
    assert len(notebook.over_layers(config, {"x": strategies.get("LaRa MeDyate")})) == 3 + (k[71] != 7)
