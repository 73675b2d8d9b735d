"""A few of scikit-learn's digits as a task, and results in a folder of the test's own: runs of seconds."""

import dataclasses

import pytest
import torch

from medyate import finetune, networks, tasks
from medyate.config import RankConfig, RunConfig

TRAIN, TEST = 48, 40
SMALL = {
    "task": "digits", "resolution": 32, "weights": "random", "epochs": 2, "warmup_epochs": 1, "batch_size": 16,
    "network": "mbv2-w0.35", "ranking": "trady-fig9",
}  # fmt: skip
# what a record holds that may differ between two runs of the same config
CLOCKS = {"train_seconds", "test_seconds", "probe_seconds", "selection_seconds", "encoder_seconds"}


def config(**changes):
    values = {**SMALL, **changes}
    return RunConfig.of({name: value for name, value in values.items() if value != ...})


def rank_config(**changes):
    return RankConfig.of({**{name: value for name, value in SMALL.items() if name != "ranking"}, **changes})


def cut(data):
    """The first images of both splits."""
    return dataclasses.replace(
        data,
        train=tasks.Split(data.train.labels[:TRAIN]),
        test=tasks.Split(data.test.labels[:TEST]),
        decoded=dataclasses.replace(data.decoded, test=data.decoded.test[:TEST]),
    )


def numbers(record):
    """All of a record that must repeat bit for bit."""
    epochs = [{key: value for key, value in row.items() if key not in CLOCKS} for row in record["epochs"]]
    return {key: record[key] for key in record if key not in ("seconds", "peak_memory_bytes", "epochs")} | {"epochs": epochs}


@pytest.fixture
def one_thread():
    """The fewest threads: many small runs."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDYATE_CACHE", str(tmp_path_factory.mktemp("decoded")))
        return cut(tasks.load("digits", resolution=SMALL["resolution"]))


@pytest.fixture
def results(digits, tmp_path, monkeypatch):
    """The folder of results; the tasks of runs are the few digits."""
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "results"))
    monkeypatch.setattr(finetune.tasks, "load", lambda name, *, resolution: digits)
    return tmp_path / "results"


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
