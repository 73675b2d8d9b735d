"""How an exercise's answers are judged: questions, typical slips, and what is said of an answer.

Right answers are computed by the library and never shown. Typical slips are computed as well, each the answer of
someone who made it, so that the reply can name it. An open answer is not an error: a page with open answers builds.
"""

from __future__ import annotations

import copy
import functools
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..errors import choose

OPEN, RIGHT, WRONG = "open", "right", "wrong"

#: What may happen with any number of a unit: factor, and what to say where it explains the answer.
UNITS: Mapping[str, tuple[tuple[float, str], ...]] = {
    "elements": (
        (4, "that is in bytes; an element takes 4 of them, and elements are asked for"),
        (4 / 1024, "that is in kB; elements are asked for"),
    ),
    "bytes": (
        (1 / 4, "that is in elements; a number in single precision takes 4 bytes"),
        (8, "that is in bits; eight of them make a byte"),
        (1 / 1024, "that is in kB; bytes are asked for"),
    ),
    "fraction": ((100, "that is in percent; a fraction runs from 0 to 1"),),
    "percent": ((1 / 100, "that is a fraction; percent run from 0 to 100"),),
    "norm per element": ((1 / 4, "that divides by bytes; the price is in elements"),),
    "count": (),
}


@dataclass(frozen=True)
class Slip:
    """A typical wrong answer (a number, or a function where one is asked for), and what to say of it."""

    answer: Any
    says: str


@dataclass(frozen=True)
class Question:
    """One answer that an exercise asks for.

    name: the keyword of :func:`check`; right: a number, or a function where ``cases`` lists the arguments it is tried
    with; unit: one of :data:`UNITS`; slips: the first that explains an answer is named; hint: said of an answer that
    nothing explains; tolerance: relative, for numbers and for what functions return.
    """

    name: str
    right: Any
    unit: str
    slips: tuple[Slip, ...]
    hint: str
    cases: tuple[tuple, ...] = ()
    tolerance: float = 1e-6

    def __post_init__(self):
        choose(self.unit, UNITS, "unit")

    def judge(self, answer: Any) -> Verdict:
        """What to say of an answer; never the right one."""
        given = self._function(answer) if self.cases else self._number(answer)
        if isinstance(given, Verdict):
            return given
        if self._same(given, self._values(self.right)):
            return Verdict(self.name, RIGHT, "right")
        for slip in self.slips:
            if self._same(given, self._values(slip.answer)):
                return Verdict(self.name, WRONG, slip.says)
        for factor, says in UNITS[self.unit]:
            if self._same(given, [factor * value for value in self._values(self.right)]):
                return Verdict(self.name, WRONG, says)
        return Verdict(self.name, WRONG, f"{self._shown(given)} is not right; {self.hint}")

    def _values(self, answer: Any) -> list[np.ndarray]:
        """The answer as arrays: of a number one, of a function one for each case."""
        values = [answer(*copy.deepcopy(case)) for case in self.cases] if self.cases else [answer]
        return [np.asarray(value, dtype=float) for value in values]

    def _same(self, given: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> bool:
        return all(
            one.shape == other.shape and np.allclose(one, other, rtol=self.tolerance, atol=0)
            for one, other in zip(given, expected)
        )

    def _shown(self, given: Sequence[np.ndarray]) -> str:
        """The answer, or the first case in which a function goes wrong."""
        if not self.cases:
            return f"{given[0]:,.6g}"
        right = self._values(self.right)
        index = next(i for i in range(len(right)) if not self._same(given[i : i + 1], right[i : i + 1]))
        arguments = ", ".join(map(str, self.cases[index]))
        return f"for {arguments} it returns {given[index].tolist()}, which"

    def _number(self, answer: Any) -> list[np.ndarray] | Verdict:
        if answer is None:
            return Verdict(self.name, OPEN, "not answered yet")
        if not isinstance(answer, (str, bool, np.bool_)):
            try:
                value = answer if isinstance(answer, numbers.Real) else answer.item()  # of numpy or torch
                if math.isfinite(value):
                    return [np.asarray(value, dtype=float)]
            except (AttributeError, ValueError, TypeError, RuntimeError):
                pass
        return Verdict(self.name, WRONG, f"{answer!r} is not a number")

    def _function(self, answer: Any) -> list[np.ndarray] | Verdict:
        if answer is None:
            return Verdict(self.name, OPEN, "not answered yet")
        if not callable(answer):
            return Verdict(self.name, WRONG, f"{answer!r} is not a function")
        values = []
        for case in self.cases:
            arguments = ", ".join(map(str, case))
            try:
                value = answer(*copy.deepcopy(case))  # an answer may change what it is given
            except Exception as error:  # the reader's own code: whatever it raises is what to tell
                return Verdict(self.name, WRONG, f"for {arguments} it raises {type(error).__name__}: {error}")
            if value is None:
                return Verdict(self.name, OPEN, "not answered yet; let the function return something")
            try:
                values.append(np.asarray(value, dtype=float))
            except (TypeError, ValueError):
                return Verdict(self.name, WRONG, f"for {arguments} it returns {value!r}, which is not a number")
        return values


@dataclass(frozen=True)
class Verdict:
    """What was said of one answer: ``state`` is open, right or wrong."""

    name: str
    state: str
    says: str


@dataclass(frozen=True)
class Outcome:
    """The verdicts on an exercise's answers; in a notebook it shows itself."""

    verdicts: tuple[Verdict, ...]

    @property
    def right(self) -> bool:
        return all(verdict.state == RIGHT for verdict in self.verdicts)

    def __repr__(self) -> str:
        return "\n".join(f"{verdict.name}: {verdict.says}." for verdict in self.verdicts)

    def _repr_markdown_(self) -> str:
        marks = {OPEN: "◻", RIGHT: "✔", WRONG: "✘"}
        return "\n".join(f"* {marks[verdict.state]} **{verdict.name}**: {verdict.says}." for verdict in self.verdicts)


#: What makes the questions of each exercise, by its label, in the order of the book.
MAKERS: dict[str, Callable[[], tuple[Question, ...]]] = {}


def exercise(label: str) -> Callable:
    """Registers what makes an exercise's questions; made once, when first asked."""

    def register(make: Callable[[], tuple[Question, ...]]):
        MAKERS[label] = functools.cache(make)
        return make

    return register
