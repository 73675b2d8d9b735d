"""What the notebooks of figures and tables share: checked parameters, recorded runs, display.

A notebook has one cell of parameters, which papermill replaces without any check, and right after
it ``config = notebook.Parameters(...)``, which checks them before anything is computed. Then it
draws from recorded runs; where there are none it says so with :func:`nothing_recorded`, shows the
paper's values, and gives the command that would run what is missing.
"""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from . import networks, plots, schemes, strategies
from .errors import InputError, choose, whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MODES = {
    "recorded": "draw what was recorded; compute nothing",
    "missing": "run what was not recorded yet, then draw",
    "fresh": "run everything anew, then draw",
}
ALL = "all"


@dataclass(frozen=True)
class Parameters:
    """A notebook's parameters. Those that it does not have stay None; the others are checked.

    ``network``, ``task``, ``strategy``: registered names (or the paper's); ``tasks``: a list of
    them, one text with commas, or ``"all"``. ``budget``: elements, or ``"all"`` for the network's tiers. ``epochs``:
    warm-up not included, or ``"all"``. ``seeds``: one seed, several (``"0,42"`` or a list), or ``"all"``.
    ``layer``: an index or a name. ``mode``: see :data:`MODES`. Raises :class:`InputError` in one
    line that quotes the value and lists what is allowed.
    """

    notebook: str
    network: str | None = None
    task: str | None = None
    tasks: str | Sequence[str] | None = None
    strategy: str | None = None
    budget: int | str | None = None
    epochs: int | str | None = None
    seeds: int | str | Sequence[int] | None = None
    layer: int | str | None = None
    mode: str | None = None

    def __post_init__(self):
        checks = {
            "network": _network, "task": _task, "tasks": _tasks, "strategy": _strategy, "budget": _budget,
            "epochs": _epochs, "seeds": _seeds, "layer": _layer, "mode": _mode,
        }  # fmt: skip
        given = {name: getattr(self, name) for name in checks if getattr(self, name) is not None}
        for name, value in given.items():
            object.__setattr__(self, name, checks[name](value))
        if isinstance(self.budget, int) and self.network is not None:
            _enough(self.budget, self.network)
        if self.runs and self.task is not None:
            from . import tasks

            tasks.get(self.task)  # the data must be there before anything runs

    @property
    def runs(self) -> bool:
        """Whether this notebook is to run anything."""
        return self.mode in ("missing", "fresh")

    @property
    def budgets(self) -> tuple[int, ...]:
        """The budgets that are meant, in elements: the one given, or the five tiers of the network."""
        if isinstance(self.budget, int):
            return (self.budget,)
        return tier_budgets(self.network)

    def command(self, mode: str = "missing", **changes) -> str:
        """The command that runs this notebook with these parameters, but for ``changes``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"mode": mode if self.mode is not None else None} | changes
        words = ["medyate", values.pop("notebook")]
        for name, value in values.items():
            if isinstance(value, tuple):
                value = ",".join(map(str, value))
            if value is not None:
                words += ["-p", name, str(value)]
        return shlex.join(words)


def _text(value, what: str, allowed: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} {value!r} is not a name; allowed: {allowed}")
    return value


def _network(value) -> str:
    return networks.get(_text(value, "network", ", ".join(networks.NETWORKS))).name


def known_tasks() -> list[str]:
    """Tasks that a page can speak of: registered ones and all that something was recorded on."""
    from . import tasks

    recorded = {str(name) for kind in ("run", "rank") for name in table(kind).get("task", [])}
    return [*tasks.TASKS, *sorted(recorded - set(tasks.TASKS))]


def _task(value) -> str:
    from . import tasks

    _text(value, "task", ", ".join(known_tasks()))
    known = {name.lower(): name for name in known_tasks()}
    # what is neither registered nor recorded must be found on disk
    return known.get(value.lower()) or tasks.get(value).name


def _tasks(value) -> str | tuple[str, ...]:
    if value == ALL:
        return ALL
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names:
        raise InputError(f"tasks {value!r} is no list of tasks; allowed: {ALL!r}, {', '.join(known_tasks())}")
    return tuple(dict.fromkeys(_task(name) for name in names))


def _strategy(value) -> str:
    return strategies.get(_text(value, "strategy", ", ".join(strategies.STRATEGIES))).name


def _budget(value) -> int | str:
    if value == ALL:
        return ALL
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"budget {value!r} is not an integer; allowed: a number of elements such as 27946, or {ALL!r}")
    return whole(value, "budget", 1)


def _enough(budget: int, network: str) -> None:
    cheapest = min(layer.channel_elements for layer in backbone(network))
    if budget < cheapest:
        raise InputError(
            f"budget {budget!r} is below the cheapest channel of {network!r}; allowed: at least {cheapest:,} elements"
        )


def _epochs(value) -> int | str:
    if value == ALL:
        return ALL
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"epochs {value!r} is out of range; allowed: an integer of at least 1, or {ALL!r}")
    return value


def _seeds(value) -> str | tuple[int, ...]:
    if value == ALL:
        return ALL
    seeds = [value] if isinstance(value, int) else value
    if isinstance(value, str) and all(part.strip().isdecimal() for part in value.split(",")):
        seeds = [int(part) for part in value.split(",")]  # papermill's -p has no lists
    fine = isinstance(seeds, (list, tuple)) and seeds
    if not fine or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise InputError(f"seeds {value!r} are not seeds; allowed: an integer of at least 0, several as in '0,42', or {ALL!r}")
    return tuple(dict.fromkeys(seeds))


def _layer(value) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InputError(f"layer {value!r} is no layer; allowed: an index in order of execution or a layer's name")
    return value


def _mode(value) -> str:
    return choose(_text(value, "mode", ", ".join(MODES)), MODES, "mode")


def backbone(network: str) -> tuple:
    """The :class:`medyate.costs.Layer` of a network at its resolution, without any weight file."""
    from . import costs

    found = networks.get(network)
    if found.name not in _BACKBONES:
        model = networks.build(found.name, weights="random")
        shape = (3, found.resolution, found.resolution)
        _BACKBONES[found.name] = costs.layers(model, shape)
    return _BACKBONES[found.name]


_BACKBONES: dict[str, tuple] = {}


def tier_budgets(network: str) -> tuple[int, ...]:
    """The budgets of the five SU tiers of a network, or none where it has no schemes."""
    if network not in schemes.SCHEMES:
        return ()
    return tuple(schemes.budget(network, tier, backbone(network)) for tier in schemes.SCHEMES[network])


# --- recorded runs ---


def table(kind: str = "run") -> pd.DataFrame:
    """All finished records of a kind, one row each, the config's entries as columns."""
    from . import runs

    return runs.table(kind=kind)


def pick(frame: pd.DataFrame, parameters: Parameters, names: Sequence[str]) -> pd.DataFrame:
    """The rows that agree with the named parameters; ``"all"`` agrees with everything."""
    for name in names:
        value = getattr(parameters, name)
        column = {"seeds": "seed", "tasks": "task"}.get(name, name)
        if value is None or value == ALL or frame.empty:
            continue
        frame = frame[frame[column].isin(value if isinstance(value, tuple) else [value])]
    return frame


# --- display ---

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
    _display(
        f'<figure style="margin:0"><img src="data:image/svg+xml;base64,{image}" alt="{html.escape(alt)}" '
        f'style="width:100%;max-width:640px;height:auto;background:white"/>'
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
    if value is None or value != value:
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
    key = f' data-v="{value}"' if number and value == value else ""
    align = "right" if number else "left"
    return f'<td{key} style="text-align:{align}">{html.escape(_plain(value, decimals))}</td>'


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
