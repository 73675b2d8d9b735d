"""The exercises' answers, readable or sealed.

A lecturer's copy of the project has them as :mod:`medyate.course.answers`. A student's copy has the same text packed in
``answers.sealed``, which no one reads by accident; the self-checks work as before.
It hides nothing from anyone who unpacks it.
"""

from __future__ import annotations

import base64
import functools
import importlib
import textwrap
import types
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

from ..errors import InputError
from .questions import MAKERS

FOLDER = Path(__file__).parent
READABLE, SEALED = FOLDER / "answers.py", FOLDER / "answers.sealed"


def seal(text: str) -> str:
    """The answers' source as lines of ASCII that :func:`unseal` reads."""
    return "\n".join(textwrap.wrap(base64.b85encode(zlib.compress(text.encode(), 9)).decode(), 120)) + "\n"


def unseal(text: str) -> str:
    """What was sealed. :class:`InputError` where the text is damaged."""
    try:
        return zlib.decompress(base64.b85decode("".join(text.split()))).decode()
    except (ValueError, zlib.error) as error:
        raise InputError(f"{SEALED.name} is damaged ({error}); copy the file anew") from error


@functools.cache
def makers() -> Mapping[str, Callable]:
    """What makes each exercise's questions, by its label, from whichever file of answers is there."""
    if READABLE.is_file():
        importlib.import_module(".answers", __package__)
    elif SEALED.is_file():
        module = types.ModuleType(f"{__package__}.answers")
        module.__package__ = __package__
        exec(compile(unseal(SEALED.read_text("ascii")), SEALED.name, "exec"), module.__dict__)
    else:
        raise InputError(f"the exercises' answers are not here; allowed: {READABLE.name} or {SEALED.name} in {FOLDER}")
    return MAKERS
