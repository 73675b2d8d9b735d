"""Docstrings as they are written: sentences stay sentences, and a bare name links to the object of that name.

A property's "what: which" is a sentence, where napoleon sees "type: text" in it. And a docstring says ``InputError``,
as code does, where Sphinx knows only ``medyate.errors.InputError``.
"""

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.nodes import make_refnode


def keep_sentence(_app: Sphinx, what: str, _name: str, _obj, _options, lines: list[str]) -> None:
    """An empty comment hides the colon from napoleon, which looks at the first line alone."""
    if what in ("property", "attribute", "data") and lines:
        lines[:0] = ["..", ""]


def meant(target: str, module: str, documented: list[str]) -> str | None:
    """The one documented name that a docstring of ``module`` means by ``target``; None where it could be several.

    ``InputError`` is any name that ends in it; ``medyate.tasks.load`` any below ``medyate.tasks`` that ends in
    ``load``. Of several, the one in the module's own package is meant.
    """
    parent, _, last = target.rpartition(".")
    ends = [name for name in documented if name.endswith(f".{target}")]
    below = [name for name in documented if parent and name.startswith(f"{parent}.") and name.endswith(f".{last}")]
    found = ends or below
    if len(found) > 1:
        package = module if f"{module}.{target}" in found else module.rpartition(".")[0]
        found = [name for name in found if name.startswith(f"{package}.")]
    return found[0] if len(found) == 1 else None


def link(app: Sphinx, env, node: nodes.Element, text: nodes.Node) -> nodes.Node | None:
    """What Sphinx calls when it finds no target for a reference."""
    if node.get("refdomain") != "py":
        return None
    objects = env.domains["py"].objects
    name = meant(node["reftarget"], node.get("py:module") or "", list(objects))
    if name is None:
        return None
    return make_refnode(app.builder, node["refdoc"], objects[name].docname, objects[name].node_id, text, name)


def setup(app: Sphinx) -> dict:
    app.connect("autodoc-process-docstring", keep_sentence, priority=400)  # before napoleon's 500
    app.connect("missing-reference", link)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
