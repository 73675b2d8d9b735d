"""What the papers print, with where it stands and how we know it.

The data lie in ``results/paper`` as the papers print them; this module gives them names, units
and places. Grades: ``printed`` (in a table, a figure's cell or the text), ``read off`` (measured
in a figure), ``inferred`` (follows from other values). ``TraDy`` marks what comes from the
predecessor's paper, arXiv 2510.19675; everything else is arXiv 2510.20979.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..costs import kilobytes
from ..errors import InputError, choose
from ..files import paths as storage

if TYPE_CHECKING:
    import pandas as pd

PREV_LAYERS = {"mbv2-w0.35": 35, "mcunet-in1": 27, "proxyless-w0.3": 43}  # TraDy, Sec. 4
BEST_LAYERS = 20  # Sec. 4.2, smallest budget of MbV2-w0.35, LaRa order
SEEDS = (0, 42, 100)

# Names of the tables -> names of this project.
NETWORKS = {
    "MbV2-w0.35": "mbv2-w0.35",
    "MCUNet-in1": "mcunet-in1",
    "Proxyless-w0.3": "proxyless-w0.3",
    "SwinT": "swin-t",
    "BERT": "bert-base",
    "RoBERTa": "roberta-base",
}
STRATEGIES = {"D-Det RGN": "Det RGN"}
# TraDy's names of what is chosen once -> the strategy that chooses anew in the same way.
STATIC = {"S-TopK Random": "TraDy", "S-Det RGN": "Det RGN"}
MAIN_STRATEGIES = (
    "SU",
    "Det RGN",
    "TraDy",
    "Prev MeDyate",
    "LaRa TraDy",
    "LaRa Det Raw",
    "LaRa Prob Raw",
    "LaRa MeDyate",
)
# Tasks of this project -> the paper's task that they are, or that they are cut from.
TASKS = {
    "cifar-10": "CIFAR-10",
    "cifar10": "CIFAR-10",
    "cifar10_jpeg": "CIFAR-10",
    "cifar-100": "CIFAR-100",
    "cub": "CUB",
    "cub50": "CUB",
    "flowers": "Flowers",
    "flowers12": "Flowers",
    "food": "Food",
    "food10": "Food",
    "pets": "Pets",
    "vww": "VWW",
    "qnli": "QNLI",
    "rte": "RTE",
    "sst-2": "SST2",
    "sst2": "SST2",
}
# Cuts of a data set that is not the paper's of that name: said wherever the two are shown side by side.
ANOTHER = {"flowers12": "Flowers-17"}
# What the paper's own tables and TraDy's tables say of the same networks.
TABLES = {1: ("table1", "trady_table1"), 2: ("table2", "trady_table2"), 3: ("table3", "trady_table3")}
# TraDy's SwinT rows that repeat another method's row: shown, but no targets.
REPEATED = {("swin-t", 633_859, "TraDy"), ("swin-t", 2_767_686, "TraDy")}
# (network, budget, task) of Table 2 in which one of LaRa MeDyate's three runs collapsed.
COLLAPSED = ("swin-t", 2_767_686, "VWW")
CURVES = {
    "fig6a": "Fig. 6a: MbV2-w0.35 on Food, LaRa MeDyate",
    "fig7": "Fig. 7: MbV2-w0.35 on Food, 27,946 elements, MeDyate",
    "fig11": "Fig. 11: MbV2-w0.35 on Food, 27,946 elements, LaRa order",
}


def task_label(task: str) -> str | None:
    """The paper's task that one of this project stands beside, and what ours is where it is other data."""
    label = TASKS.get(task)
    return f"{label} (ours: {ANOTHER[task]})" if task in ANOTHER else label


def folder() -> Path:
    """``results/paper`` of this checkout."""
    folders = storage.folders("paper")
    if not folders:
        raise InputError("the paper's values (results/paper) are not there; they come with a checkout of the project")
    return folders[-1]


@cache
def _read(name: str) -> pd.DataFrame:
    import pandas as pd

    return pd.read_csv(folder() / f"{name}.csv")


def accuracies(table: int) -> pd.DataFrame:
    """Every row of Table 1, 2 or 3, completed from TraDy's table of the same networks.

    Columns: ``network``, ``budget_elements``, ``strategy``, ``task`` (``Average`` included),
    ``mean_percent``, ``std_percent`` (test top-1 of three seeds), ``place``, ``repeated`` (a row
    that TraDy's table holds twice under two names). A row that both papers print is given once.
    """
    import pandas as pd

    choose(str(table), [str(number) for number in TABLES], "table")
    frames = []
    for name in TABLES[table]:
        paper = "TraDy, Table" if name.startswith("trady") else "Table"
        frames.append(_read(name).assign(place=f"{paper} {table}"))
    frame = pd.concat(frames).drop_duplicates(["model", "budget", "method", "dataset"], keep="first")
    frame = frame.rename(
        columns={"budget": "budget_elements", "dataset": "task", "mean": "mean_percent", "std": "std_percent"}
    )
    frame["network"] = frame.model.map(NETWORKS)
    frame["strategy"] = frame.method.replace(STRATEGIES)
    keys = zip(frame.network, frame.budget_elements, frame.strategy)
    frame["repeated"] = [key in REPEATED for key in keys]
    columns = ["network", "budget_elements", "strategy", "task", "mean_percent", "std_percent", "place", "repeated"]
    return frame[columns].reset_index(drop=True)


def static_twins() -> pd.DataFrame:
    """TraDy's Table 4 beside its Table 1: strategies that choose once beside those that choose anew each epoch.

    One row a (network, budget, task, dynamic strategy): ``static_percent`` and ``dynamic_percent``, test top-1.
    """
    import pandas as pd

    static = _read("trady_table4").assign(strategy=lambda one: one.method.map(STATIC))
    static = static[static.strategy.notna() & (static.dataset != "Average")]
    static = static.assign(network=static.model.map(NETWORKS)).rename(
        columns={"budget": "budget_elements", "dataset": "task", "mean": "static_percent"}
    )
    dynamic = accuracies(1).rename(columns={"mean_percent": "dynamic_percent"})
    keys = ["network", "budget_elements", "task", "strategy"]
    return pd.merge(static[[*keys, "static_percent"]], dynamic[[*keys, "dynamic_percent"]], on=keys)


def cells(table: int, value: str = "mean_percent", strategies=None, networks=None) -> pd.DataFrame:
    """One row a (network, budget, task), one column a strategy: what Figs. 8 and 10 compare.

    Averages and the baseline are left out. ``value`` is ``mean_percent`` or ``std_percent``.
    """
    frame = accuracies(table)
    frame = frame[(frame.task != "Average") & (frame.strategy != "Baseline")]
    if networks is not None:
        frame = frame[frame.network.isin(networks)]
    wide = frame.pivot(index=["network", "budget_elements", "task"], columns="strategy", values=value)
    if strategies is None:
        strategies = [name for name in MAIN_STRATEGIES if name in wide]
    return wide[list(strategies)]


def budgets(network: str) -> tuple[int, ...]:
    """The budgets of Tables 1-3 for a network, in elements, smallest first."""
    frame = _all()
    frame = frame[(frame.network == network) & (frame.strategy != "Baseline")]
    if frame.empty:
        raise InputError(f"the paper has no table of {network!r}; allowed: {', '.join(NETWORKS.values())}")
    return tuple(int(budget) for budget in sorted(frame.budget_elements.unique()))


def total_elements(network: str) -> int:
    """The total of a network in Tables 1-3: the budget of its baseline."""
    frame = _all()
    frame = frame[(frame.network == network) & (frame.strategy == "Baseline")]
    if frame.empty:
        raise InputError(f"the paper has no table of {network!r}; allowed: {', '.join(NETWORKS.values())}")
    return int(frame.budget_elements.iloc[0])


@cache
def _all() -> pd.DataFrame:
    import pandas as pd

    return pd.concat([accuracies(number) for number in TABLES])


def recompute_averages(name: str) -> pd.DataFrame:
    """The ``Average`` rows of one table file as printed and as they follow from its other rows.

    ``name`` is a file of ``results/paper``, such as ``table1`` or ``trady_table4``. Columns:
    ``mean_printed``, ``mean`` (over tasks), ``std_printed``, ``std`` (root of the sum of squares).
    """
    import pandas as pd

    frame = _read(name)
    keys = ["model", "budget", "method"]
    tasks = frame[frame.dataset != "Average"].groupby(keys)
    printed = frame[frame.dataset == "Average"].set_index(keys)
    return pd.DataFrame(
        {
            "mean_printed": printed["mean"],
            "mean": tasks["mean"].mean(),
            "std_printed": printed["std"],
            "std": tasks["std"].agg(lambda s: (s**2).sum() ** 0.5),
        }
    )


def task_count(name: str) -> int:
    """How many tasks a table file has, without its averages."""
    return _read(name).loc[lambda frame: frame.dataset != "Average", "dataset"].nunique()


def curves(figure: str) -> pd.DataFrame:
    """The accuracy over K of Figs. 6a, 7 or 11.

    Columns: ``series``, ``layers`` (K), ``top1_percent``; for Fig. 6a also ``budget_elements``.
    """
    choose(figure, CURVES, "figure with curves over K")
    frame = _values(figure).rename(columns={"x": "layers", "y": "top1_percent"})
    frame = frame[["series", "layers", "top1_percent"]].astype({"layers": int})
    if figure == "fig6a":
        frame["budget_elements"] = frame.series.map(_figure_6a_budgets())
    return frame.reset_index(drop=True)


@cache
def _figure_6a_budgets() -> dict[str, int]:
    """Elements of each series of Fig. 6a: printed for tiers 1, 3, 5; tiers 2 and 4 are labelled in
    kB only, and Fig. 6b's axis gives them exactly enough to know which integer it is."""
    printed = {kilobytes(budget): budget for budget in budgets("mbv2-w0.35")}
    budget_of = {}
    for series in _values("fig6a").series.unique():
        label = int(series.rpartition("(")[2].split()[0])
        budget_of[series] = printed.get(label) or TIER_BUDGETS[label]
    return budget_of


# kB label of Fig. 6a -> elements of the SU schemes' tiers 2 and 4 of MbV2-w0.35 (inferred).
TIER_BUDGETS = {181: 46_208, 328: 83_840}


def budget_label(budget_elements: int) -> str:
    """A budget in elements and in the kB of Fig. 6a, as in ``27,946 (110 kB)``."""
    return f"{budget_elements:,} ({kilobytes(budget_elements)} kB)"


def alpha_scatter() -> pd.DataFrame:
    """Fig. 6b: for each seed and budget the alpha_K (paper eq. 10) of the best K.

    Columns: ``printed_percent`` (the figure's x axis, which divides by MCUNet-in1's total),
    ``budget_elements``, ``budget_percent`` (of MbV2-w0.35's total: the axis as it should be),
    ``alpha_percent``, ``pool_elements`` (M_K, inferred as budget / alpha).
    """
    frame = _values("fig6b").rename(columns={"x": "printed_percent", "y": "alpha_percent"})
    elements = frame.printed_percent / 100 * total_elements("mcunet-in1")
    known = sorted(set(_figure_6a_budgets().values()))
    frame["budget_elements"] = [min(known, key=lambda budget: abs(budget - x)) for x in elements]
    frame["budget_percent"] = 100 * frame.budget_elements / total_elements("mbv2-w0.35")
    frame["pool_elements"] = frame.budget_elements / (frame.alpha_percent / 100)
    columns = ["printed_percent", "budget_elements", "budget_percent", "alpha_percent", "pool_elements"]
    return frame[columns].reset_index(drop=True)


def efficiency() -> pd.DataFrame:
    """Fig. 9: means over epochs, in percent, one row a strategy.

    Columns: ``weight_sparsity_percent``, ``activation_sparsity_percent``, ``flops_saved_percent``.
    """
    wide = _values("fig9").pivot(index="series", columns="y_name", values="y")
    wide = wide.rename(columns={"weight_derivative_flops_saved_percent": "flops_saved_percent"})
    wide = wide.rename(index={"Prev TraDy": "TraDy"}).rename_axis("strategy").rename_axis(None, axis=1)
    return wide[["weight_sparsity_percent", "activation_sparsity_percent", "flops_saved_percent"]]


def p_values() -> pd.DataFrame:
    """Fig. 8: rows and columns are strategies, a cell is p of "row better than column"."""
    frame = _values("fig8")
    pairs = frame.series.replace(STRATEGIES, regex=True).str.split(" > ", expand=True)
    wide = frame.assign(row=pairs[0], column=pairs[1]).pivot(index="row", columns="column", values="y")
    return wide.loc[list(MAIN_STRATEGIES), list(MAIN_STRATEGIES)].rename_axis(None).rename_axis(None, axis=1)


def layer_norms() -> pd.DataFrame:
    """TraDy's Fig. 9: ``name``, ``norm`` (sum of channel norms), ``rgn`` of MbV2-w0.35's 52 layers
    on CIFAR-10, in order of execution, and the cost of a channel in elements as that figure shows
    it (``channel_elements``; depthwise layers 1 + HW) and by paper eq. 4 (``channel_elements_eq4``)."""
    frame = _read("trady_layer_norms")
    return frame.assign(
        norm=frame.norm_fig9a,
        rgn=frame.rgn_fig9c,
        channel_elements=frame.channel_bytes_fig9b / 4,
        channel_elements_eq4=frame.channel_bytes_eq4 // 4,
    )[["name", "norm", "rgn", "channel_elements", "channel_elements_eq4"]]


def _values(figure: str) -> pd.DataFrame:
    frame = _read("figure_values")
    return frame[frame.figure == figure].copy()


@dataclass(frozen=True)
class Claim:
    """One checkable sentence of the paper. ``paper`` and ``runs`` name the checks that judge it, with
    their arguments (see :mod:`medyate.paper.verdicts`), from the paper's numbers and from our runs. ``slip``: where
    it is wrong, nothing else in the paper depends on it."""

    id: str
    place: str
    claim: str
    paper_value: str
    paper: tuple[str, dict] | None
    runs: tuple[str, dict] | None
    notebook: str
    note: str
    slip: bool = False


def claims() -> tuple[Claim, ...]:
    """The ledger's left half, from ``claims.json``, in the order of the paper."""
    entries = json.loads((folder() / "claims.json").read_text(encoding="utf-8"))
    return tuple(Claim(**entry) for entry in entries)
