"""Which allocator a worker's process takes its memory from.

The C library's returns freed memory to the system and asks for it again in every step; one that keeps it saves that
time. No number of a run depends on it.
"""

from __future__ import annotations

import ctypes.util
import os
import sys
from pathlib import Path

from ..errors import InputError, choose

ALLOCATORS = {
    "system": "the C library's",
    "tcmalloc": "Google's, which keeps freed memory (Debian's package libtcmalloc-minimal4)",
    "auto": "tcmalloc where it is installed, else the C library's",
}
_NAMES = ("tcmalloc_minimal", "tcmalloc")


def variables(name: str) -> dict[str, str]:
    """Environment variables that give a new process this allocator: on Linux a library that is loaded first.

    Raises :class:`InputError` where tcmalloc is asked for and not installed.
    """
    choose(name, ALLOCATORS, "allocator")
    if name == "system":
        return {}
    library = next(filter(None, map(ctypes.util.find_library, _NAMES)), None) if sys.platform == "linux" else None
    if library is None:
        if name == "auto":
            return {}
        raise InputError(
            "allocator 'tcmalloc' is not installed here (Debian: libtcmalloc-minimal4); allowed: system, auto"
        )
    return {"LD_PRELOAD": " ".join(filter(None, [library, os.environ.get("LD_PRELOAD")]))}


def loaded() -> str:
    """The allocator of this process, by the libraries that it has loaded: "tcmalloc", "jemalloc" or "system"."""
    try:
        maps = Path("/proc/self/maps").read_text()
    except OSError:
        return "system"
    return next((name for name in ("tcmalloc", "jemalloc") if f"lib{name}" in maps), "system")
