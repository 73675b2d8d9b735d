"""The measured run time of a part, in the part itself: taken from the page's execution, never typed.

Where a page has a box "Before you start", a line is added to it with the seconds that the page's code took when it was
executed, those of the notebooks below it, and the processor.
"""

from docutils import nodes
from myst_nb.sphinx_ import NbMetadataCollector
from sphinx.application import Sphinx
from sphinx.util import logging

BOX = "Before you start"
logger = logging.getLogger(__name__)


class run_time(nodes.General, nodes.Inline, nodes.Element):
    """Stands for the run time of the page ``docname`` until all pages have been executed."""


def say(seconds: float) -> str:
    """Seconds as a reader wants them: few digits, minutes where there are some."""
    if seconds >= 90:
        return f"{seconds / 60:.1f} minutes"
    return f"{seconds:.0f} seconds" if seconds >= 9.5 else f"{seconds:.1f} seconds"


def reserve(app: Sphinx, doctree: nodes.document) -> None:
    """Put the place into the box. The times of other pages are not known yet."""
    for box in doctree.findall(nodes.admonition):
        if box.children and box[0].astext() == BOX:
            place = run_time(docname=app.env.docname)
            box += nodes.paragraph("", "", nodes.strong("", "Run time, measured."), nodes.Text(" "), place)


def seconds_of(env, docname: str) -> float | None:
    data = NbMetadataCollector.get_exec_data(env, docname)
    return data["runtime"] if data else None


def sentence(env, docname: str, processor: str) -> str:
    """``docname``'s time, and that of the executed pages below it in the contents."""
    own = seconds_of(env, docname)
    pages = env.toctree_includes.get(docname, ())
    below = [seconds for page in pages if (seconds := seconds_of(env, page)) is not None]
    parts = [f"{say(own)} for the code of this page"] if own is not None else []
    if below:
        parts.append(
            f"{say(sum(below))} for the {'notebook' if len(below) == 1 else f'{len(below)} notebooks'} of this part"
        )
    return f"{', '.join(parts)}, on one thread of the machine that built this book ({processor})." if parts else ""


def fill(app: Sphinx, doctree: nodes.document, _docname: str) -> None:
    from medyate.runs import records as runs

    for node in list(doctree.findall(run_time)):
        text = sentence(app.env, node["docname"], runs.environment("cpu")["device"])
        if not text and app.config.nb_execution_mode != "off":
            logger.warning("no run time is known of %s, which has a box %r", node["docname"], BOX, location=node)
        if text:
            node.replace_self(nodes.Text(text))
        else:  # nothing was executed: no line
            node.parent.parent.remove(node.parent)


def spell(_app: Sphinx, doctree: nodes.document, _docname: str) -> None:
    """The execution table's marks as words: not every font has them, and a screen reader stumbles over them."""
    words = {"✅": "done", "❌": "failed"}
    for table in doctree.findall(nodes.table):
        for text in list(table.findall(nodes.Text)):
            if text.astext() in words:
                text.parent.replace(text, nodes.Text(words[text.astext()]))


def setup(app: Sphinx) -> dict:
    app.add_node(run_time)
    app.connect("doctree-read", reserve)
    app.connect("doctree-resolved", fill)
    app.connect("doctree-resolved", spell)
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
