"""The submit path, through a real Slurm of one machine (tests/sweeps/slurm/one_machine.sh)."""

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

from medyate.cli import sweep as sweep_cli
from medyate.errors import InputError
from medyate.files import paths as storage
from medyate.runs import finetune
from medyate.runs import locks as claims
from medyate.runs import records as runs
from medyate.runs.config import RankConfig, RunConfig
from medyate.sweeps import cluster, grids, progress, sweep

SCRIPT = Path(__file__).parent / "slurm" / "one_machine.sh"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
COMMON = {
    "network": "mbv2-w0.35",
    "weights": "random",
    "resolution": 32,
    "warmup_epochs": 1,
    "batch_size": 8,
    "learning_rate": 0.05,
    "batch_norm": "frozen",
}


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        pytest.skip(f"no {missing[0]} here; on Debian, as root: tests/sweeps/slurm/one_machine.sh install")
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
    rank = RankConfig.of({**COMMON, "task": "tiny", "epochs": 1, "seed": 7}).check()
    shutil.copytree(places / "data" / "tiny", places / "data" / "own")
    values = {**COMMON, "task": "own", "ranking": rank.name}
    fixed = {**values, "epochs": 12}
    small = grids.Sweep(
        "fig6",
        "quick",
        "",
        (grids.Grid("run", {"seed": (0, 1, 2)}, fixed),),
        (grids.Grid("rank", {"seed": (7,)}, {**COMMON, "task": "tiny", "epochs": 1}),),
    )
    monkeypatch.setattr(grids, "SWEEPS", {**grids.SWEEPS, ("fig6", "quick"): small})
    configs = small.configs()

    def submit():
        words = [
            "submit",
            "fig6",
            "--scale",
            "quick",
            "--slurm",
            "--tasks",
            "2",
            "--cpus",
            "1",
            "--time",
            "10",
            "--json",
        ]
        return json.loads(CliRunner().invoke(sweep_cli.sweep_group, words, catch_exceptions=False).stdout)

    arrays = submit()
    assert [(one["tasks"], one["runs"]) for one in arrays] == [(1, 1), (2, 3)]
    assert Path(arrays[0]["output"]).is_dir()
    wait(lambda: any(told.get("epoch", 0) >= 2 for told in claims.running().values()))
    subprocess.run(["scancel", arrays[1]["job"]], check=True)
    wait(lambda: not claims.running())
    left = progress.state(configs)
    assert left.pending and not left.failed and runs.load(rank.id)["status"] == "finished"

    (again,) = submit()
    assert again["runs"] == len(left.pending)
    wait(lambda: not progress.state(configs).pending)
    assert len(progress.state(configs).finished) == 3
    found = [numbers(runs.load(one.id)) for one in configs]

    torch.set_num_threads(1)  # as a task of one processor has
    monkeypatch.setenv("MEDYATE_RESULTS", str(places / "here"))
    shutil.copytree(places / "results" / "rankings", places / "here" / "rankings")
    assert [numbers(finetune.run(RunConfig.of(one.as_dict()).check(), device="cpu")[0]) for one in configs] == found


def test_a_refused_job_is_told_in_one_line(slurm, places, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(slurm))
    one = RankConfig.of({**COMMON, "task": "tiny", "epochs": 1}).check()
    with pytest.raises(InputError, match="Slurm took no job: .*partition") as caught:
        cluster.submit("fig3", [one], partition="nowhere")
    assert "\n" not in str(caught.value)


def test_without_slurm(places, monkeypatch):
    monkeypatch.setenv("PATH", str(places))
    one = RankConfig.of({**COMMON, "task": "tiny", "epochs": 1}).check()
    with pytest.raises(InputError, match="Slurm took no job"):
        cluster.submit("fig3", [one])


@pytest.fixture
def queued(places, monkeypatch):
    """What a submission leaves for Slurm to start, where sbatch only takes it."""
    from submitit.core.utils import DelayedSubmission

    programs = places / "programs"
    programs.mkdir()
    for name, text in (("sbatch", "echo Submitted batch job 12"), ("srun", "")):
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
    (array,) = cluster.submit("fig3", [RankConfig.of({**COMMON, "task": "tiny", "epochs": 1})], time="60")
    (pickled,) = Path(array["output"]).glob("*submitted.pkl")
    return lambda: DelayedSubmission.load(pickled), pickled


def time_is_over(delayed, pickled, minutes=61):
    """Slurm's notice before the time limit; whether the task is queued again."""
    from submitit.core import job_environment, utils

    class Environment(job_environment.JobEnvironment):
        global_rank = 0

        def _requeue(self, countdown):
            pass

    paths = type("Paths", (), {"submitted_pickle": pickled})
    handler = job_environment.SignalHandler(Environment(), paths, delayed)
    handler._start_time -= 60 * minutes
    delayed.function.begun -= 60 * minutes
    with pytest.raises((SystemExit, utils.UncompletedJobError)) as ended:
        handler.checkpoint_and_try_requeue(12)
    return ended.type is SystemExit


def test_a_task_is_queued_again_as_often_as_it_takes(queued, monkeypatch):
    load, pickled = queued
    monkeypatch.setattr(sweep, "run", lambda *_, **__: {})
    for number in range(1, 31):
        delayed = load()
        delayed.result()
        [(kind, values)] = delayed.args[0]
        checkpoint = storage.writable("checkpoints") / f"{RankConfig.of(values).id}.pt"
        checkpoint.write_bytes(b"x")
        os.utime(checkpoint, ns=(number, number))  # an epoch was finished
        assert time_is_over(delayed, pickled)


def test_a_task_without_time_for_one_epoch_is_not(queued, monkeypatch, capsys):
    load, pickled = queued
    monkeypatch.setattr(sweep, "run", lambda *_, **__: {})
    delayed = load()
    delayed.result()
    assert time_is_over(delayed, pickled, minutes=1)  # preempted soon after its start
    delayed.function.begun += 60
    assert not time_is_over(delayed, pickled)
    assert "no epoch was finished in 61 minutes; submit it with a longer --time" in capsys.readouterr().out
