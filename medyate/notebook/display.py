"""Figures, tables and text on a page, with files to download."""

from __future__ import annotations

import base64
import html
import re
from typing import TYPE_CHECKING

from .. import plots

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Sorts a table by the column whose head is clicked; numbers as numbers, whatever follows them.
_SORT = (
    "const h=this,t=h.closest('table'),i=[...h.parentNode.children].indexOf(h),d=h.dataset.up!=='1';"
    "h.dataset.up=d?'1':'0';const b=t.tBodies[0],v=r=>r.children[i].dataset.v??r.children[i].innerText;"
    "[...b.rows].sort((x,y)=>{const p=parseFloat(v(x)),q=parseFloat(v(y));"
    "const c=isNaN(p)||isNaN(q)?(isNaN(p)-isNaN(q)||v(x).localeCompare(v(y))):p-q;return d?c:-c}).forEach(r=>b.append(r))"
)


def _display(text: str) -> None:
    from IPython.display import HTML, display

    display(HTML(text))


def _link(label: str, filename: str, content: bytes, kind: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<a download="{filename}" href="data:{kind};base64,{data}">{label}</a>'


def show(figure: Figure, name: str, data: pd.DataFrame, alt: str) -> None:
    """Save a figure (see :func:`medyate.plots.save`) and show it with its files to download."""
    paths = plots.save(figure, name, data, alt)
    content = {ending: path.read_bytes() for ending, path in paths.items()}
    kinds = {"svg": "image/svg+xml", "pdf": "application/pdf", "csv": "text/csv"}
    links = " · ".join(_link(end.upper(), f"{name}.{end}", content[end], kinds[end]) for end in paths)
    image = base64.b64encode(content["svg"]).decode()
    # its own size, so that letters are equally large in all figures; narrower screens shrink it
    points = float(re.search(rb'width="([0-9.]+)pt"', content["svg"])[1])
    _display(
        f'<figure style="margin:0"><img src="data:image/svg+xml;base64,{image}" alt="{html.escape(alt)}" '
        f'style="width:100%;max-width:{points * 1.45:.0f}px;height:auto;background:white"/>'
        f'<figcaption style="font-size:.85em">{links}</figcaption></figure>'
    )


def show_table(frame: pd.DataFrame, name: str, caption: str, decimals: int = 2) -> None:
    """Show a table that sorts by a click on a column's head, with CSV and LaTeX to download."""
    plain = frame.reset_index(drop=True)
    heads = "".join(
        f'<th scope="col" style="cursor:pointer;text-align:left" onclick="{html.escape(_SORT)}" '
        f'title="sort">{html.escape(str(column))}</th>'
        for column in plain.columns
    )
    body = "".join(
        "<tr>" + "".join(_cell(value, decimals) for value in row) + "</tr>"
        for row in plain.itertuples(index=False, name=None)
    )
    csv = plain.to_csv(index=False, lineterminator="\n").encode()
    links = f"{_link('CSV', f'{name}.csv', csv, 'text/csv')} · " + _link(
        "LaTeX", f"{name}.tex", latex(plain, decimals).encode(), "application/x-tex"
    )
    _display(
        f'<div style="overflow-x:auto;max-height:32em"><table><caption style="text-align:left">{html.escape(caption)} '
        f"(click a head to sort)</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p style="font-size:.85em">{links}</p>'
    )


def _plain(value, decimals: int) -> str:
    if value is None or str(value) in ("nan", "<NA>"):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return f"{value:,.{decimals}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(value, decimals: int) -> str:
    number = isinstance(value, (int, float)) or hasattr(value, "item")
    key = f' data-v="{value}"' if number and str(value) != "nan" else ""
    align = "right" if number else "left"
    return f'<td{key} style="text-align:{align};white-space:nowrap">{html.escape(_plain(value, decimals))}</td>'


def latex(frame: pd.DataFrame, decimals: int = 2) -> str:
    """The table as LaTeX, for the ``booktabs`` package."""
    escape = str.maketrans({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "–": "--"})
    lines = [r"\begin{tabular}{" + "l" * frame.shape[1] + "}", r"\toprule"]
    lines.append(" & ".join(str(column).translate(escape) for column in frame.columns) + r" \\")
    lines.append(r"\midrule")
    for row in frame.itertuples(index=False, name=None):
        lines.append(" & ".join(_plain(value, decimals).translate(escape) for value in row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def say(text: str) -> None:
    """A line of computed text on the page, in Markdown."""
    from IPython.display import Markdown, display

    display(Markdown(text))


def nothing_recorded(what: str, command: str, instead: str = "The paper's values are shown alone.") -> None:
    """Say that nothing was recorded for the parameters, and how to run it."""
    say(f"> **Nothing recorded** for {what}. {instead} To run it:\n>\n> ```\n> {command}\n> ```")
