"""What a pickle may hold, and what it may not do."""

import io
import os
import pickle
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from medyate.errors import InputError
from medyate.files.pickles import read_numpy_pickle

NUMBERS = st.sampled_from(["?", "i1", "<i2", ">i4", "i8", "u1", "<u2", ">u8", "f2", "<f4", ">f8"])
ARRAYS = npst.arrays(NUMBERS, npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5))


@settings(deadline=None, database=None)
@given(ARRAYS, st.sampled_from([2, 3, 4]), st.booleans())
def test_arrays_read_back(array, protocol, fortran):
    array = np.asfortranarray(array) if fortran else array
    content = {"layers": [("a", array, None)], "scale": 0.5, "again": array}
    read = read_numpy_pickle(pickle.dumps(content, protocol))
    for value in (read["layers"][0][1], read["again"]):
        np.testing.assert_array_equal(value, array, strict=True)
    assert read["scale"] == 0.5 and read["layers"][0][0] == "a"


def test_numbers_read_back():
    read = read_numpy_pickle(pickle.dumps([np.float32(0.1), np.int64(-3)], 4))
    assert read == [np.float32(0.1), -3] and read[0].dtype == np.float32


def test_zip_container_and_path(tmp_path):
    path = tmp_path / "w.pkl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(np.arange(3), 2))
    assert read_numpy_pickle(path).tolist() == [0, 1, 2]


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
                read_numpy_pickle(pickle.dumps([np.arange(3), call], protocol))
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
        read_numpy_pickle(data)


def test_array_length_must_fit():
    """A state that claims more elements than it has bytes."""
    data = pickle.dumps(np.zeros(3, "i1"), 2).replace(b"K\x03\x85", b"K\x63\x85")
    assert b"K\x63\x85" in data
    with pytest.raises(InputError):
        read_numpy_pickle(data)


def test_persistent_ids_are_refused():
    class Pickler(pickle.Pickler):
        def persistent_id(self, obj):
            return "storage" if obj == "tensor" else None

    stream = io.BytesIO()
    Pickler(stream).dump(["tensor"])
    with pytest.raises(InputError):
        read_numpy_pickle(stream.getvalue())
