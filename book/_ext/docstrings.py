"""Docstrings as they are written: a property's "what: which" is a sentence, where napoleon sees "type: text" in it."""

from sphinx.application import Sphinx


def keep_sentence(_app: Sphinx, what: str, _name: str, _obj, _options, lines: list[str]) -> None:
    """An empty comment hides the colon from napoleon, which looks at the first line alone."""
    if what in ("property", "attribute") and lines:
        lines[:0] = ["..", ""]


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-process-docstring", keep_sentence, priority=400)  # before napoleon's 500
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
