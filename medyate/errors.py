"""The one kind of error that a user is meant to read."""

import math
import operator
from collections.abc import Iterable


class InputError(ValueError):
    """Bad input, told in one line that quotes the value and lists what is allowed."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in a notebook: the one line, without the way it came here."""
        return [f"{type(self).__name__}: {self}"]


def choose(value: str, allowed: Iterable[str], what: str) -> str:
    """Return ``value`` if it is one of ``allowed``; else an :class:`InputError` that lists them."""
    allowed = list(allowed)
    if value not in allowed:
        raise InputError(f"unknown {what} {value!r}; allowed: {', '.join(map(str, allowed))}")
    return value


def whole(value, what: str, low: int | None = None, high: int | None = None) -> int:
    """Return ``value`` as an int if it is an integer, numpy's too, in [low, high]; a bool or a string is none."""
    bounds = (("" if low is None else f" at least {low:,}"), ("" if high is None else f" at most {high:,}"))
    allowed = "allowed: an integer" + "".join(bounds)
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool):
        raise InputError(f"{what} {value!r} is not an integer; {allowed}")
    value = number
    if (low is not None and value < low) or (high is not None and value > high):
        raise InputError(f"{what} {value!r} is out of range; {allowed}")
    return value


def positive(value, what: str, zero: bool = False) -> float:
    """Return ``value`` as a float if it is a finite number above 0, or from 0 on with ``zero``; a bool is none."""
    allowed = f"allowed: a finite number {'from 0 on' if zero else 'above 0'}"
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(f"{what} {value!r} is not a number; {allowed}")
    if not math.isfinite(value) or value < 0 or (value == 0 and not zero):
        raise InputError(f"{what} {value!r} is out of range; {allowed}")
    return float(value)
