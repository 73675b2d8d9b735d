"""Our runs as the ledger and the result pages compare them: cells, paired tests over them, and what they could show.

The unit is a cell: a network, budget and task, the mean over its seeds, where all strategies that are compared have
each of them. Seeds of one cell are not independent. The ids of a comparison are those of the runs in it, and no
others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from ..sweeps import protocols
from . import parameters, recorded, stats
from . import values as paper

if TYPE_CHECKING:
    import pandas as pd

PUBLISHED = "trady-fig9"  # the order by the norms that TraDy's Fig. 9 shows: the only one that is the authors' own
NETWORK_TABLE = 1  # the claims of Sec. 4.3 are about the three CNNs of Table 1


@cache
def runs(protocol: str) -> pd.DataFrame:
    """All runs of a protocol, strategies as named, by its declared rankings, of the networks of Table 1."""
    config = parameters.Parameters("ledger", networks="all", tasks="all", seeds="all", epochs="all", protocol=protocol)
    return recorded.strategy_runs(config, NETWORK_TABLE)


def forget() -> None:
    """Read the records anew."""
    runs.cache_clear()


@dataclass(frozen=True)
class Comparison:
    """``row`` against ``column`` over the cells of one protocol.

    ``top1`` tests the differences of test top-1 (points), ``loss`` those of the test loss, the sign turned, so that
    in both a positive difference is in ``row``'s favour; None with fewer than two cells, where ``difference`` (points)
    is all there is. ``rests_on`` says in words what was compared.
    """

    row: str
    column: str
    protocol: str
    cells: int
    rests_on: str
    difference: float
    top1: stats.Paired | None
    loss: stats.Paired | None
    ids: tuple[str, ...]


def scope(protocol: str, frame: pd.DataFrame, cells: int) -> str:
    """What a verdict from our runs rests on, in a few words."""
    return _scope(f"`{protocol}`", frame, cells, "cell")


def scope_of(ids: Sequence[str]) -> str:
    """The same of given records: how many, of which kind and protocol, on which networks and tasks."""
    runs_of = recorded.table()
    runs_of = runs_of[runs_of["id"].isin(ids)] if len(runs_of) else runs_of
    if len(runs_of):
        names = {name for row in runs_of.to_dict("records") for name in protocols.names_of(row)}
        shown = ", ".join(f"`{name}`" for name in protocols.PROTOCOLS if name in names)
        cells = len(runs_of.groupby(list(recorded.CELL), dropna=False))
        return _scope(shown, runs_of, cells, "cell")
    ranks = recorded.table("rank")
    return _scope("preliminary fine-tunings", ranks[ranks["id"].isin(ids)], len(set(ids)), "run")


def _scope(what: str, frame: pd.DataFrame, count: int, unit: str) -> str:
    tasks = ", ".join(sorted(frame.task.unique()))
    return f"our runs: {what}, {_count(count, unit)}, {_count(frame.seed.nunique(), 'seed')}: {tasks}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def compare(row: str, column: str, frame: pd.DataFrame, protocol: str) -> Comparison | None:
    """Compare two strategies over ``frame``, runs of one protocol; None where no cell has both of them."""
    used = recorded.complete(frame, [row, column])
    if used.empty:
        return None
    top1 = recorded.cells(used, [row, column])
    loss = recorded.cells(used, [row, column], "test_loss").dropna()
    enough = len(top1) > 1
    return Comparison(
        row,
        column,
        protocol,
        cells=len(top1),
        rests_on=scope(protocol, used, len(top1)),
        difference=float((top1[row] - top1[column]).mean()),
        top1=stats.paired(top1[row], top1[column]) if enough else None,
        loss=stats.paired(-loss[row], -loss[column]) if len(loss) > 1 else None,
        ids=tuple(dict.fromkeys(used["id"])),
    )


def by_task(row: str, column: str, frame: pd.DataFrame) -> pd.DataFrame:
    """In how many cells ``row`` is ahead of ``column``, task by task, ours beside the paper's same task.

    Columns: ``task``, ``cells``, ``ahead``, ``difference`` (points, mean over cells) of ours, and with ``paper_`` those
    of the paper's task that ours is, or is cut from; of tasks of the paper without runs of ours the latter alone.
    """
    import pandas as pd

    ours = recorded.cells(frame, [row, column])
    theirs = paper.cells(1, strategies=[row, column]) if {row, column} <= set(paper.cells(1)) else pd.DataFrame()
    printed = {} if theirs.empty else dict(tuple((theirs[row] - theirs[column]).groupby("task")))
    own = {} if ours.empty else dict(tuple((ours[row] - ours[column]).groupby("task")))
    rows = []
    for label, some in printed.items():
        names = [task for task in own if paper.TASKS.get(task) == label] or [None]
        rows += [(name, *_ahead(own.get(name)), paper.task_label(name) or label, *_ahead(some)) for name in names]
    rows += [
        (name, *_ahead(some), None, *_ahead(None)) for name, some in own.items() if paper.TASKS.get(name) not in printed
    ]
    columns = ["task", "cells", "ahead", "difference", "paper_task", "paper_cells", "paper_ahead", "paper_difference"]
    table = pd.DataFrame(rows, columns=columns)
    return table.astype({name: "Int64" for name in columns if name.endswith(("cells", "ahead"))})


def _ahead(differences: pd.Series | None) -> tuple[int | None, int | None, float | None]:
    if differences is None:
        return None, None, None
    return len(differences), int((differences > 0).sum()), float(differences.mean())


#: The comparisons of Sec. 4.3, by the ledger's claims.
CLAIMED = (
    ("LaRa MeDyate", "SU"),
    ("LaRa MeDyate", "TraDy"),
    ("LaRa MeDyate", "LaRa Prob Raw"),
    ("LaRa MeDyate", "Prev MeDyate"),
    ("LaRa TraDy", "TraDy"),
    ("LaRa Prob Raw", "LaRa Det Raw"),
    ("LaRa MeDyate", "LaRa TraDy"),
)


def power(frame: pd.DataFrame) -> pd.DataFrame:
    """What the cells that are there could have found of the paper's differences.

    One row a comparison of :data:`CLAIMED`: ``paper_difference`` (points, the mean over Table 1's cells), ``cells``
    of ours, ``std`` (points, of our paired differences over cells), ``power`` (of a one-sided test at 5 % of as large
    a difference with as many cells) and ``needed`` (cells for a power of 80 %).
    """
    import pandas as pd

    theirs = paper.cells(1)
    rows = []
    for row, column in CLAIMED:
        ours = recorded.cells(frame, [row, column])
        if len(ours) < 2:
            continue
        std = float((ours[row] - ours[column]).std(ddof=1))
        expected = float((theirs[row] - theirs[column]).mean())
        rows.append(
            (
                row,
                column,
                expected,
                len(ours),
                std,
                stats.paired_power(expected, std, len(ours)),
                stats.pairs_needed(expected, std),
            )
        )
    return pd.DataFrame(rows, columns=["row", "column", "paper_difference", "cells", "std", "power", "needed"])
