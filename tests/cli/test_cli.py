"""The front door: what each command prints, as JSON and in words, and its one-line errors."""

import functools
import json
import re
import subprocess
import sys
import warnings

import click
import pytest
import torch
from click.testing import CliRunner
from small_task import config, digits, results  # noqa: F401 (fixtures)

from medyate import cli, networks, strategies
from medyate.networks import schemes
from medyate.runs import finetune


@pytest.fixture
def call(monkeypatch, capsys):
    """Run ``medyate ARGUMENTS`` in this process, as its entry point does: exit status, output, errors."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)  # the entry point sets it

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["medyate", *map(str, arguments)])
        capsys.readouterr()
        status = 0
        try:
            cli.main()
        except SystemExit as leave:
            status = leave.code
        out, err = capsys.readouterr()
        return status, out, err

    return run


@pytest.fixture
def call_json(call):
    def run(*arguments):
        status, out, err = call(*arguments, "--json")
        assert status == 0, err
        return json.loads(out)

    return run


def commands(group=cli.cli, prefix=()):
    for name, command in group.commands.items():
        yield (*prefix, name), command
        if isinstance(command, click.Group):
            yield from commands(command, (*prefix, name))


ALL = dict(commands())


@pytest.mark.parametrize("name", ALL, ids=" ".join)
def test_every_command_has_help(call, name):
    status, out, err = call(*name, "--help")
    assert status == 0 and not err
    assert out.startswith(f"Usage: medyate {' '.join(name)} ")
    text = " ".join((ALL[name].help or "").split())
    assert len(text) > 20 and text.split(".")[0][:40] in " ".join(out.split())
    for option in ALL[name].params:
        if isinstance(option, click.Option):
            assert option.opts[0] in out


def test_the_issues_commands_are_there():
    assert {
        ("networks",),
        ("strategies",),
        ("tasks",),
        ("memory",),
        ("scheme",),
        ("rank",),
        ("select",),
        ("run",),
        ("fig6",),
    } <= set(ALL)


# --- listings --------------------------------------------------------------------------------------


def test_networks(call, call_json):
    rows = {row["name"]: row for row in call_json("networks")}
    assert set(rows) == set(networks.NETWORKS)
    totals = {name: row["total_elements"] for name, row in rows.items()}
    assert (totals["mbv2-w0.35"], totals["mcunet-in1"], totals["proxyless-w0.3"]) == (1_252_320, 1_309_808, 1_162_032)
    assert rows["mbv2-w0.35"]["budgets"]["1"] == 27_946 and rows["mbv2-w0.35"]["budgets"]["5"] == 93_696
    assert all(row["description"] and row["sources"] for row in rows.values())
    status, out, _ = call("networks")
    assert status == 0 and "1,252,320" in out and "mcunet-in1" in out


def test_strategies(call, call_json):
    rows = call_json("strategies")
    assert [row["name"] for row in rows] == list(strategies.STRATEGIES)
    assert all(row["description"] for row in rows)
    status, out, _ = call("strategies")
    assert status == 0 and all(name in out for name in strategies.STRATEGIES)


def test_tasks(call, call_json):
    rows = {row["name"]: row for row in call_json("tasks")}
    assert {"digits", "flowers", "food", "vww"} <= set(rows)
    assert (rows["digits"]["classes"], rows["digits"]["train"], rows["digits"]["test"]) == (10, 1437, 360)
    status, out, _ = call("tasks")
    assert status == 0 and "digits" in out and "folder:PATH" in out


# --- costs --------------------------------------------------------------------------------------------


def test_memory(call, call_json):
    found = call_json("memory", "MbV2-w0.35")
    assert (found["total_elements"], found["weight_elements"], found["activation_elements"]) == (
        1_252_320,
        288_864,
        963_456,
    )
    assert len(found["layers"]) == 52
    assert sum(layer["total_elements"] for layer in found["layers"]) == 1_252_320
    stem, depthwise = found["layers"][:2]
    assert (stem["name"], stem["kind"], stem["channels"], stem["channel_elements"]) == ("stem.conv", "conv", 3, 16_528)
    assert (depthwise["kind"], depthwise["channel_elements"]) == ("depthwise", 9 + 64 * 64)
    assert call_json("memory", "mbv2", "--depthwise", "authors")["layers"][1]["channel_elements"] == 1 + 64 * 64
    small = call_json("memory", "mbv2", "--resolution", 64)
    assert small["weight_elements"] == 288_864 and small["activation_elements"] * 4 == 963_456
    status, out, _ = call("memory", "mbv2")
    assert status == 0 and "total 1,252,320 elements (4,892 kB)" in out


def test_measured_memory(call, call_json):
    found = call_json("memory", "mbv2", "--measure", "--resolution", 64)
    assert found["used_elements"] <= found["budget"] == 27_946
    assert (
        found["kept_bytes"]["selected_activations"] + found["kept_bytes"]["weight_gradients"]
        == 4 * found["used_elements"]
    )
    assert found["full_finetuning_bytes"] > 5 * found["kept_total_bytes"]
    status, out, _ = call("memory", "mbv2", "--measure", "--resolution", 64)
    assert status == 0 and "budget 27,946 elements = 111,784 bytes" in out


@pytest.mark.parametrize(
    "network, tier, total, printed",
    [
        ("mbv2-w0.35", 1, 28_282, 27_946),
        ("mcunet-in1", 5, 112_640, 112_640),
        ("proxyless-w0.3", 3, 72_960, 72_960),
        ("mbv2-w0.35", 2, None, None),
    ],
)
def test_scheme(call, call_json, network, tier, total, printed):
    found = call_json("scheme", network, tier)
    assert (
        found["total_elements"] == sum(row["elements"] for row in found["layers"])
        and found["printed_budget"] == printed
    )
    if total:
        assert found["total_elements"] == total
    assert len(found["layers"]) == len(schemes.SCHEMES[network][tier])
    status, out, _ = call("scheme", network, tier)
    assert status == 0 and f"total {found['total_elements']:,} elements" in out


# --- select ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["SU", "TraDy", "Prev MeDyate", "LaRa TraDy", "LaRa MeDyate"])
def test_select(call, call_json, strategy):
    options = ("--budget", 66_592, "--strategy", strategy, "--weights", "random")
    found = call_json("select", "mbv2", *options)
    assert found["budget"] == 66_592
    assert found["used_elements"] == sum(row["count"] * row["channel_elements"] for row in found["layers"])
    assert 0.99 * 66_592 <= found["used_elements"] <= 66_592
    for row in found["layers"]:
        assert row["channels"] == sorted(set(row["channels"])) and len(row["channels"]) == row["count"] <= row["of"]
        assert 0 <= row["channels"][0] and row["channels"][-1] < row["of"]
    assert call_json("select", "mbv2", *options) == found
    if strategy != "SU":
        assert call_json("select", "mbv2", *options, "--seed", 1)["layers"] != found["layers"]
        narrow = call_json("select", "mbv2", *options, "--layers", 9)
        assert narrow["K"] == 9 and len(narrow["layers"]) <= 9
    status, out, _ = call("select", "mbv2", *options)
    assert status == 0 and re.search(r"uses [\d,]+ of 66,592 elements \((99\.\d\d|100\.00) %\)", out)


def test_select_everything_and_nothing(call_json):
    everything = call_json("select", "mbv2", "--strategy", "Baseline", "--weights", "random")
    assert everything["budget"] is None and len(everything["layers"]) == 52
    assert call_json("select", "mbv2", "--strategy", "head-only", "--weights", "random")["layers"] == []


def test_select_shows_what_a_run_begins_with(results, call_json):
    settings = config(epochs=1, warmup_epochs=0)
    record, _ = finetune.run(settings, device="cpu")
    found = call_json(
        "select",
        "mbv2",
        "--budget",
        settings.budget,
        "--ranking",
        settings.ranking,
        "--resolution",
        32,
        "--weights",
        "random",
    )
    assert {row["name"]: row["channels"] for row in found["layers"]} == record["selection"]


# --- run, rank, results ------------------------------------------------------------------------------------

RUN = (
    "run",
    "--network",
    "mbv2",
    "--task",
    "digits",
    "--strategy",
    "lara-medyate",
    "--budget",
    27_946,
    "--epochs",
    1,
    "--warmup-epochs",
    0,
    "--seed",
    0,
    "--resolution",
    32,
    "--weights",
    "random",
    "--batch-size",
    16,
    "--device",
    "cpu",
)


def test_run_writes_one_record_and_reuses_it(results, call, call_json, monkeypatch):
    status, out, err = call(*RUN)
    assert status == 0 and "epochs" in out and "1/1" in err  # the bar
    (path,) = (results / "runs").iterdir()
    record = json.loads(path.read_text())
    assert f"record {path}" in out and f"test top-1 {record['test_top1_percent']:.2f} %" in out
    monkeypatch.setattr(finetune, "_Loop", lambda *_: pytest.fail("it ran again"))
    status, out, err = call(*RUN)
    assert status == 0 and "recorded already; --force runs it anew" in out and not err
    assert call_json(*RUN) == record
    monkeypatch.undo()


def test_run_force_and_weights(results, call, tmp_path):
    assert call(*RUN)[0] == 0
    (path,) = (results / "runs").iterdir()
    before = path.stat().st_mtime_ns
    status, _, err = call(*RUN, "--save-weights", tmp_path / "w.pt")
    assert status == 2 and "--force" in err and not (tmp_path / "w.pt").exists()
    status, out, _ = call(*RUN, "--save-weights", tmp_path / "w.pt", "--force")
    assert status == 0 and "recorded already" not in out and path.stat().st_mtime_ns > before
    weights = torch.load(tmp_path / "w.pt", weights_only=True)
    networks.build("mbv2", weights="random", classes=10).load_state_dict(weights)


def test_interrupted_run_says_so_and_goes_on(results, call, monkeypatch):
    command = (*RUN[: RUN.index("--epochs") + 1], 3, *RUN[RUN.index("--epochs") + 2 :])
    train = finetune._Loop.train

    def stop(self, *args):
        if len(self.rows) == 2:
            raise KeyboardInterrupt
        return train(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(finetune._Loop, "train", stop)
        status, out, err = call(*command)
    assert status == 130 and "medyate: error: interrupted; finished epochs are kept" in err
    assert not (results / "runs").exists() or not list((results / "runs").iterdir())
    epochs = []
    save = finetune._Loop.save
    monkeypatch.setattr(
        finetune._Loop, "save", lambda self, **state: (epochs.append(len(self.rows)), save(self, **state))
    )
    assert call(*command)[0] == 0 and epochs == [3]


def test_a_run_that_diverges_fails_in_one_line(results, call):
    for command in (
        (*RUN, "--learning-rate", 1e30, "--strategy", "Baseline"),
        (
            "rank",
            "mbv2",
            "--task",
            "digits",
            "--epochs",
            1,
            "--warmup-epochs",
            0,
            "--resolution",
            32,
            "--weights",
            "random",
            "--learning-rate",
            1e30,
            "--device",
            "cpu",
        ),
    ):
        status, out, err = call(*command)
        assert status == 1 and not out
        assert re.search(r"^medyate: error: training diverged: the loss is \w+ in epoch 1; [^\n]+\n\Z", err, re.M)


def test_rank(results, call, call_json):
    command = (
        "rank",
        "mbv2",
        "--task",
        "digits",
        "--epochs",
        1,
        "--warmup-epochs",
        0,
        "--resolution",
        32,
        "--weights",
        "random",
        "--batch-size",
        16,
        "--device",
        "cpu",
    )
    status, out, _ = call(*command)
    assert status == 0 and "ranking 'digits-s0-e1-r32' of mbv2-w0.35; record " in out
    record = call_json(*command)
    assert sorted(record["lara_order"]) == sorted(record["rgn_order"]) == sorted(record["layers"])
    assert f"by LaRa: {record['lara_order'][0]}, " in out
    assert "recorded already" in call(*command)[1]
    found = call_json(
        "select", "mbv2", "--ranking", "digits-s0-e1-r32", "--resolution", 32, "--layers", 3, "--weights", "random"
    )
    assert {row["name"] for row in found["layers"]} <= set(record["lara_order"][:3])


def test_results(results, call, call_json):
    assert call(*RUN)[0] == 0
    (path,) = (results / "runs").iterdir()
    record = json.loads(path.read_text())
    rows = {row["id"]: row for row in call_json("results")}
    assert rows[path.stem]["test_top1_percent"] == pytest.approx(record["test_top1_percent"])
    assert rows[path.stem]["budget"] == 27_946 and rows[path.stem]["strategy"] == "LaRa MeDyate"
    status, out, _ = call("results")
    assert status == 0 and "LaRa MeDyate" in out
    path.write_text("{")
    status, out, err = call("results")
    assert status == 0 and re.search(rf"^medyate: warning: record '[^\n]*{path.name}' cannot be read", err, re.M)


# --- errors --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments, words",
    [
        (("memory", "resnet"), "unknown network 'resnet'; allowed: mbv2-w0.35, mcunet-in1"),
        (
            ("memory", "mbv2", "--resolution", "7"),
            "resolution 7 is out of range; allowed: an integer at least 16 at most 1,024",
        ),
        (("memory", "mbv2", "--resolution", "big"), "'big' is not a valid integer"),
        (("memory", "mbv2", "--depthwise", "eq5"), "'eq5'; allowed: eq4, authors"),
        (("memory", "mbv2", "--measure", "--device", "tpu"), "'tpu'; allowed: auto, cpu, cuda"),
        (("networks", "--resolution", "0"), "resolution 0"),
        (("scheme", "mbv2", "1", "--resolution", "0"), "resolution 0"),
        (("scheme", "mbv2", "6"), "tier 6 is out of range; allowed: an integer at least 1 at most 5"),
        (("scheme", "mbv2", "one"), "'one' is not a valid integer"),
        (("scheme", "efficientnet-lite0", "1"), "'efficientnet-lite0'; allowed: mbv2-w0.35"),
        (("select", "mbv2", "--budget", "5"), "budget 5 is out of range; allowed: an integer at least"),
        (("select", "mbv2", "--budget", "abc"), "'abc' is not a valid integer"),
        (("select", "mbv2", "--strategy", "best"), "unknown strategy 'best'; allowed: SU, Det RGN"),
        (("select", "mbv2", "--strategy", "Det RGN"), "strategy 'Det RGN' chooses by the gradient of a task"),
        (("select", "mbv2", "--layers", "53"), "K 53 is out of range; allowed: an integer at least 1 at most 52"),
        (("select", "mbv2", "--ranking", "nobody"), "unknown ranking 'nobody'"),
        (("select", "mbv2", "--seed", "-1"), "seed -1 is out of range"),
        (("run", "--network", "mbv2"), "Missing option '--task'"),
        (("run", "--network", "mbv2", "--task", "nothing"), "unknown task 'nothing'; allowed: "),
        (("run", "--network", "mbv2", "--task", "digits", "--epochs", "0"), "epochs 0 is out of range"),
        (
            ("run", "--network", "mbv2", "--task", "digits", "--learning-rate", "nan"),
            "learning rate nan is out of range",
        ),
        ((*RUN, "--device", "tpu"), "unknown device 'tpu'; allowed: auto, cpu, cuda"),
        ((*RUN, "--strategy", "SU", "--budget", "30000"), "budget 30000 is not a tier of 'mbv2-w0.35'; SU allows: "),
        (("rank", "mbv2", "--task", "nothing"), "unknown task 'nothing'"),
        (("results", "--kind", "walk"), "'walk'; allowed: run, rank"),
        (("notebook", "fig99"), "unknown notebook 'fig99'; allowed: "),
        (("fig6", "-p", "bugdet", "27946"), "unknown parameter of fig6 'bugdet'; allowed: "),
        (("frobnicate",), "No such command 'frobnicate'"),
        (("memory", "mbv2", "--frob"), "--frob"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_bad_input_is_one_line_and_exit_2(results, call, monkeypatch, arguments, words):
    monkeypatch.setattr(finetune._Loop, "train", lambda *_: pytest.fail("training began"))
    status, out, err = call(*arguments)
    assert status == 2 and not out
    assert re.fullmatch(r"medyate: error: [^\n]+\n", err) and words in err


def test_damaged_record_and_unwritable_folder(results, call):
    assert call(*RUN)[0] == 0
    (path,) = (results / "runs").iterdir()
    path.write_text(path.read_text()[:200])
    status, _, err = call(*RUN)
    assert status == 2 and re.fullmatch(r"medyate: error: record '[^\n]+' cannot be read [^\n]+\n", err)
    assert len(path.read_text()) == 200
    path.unlink()
    (results / "runs").rmdir()
    (results / "runs").write_text("in the way")
    status, _, err = call(*RUN)
    assert status == 2 and re.fullmatch(r"medyate: error: cannot write to '[^\n]+ set MEDYATE_RESULTS [^\n]+\n", err)


def test_python_m_medyate_from_anywhere(tmp_path):
    """The entry point itself, in a process of its own: errors without a traceback, JSON that is only JSON."""
    command = [sys.executable, "-m", "medyate"]
    bad = subprocess.run([*command, "memory", "resnet"], cwd=tmp_path, capture_output=True, text=True)
    assert (
        bad.returncode == 2 and bad.stdout == "" and bad.stderr.startswith("medyate: error: unknown network 'resnet'")
    )
    assert bad.stderr.count("\n") == 1
    good = subprocess.run([*command, "scheme", "mbv2", "5", "--json"], cwd=tmp_path, capture_output=True, text=True)
    assert good.returncode == 0 and json.loads(good.stdout)["total_elements"] == 93_696
    assert not list(tmp_path.iterdir())


def test_imports_are_light():
    """A command's help waits for no torch; the package itself for next to nothing."""
    code = "import sys; import medyate{}; print(*(n for n in {!r} if n in sys.modules))"
    heavy = ["torchvision", "matplotlib", "pandas", "seaborn", "sklearn", "PIL", "scipy", "papermill"]
    for module, unwanted in (("", ["torch", "numpy", *heavy]), (".cli", ["torch", *heavy]), (".runs.finetune", heavy)):
        done = subprocess.run(
            [sys.executable, "-c", code.format(module, unwanted)], capture_output=True, text=True, check=True
        )
        assert done.stdout.split() == [], module


def test_listings_without_the_text_extra_leave_out_text_networks_alone(monkeypatch):
    from medyate.networks import layers

    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setattr(layers, "_layers", functools.cache(layers._layers.__wrapped__))  # nothing walked before
    # at the size that `layers.json` keeps nothing is walked, so there all are listed
    kept = CliRunner().invoke(cli.cli, ["networks", "--json"], catch_exceptions=False)
    assert {row["name"] for row in json.loads(kept.stdout)} == set(networks.NETWORKS)
    found = CliRunner().invoke(cli.cli, ["networks", "--json", "--resolution", "64"], catch_exceptions=False)
    names = {row["name"] for row in json.loads(found.stdout)}
    assert names == {name for name, one in networks.NETWORKS.items() if one.kind == "image"}
    assert "medyate[text]" in found.stderr
    listed = CliRunner().invoke(cli.cli, ["sweep", "list", "--json"], catch_exceptions=False)
    assert ("table1", "pack") in {(row["name"], row["scale"]) for row in json.loads(listed.stdout)["sweeps"]}


def test_networks_at_a_size_that_texts_do_not_have():
    pytest.importorskip("transformers")
    found = CliRunner().invoke(cli.cli, ["networks", "--json", "--resolution", "600"], catch_exceptions=False)
    assert {row["name"] for row in json.loads(found.stdout)} == set(networks.NETWORKS)
