"""The paper's own numbers, recomputed from what it prints: no training, no weights, no data.

Each function returns a table with what is printed, what follows, and whether the two agree.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from .. import costs, ranking
from . import stats
from . import values as paper

if TYPE_CHECKING:
    import pandas as pd

TABLE_FILES = (
    "table1",
    "table2",
    "table3",
    "trady_table1",
    "trady_table2",
    "trady_table3",
    "trady_table4",
    "trady_table5",
)
# Groups of networks that the figures of p-values pool, and the table that holds their accuracies.
GROUPS = {
    "CNNs": ("Fig. 8", 1, ("mbv2-w0.35", "mcunet-in1", "proxyless-w0.3")),
    "SwinT": ("Fig. 10a", 2, ("swin-t",)),
    "BERTs": ("Fig. 10b", 3, ("bert-base", "roberta-base")),
}
CONVENTIONS = ("root of the sum of squares", "root mean square")


def averages() -> pd.DataFrame:
    """Every ``Average`` of the eight tables beside the mean of its row, and the same for its +-.

    ``mean_agrees``: equal within rounding (both addends are rounded to 0.01). ``std_is``: which
    convention the printed +- follows, or ``"neither"``.
    """
    import pandas as pd

    frames = []
    for name in TABLE_FILES:
        frame = paper.recompute_averages(name).reset_index()
        frame.insert(0, "file", name)
        tasks = paper.task_count(name)
        frame["mean_agrees"] = (frame.mean_printed - frame["mean"]).abs() <= 0.0101
        squares = (frame.std_printed - frame["std"]).abs() <= 0.0151
        mean_square = (frame.std_printed - frame["std"] / tasks**0.5).abs() <= 0.0151
        frame["std_is"] = np.select([squares, mean_square], CONVENTIONS, "neither")
        frames.append(frame)
    return pd.concat(frames, ignore_index=True)


def p_values(group: str = "CNNs", without: tuple[tuple[str, int, str], ...] = ()) -> pd.DataFrame:
    """One-sided paired t-tests "row better than column" from the tables (Figs. 8 and 10).

    Two readings of the paper's "paired T-tests to compare average final test accuracies":

    * ``p``: over the table's cells (network, budget, task), each the mean of three seeds;
      with ``effect_size``, ``difference``, 95 % interval and Holm-corrected ``p_holm``.
    * ``p_runs_low`` .. ``p_runs_high``: over the single runs (189 for the CNNs), which the tables
      only bracket: the correlation of two strategies' runs of one seed is not printed, so it is
      taken as 0 and as 1.

    For the CNNs ``printed`` is Fig. 8's value and ``bracketed`` says whether the second reading
    holds it. ``without`` leaves out cells given as (network, budget, task).
    """
    return _p_values(group, without).copy()


@functools.cache
def _p_values(group: str, without: tuple[tuple[str, int, str], ...]) -> pd.DataFrame:
    _, table, networks = GROUPS[group]
    means = paper.cells(table, networks=networks).drop(index=list(without))
    stds = paper.cells(table, "std_percent", networks=networks).drop(index=list(without))
    frame = stats.paired_table(means)
    brackets = []
    for row, column in zip(frame.row, frame.column):
        both = means[[row, column]].dropna().index
        pair = [means.loc[both, name] for name in (row, column)], [stds.loc[both, name] for name in (row, column)]
        ends = [stats.paired_from_summaries(*pair, len(paper.SEEDS), correlation) for correlation in (0, 1)]
        brackets.append(sorted(ends))
    frame["p_runs_low"], frame["p_runs_high"] = np.array(brackets).T
    if group == "CNNs":
        printed = paper.p_values()
        frame["printed"] = [printed.loc[row, column] for row, column in zip(frame.row, frame.column)]
        rounding = 0.0006
        frame["bracketed"] = frame.printed.between(frame.p_runs_low - rounding, frame.p_runs_high + rounding)
    return frame


def mirrored() -> pd.DataFrame:
    """The pairs of Fig. 8 whose two cells do not add up to one, as they must."""
    printed = paper.p_values()
    rows = [
        {"row": row, "column": column, "p": printed.loc[row, column], "p_mirrored": printed.loc[column, row]}
        for index, row in enumerate(printed)
        for column in list(printed)[index + 1 :]
    ]
    import pandas as pd

    frame = pd.DataFrame(rows)
    return frame[(frame.p + frame.p_mirrored - 1).abs() > 0.0015].reset_index(drop=True)


def kilobyte_labels() -> pd.DataFrame:
    """Fig. 6a's kB labels beside ceil(4 x elements / 1024)."""
    frame = paper.curves("fig6a").drop_duplicates("series")[["series", "budget_elements"]].reset_index(drop=True)
    frame["printed_kb"] = frame.series.str.extract(r"\((\d+) kB\)")[0].astype(int)
    frame["kb"] = [costs.kilobytes(elements) for elements in frame.budget_elements]
    frame["agrees"] = frame.printed_kb == frame.kb
    return frame


def alphas() -> pd.DataFrame:
    """Fig. 6b's points: the axis as printed and corrected, and the four pools that explain all alphas.

    ``mcunet_percent`` is the budget over MCUNet-in1's total, which is what is printed;
    ``pool_elements`` the median M_K of the points that share it; ``alpha`` what that M_K gives.
    """
    frame = paper.alpha_scatter()
    frame["mcunet_percent"] = 100 * frame.budget_elements / paper.total_elements("mcunet-in1")
    frame["axis_agrees"] = (frame.printed_percent - frame.mcunet_percent).abs() < 0.001
    group = frame.pool_elements.round(-3)
    frame["pool_elements"] = frame.groupby(group).pool_elements.transform("median").round().astype(int)
    frame["alpha"] = 100 * frame.budget_elements / frame.pool_elements
    frame["alpha_agrees"] = (frame.alpha - frame.alpha_percent).abs() < 0.005
    return frame


def layers_by_share(shares=(0.97, 0.98)) -> pd.DataFrame:
    """TraDy's K of MbV2-w0.35 by each share of the cumulative RGN, from TraDy's recovered Fig. 9.

    ``largest_below``: the largest K that stays below the share; ``first_above``: the first that
    reaches it. TraDy uses 35: the paper's "97 %" gives it by neither reading, 98 % by the first.
    """
    import pandas as pd

    rgn = paper.layer_norms().rgn
    rows = []
    for share in shares:
        below = ranking.share_k(list(rgn), share)
        rows.append({"share": share, "largest_below": below, "first_above": below + 1})
    frame = pd.DataFrame(rows)
    frame["printed"] = paper.PREV_LAYERS["mbv2-w0.35"]
    return frame


def channel_costs() -> pd.DataFrame:
    """How the authors count a channel of MbV2-w0.35, from TraDy's Fig. 9b, beside paper eq. 4 and 1 + HW."""
    from . import parameters

    frame = paper.layer_norms()
    layers = parameters.backbone("mbv2-w0.35")
    frame["kind"] = [layer.kind for layer in layers]
    frame["eq4"] = [layer.channel_elements for layer in layers]
    frame["one_plus_hw"] = [
        1 + layer.activation_elements_per_channel if layer.kind == "depthwise" else layer.channel_elements
        for layer in layers
    ]
    frame["closer"] = np.where(
        (frame.channel_elements - frame.eq4).abs() <= (frame.channel_elements - frame.one_plus_hw).abs(),
        "eq4",
        "1 + HW",
    )
    return frame[["name", "kind", "channel_elements", "eq4", "one_plus_hw", "closer"]]


def sparsities(budget: int = 27_946) -> pd.DataFrame:
    """Fig. 9's mean sparsities turned back into memory, beside the budget of 27,946 elements.

    ``used_elements`` = what is not sparse of MbV2-w0.35's 288,864 weights and 963,456 activations.
    """
    from . import parameters

    frame = paper.efficiency()
    totals = costs.totals(parameters.backbone("mbv2-w0.35"))
    weights = (1 - frame.weight_sparsity_percent / 100) * totals["weight_elements"]
    activations = (1 - frame.activation_sparsity_percent / 100) * totals["activation_elements"]
    frame["weight_elements"] = weights.round().astype(int)
    frame["activation_elements"] = activations.round().astype(int)
    frame["used_elements"] = frame.weight_elements + frame.activation_elements
    frame["fill_percent"] = 100 * frame.used_elements / budget
    # the figure is read to 0.005 percentage points: 48 elements of activations, 14 of weights
    frame["within_budget"] = frame.used_elements <= budget + 62
    return frame.reset_index()


def collapsed() -> tuple[dict[str, float], pd.DataFrame]:
    """The one cell of Table 2 in which a run collapsed, taken apart; and the table without that run.

    If two of three runs have the accuracy a and the third b, their mean is (2 a + b) / 3 and their
    sample standard deviation ``|a - b| / sqrt(3)``: the printed pair gives both. Returns ``mean_percent``,
    ``std_percent``, ``others_percent`` (a), ``collapsed_percent`` (b), ``neighbours_percent`` (the other
    strategies' mean in the same place); and one row a strategy: its mean over all 28 cells of SwinT
    as printed and with a in the collapsed cell, each with its rank (1 is best).
    """
    means, stds = paper.cells(2), paper.cells(2, "std_percent")
    mean, std = (frame.loc[paper.COLLAPSED, "LaRa MeDyate"] for frame in (means, stds))
    gap = std * 3**0.5
    repaired = means.copy()
    repaired.loc[paper.COLLAPSED, "LaRa MeDyate"] = mean + gap / 3
    table = means.mean().rename("as printed (%)").to_frame()
    table["rank as printed"] = table["as printed (%)"].rank(ascending=False).astype(int)
    table["without the collapsed run (%)"] = repaired.mean()
    table["rank without"] = table["without the collapsed run (%)"].rank(ascending=False).astype(int)
    parts = {
        "mean_percent": mean,
        "std_percent": std,
        "others_percent": mean + gap / 3,
        "collapsed_percent": mean + gap / 3 - gap,
        "neighbours_percent": means.loc[paper.COLLAPSED].drop("LaRa MeDyate").mean(),
    }
    return {name: float(value) for name, value in parts.items()}, table.rename_axis("strategy").reset_index()
