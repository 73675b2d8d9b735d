"""Compiles :mod:`medyate.execution.compiled`'s library, and checks its numbers."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files import paths
from . import compiled
from .attach import attach

_BUILD = """
import sys
from torch.utils.cpp_extension import load
name, source, folder = sys.argv[1:]
load(name, [source], extra_cflags=["-O3"], build_directory=folder, is_python_module=False)
"""


def build() -> Path:
    """Compile the library, unless one is there that works, and check that its numbers are Python's, to the bit.

    Takes a minute or two. Raises :class:`InputError` with the compiler's words where it cannot be built.
    """
    if os.environ.get("MEDYATE_COMPILED") == "0":
        raise InputError("MEDYATE_COMPILED is 0, so that nothing compiled is used; allowed: to unset it")
    file = compiled.path()
    if not file.is_file() or not _works():
        paths.make(file.parent, "; MEDYATE_CACHE can name another folder")
        _compile(file)
        if not _works():
            remove()
            raise InputError(f"the compiled library gives other numbers than Python with torch {torch.__version__}")
    return file


def _compile(file: Path) -> None:
    # a virtual environment's ninja is found without its being activated
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", _BUILD, compiled.NAME, str(compiled.SOURCE), folder],
            env=os.environ | {"PATH": search},
            capture_output=True,
            text=True,
        )
        made = Path(folder) / file.name
        if done.returncode or not made.is_file():
            raise InputError(
                f"{compiled.SOURCE.name} cannot be compiled; needed: a C++ compiler and ninja (pip install ninja). "
                f"{_error_in(done.stderr + done.stdout)}"
            )
        paths.write_bytes(file, made.read_bytes())


def _works() -> bool:
    compiled.library.cache_clear()
    return compiled.library() is not None and agrees()


def remove() -> None:
    """Delete the library, if it is there."""
    compiled.path().unlink(missing_ok=True)
    compiled.library.cache_clear()


def _error_in(text: str) -> str:
    lines = text.strip().splitlines()
    errors = [line for line in lines if "error:" in line]  # the compiler's come first, Python's last
    return (errors[0] if errors else lines[-1] if lines else "")[:400]


def agrees() -> bool:
    """Whether a small network's gradients are the same bits with and without the library."""

    def step(is_compiled: bool) -> list[Tensor]:
        generator = torch.Generator().manual_seed(0)
        layers: list[nn.Module] = []
        for outputs, inputs, groups, activation in ((16, 4, 1, nn.ReLU6()), (16, 16, 16, nn.ReLU()), (8, 16, 2, None)):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1, groups=groups), nn.BatchNorm2d(outputs)]
            layers += [activation] if activation is not None else []
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))
        for parameter in model.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator)
        images = torch.randn((2, 4, 12, 12), generator=generator).contiguous(memory_format=torch.channels_last)
        attached = attach(model, classifier=str(len(model) - 1))
        attached.select({"0": [1, 2], "3": [0, 5], str(len(layers) - 2): [3, 9]})
        with torch.random.fork_rng(devices=[]), compiled.using(is_compiled):
            out = model(images)
            nn.functional.cross_entropy(out, torch.tensor([0, 2])).backward()
        found = [out.detach(), *(p.grad.clone() for p in attached.parameters() if p.grad is not None)]
        attached.detach()
        return found

    return all(map(torch.equal, step(True), step(False)))
