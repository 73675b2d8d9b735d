"""The box on a page of figures: what it takes to draw it again, to run what is missing, and to run it at full scale."""

from __future__ import annotations

from ..paper.parameters import Parameters
from .display import say


def run_again(config: Parameters, example: str = "", sweep: str | None = None) -> None:
    """Show the box. ``example``: parameters to redraw with, as typed; ``sweep``: where it is not the notebook's own."""
    from ..sweeps import grids

    command = config.bare_command
    redraw = f"{command} {example}".strip()
    own = " notebook " not in command
    where = f"`{command} --help` lists the parameters." if own else "The page's first cell lists the parameters."
    parts = [
        "**Run this page again**",
        f"*Draw it with other parameters*, from the recorded runs: seconds, nothing is trained. {where}",
        _code(redraw),
    ]
    name = sweep or config.notebook
    if (name, "pack") in grids.SWEEPS:
        parts += [_missing(name), _code(f"medyate sweep run {name} --scale pack")]
    if (name, "paper") in grids.SWEEPS:
        text, fetch = _paper(name)
        parts += [text, _code(*fetch, f"medyate sweep run {name} --scale paper")]
    say("\n>\n".join("> " + part.replace("\n", "\n> ") for part in parts))


def _code(*lines: str) -> str:
    return "```\n" + "\n".join(lines) + "\n```"


def _time(left: dict, of: int) -> str:
    """``about 3 hours, one after another, by the speeds measured on DEVICE``, as far as speeds are known."""
    if left["hours"] is None:
        return "no speed of such runs has been measured yet"
    hours = left["hours"]
    size = f"{60 * hours:.0f} minutes" if hours < 1 else f"{hours:,.0f} hours" if hours >= 10 else f"{hours:.1f} hours"
    some = "" if left["known"] == of else f" for the {left['known']} of them whose speed is known"
    return f"about {size}{some}, one after another, by the speeds measured on {', '.join(left['devices'])}"


def _missing(name: str) -> str:
    from ..sweeps import grids, progress

    state = progress.state(grids.get(name, "pack").configs())
    if not state.pending:
        return f"*Run what is missing*: nothing, all {state.runs} runs on the packs are recorded."
    takes = _time(progress.estimate(state.pending), len(state.pending))
    return (
        f"*Run what is missing*: {len(state.pending):,} of {state.runs:,} runs on the packs are not recorded; {takes}."
    )


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 10**9:,.1f} GB" if size_bytes >= 10**8 else f"{size_bytes / 10**6:,.0f} MB"


def _paper(name: str) -> tuple[str, list[str]]:
    from .. import tasks
    from ..sweeps import grids, progress

    configs = grids.get(name, "paper").configs()
    needed = list(dict.fromkeys(config.task for config in configs))
    files = {file.name: file.size_bytes or 0 for task in needed for file in tasks.TASKS[task].source.downloads}
    takes = _time(progress.estimate(configs), len(configs))
    return (
        f"*At the paper's scale*: {len(configs):,} runs, {_size(sum(files.values()))} of data to fetch; "
        f"{takes}. "
        "Take a GPU: `python benchmarks/throughput.py` measures what they take on yours.",
        [f"medyate data fetch {task}" for task in needed],
    )
