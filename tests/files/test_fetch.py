"""Files: where they are found, that a wrong checksum never loads, and what a pickle may not do."""

import dataclasses
import functools
import hashlib
import http.server
import io
import os
import pickle
import threading
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

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


def test_a_cut_off_download_leaves_nothing(folders):
    """The server promises more bytes than it sends."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Length", str(len(CONTENT)))
            self.end_headers()
            self.wfile.write(CONTENT[:5])

        def log_message(self, *args):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.handle_request)
        thread.start()
        with pytest.raises(InputError, match="no file 'weights.bin'"):
            files.fetch(remote(f"http://127.0.0.1:{httpd.server_port}/weights.bin"))
        thread.join()
    assert not list(folders[1].iterdir())


def test_an_unwritable_cache_is_told(folders, server):
    address, root, _ = server
    (root / "weights.bin").write_bytes(CONTENT)
    folders[1].write_bytes(b"a file where the folder should be")
    with pytest.raises(InputError, match="'weights.bin'.*Error"):
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


# Pickles

NUMBERS = st.sampled_from(["?", "i1", "<i2", ">i4", "i8", "u1", "<u2", ">u8", "f2", "<f4", ">f8"])
ARRAYS = npst.arrays(NUMBERS, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


@settings(deadline=None, database=None)
@given(ARRAYS, st.sampled_from([2, 3, 4]), st.booleans())
def test_arrays_read_back(array, protocol, fortran):
    array = np.asfortranarray(array) if fortran else array
    content = {"layers": [("a", array, None)], "scale": 0.5, "again": array}
    read = files.read_numpy_pickle(pickle.dumps(content, protocol))
    for value in (read["layers"][0][1], read["again"]):
        np.testing.assert_array_equal(value, array, strict=True)
    assert read["scale"] == 0.5 and read["layers"][0][0] == "a"


def test_numbers_read_back():
    read = files.read_numpy_pickle(pickle.dumps([np.float32(0.1), np.int64(-3)], 4))
    assert read == [np.float32(0.1), -3] and read[0].dtype == np.float32


def test_zip_container_and_path(tmp_path):
    path = tmp_path / "w.pkl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(np.arange(3), 2))
    assert files.read_numpy_pickle(path).tolist() == [0, 1, 2]


class Calls:
    """Pickles as a call of ``function(*arguments)``."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_malicious_pickle_does_nothing(tmp_path):
    trace = tmp_path / "trace"
    hostile = [
        Calls(os.system, f"touch {trace}"),
        Calls(os.mkdir, str(trace)),
        Calls(eval, f"open({str(trace)!r}, 'w')"),
        Calls(getattr, "text", "upper"),
        Calls(np.load, str(trace), None, True),
        Calls(np.fromfile, str(trace)),
        Calls(np.dtype, [("a", "O")]),
    ]
    for protocol in (2, 4):
        for call in hostile:
            with pytest.raises(InputError, match="does not load"):
                files.read_numpy_pickle(pickle.dumps([np.arange(3), call], protocol))
    assert not trace.exists()
    pickle.loads(pickle.dumps(hostile[0]))  # the oracle: the usual reader does run it
    assert trace.exists()


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps(np.array([object], dtype=object), 4),
        pickle.dumps(np.zeros(2, "S3"), 4),
        pickle.dumps(np.zeros(2, [("a", "i4")]), 4),
        pickle.dumps(np.datetime64("2020-01-01"), 4),
        pickle.dumps(np.arange(9), 4)[:-20],
        b"",
        b"PK\x03\x04 no zip",
        b"c_codecs\nencode\n(Vtext\nVrot13\ntR.",  # any other codec
        b"cnumpy\nndarray.tofile\n.",  # an attribute of an allowed name
        b"c__builtin__\nbytes\n(I1000000000000\ntR.",
        b"cnumpy\nndarray\n)\x81.",  # an array without content
    ],
)
def test_other_content_is_refused(data):
    with pytest.raises(InputError, match="does not load"):
        files.read_numpy_pickle(data)


def test_array_length_must_fit():
    """A state that claims more elements than it has bytes."""
    data = pickle.dumps(np.zeros(3, "i1"), 2).replace(b"K\x03\x85", b"K\x63\x85")
    assert b"K\x63\x85" in data
    with pytest.raises(InputError):
        files.read_numpy_pickle(data)


def test_persistent_ids_are_refused():
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return "storage" if obj == "tensor" else None

    stream = io.BytesIO()
    Pickler(stream).dump(["tensor"])
    with pytest.raises(InputError):
        files.read_numpy_pickle(stream.getvalue())
