"""Sees the functions within a function of torch."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable


@functools.cache
def inside(function: Callable) -> Callable:
    """A function of torch that is written in Python, so that a mode sees the functions that it calls.

    A mode is told of such a function as a whole. The same code, under the impression that nobody listens,
    runs on to the functions within, of which the mode is told.
    """
    names = dict(function.__globals__, has_torch_function=lambda _tensors: False)
    copied = types.FunctionType(function.__code__, names, function.__name__, function.__defaults__)
    copied.__kwdefaults__ = function.__kwdefaults__
    return copied
