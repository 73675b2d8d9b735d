"""Files are there whole or not at all; folders that cannot be written are told at once."""

import json
import os

import pytest

from medyate.errors import InputError
from medyate.files import paths as storage


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "own"))
    return tmp_path / "own"


def test_a_write_that_fails_leaves_the_former_file(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    storage.write_json(path, {"a": 1})
    before = path.read_bytes()
    with pytest.raises(ValueError):  # JSON has no NaN
        storage.write_json(path, {"a": float("nan")})
    for name in ("fsync", "replace"):  # a full disk, a kill

        def fail(*_):
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(storage.os, name, fail)
            with pytest.raises(KeyboardInterrupt):
                storage.write_json(path, {"a": 2})
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]  # no temporary file stays behind
    storage.write_json(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2} and path.read_text().endswith("\n")


def test_a_file_appears_whole(tmp_path, monkeypatch):
    """Until the rename there is nothing of that name, and what is renamed is complete."""
    path, seen = tmp_path / "x.npz", []
    replace = os.replace

    def look(source, target):
        seen.append((path.exists(), os.path.getsize(source)))
        replace(source, target)

    monkeypatch.setattr(storage.os, "replace", look)
    storage.write_bytes(path, b"x" * 100_000)
    assert seen == [(False, 100_000)]
    assert path.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize("place", ["own", "own/runs"])
def test_a_file_in_the_folders_way_is_told(own, tmp_path, place):
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / place).write_text("in the way")
    with pytest.raises(
        InputError, match=r"^cannot write to '[^\n]*own/runs' \([^\n]+\); set MEDYATE_RESULTS to [^\n]*$"
    ):
        storage.writable("runs")
    assert (tmp_path / place).read_text() == "in the way"


def test_folders_ones_own_first(own, tmp_path, monkeypatch):
    checkout = tmp_path / "checkout"
    (checkout / "results" / "runs").mkdir(parents=True)
    monkeypatch.setattr(storage, "CHECKOUT", checkout)
    assert storage.shipped() is None  # a folder of that name is no checkout
    (checkout / "pyproject.toml").touch()
    assert storage.folders("runs") == [checkout / "results" / "runs"]
    assert storage.writable("runs") == own / "runs"
    assert storage.folders("runs") == [own / "runs", checkout / "results" / "runs"]
    monkeypatch.delenv("MEDYATE_RESULTS")
    assert storage.own() == checkout / "results"
    assert storage.folders("runs") == [checkout / "results" / "runs"]
    (checkout / "pyproject.toml").unlink()
    monkeypatch.chdir(tmp_path)
    assert storage.own() == tmp_path / "results"


def test_check_file_changes_nothing(tmp_path):
    there = tmp_path / "there.pt"
    there.write_bytes(b"kept")
    storage.check_file(there)
    assert there.read_bytes() == b"kept"
    storage.check_file(tmp_path / "new.pt")
    assert not (tmp_path / "new.pt").exists()
    for bad in (tmp_path / "no" / "x.pt", there / "x.pt", tmp_path):
        with pytest.raises(InputError, match=r"^cannot write '[^\n]+$"):
            storage.check_file(bad)
