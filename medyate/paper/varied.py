"""What comes of varying a budget, alpha or a ranking's task: tables for the pages beyond the paper, from runs' rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..strategies import BOOSTS
from . import stats

if TYPE_CHECKING:
    import pandas as pd

UNIFORM = "uniform"
OURS, ENDS = "LaRa MeDyate", ("Head only", "Baseline")


def saturation(runs: pd.DataFrame, total: int) -> pd.DataFrame:
    """How much of *Baseline*'s gain over *Head only* each budget has, in ascending order of budgets.

    ``runs``: one row a run with ``strategy``, ``budget`` (elements), ``seed`` and ``test_top1_percent``, of one
    network, task and protocol; ``total``: what training the whole network would keep, in elements. Of each budget
    the seeds count that both ends have too. Columns: ``budget``, ``share_percent``, ``seeds``, ``top1_percent``,
    ``gain`` and ``part_percent``. Empty without any such seed.
    """
    import pandas as pd

    columns = ["budget", "share_percent", "seeds", "top1_percent", "gain", "part_percent"]
    if runs.empty:
        return pd.DataFrame(columns=columns)
    head, whole = (runs[runs.strategy == name].groupby("seed").test_top1_percent.mean() for name in ENDS)
    rows = []
    for budget, some in runs[runs.strategy == OURS].groupby("budget"):
        top1 = some.groupby("seed").test_top1_percent.mean()
        seeds = top1.index.intersection(head.index).intersection(whole.index)
        if len(seeds):
            gain, most = (one[seeds].mean() - head[seeds].mean() for one in (top1, whole))
            part = 100 * gain / most if most > 0 else float("nan")
            rows.append((int(budget), 100 * budget / total, len(seeds), top1[seeds].mean(), gain, part))
    return pd.DataFrame(rows, columns=columns)


def saturation_in_words(table: pd.DataFrame, least: float = 90) -> str:
    """The smallest budget's part of the gain, and from where on all budgets have at least ``least`` percent of it."""
    if table.empty:
        return ""
    first = table.iloc[0]
    text = (
        f"{first.share_percent:.1f} % of the memory give {first.part_percent:.0f} % of what training everything gains"
    )
    enough = [
        index for index in range(len(table)) if (table.part_percent.iloc[index:] >= least).all()
    ]  # what a single budget reaches by chance does not count
    if enough:
        text += f"; from {table.share_percent.iloc[enough[0]]:.1f} % on it is {least:.0f} % or more"
    else:
        text += f"; no budget keeps to {least:.0f} % or more"
    seeds = sorted({int(count) for count in table.seeds})
    return f"{text} ({' to '.join(map(str, seeds))} seed{'s' if seeds[-1] > 1 else ''})."


_UNKNOWN = (float("nan"),) * 3


def _paired(ours: pd.Series, usual: pd.Series) -> tuple[float, float, float]:
    """Mean difference of values paired by seed and its 95 % interval; not numbers with fewer than two pairs."""
    if len(ours) < 2:
        return _UNKNOWN
    test = stats.paired(ours, usual)
    return test.difference, test.low, test.high


def by_alpha(runs: pd.DataFrame, standard: float = 0.2) -> pd.DataFrame:
    """Each wanted alpha against the standard one, task by task and paired by seed.

    ``runs``: one row a run with ``task``, ``seed``, ``wanted``, ``K``, ``alpha`` and ``test_top1_percent``. Columns:
    ``task``, ``wanted``, ``K``, ``alpha``, ``seeds``, ``top1_percent``, ``difference``, ``low`` and ``high`` (95 %; not
    a number with fewer than two common seeds).
    """
    import pandas as pd

    columns = ["task", "wanted", "K", "alpha", "seeds", "top1_percent", "difference", "low", "high"]
    rows = []
    for task, own in runs.groupby("task", sort=False) if len(runs) else ():
        usual = own[own.wanted == standard].set_index("seed").test_top1_percent
        for wanted, some in own.groupby("wanted"):
            top1 = some.set_index("seed").test_top1_percent
            both = top1.index.intersection(usual.index)
            difference, low, high = _paired(top1[both], usual[both]) if wanted != standard else _UNKNOWN
            k, alpha = int(some.K.iloc[0]), float(some.alpha.mean())
            rows.append((task, wanted, k, alpha, len(top1), top1.mean(), difference, low, high))
    return pd.DataFrame(rows, columns=columns)


def by_alpha_in_words(table: pd.DataFrame) -> str:
    """Which alphas differ from the standard one by more than their interval, and which best mean each task has."""
    if table.empty:
        return ""
    several = {task: own for task, own in table.groupby("task", sort=False) if len(own) > 1}
    if not several:
        return "No task was run with more than one α."
    best = [f"{task} {own.loc[own.top1_percent.idxmax()].wanted:g}" for task, own in several.items()]
    clear = table[(table.low > 0) | (table.high < 0)]
    text = f"Best mean at α: {', '.join(best)}. "
    if table.low.isna().all():
        return text + "With one seed no difference can be told from chance."
    if clear.empty:
        return text + "No α differs from 0.2 by more than the uncertainty of its seeds."
    named = ", ".join(f"{row.wanted:g} on {row.task} ({row.difference:+.1f} points)" for row in clear.itertuples())
    return text + f"Different from 0.2 by more than the uncertainty, one comparison at a time: {named}."


def by_boost(runs: pd.DataFrame) -> pd.DataFrame:
    """Each way to weigh first draws against uniform ones, task by task and paired by seed.

    ``runs``: one row a run with ``task``, ``seed``, ``first`` ("uniform" or a boost), ``test_top1_percent`` and
    ``test_loss``. Columns: ``task``, ``first``, ``seeds``, ``top1_percent``, ``difference``, ``low`` and ``high`` (95 %
    interval), ``loss`` (difference in test loss); not a number with fewer than two common seeds.
    """
    import pandas as pd

    rows = []
    for task, own in runs.groupby("task", sort=False) if len(runs) else ():
        usual = own[own["first"] == UNIFORM].set_index("seed")
        for first in (UNIFORM, *BOOSTS):
            some = own[own["first"] == first].set_index("seed")
            both = some.index.intersection(usual.index)
            difference, low, high, loss = *_UNKNOWN, float("nan")
            if first != UNIFORM:
                difference, low, high = _paired(some.test_top1_percent[both], usual.test_top1_percent[both])
                loss, *_ = _paired(some.test_loss[both], usual.test_loss[both])
            if len(some):
                rows.append((task, first, len(some), some.test_top1_percent.mean(), difference, low, high, loss))
    columns = ["task", "first", "seeds", "top1_percent", "difference", "low", "high", "loss"]
    return pd.DataFrame(rows, columns=columns)


def by_boost_in_words(table: pd.DataFrame) -> str:
    """Which ways differ from uniform first draws by more than their interval."""
    compared = table[table.difference.notna()] if len(table) else table
    if compared.empty:
        return "With fewer than two seeds of both no difference can be told from chance." if len(table) else ""
    clear = compared[(compared.low > 0) | (compared.high < 0)]
    best = compared.loc[compared.difference.idxmax()]
    text = f"Largest gain over uniform first draws: {best['first']} on {best.task}, {best.difference:+z.1f} points. "
    if clear.empty:
        return text + "No weighting differs from uniform draws by more than the uncertainty of its seeds."
    named = ", ".join(f"{row['first']} on {row.task} ({row.difference:+z.1f} points)" for _, row in clear.iterrows())
    return text + f"Different by more than the uncertainty, one comparison at a time: {named}."


def within_and_between(tables: dict[str, pd.DataFrame], far: str) -> pd.DataFrame:
    """Spearman's correlation of layer orders, by what kind of task they come from.

    ``tables``: for each metric, layers x rankings with columns "task, seed"; ``far``: the task unlike the others.
    Columns: ``metric``, ``between``, ``rho`` (mean), ``lowest``, ``pairs``.
    """
    import pandas as pd

    rows = []
    for metric, table in tables.items():
        rho = table.corr(method="spearman")
        kinds: dict[str, list[float]] = {}
        for index, a in enumerate(table):
            for b in list(table)[:index]:
                one, other = (name.rpartition(", ")[0] for name in (a, b))
                both = (one == far) + (other == far)
                if both == 2:
                    kind = f"{far} and {far}, two seeds"
                elif both == 1:
                    kind = f"{far} and photographs"
                else:
                    kind = "one task of photographs, two seeds" if one == other else "two tasks of photographs"
                kinds.setdefault(kind, []).append(float(rho.loc[a, b]))
        rows += [(metric, kind, np.mean(some), min(some), len(some)) for kind, some in sorted(kinds.items())]
    frame = pd.DataFrame(rows, columns=["metric", "between", "rho", "lowest", "pairs"])
    return frame if frame.between.str.startswith(far).any() else frame.iloc[:0]


def within_and_between_in_words(table: pd.DataFrame, far: str) -> str:
    """How far the order from the far task falls below those from photographs, for each metric."""
    parts = []
    for metric, label in (("lara", "LaRa"), ("layer_rgn", "layer RGN")):
        rho = table[table.metric == metric].set_index("between").rho
        apart, alike = rho.get(f"{far} and photographs"), rho.get("two tasks of photographs")
        if apart is not None and alike is not None:
            parts.append(
                f"{label} agrees at ρ = {apart:.3f} with photographs, which agree at {alike:.3f} among themselves"
            )
    return "; ".join(parts) + "." if parts else ""


def by_origin(runs: pd.DataFrame, far: str) -> pd.DataFrame:
    """Pairs of runs that differ in their ranking's task alone: ``seed``, ``near``, ``far``, ``difference`` (points).

    ``runs``: one row a run with ``ranking`` (a name that begins with its task), ``seed`` and ``test_top1_percent``.
    """
    import pandas as pd

    if runs.empty:
        return pd.DataFrame(columns=["seed", "near", "far", "difference"])
    from_far = runs.ranking.str.startswith(f"{far}-s")
    near, away = (
        runs[where].groupby("seed").test_top1_percent.mean().rename(name)
        for where, name in ((~from_far, "near"), (from_far, "far"))
    )
    pairs = pd.concat([near, away], axis=1, join="inner").sort_index().reset_index()
    return pairs.assign(difference=pairs.far - pairs.near)


def by_origin_in_words(pairs: pd.DataFrame, far: str) -> str:
    """The mean difference with its 95 % interval, or why there is none."""
    if len(pairs) < 2:
        return "One seed: the difference cannot be told from chance."
    test = stats.paired(pairs.far, pairs.near)
    known = "" if test.low > 0 or test.high < 0 else ", an interval that includes zero: no difference was found"
    return (
        f"Layers ranked on {far} give {test.difference:+z.2f} points "
        f"[{test.low:+z.2f}, {test.high:+z.2f}] ({test.n} seeds){known}."
    )
