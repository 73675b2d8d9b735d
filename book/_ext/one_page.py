"""The book as one long page (`make pdf`): nodes that know how to become HTML may do so there too.

Sphinx looks for a builder's own handlers and only without any for those of its format. An extension that registers
some for ``singlehtml`` thereby hides all others' handlers for ``html``.
"""

from sphinx.application import Sphinx


def share_handlers(app: Sphinx) -> None:
    handlers = app.registry.translation_handlers
    if app.builder.name == "singlehtml":
        handlers["singlehtml"] = {**handlers.get("html", {}), **handlers.get("singlehtml", {})}


def setup(app: Sphinx) -> dict:
    app.connect("builder-inited", share_handlers)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
