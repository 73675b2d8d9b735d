"""Records on disk: damaged ones are told and left alone; tables hold what the records hold."""

import json

import numpy as np
import pytest

from medyate.errors import InputError
from medyate.files import paths as storage
from medyate.runs import records as runs


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of one's own and a shipped one, both empty."""
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "own"))
    monkeypatch.setattr(storage, "shipped", lambda: tmp_path / "shipped")
    (tmp_path / "own" / "runs").mkdir(parents=True)
    (tmp_path / "shipped" / "runs").mkdir(parents=True)
    return tmp_path


def record(run_id, kind="run", status="finished", top1=50.0, **config):
    return {
        "schema": 1,
        "kind": kind,
        "id": run_id,
        "status": status,
        "config": {"seed": 0, "task": "digits", **config},
        "epochs": [{"epoch": 1, "test_top1_percent": 10.0}, {"epoch": 2, "test_top1_percent": top1}],
        "search_space": {"K": 7, "alpha": 0.2},
        "test_top1_percent": top1,
        "seconds": 1.5,
        "peak_memory_bytes": 9,
        "environment": {"device": "a", "commit": "b"},
        "arrays": None,
    }


def test_written_and_loaded_is_the_same(own):
    kept = record("x")
    path = runs.write(kept)
    assert path == own / "own" / "runs" / "x.json" == runs.path("x")
    assert runs.load("x") == kept and runs.load("y") is None and runs.arrays(kept) == {}


def test_arrays_lie_beside_it_and_nothing_is_unpickled(own):
    arrays = {"norms": np.arange(6, dtype=np.float32).reshape(2, 3), "layer": np.array([0, 0, 1])}
    runs.write(record("x"), arrays)
    found = runs.arrays(runs.load("x"))
    assert set(found) == set(arrays)
    for name, value in arrays.items():
        assert found[name].dtype == value.dtype and np.array_equal(found[name], value)
    np.savez(own / "own" / "runs" / "x.npz", norms=np.array([{"a": 1}], dtype=object))
    with pytest.raises(InputError, match="x.npz' cannot be read .*pickle"):
        runs.arrays(runs.load("x"))
    for content in (b"", b"PK broken", b"text"):
        (own / "own" / "runs" / "x.npz").write_bytes(content)
        with pytest.raises(InputError, match="x.npz' cannot be read"):
            runs.arrays(runs.load("x"))
    (own / "own" / "runs" / "x.npz").unlink()
    with pytest.raises(InputError, match="'x' names arrays 'x.npz', which are not beside it"):
        runs.arrays(runs.load("x"))


def test_arrays_are_written_before_the_record(own, monkeypatch):
    """A kill between the two leaves no record."""

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(storage, "write_json", killed)
    with pytest.raises(KeyboardInterrupt):
        runs.write(record("x"), {"a": np.zeros(1)})
    assert runs.load("x") is None and (own / "own" / "runs" / "x.npz").is_file()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "null",
        lambda text: "[1]",
        lambda text: text.replace('"schema": 1', '"schema": 2'),
        lambda text: text.replace('"status"', '"state"'),
        lambda text: text.replace('"config"', '"conf"'),
        lambda text: "\udcff" + text,
    ],
    ids=["cut", "empty", "null", "list", "schema", "status", "config", "bytes"],
)
def test_damaged_records_are_told_and_left_alone(own, damage):
    path = runs.write(record("x", top1=1.0))
    runs.write(record("y", top1=2.0))
    content = damage(path.read_text()).encode(errors="surrogateescape")
    path.write_bytes(content)
    with pytest.raises(
        InputError, match=r"^record '[^\n]*x.json' cannot be read \([^\n]+\); move it away and run it anew$"
    ):
        runs.load("x")
    with pytest.warns(UserWarning, match=r"x.json' cannot be read"):
        table = runs.table()
    assert table["id"].tolist() == ["y"]
    assert path.read_bytes() == content


def test_own_records_come_before_shipped_ones(own):
    (own / "shipped" / "runs" / "x.json").write_text(json.dumps(record("x", top1=1.0)))
    (own / "shipped" / "runs" / "z.json").write_text(json.dumps(record("z", top1=3.0)))
    assert runs.load("x")["test_top1_percent"] == 1.0
    runs.write(record("x", top1=2.0))
    assert runs.load("x")["test_top1_percent"] == 2.0
    assert {r["id"]: r["test_top1_percent"] for r in runs.every()} == {"x": 2.0, "z": 3.0}


def test_tables_are_the_records(own):
    assert runs.table().empty and runs.epochs_table().empty
    runs.write(record("a", seed=0, budget=10, top1=60.0))
    runs.write(record("b", seed=1, budget=10, top1=61.0))
    runs.write(record("c", seed=0, budget=None, top1=62.0))
    runs.write(record("d", status="interrupted"))
    runs.write(record("e", kind="rank"))
    table = runs.table().set_index("id")
    assert sorted(table.index) == ["a", "b", "c"]
    assert table.loc["b", "test_top1_percent"] == 61.0 and table.loc["b", "K"] == 7 and table.loc["b", "device"] == "a"
    assert runs.table(budget=10)["id"].tolist() == ["a", "b"]
    assert runs.table(budget=[10, None], seed=0)["id"].tolist() == ["a", "c"]
    assert runs.table("rank")["id"].tolist() == ["e"]
    assert runs.table(status="interrupted")["id"].tolist() == ["d"]
    epochs = runs.epochs_table(seed=0)
    assert epochs[["id", "epoch", "test_top1_percent"]].values.tolist() == [
        ["a", 1, 10.0],
        ["a", 2, 60.0],
        ["c", 1, 10.0],
        ["c", 2, 62.0],
    ]


def test_environment_names_versions_and_machine():
    import torch

    found = runs.environment("cpu")
    assert found["torch"].split("+")[0] == torch.__version__.split("+")[0] and found["numpy"] == np.__version__
    assert found["threads"] == torch.get_num_threads() and found["device"] and found["platform"]


def test_commit_is_that_of_the_code(monkeypatch, tmp_path):
    monkeypatch.setattr(runs.storage, "CHECKOUT", tmp_path)
    monkeypatch.delenv("MEDYATE_COMMIT", raising=False)
    runs._commit.cache_clear()
    try:
        assert runs._commit() is None  # no checkout
        runs._commit.cache_clear()
        monkeypatch.setenv("MEDYATE_COMMIT", "abc")
        assert runs._commit() == "abc"
    finally:
        runs._commit.cache_clear()
