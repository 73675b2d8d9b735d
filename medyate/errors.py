"""The one kind of error that a user is meant to read."""

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
    """Return ``value`` if it is an integer within [low, high]; a bool or a string is not one."""
    bounds = " ".join(
        part
        for part in (
            f"at least {low:,}" if low is not None else "",
            f"at most {high:,}" if high is not None else "",
        )
        if part
    )
    allowed = f"allowed: an integer{' ' + bounds if bounds else ''}"
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"{what} {value!r} is not an integer; {allowed}")
    if (low is not None and value < low) or (high is not None and value > high):
        raise InputError(f"{what} {value!r} is out of range; {allowed}")
    return value
