"""Figures, tables and text on a page, with files to download."""

from __future__ import annotations

import base64
import html
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from . import plots

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

# Sorts a table by the column whose head is clicked; numbers as numbers, whatever follows them. Both show names that
# were left out because the row above has the same: rows are no longer below one another.
_SORT = (
    "const h=this,t=h.closest('table'),i=[...h.parentNode.children].indexOf(h),d=h.dataset.up!=='1';"
    "h.dataset.up=d?'1':'0';const b=t.tBodies[0],v=r=>r.children[i].dataset.v??r.children[i].textContent;"
    "t.querySelectorAll('.again').forEach(c=>c.style.color='');"
    "[...b.rows].sort((x,y)=>{const p=parseFloat(v(x)),q=parseFloat(v(y));"
    "const c=isNaN(p)||isNaN(q)?(isNaN(p)-isNaN(q)||v(x).localeCompare(v(y))):p-q;return "
    "d?c:-c}).forEach(r=>b.append(r))"
)
_FILTER = (
    "const w=this.value.toLowerCase().split(' ').filter(Boolean),t=this.closest('.table-box').querySelector('table');"
    "t.querySelectorAll('.again').forEach(c=>c.style.color='');"
    "for(const r of t.tBodies[0].rows)r.hidden=!w.every(x=>r.textContent.toLowerCase().includes(x))"
)
_FILTERED_FROM = 12  # rows; a shorter table is seen at once
# label of each figure and table shown so far, by name: a cell that runs again keeps its own
_numbered: dict[str, str] = {}


def _display(text: str) -> None:
    from IPython.display import HTML, display

    display(HTML(text))


def label(kind: str, name: str) -> str:
    """``Figure 6.1`` for the first figure of Figure 6's page, ``Table T1.2`` for the second table of Table 1's.

    The page is the first word of ``name`` (``fig6a``, ``table1-ours``, ``memory-frozen``, ``part3-tail``). The point
    sets the book's own numbers apart from the paper's.
    """
    match = re.match(r"(fig|table|part)(\d+)", name)
    page = {"fig": "", "table": "T", "part": "P"}[match[1]] + match[2] if match else name[0].upper()
    key = f"{kind} {name}"
    if key not in _numbered:
        there = [text for text in _numbered.values() if text.startswith(f"{kind} {page}.")]
        _numbered[key] = f"{kind} {page}.{len(there) + 1}"
    return _numbered[key]


def _link(text: str, filename: str, content: bytes, kind: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<a download="{filename}" href="data:{kind};base64,{data}">{text}</a>'


def show(figure: Figure, name: str, data: pd.DataFrame, alt: str, caption: str = "", result: str = "") -> None:
    """Save a figure (see :func:`medyate.notebook.plots.save`) and show it, numbered, with its files to download.

    ``alt`` describes it for readers who cannot see it. ``caption`` says what is drawn and is printed below, followed by
    ``result``, one computed sentence on what it shows.
    """
    paths = plots.save(figure, name, data, alt)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        pyplot.close(figure)  # or the notebook shows it a second time, without its text
    content = {ending: path.read_bytes() for ending, path in paths.items()}
    kinds = {"svg": "image/svg+xml", "pdf": "application/pdf", "csv": "text/csv"}
    links = " · ".join(_link(end.upper(), f"{name}.{end}", content[end], kinds[end]) for end in paths)
    image = base64.b64encode(content["svg"]).decode()
    # its own size, so that letters are equally large in all figures; narrower screens shrink it
    points = float(re.search(rb'width="([0-9.]+)pt"', content["svg"])[1])
    said = f" <strong>{html.escape(result)}</strong>" if result else ""
    _display(
        f'<figure class="shown" style="margin:0 0 1em"><img src="data:image/svg+xml;base64,{image}" '
        f'alt="{html.escape(alt)}" '
        f'style="width:100%;max-width:{points * 1.45:.0f}px;height:auto;background:white"/>'
        f'<figcaption style="font-size:.9em;text-align:left"><strong>{label("Figure", name)}.</strong> '
        f"{html.escape(caption)}{said}<br/>{links}</figcaption></figure>"
    )


def show_table(
    frame: pd.DataFrame,
    name: str,
    caption: str,
    decimals: int = 2,
    *,
    names: int = 1,
    best: Sequence[str] = (),
    within: Sequence[str] = (),
) -> None:
    """Show a table that sorts by a click on a column's head, with CSV and LaTeX to download.

    The first ``names`` columns say what a row is: they stay in sight where the table scrolls, and a name is left out
    where it is the same as in the row above. Of the columns in ``best``, the largest number of the rows that agree
    in the columns ``within`` is bold. A long table has a field to filter its rows.
    """
    plain = frame.reset_index(drop=True)
    bold = _best(plain, best, within)
    numeric = {column for column in plain.columns if any(_is_number(value) for value in plain[column])}
    heads = "".join(
        f'<th scope="col" style="cursor:pointer;text-align:left" onclick="{html.escape(_SORT)}" '
        f'title="sort">{html.escape(str(column))}</th>'
        for column in plain.columns
    )
    body, above = "", None
    for index, row in enumerate(plain.itertuples(index=False, name=None)):
        same = 0  # how many names, from the left, are those of the row above
        while above is not None and same < names - 1 and _plain(row[same], 0) == _plain(above[same], 0):
            same += 1
        cells = (
            _cell(value, decimals, str(column), column in numeric, (index, column) in bold, place < same)
            for place, (value, column) in enumerate(zip(row, plain.columns))
        )
        body += "<tr>" + "".join(cells) + "</tr>"
        above = row
    csv = plain.to_csv(index=False, lineterminator="\n").encode()
    links = f"{_link('CSV', f'{name}.csv', csv, 'text/csv')} · " + _link(
        "LaTeX", f"{name}.tex", latex(plain, decimals).encode(), "application/x-tex"
    )
    field = (
        f'<input type="search" placeholder="filter rows" aria-label="filter rows" oninput="{html.escape(_FILTER)}" '
        'style="font-size:.85em;margin:.2em 0"/>'
        if len(plain) >= _FILTERED_FROM
        else ""
    )
    noted = "Bold: the largest of its group. " if bold else ""
    _display(
        f'<div class="table-box"><p style="margin:0;font-size:.9em"><strong>{label("Table", name)}.</strong> '
        f"{html.escape(caption)} {noted}Click a head to sort.</p>{field}"
        f'<div class="table-scroll" style="overflow:auto;max-height:32em"><table data-names="{names}">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p style="font-size:.85em">{links}</p></div>'
    )


def _best(frame: pd.DataFrame, columns: Sequence[str], within: Sequence[str]) -> set[tuple[int, str]]:
    """Places (row, column) of the largest number among the rows of a group; none where a group is one row."""
    cells = set()
    for _, group in frame.groupby(list(within), dropna=False) if within else [((), frame)]:
        for column in columns:
            numbers = group[column].astype(str).str.extract(r"^(-?[\d.]+)")[0].astype(float)
            if numbers.count() > 1:
                cells |= {(index, column) for index in numbers.index[numbers == numbers.max()]}
    return cells


def _plain(value, decimals: int) -> str:
    if value is None or str(value) in ("nan", "<NA>"):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return f"{value:z,.{decimals}f}"  # z: no "-0.00"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _is_number(value) -> bool:
    return (isinstance(value, (int, float)) or hasattr(value, "item")) and str(value) not in ("nan", "<NA>")


def _cell(value, decimals: int, column: str, numeric: bool, bold: bool = False, again: bool = False) -> str:
    """``numeric``: the column has numbers, so that its gaps stand to the right as they do."""
    key = f' data-v="{value}"' if _is_number(value) else ""
    look = f"text-align:{'right' if numeric else 'left'};white-space:nowrap"
    look += ";font-weight:bold" if bold else ""
    look += ";color:transparent" if again else ""  # there for a screen reader, for copying and for sorting
    kind = ' class="again"' if again else ""
    text = _plain(value, decimals)
    if re.match(r"p\b", column) and _is_number(value) and 0 <= value < 0.5 * 10**-decimals:
        text = f"<{10**-decimals:.{decimals}f}"  # a p-value is never 0
    return f'<td{key}{kind} style="{look}">{html.escape(text)}</td>'


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
    """A line of computed text on the page, in Markdown; nothing where there is nothing to say."""
    if not text.strip():
        return
    from IPython.display import Markdown, display

    display(Markdown(text))


def nothing_recorded(what: str, command: str, instead: str = "The paper's values are shown alone.") -> None:
    """Say that nothing was recorded for the parameters, and how to run it."""
    say(f"> **Nothing recorded** for {what}. {instead} To run it:\n>\n> ```\n> {command}\n> ```")
