"""Claims on runs, with the system's locks and on file systems that have none."""

import errno
import fcntl
import json
import os
import subprocess
import sys
import warnings

import pytest

from medyate.files import paths as storage
from medyate.runs import locks

ABSENT = [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EIO]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path))
    return tmp_path / "checkpoints"


@pytest.fixture(params=ABSENT, ids=errno.errorcode.get)
def without_locks(request, monkeypatch):
    def lockf(handle, operation):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "lockf", lockf)


def elsewhere(run_id):
    """What a claim in another process gives: "None" or "claimed"."""
    program = (
        "import sys; from medyate.runs import locks\n"
        "with locks.claim(sys.argv[1]) as claim: print('None' if claim is None else 'claimed')"
    )
    done = subprocess.run([sys.executable, "-c", program, run_id], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_lock_is_one_process_s(folder):
    with locks.claim("a") as claim:
        claim.tell(epoch=3)
        assert elsewhere("a") == "None" and elsewhere("b") == "claimed"
        assert locks.taken_by("a") == "another process is at work on it"
    assert elsewhere("a") == "claimed" and not list(folder.iterdir())


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EACCES])
def test_two_errors_mean_taken(code, monkeypatch):
    monkeypatch.setattr(fcntl, "lockf", lambda *_: (_ for _ in ()).throw(OSError(code, "")))
    with locks.claim("a") as claim:
        assert claim is None


def test_without_locks_one_file_is_created_by_one_process(without_locks, folder):
    with locks.claim("a") as claim:
        claim.tell(epoch=3)
        assert [path.name for path in folder.iterdir()] == ["a.owner"]
        told = locks.running()["a"]
        assert (told["pid"], told["host"], told["epoch"]) == (os.getpid(), os.uname().nodename, 3)
        with locks.claim("a") as second:
            assert second is None
        assert f"process {os.getpid()} on {os.uname().nodename} is at work on it; if it is not" in locks.taken_by("a")
        with locks.claim("b") as other:
            assert other is not None
    assert locks.running() == {} and not list(folder.iterdir())


def left_behind(folder, **told):
    folder.mkdir(exist_ok=True)
    (folder / "a.owner").write_text(json.dumps(told))


def ended():
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_what_a_dead_process_of_this_machine_left_is_taken_over(without_locks, folder):
    here = os.uname().nodename
    for told in ({"pid": ended(), "host": here}, {"pid": os.getpid(), "host": here, "started": "0"}):
        left_behind(folder, **told)
        assert locks.running() == {}
        with locks.claim("a") as claim:
            assert claim is not None
        assert not list(folder.iterdir())


@pytest.mark.parametrize("told", [{"pid": 1, "host": "another"}, {}])
def test_what_another_machine_left_counts(told, without_locks, folder):
    left_behind(folder, **told)
    with locks.claim("a") as claim:
        assert claim is None
    assert locks.running() == {"a": told} and (folder / "a.owner").exists()


def test_a_machine_with_locks_sees_one_without(folder):
    left_behind(folder, pid=1, host="another")
    with locks.claim("a") as claim:
        assert claim is None
    left_behind(folder, pid=ended(), host=os.uname().nodename)
    with locks.claim("a") as claim:
        assert claim is not None


def test_it_is_said_once(without_locks, folder):
    with pytest.warns(UserWarning, match="has no locks: each run is claimed by a file ID.owner") as told:
        locks.warn_without_locks()
    assert len(told) == 1 and not list(folder.iterdir())


def test_nothing_is_said_where_there_are_locks(folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        locks.warn_without_locks()


def test_runs_are_done_without_locks(tmp_path):
    """A sweep whose processes find no locks: every run is done, and none is running afterwards."""
    (tmp_path / "sitecustomize.py").write_text(
        "import fcntl, errno\ndef lockf(*_): raise OSError(errno.ENOLCK, 'No locks available')\nfcntl.lockf = lockf\n"
    )
    program = (
        "from medyate.sweeps import sweep\nfrom medyate.runs import locks\nfrom medyate.runs.config import RunConfig\n"
        "import json, warnings; warnings.simplefilter('always')\n"
        "values = dict(network='mbv2-w0.35', task='digits', strategy='Head only', weights='random', resolution=32,"
        " epochs=1, warmup_epochs=0, batch_size=512)\n"
        "ended = sweep.run([RunConfig(**values, seed=s) for s in (0, 1)], workers=2, device='cpu')\n"
        "print(json.dumps({outcome: len(runs) for outcome, runs in ended.items()}), locks.running())"
    )
    path = os.pathsep.join([str(tmp_path), str(storage.CHECKOUT)])
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=os.environ | {"PYTHONPATH": path}
    )
    assert done.stdout.strip() == '{"finished": 2} {}', done.stderr
    assert done.stderr.count("has no locks") == 1
