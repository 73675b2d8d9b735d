"""The submit path, through a real Slurm of one machine (tests/slurm/one_machine.sh)."""

import json
import os
import shutil
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from medyate import claims, cluster, finetune, grids, runs, storage, sweep, sweep_cli
from medyate.config import RankConfig, RunConfig
from medyate.errors import InputError

SCRIPT = Path(__file__).parent / "slurm" / "one_machine.sh"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
COMMON = {
    "network": "mbv2-w0.35", "weights": "random", "resolution": 32, "warmup_epochs": 1, "batch_size": 8,
    "learning_rate": 0.05, "batch_norm": "frozen",
}  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        pytest.skip(f"no {missing[0]} here; on Debian, as root: tests/slurm/one_machine.sh install")
    if os.geteuid():
        pytest.skip("slurmd must be started by root")
    folder = tmp_path_factory.mktemp("slurm")
    started = subprocess.run([SCRIPT, "start", folder], capture_output=True, text=True, timeout=60)
    if started.returncode:
        subprocess.run([SCRIPT, "stop", folder])
        pytest.skip(f"Slurm does not start here: {started.stderr[-500:]}")
    yield folder / "slurm.conf"
    subprocess.run([SCRIPT, "stop", folder])


@pytest.fixture
def places(tmp_path, monkeypatch):
    pixels = np.random.default_rng(0)
    for split, count in (("train", 24), ("test", 8)):
        for label, low in (("dark", 0), ("light", 120)):
            folder = tmp_path / "data" / "tiny" / split / label
            folder.mkdir(parents=True)
            for index in range(count):
                Image.fromarray(pixels.integers(low, low + 130, (32, 32, 3), np.uint8)).save(folder / f"{index}.png")
    monkeypatch.setenv("MEDYATE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setenv("PYTHONPATH", str(storage.CHECKOUT))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def wait(done, seconds=120):
    deadline = time.monotonic() + seconds
    while not done():
        if time.monotonic() > deadline:
            logs = [file.read_text()[-2000:] for file in (storage.own() / "slurm").rglob("*.err")]
            raise AssertionError("\n".join(["not in time", *logs]))
        time.sleep(0.3)


def numbers(record):
    rows = [{key: value for key, value in row.items() if not key.endswith("_seconds")} for row in record["epochs"]]
    return rows, record["selection"]


def test_submit(slurm, places, monkeypatch):
    """A ranking and the runs that need it; a cancelled array; the rest submitted again; bit-equal."""
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    rank = RankConfig.of({**COMMON, "task": "tiny", "epochs": 1, "seed": 7})
    shutil.copytree(places / "data" / "tiny", places / "data" / "own")
    values = {**COMMON, "task": "own", "ranking": rank.name}
    fixed = {**values, "epochs": 12}
    small = grids.Sweep(
        "fig6", "quick", "", (grids.Grid("run", {"seed": (0, 1, 2)}, fixed),),
        (grids.Grid("rank", {"seed": (7,)}, {**COMMON, "task": "tiny", "epochs": 1}),),
    )  # fmt: skip
    monkeypatch.setattr(grids, "SWEEPS", {**grids.SWEEPS, ("fig6", "quick"): small})
    configs = small.configs()

    def submit():
        words = ["submit", "fig6", "--scale", "quick", "--slurm", "--tasks", "2", "--cpus", "1", "--time", "10", "--json"]
        return json.loads(CliRunner().invoke(sweep_cli.sweep_group, words, catch_exceptions=False).stdout)

    arrays = submit()
    assert [(one["tasks"], one["runs"]) for one in arrays] == [(1, 1), (2, 3)]
    assert Path(arrays[0]["output"]).is_dir()
    wait(lambda: any(told.get("epoch", 0) >= 2 for told in claims.running().values()))
    subprocess.run(["scancel", arrays[1]["job"]], check=True)
    wait(lambda: not claims.running())
    left = sweep.state(configs)
    assert left.pending and not left.failed and runs.load(rank.id)["status"] == "finished"

    (again,) = submit()
    assert again["runs"] == len(left.pending)
    wait(lambda: not sweep.state(configs).pending)
    assert len(sweep.state(configs).finished) == 3
    found = [numbers(runs.load(one.id)) for one in configs]

    torch.set_num_threads(1)  # as a task of one processor has
    monkeypatch.setenv("MEDYATE_RESULTS", str(places / "here"))
    shutil.copytree(places / "results" / "rankings", places / "here" / "rankings")
    assert [numbers(finetune.run(RunConfig.of(one.as_dict()), device="cpu")[0]) for one in configs] == found


def test_a_refused_job_is_told_in_one_line(slurm, places, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    one = RankConfig.of({**COMMON, "task": "tiny", "epochs": 1})
    with pytest.raises(InputError, match="Slurm took no job: .*partition") as caught:
        cluster.submit("fig3", [one], partition="nowhere")
    assert "\n" not in str(caught.value)


def test_without_slurm(places, monkeypatch):
    monkeypatch.setenv("PATH", str(places))
    one = RankConfig.of({**COMMON, "task": "tiny", "epochs": 1})
    with pytest.raises(InputError, match="Slurm took no job"):
        cluster.submit("fig3", [one])
