"""First sentences of Python documentation: a text task that needs no download."""

import hashlib
import importlib
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .text import Texts

#: The module whose public functions, classes and methods speak for a class.
MODULES = {"numpy": "numpy", "pandas": "pandas", "matplotlib": "matplotlib.pyplot"}
LENGTHS = range(20, 300)  # of a sentence, in characters


@dataclass(frozen=True)
class DocstringSource:
    """Which library does a sentence document, NumPy, pandas or Matplotlib?

    The first paragraphs of docstrings of the installed versions, without signatures, those that name
    a library, and those that two libraries share; about 600 of each. Every fifth, from the first, is
    for the test.
    """

    name: str = "docstrings"

    downloads = ()

    def places(self) -> dict[str, Path]:
        """No file: the texts come with the libraries."""
        return {}

    def digest(self) -> str:
        return hashlib.sha256("\0".join(text for _, text in _rows()).encode()).hexdigest()

    def read(self) -> Texts:
        classes = tuple(MODULES)
        rows = [((text,), classes.index(library)) for library, text in _rows()]
        return Texts(classes, [row for index, row in enumerate(rows) if index % 5], rows[::5])


def _rows() -> list[tuple[str, str]]:
    """(library, sentence), in an order that follows from the sentences alone."""
    owners: dict[str, set[str]] = {}
    for library, module in MODULES.items():
        for text in _sentences(module):
            owners.setdefault(text, set()).add(library)
    rows = [(libraries.pop(), text) for text, libraries in owners.items() if len(libraries) == 1]
    return sorted(rows, key=lambda row: hashlib.sha256(row[1].encode()).digest())


def _sentences(module: str) -> Iterator[str]:
    public = [thing for name, thing in _public(importlib.import_module(module))]
    methods = [method for thing in public if inspect.isclass(thing) for _, method in _public(thing)]
    for thing in (*public, *methods):
        text = getattr(thing, "__doc__", None)
        if not isinstance(text, str):  # a property that is computed, for one
            continue
        text = " ".join(inspect.cleandoc(text).split("\n\n")[0].split())
        told = text.lower()
        if len(text) in LENGTHS and "->" not in text and not any(library in told for library in MODULES):
            yield text


def _public(owner: object) -> list[tuple[str, object]]:
    # A package may load a public submodule only when it is asked for: else the task would depend on who has asked.
    for name in getattr(owner, "__all__", ()):
        getattr(owner, name, None)
    return [
        (name, thing)
        for name, thing in sorted(vars(owner).items(), key=lambda item: item[0])
        if not name.startswith("_")
    ]
