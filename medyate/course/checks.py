"""Self-checks of the book's exercises: what is wrong with an answer, not only that it is.

A page asks, the reader assigns, and the cell behind it says what came out:

>>> check("ex-hand", rgn=0.19, lara=None)
rgn: right.
lara: not answered yet.
"""

from __future__ import annotations

from typing import Any

from ..errors import InputError, choose
from .questions import OPEN, RIGHT, WRONG, Outcome, Question, Slip, Verdict
from .sealing import makers

__all__ = ["OPEN", "RIGHT", "WRONG", "Outcome", "Question", "Slip", "Verdict", "check", "exercises", "questions"]


def exercises() -> tuple[str, ...]:
    """Labels of the exercises that have a self-check, in the order of the book."""
    return tuple(makers())


def questions(label: str) -> tuple[Question, ...]:
    """The questions of an exercise. Raises :class:`InputError` for a label without a self-check."""
    return makers()[choose(label, makers(), "exercise")]()


def check(label: str, **answers: Any) -> Outcome:
    """Check the answers to an exercise's questions, each by its name; None is an open one.

    Raises :class:`InputError` for an unknown exercise, or where the names are not the questions'.
    """
    asked = questions(label)
    names = [question.name for question in asked]
    if sorted(answers) != sorted(names):
        raise InputError(f"answers {sorted(answers)} do not fit exercise {label!r}; allowed: {', '.join(names)}")
    return Outcome(tuple(question.judge(answers[question.name]) for question in asked))
