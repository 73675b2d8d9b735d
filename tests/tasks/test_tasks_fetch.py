"""Downloads: resumed, checked, never half a file; and what is here, missing or damaged."""

import errno
import hashlib
import http.server
import threading
from dataclasses import replace

import numpy as np
import pytest

from medyate import tasks
from medyate.errors import InputError
from medyate.files import fetch as files
from medyate.tasks import registry
from medyate.tasks.fetch import check, fetch, listing
from medyate.tasks.official import OfficialSource

CONTENT = np.random.default_rng(0).bytes(3_000_000)


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """(data folder, cache folder), the first empty, the second not there yet."""
    data, cache = tmp_path / "data", tmp_path / "user" / "cache"
    data.mkdir()
    monkeypatch.setenv("MEDYATE_DATA", str(data))
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path / "decoded"))
    monkeypatch.setattr(files, "cache_folder", lambda: cache)
    return data, cache


class Server:
    """A web server on this machine. content: what it sends; break_after: bytes of an answer after
    which the connection is closed, in turn; ranges: whether it can start in the middle."""

    def __init__(self):
        self.content, self.break_after, self.ranges, self.asked = CONTENT, [], True, []
        self.encoding = None
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                wanted = self.headers.get("Range")
                server.asked.append((self.path, wanted))
                if self.path == "/absent":
                    return self.send_error(404)
                start = int(wanted[6:-1]) if wanted and server.ranges else 0
                if start >= len(server.content):
                    return self.send_error(416)
                body = server.content[start:]
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(body)))
                if server.encoding:
                    self.send_header("Content-Encoding", server.encoding)
                self.end_headers()
                if server.break_after:
                    body = body[: server.break_after.pop(0)]
                self.wfile.write(body)

            def log_message(self, *_):
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@pytest.fixture
def server():
    server = Server()
    thread = threading.Thread(target=server.http.serve_forever, args=(0.02,))
    thread.start()
    yield server
    server.http.shutdown()
    thread.join()
    server.http.server_close()


@pytest.fixture
def task(server, monkeypatch):
    """Registers a task of one file at some paths of the server; returns the function that does."""

    right = hashlib.sha256(CONTENT).hexdigest()

    def register(*paths, digest=right):
        urls = tuple(f"{server.url}/{path}" for path in paths or ("big.tgz",))
        file = files.RemoteFile("big.tgz", digest, urls, size_bytes=len(CONTENT))
        source = OfficialSource("big", lambda files: None, ((file,),), folder="big-unpacked")
        monkeypatch.setitem(registry.TASKS, "big", tasks.Task("big", "a test", source))

    register()
    return register


def contents(folder):
    return {p.name: p.read_bytes() for p in folder.iterdir()} if folder.exists() else {}


def test_a_download_and_the_next_call(task, server, folders):
    assert fetch("big", progress=False) == [folders[1] / "big.tgz"]
    assert contents(folders[1]) == {"big.tgz": CONTENT}
    assert fetch("BIG", progress=False) == [folders[1] / "big.tgz"]
    assert server.asked == [("/big.tgz", None)]


def test_a_file_that_is_here_is_not_asked_for(task, server, folders):
    (folders[0] / "packs").mkdir()
    (folders[0] / "packs" / "big.tgz").write_bytes(CONTENT)
    assert fetch("big", progress=False) == [folders[0] / "packs" / "big.tgz"]
    (folders[0] / "packs" / "big.tgz").unlink()
    (folders[0] / "big-unpacked").mkdir()
    assert fetch("big", progress=False) == [folders[0] / "big-unpacked"]
    assert server.asked == []


def test_a_broken_download_is_resumed(task, server, folders):
    server.break_after = [1_000_000, 500_000]
    for _ in range(2):
        with pytest.raises(InputError, match="the data of task 'big' are not here; .* tried"):
            fetch("big", progress=False)
        # Only a name that nothing looks for.
        assert list(contents(folders[1])) == ["big.tgz.part"]
        assert files.find("big.tgz") is None
    assert fetch("big", progress=False) == [folders[1] / "big.tgz"]
    assert contents(folders[1]) == {"big.tgz": CONTENT}
    starts = [int(wanted[6:-1]) for _, wanted in server.asked[1:]]
    # What was on its way in a buffer may be lost, not more.
    assert 0 < starts[0] <= 1_000_000 and starts[0] < starts[1] <= starts[0] + 500_000


def test_a_server_that_cannot_resume_starts_anew(task, server, folders):
    server.ranges, server.break_after = False, [1_500_000]
    with pytest.raises(InputError):
        fetch("big", progress=False)
    fetch("big", progress=False)
    assert contents(folders[1]) == {"big.tgz": CONTENT}


def test_a_whole_part_only_lacks_its_name(task, server, folders):
    folders[1].mkdir(parents=True)
    (folders[1] / "big.tgz.part").write_bytes(CONTENT)
    fetch("big", progress=False)
    assert contents(folders[1]) == {"big.tgz": CONTENT}


def test_a_wrong_part_is_thrown_away(task, server, folders):
    folders[1].mkdir(parents=True)
    (folders[1] / "big.tgz.part").write_bytes(b"of another file" * 9)
    with pytest.raises(InputError, match="is damaged: SHA-256"):
        fetch("big", progress=False)
    assert contents(folders[1]) == {}
    fetch("big", progress=False)
    assert contents(folders[1]) == {"big.tgz": CONTENT}


def test_a_wrong_file_never_gets_its_name(task, server, folders):
    server.content = CONTENT[:-1] + b"?"
    with pytest.raises(InputError, match="allowed: [0-9a-f]{64}"):
        fetch("big", progress=False)
    assert contents(folders[1]) == {}


def test_addresses_in_turn(task, server, folders):
    task("absent", "big.tgz")
    fetch("big", progress=False)
    assert [path for path, _ in server.asked] == ["/absent", "/big.tgz"]
    assert contents(folders[1]) == {"big.tgz": CONTENT}


def test_a_packed_file_is_not_unpacked_on_the_way(task, server, folders):
    # Some servers call a .tar.gz a tar with Content-Encoding gzip.
    server.encoding = "gzip"
    fetch("big", progress=False)
    assert contents(folders[1]) == {"big.tgz": CONTENT}


def test_without_a_network_the_error_says_what_to_put_where(task, server, folders):
    task("absent")
    with pytest.raises(InputError) as told:
        fetch("big", progress=False)
    for words in (
        "'big'",
        "medyate data fetch big",
        "big.tgz",
        f"{server.url}/absent",
        hashlib.sha256(CONTENT).hexdigest(),
        str(folders[1]),
        "MEDYATE_DATA",
        "'big-unpacked'",
        "404",
    ):
        assert words in str(told.value)
    assert "\n" not in str(told.value)


def test_the_bar_shows(task, capsys):
    fetch("big")
    assert "big.tgz" in capsys.readouterr().out


def test_a_damaged_file_is_not_silently_replaced(task, server, folders):
    (folders[0] / "big.tgz").write_bytes(b"mine")
    with pytest.raises(InputError, match="big.tgz' is damaged"):
        fetch("big", progress=False)
    assert server.asked == [] and contents(folders[0]) == {"big.tgz": b"mine"}


def test_what_needs_no_download():
    assert fetch("digits") == []
    with pytest.raises(InputError, match="unknown task 'nothing'"):
        fetch("nothing")


def state(name="big"):
    return {row["file"]: row["state"] for row in check() if row["of"] == name}


def test_check(task, folders):
    assert state() == {"big.tgz": "missing"}
    place = folders[0] / "big.tgz"
    place.write_bytes(CONTENT)
    assert state() == {"big.tgz": "present"}
    place.write_bytes(CONTENT[:-1])
    assert state() == {"big.tgz": "damaged"}
    place.unlink()
    place.mkdir()
    assert state() == {"big.tgz": "damaged"}
    place.rmdir()
    (folders[0] / "big-unpacked").mkdir()
    assert state() == {"big-unpacked": "present"}


def test_check_counts_the_alternative_that_is_here(folders):
    assert state("cifar-10") == {"cifar-10-binary.tar.gz": "missing"}
    (folders[0] / "cifar-10-python.tar.gz").write_bytes(b"x")
    assert state("cifar-10") == {"cifar-10-python.tar.gz": "damaged"}


def test_check_covers_tasks_and_networks():
    from medyate import networks

    rows = check()
    owners = {row["of"] for row in rows}
    assert set(networks.NETWORKS) <= owners
    assert {name for name, t in tasks.TASKS.items() if t.source.downloads} <= owners
    assert {row["state"] for row in rows} <= {"present", "missing", "damaged"}
    assert all((row["path"] is None) == (row["state"] == "missing") for row in rows)


def test_listing(folders, task):
    (folders[0] / "mine.tar").write_bytes(b"")
    rows = {row["name"]: row for row in listing()}
    assert set(registry.TASKS) | {"mine"} == set(rows)
    assert rows["digits"]["present"] and not rows["big"]["present"]
    assert rows["cub"] | {"description": ""} == {
        "name": "cub",
        "description": "",
        "kind": "image",
        "classes": 200,
        "train": 5_994,
        "test": 5_794,
        "licence": "non-commercial research and education",
        "epochs": 205,
        "present": False,
    }
    assert len({tuple(row) for row in rows.values()}) == 1  # the same columns


def test_tasks_are_frozen_and_their_names_their_own():
    for name, task in tasks.TASKS.items():
        assert task.name == name == name.lower() and tasks.get(name.upper()) is task
        with pytest.raises(AttributeError):
            task.name = "other"
        assert replace(task) == task


def test_a_cache_that_cannot_be_written_is_told(task, server, folders, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setattr(files, "cache_folder", lambda: tmp_path / "file" / "medyate")
    with pytest.raises(InputError, match="cannot write to .*, where downloads go; allowed: .*MEDYATE_DATA") as caught:
        fetch("big", progress=False)
    assert server.asked == [] and "\n" not in str(caught.value)


def test_a_disk_that_fills_up_is_told(task, server, folders, monkeypatch):
    def full(*_arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files, "_get", full)
    with pytest.raises(InputError, match="tried .*No space left on device"):
        fetch("big", progress=False)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\udce9", "数" * 200])
def test_names_that_no_file_can_have_are_unknown_tasks(name):
    with pytest.raises(InputError, match="unknown task"):
        tasks.get(name)
