"""Formulas as MathML, which browsers draw themselves: the built book needs no script and no network.

Sphinx's own HTML renderers fetch MathJax from a server or call LaTeX. docutils, which Sphinx stands on,
translates LaTeX to MathML; this extension hands Sphinx that translation.
"""

from html import escape

from docutils import nodes
from docutils.utils.math import MathError, latex2mathml
from sphinx.application import Sphinx
from sphinx.util import logging
from sphinx.util.math import get_node_equation_number

logger = logging.getLogger(__name__)


def translate(node: nodes.Element, block: bool) -> str:
    """MathML of a formula; one that docutils does not know is a warning and stays LaTeX."""
    latex = node.astext().strip()
    if "\\\\" in latex and "\\begin" not in latex:
        latex = "\\begin{aligned}" + latex + "\\end{aligned}"
    try:
        return spaced(latex2mathml.tex2mathml(latex, as_block=block))
    except MathError as error:
        logger.warning("formula %r: %s", latex, error, location=node)
        return f"<code>{escape(latex)}</code>"


def spaced(mathml: str) -> str:
    """Room around a prime: browsers would draw the apostrophe into the letter before it."""
    return mathml.replace("<mo>'</mo>", '<mo lspace="0.1em" rspace="0.05em">\'</mo>')


def visit_math(self, node: nodes.math) -> None:
    self.body.append(translate(node, block=False))
    raise nodes.SkipNode


def visit_math_block(self, node: nodes.math_block) -> None:
    ids = f' id="{node["ids"][0]}"' if node["ids"] else ""
    self.body.append(f'<div class="formula"{ids}>{translate(node, block=True)}')
    if node.get("number"):
        number = get_node_equation_number(self, node)
        self.body.append(f'<span class="eqno">{self.config.math_eqref_format.format(number=number)}')
        self.add_permalink_ref(node, "Link to this equation")
        self.body.append("</span>")
    self.body.append("</div>\n")
    raise nodes.SkipNode


def setup(app: Sphinx) -> dict:
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math_block, None))
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
