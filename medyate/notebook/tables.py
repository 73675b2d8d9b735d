"""Tables 1 to 3: the paper's rows, and ours beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import strategies
from ..paper import values as paper
from ..paper.parameters import ALL, Parameters
from ..paper.recorded import strategy_runs

if TYPE_CHECKING:
    import pandas as pd


def paper_table(number: int, config: Parameters) -> pd.DataFrame:
    """Table 1, 2 or 3 for the chosen networks and tasks, a column a task as "mean ± std"."""
    frame = paper.accuracies(number)
    if config.networks != ALL:
        frame = frame[frame.network.isin(config.networks)]
    if config.tasks != ALL:
        labels = {paper.TASKS.get(task) for task in config.tasks}
        frame = frame[frame.task.isin(labels)]
    kept = [*paper.MAIN_STRATEGIES, "Baseline"]
    frame = frame[frame.strategy.isin(kept)]
    text = [f"{mean:.2f} ± {std:.2f}" for mean, std in zip(frame.mean_percent, frame.std_percent)]
    order = list(dict.fromkeys(frame.task))
    wide = frame.assign(
        text=text,
        place=[
            f"{place}, repeats D-Full Random" if again else place for place, again in zip(frame.place, frame.repeated)
        ],
        strategy=frame.strategy.astype("category").cat.set_categories(kept, ordered=True),
    ).pivot(index=["network", "budget_elements", "strategy", "place"], columns="task", values="text")
    wide = wide[order].sort_index().reset_index().rename_axis(None, axis=1)
    return wide.astype({"strategy": str}).rename(columns={"budget_elements": "budget (elements)", "place": "from"})


def curves_of(runs: pd.DataFrame) -> pd.DataFrame:
    """Of runs over K, those of series with two K or more; none where only one curve is left: nothing to compare."""
    if runs.empty:
        return runs
    several = runs[runs.groupby("series").layers.transform("nunique") > 1]
    return several if several.series.nunique() > 1 else several.iloc[:0]


def one_way(tests: pd.DataFrame) -> pd.DataFrame:
    """Of the tests of all ordered pairs, the half whose row is ahead of its column: the reverse has 1 - p."""
    return tests[tests.difference > 0].sort_values("p").reset_index(drop=True)


def our_table(number: int, config: Parameters) -> pd.DataFrame:
    """Our runs beside the paper's cells: mean over seeds, 95 % interval, n, the paper's mean.

    Which networks stand beside which table: :func:`medyate.paper.recorded.table_of`; Table 1 also takes
    convolutional networks that are not in the paper.
    """
    import pandas as pd

    from ..paper.stats import estimate

    frame = strategy_runs(config, number)
    if frame.empty:
        return pd.DataFrame()
    theirs = paper.accuracies(number).set_index(["network", "budget_elements", "strategy", "task"]).mean_percent
    rank = {name: index for index, name in enumerate(strategies.STRATEGIES)}
    rows = []
    for (network, task, budget, epochs, strategy), cell in frame.groupby(
        ["network", "task", "budget", "epochs", "strategy"], dropna=False
    ):
        ours = estimate(cell.test_top1_percent)
        known = network in paper.NETWORKS.values()
        key = (network, paper.total_elements(network) if strategy == "Baseline" and known else budget)
        value = theirs.get((*key, strategy, paper.TASKS.get(task)))
        rows.append(
            {
                "network": network,
                "task": task,
                "budget (elements)": None if budget != budget else int(budget),
                "epochs": int(epochs),
                "strategy": strategy,
                "top-1 (%)": ours.mean,
                "95 % low": ours.low,
                "95 % high": ours.high,
                "n": ours.n,
                "paper's task": paper.task_label(task) or "–",
                "paper (%)": value,
                "difference": None if value is None else ours.mean - value,
            }
        )
    rows.sort(
        key=lambda row: (
            row["network"],
            row["task"],
            row["epochs"],
            row["budget (elements)"] or 10**12,
            rank[row["strategy"]],
        )
    )
    return pd.DataFrame(rows).astype({"budget (elements)": "Int64"})
