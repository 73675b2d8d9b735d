"""The same layers compiled: on a CPU, Python's part of a small network's step takes longer than its products.

``compiled.cpp`` calls torch's operators in the order in which :mod:`medyate.execution.kernels` does, and gives the same
bits. ``medyate compile`` (:func:`medyate.execution.compiling.build`) compiles it, once for this torch and this source;
from then on every subnet whose float32 images lie in the CPU's memory uses it. Nothing is compiled unasked, and where
nothing has been compiled, or ``MEDYATE_COMPILED=0`` is set, everything runs as it did.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import platform
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files import paths

SOURCE = Path(__file__).with_suffix(".cpp")
NAME = "medyate_compiled"


def path() -> Path:
    """Where the library for this source, torch, Python and processor lies, or would lie."""
    text = [SOURCE.read_text(), torch.__version__, sysconfig.get_config_var("SOABI") or "", platform.machine()]
    digest = hashlib.sha256("\n".join(text).encode()).hexdigest()[:16]
    return paths.cache() / "compiled" / digest / f"{NAME}{'.pyd' if sys.platform == 'win32' else '.so'}"


@functools.cache  # asked for every layer of every step
def library() -> Any:
    """The compiled library; None where there is none, or it is not wanted (``MEDYATE_COMPILED=0``)."""
    wanted = os.environ.get("MEDYATE_COMPILED", "1")
    if wanted not in ("0", "1"):
        raise InputError(f"MEDYATE_COMPILED is {wanted!r}; allowed: 0, 1")
    file = path()
    if wanted == "0" or not file.is_file():
        return None
    try:
        specification = importlib.util.spec_from_file_location(NAME, file)
        assert specification is not None and specification.loader is not None
        module = importlib.util.module_from_spec(specification)
        specification.loader.exec_module(module)
    except ImportError as error:  # built elsewhere, for other libraries of the system
        warnings.warn(
            f"the compiled library {str(file)!r} cannot be loaded ({error}), so that Python's code runs; allowed: "
            "medyate compile",
            stacklevel=2,
        )
        return None
    return module


_allowed: ContextVar[bool] = ContextVar("allowed", default=True)


@contextmanager
def using(compiled: bool) -> Iterator[None]:
    """Within it, the library is used, where there is one, or is not. For comparisons."""
    token = _allowed.set(compiled)
    try:
        yield
    finally:
        _allowed.reset(token)


def library_for(x: Tensor) -> Any:
    """The library where it can take a layer's input: a batch of float32 images on the CPU, watched by nobody."""
    if x.dtype is not torch.float32 or x.dim() != 4 or x.device.type != "cpu" or not _allowed.get():
        return None
    if type(x) not in (Tensor, nn.Parameter) or torch._C._len_torch_dispatch_stack():
        return None
    return library()
