"""Files: where they are found, and that a wrong checksum never loads."""

import dataclasses
import functools
import hashlib
import http.server
import os
import threading

import pytest

from medyate.errors import InputError
from medyate.files import fetch as files

CONTENT = b"the right bytes"
SHA256 = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def folders(tmp_path, monkeypatch):
    """(data folder, cache folder), both empty; the machine's own are out of sight."""
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    monkeypatch.setenv(files.ENVIRONMENT_VARIABLE, str(data))
    monkeypatch.setattr(files, "cache_folder", lambda: cache)
    return data, cache


@pytest.fixture
def server(tmp_path):
    """Address of a web server on this machine, the folder that it serves, and the paths it was asked for."""
    root = tmp_path / "served"
    root.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(root))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", root, asked
        httpd.shutdown()
        thread.join()


def remote(*urls, name="weights.bin"):
    return files.RemoteFile(name, SHA256, urls)


def test_folders_in_order(tmp_path, monkeypatch, folders):
    _, cache = folders
    for name in ("one/b", "one/a", "one/.hidden", "two"):
        (tmp_path / name).mkdir(parents=True)
    cache.mkdir()
    names = [tmp_path / "one", tmp_path / "absent", tmp_path / "two"]
    monkeypatch.setenv(files.ENVIRONMENT_VARIABLE, os.pathsep.join(map(str, names)))
    expected = [tmp_path / "one", tmp_path / "one/a", tmp_path / "one/b", tmp_path / "two", cache]
    assert files.data_folders() == expected


def test_first_folder_wins(folders):
    data, cache = folders
    cache.mkdir()
    (cache / "x").write_bytes(b"")
    assert files.find("x") == cache / "x"
    (data / "sub").mkdir()
    (data / "sub/x").write_bytes(b"")
    assert files.find("x") == data / "sub/x"
    (data / "x").mkdir()
    assert files.find("x") == data / "x"


@pytest.mark.parametrize("name", ["", ".", "..", "../data", "sub/x", "/etc"])
def test_a_path_is_no_name(folders, name):
    assert files.find(name) is None


def test_found_file_is_taken_without_download(folders, server):
    address, _, asked = server
    (folders[0] / "weights.bin").write_bytes(CONTENT)
    assert files.fetch(remote(f"{address}/weights.bin")) == folders[0] / "weights.bin"
    assert not asked


def test_wrong_checksum_never_loads(folders, server):
    address, root, asked = server
    (root / "weights.bin").write_bytes(CONTENT)
    wrong = folders[0] / "weights.bin"
    wrong.write_bytes(CONTENT + b"!")
    file = remote(f"{address}/weights.bin")
    assert files.state(file) == ("wrong checksum", wrong)
    with pytest.raises(InputError) as caught:
        files.fetch(file)
    message = str(caught.value)
    assert str(wrong) in message and SHA256 in message and hashlib.sha256(CONTENT + b"!").hexdigest() in message
    assert "\n" not in message and not asked
    assert wrong.read_bytes() == CONTENT + b"!"  # the user's file stays


def test_a_folder_of_the_files_name_is_no_file(folders):
    (folders[0] / "weights.bin").mkdir()
    with pytest.raises(InputError, match="wrong checksum"):
        files.fetch(remote())


def test_addresses_in_turn(folders, server):
    """The first is not there, the second holds something else, the third is right."""
    address, root, asked = server
    (root / "bad.bin").write_bytes(b"something else")
    (root / "good.bin").write_bytes(CONTENT)
    path = files.fetch(remote(f"{address}/none.bin", f"{address}/bad.bin", f"{address}/good.bin"))
    assert path == folders[1] / "weights.bin" and path.read_bytes() == CONTENT
    assert [p.name for p in folders[1].iterdir()] == ["weights.bin"]
    asked.clear()
    assert files.fetch(remote(f"{address}/good.bin")) == path and not asked


def test_first_digits_of_a_checksum_tell_a_damaged_file(folders, server):
    address, root, _ = server
    (root / "good.bin").write_bytes(CONTENT)
    (root / "bad.bin").write_bytes(CONTENT + b"!")
    file = dataclasses.replace(remote(f"{address}/bad.bin", f"{address}/good.bin"), sha256=SHA256[:8])
    path = files.fetch(file)
    assert path.read_bytes() == CONTENT and [p.name for p in path.parent.iterdir()] == ["weights.bin"]
    path.write_bytes(CONTENT + b"!")
    with pytest.raises(InputError, match="wrong checksum"):
        files.fetch(file)


def test_nothing_can_be_had(folders, server):
    address, root, _ = server
    (root / "bad.bin").write_bytes(b"something else")
    urls = f"{address}/none.bin", f"{address}/bad.bin", "http://127.0.0.1:9/closed.bin"
    with pytest.raises(InputError) as caught:
        files.fetch(remote(*urls))
    message = str(caught.value)
    assert all(
        part in message
        for part in ("'weights.bin'", SHA256, *urls, str(folders[1]), "MEDYATE_DATA", "404", "wrong checksum")
    )
    assert "\n" not in message
    assert not folders[1].exists() or not list(folders[1].iterdir())  # nothing half done stays


def test_a_cut_off_download_is_resumed(folders):
    """The server promises more bytes than it sends, and the second time sends the rest."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.headers.get("Range"))
            start = 5 if len(asked) == 2 else 0
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(CONTENT) - start))
            self.end_headers()
            self.wfile.write(CONTENT[start:] if start else CONTENT[:5])

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=lambda: [httpd.handle_request() for _ in range(2)])
        thread.start()
        file = remote(f"http://127.0.0.1:{httpd.server_port}/weights.bin")
        with pytest.raises(InputError, match="no file 'weights.bin'.*broke off after 5 bytes"):
            files.fetch(file)
        assert [path.name for path in folders[1].iterdir()] == ["weights.bin.part"]  # a name that nothing looks for
        assert files.state(file) == ("missing", None)
        assert files.fetch(file) == folders[1] / "weights.bin"
        thread.join()
    assert asked == [None, "bytes=5-"] and (folders[1] / "weights.bin").read_bytes() == CONTENT


def test_an_unwritable_cache_is_told(folders, server):
    address, root, _ = server
    (root / "weights.bin").write_bytes(CONTENT)
    folders[1].write_bytes(b"a file where the folder should be")
    with pytest.raises(InputError, match="cannot write to .*, where downloads go; allowed: .*MEDYATE_DATA"):
        files.fetch(remote(f"{address}/weights.bin"))


def test_no_download_when_not_wanted(folders, server):
    address, root, asked = server
    (root / "weights.bin").write_bytes(CONTENT)
    with pytest.raises(InputError, match="no file 'weights.bin'"):
        files.fetch(remote(f"{address}/weights.bin"), download=False)
    assert not asked


def test_a_package_carries_its_file(folders):
    """pytest's own metadata stands for a package that ships a file."""
    import importlib.metadata

    record = next(p for p in importlib.metadata.files("pytest") if p.name == "METADATA")
    right = files.RemoteFile("METADATA", files.sha256(record.locate()), package="pytest")
    assert files.fetch(right) == record.locate()
    missing = files.RemoteFile("METADATA", SHA256, package="no-such-package-of-medyate")
    with pytest.raises(InputError, match="pip install no-such-package-of-medyate"):
        files.fetch(missing)
