"""Models small enough to compile in a moment, and the engine built for them."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest
from torch import nn

from medyate import costs
from medyate.ranking import Ranking

COMPILER = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C compiler here (cc, gcc or clang)")
needs_cross = pytest.mark.skipif(
    shutil.which("arm-none-eabi-gcc") is None, reason="no arm-none-eabi-gcc here (make device-tools)"
)
needs_emulator = pytest.mark.skipif(
    shutil.which("qemu-system-arm") is None, reason="no qemu-system-arm here (make device-tools)"
)


def unit(cin, cout, kernel=1, stride=1, groups=1, act=nn.ReLU6, norm=True, padding=None):
    """A convolution, its batch norm with statistics of its own, an activation."""
    padding = kernel // 2 if padding is None else padding
    parts = [nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=not norm)]
    if norm:
        bn = nn.BatchNorm2d(cout)
        bn.running_mean.normal_(0, 0.3)
        bn.running_var.uniform_(0.5, 2)
        nn.init.uniform_(bn.weight, 0.5, 2)
        nn.init.normal_(bn.bias, 0.3, 0.3)
        parts.append(bn)
    if act is not None:
        parts.append(act())
    return nn.Sequential(*parts)


class Bottleneck(nn.Module):
    """pw1 (where ``mid`` widens), depthwise, pw2; the input is added where ``residual``."""

    def __init__(self, cin, mid, cout, kernel, stride=1, residual=False, act=nn.ReLU6, last=None):
        super().__init__()
        self.pw1 = None if mid == cin else unit(cin, mid, act=act)
        self.dw = unit(mid, mid, kernel, stride, groups=mid, act=act)
        self.pw2 = unit(mid, cout, act=last)
        self.residual = residual

    def forward(self, x):
        y = self.pw2(self.dw(x if self.pw1 is None else self.pw1(x)))
        return x + y if self.residual else y


def model(*stages, features, classes=5, seed=0):
    """Stages, an average and a linear classifier; seeded by who calls."""
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(features, classes)).eval()


def make(folder: Path, *goals: str, **variables) -> subprocess.CompletedProcess:
    options = [f"{name}={value}" for name, value in variables.items()]
    return subprocess.run(["make", "-C", str(folder), *goals, *options], capture_output=True, text=True)


def made(folder: Path, *goals: str, **variables) -> str:
    """The output of a make that must succeed."""
    done = make(folder, *goals, **variables)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


class Engine:
    """The exported engine as a library in this process, its functions by name."""

    def __init__(self, folder: Path, optimise: str = "-O1"):
        make(folder, "clean")
        made(folder, "lib", OPTIMISE=optimise)
        own = folder / f"libdevice{len(list(folder.glob('*.so')))}.so"  # a name once loaded is not loaded anew
        shutil.copy(folder / "build/native/libdevice.so", own)
        self.library = ctypes.CDLL(str(own))

    def __getattr__(self, name):
        return getattr(self.library, name)


def ranking_of(own, input_shape=(3, 16, 16)):
    """A ranking in which every layer counts alike."""
    names = tuple(layer.name for layer in costs.layers(own, input_shape))
    return Ranking("own", "own", names, tuple(1.0 for _ in names), tuple(1.0 for _ in names))
