"""Reading pickles without running what they name: plain containers, numbers, strings and numpy arrays."""

import io
import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ..errors import InputError

# A pickle can call any function that it names, so these names are bound to the small readers below and every other
# one is refused. Not even numpy's own code sees what the file says until types and lengths are checked.


def _text(value):
    """Python 2's strings are bytes where the encoding is "bytes"."""
    return value.decode("latin1") if isinstance(value, bytes) else value


class _Dtype:
    """Stands for ``numpy.dtype``: booleans, integers and floats of fixed size only."""

    def __init__(self, code, *_flags):
        code = _text(code)
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise pickle.UnpicklingError(f"dtype {code!r} is not a plain number")
        self.code, self.order = code, "|"

    def __setstate__(self, state):
        order = _text(state[1])
        if order not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {order!r}")
        self.order = order

    def numpy(self) -> np.dtype:
        return np.dtype(self.order + self.code)


class _Array:
    """Stands for ``numpy.ndarray``: takes the state that numpy's own arrays write."""

    def __setstate__(self, state):
        _version, shape, dtype, fortran, data = state
        if not (isinstance(dtype, _Dtype) and isinstance(data, bytes)):
            raise pickle.UnpicklingError("an array of something else than numbers")
        if not (isinstance(shape, tuple) and all(type(n) is int and n >= 0 for n in shape)):
            raise pickle.UnpicklingError(f"shape {shape!r}")
        order = "F" if fortran else "C"
        self.value = np.frombuffer(data, dtype.numpy()).reshape(shape, order=order).copy()


def _reconstruct(kind, _shape, _code):
    if kind is not _Array:
        raise pickle.UnpicklingError("only plain arrays can be read")
    return _Array()


def _scalar(dtype, data):
    if not (isinstance(dtype, _Dtype) and isinstance(data, bytes)):
        raise pickle.UnpicklingError("a scalar that is not a number")
    return np.frombuffer(data, dtype.numpy(), count=1)[0]


def _encode(text, encoding):
    # protocols 0 to 2 have no bytes: Python writes them as latin-1 text
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError(f"encoding {encoding!r}")
    return text.encode("latin1")


def _empty_bytes():
    return b""  # what the same protocols call for no bytes at all


_READERS = {
    ("numpy", "dtype"): _Dtype,
    ("numpy", "ndarray"): _Array,
    ("numpy.core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy._core.multiarray", "_reconstruct"): _reconstruct,
    ("numpy.core.multiarray", "scalar"): _scalar,
    ("numpy._core.multiarray", "scalar"): _scalar,
    ("_codecs", "encode"): _encode,
    ("__builtin__", "bytes"): _empty_bytes,
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module, name):
        try:
            return _READERS[module, name]
        except KeyError:
            raise pickle.UnpicklingError(f"{module}.{name} is not allowed") from None


def read_numpy_pickle(source: str | Path | bytes, *, name: str | None = None, encoding: str = "ASCII"):
    """Read a pickle of plain containers, numbers, strings and numpy arrays; nothing else loads.

    ``source`` is a path or the bytes themselves, either a bare pickle or the zip container that
    ``torch.save`` writes (its ``*/data.pkl``); ``name`` is what an error calls it. ``encoding`` is
    that of the strings which Python 2 wrote, "bytes" for such strings as bytes.

    Raises:
        InputError: the file is damaged, or names anything but numpy's array reconstruction.
    """
    if name is None:
        name = "a pickle" if isinstance(source, bytes) else repr(str(source))
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                member = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
                data = archive.read(member)
        return _plain(_Unpickler(io.BytesIO(data), encoding=encoding).load())
    except Exception as error:  # a hostile or damaged pickle may raise anything at all
        raise InputError(
            f"{name} does not load, damaged or of another kind ({_reason(error)}); allowed: plain containers and "
            "numpy arrays"
        ) from error


def _plain(value):
    """Replace the stand-ins for arrays by the arrays, throughout nested containers."""
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__} {lines[0][:120]}".strip()
