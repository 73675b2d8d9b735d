"""The allocator of a worker's process: found, loaded, and said by the process itself."""

import os
import subprocess
import sys

import pytest

from medyate.errors import InputError
from medyate.files import paths
from medyate.sweeps import allocators


def said(variables):
    code = "from medyate.sweeps import allocators; print(allocators.loaded())"
    environment = {**os.environ, "PYTHONPATH": str(paths.CHECKOUT), "LD_PRELOAD": "", **variables}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True).stdout.strip()


def test_a_process_says_which_allocator_it_has():
    assert allocators.variables("system") == {} and said({}) == "system"
    found = allocators.variables("auto")
    if not found:
        pytest.skip("tcmalloc is not installed")
    assert found == allocators.variables("tcmalloc") and said(found) == "tcmalloc"


def test_what_is_preloaded_already_stays(monkeypatch):
    monkeypatch.setattr(allocators.sys, "platform", "linux")
    monkeypatch.setattr(allocators.ctypes.util, "find_library", lambda name: f"lib{name}.so.4")
    monkeypatch.setenv("LD_PRELOAD", "other.so")
    assert allocators.variables("auto") == {"LD_PRELOAD": "libtcmalloc_minimal.so.4 other.so"}


def test_what_is_not_installed_is_told(monkeypatch):
    monkeypatch.setattr(allocators.ctypes.util, "find_library", lambda name: None)
    assert allocators.variables("auto") == {}
    with pytest.raises(InputError, match="allocator 'tcmalloc' is not installed here .*; allowed: system, auto"):
        allocators.variables("tcmalloc")
    with pytest.raises(InputError, match="unknown allocator 'mimalloc'; allowed: system, tcmalloc, auto"):
        allocators.variables("mimalloc")
