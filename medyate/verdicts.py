"""How each claim of the ledger is judged: from the paper's own numbers, and from our runs.

A check is a small function, named in ``results/paper/claims.json``, that returns a
:class:`Finding`. Checks of runs return None where nothing was recorded that could decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

from . import costs, notebook, overhead, paper, reproduce, runs, schemes, stats, strategies

HOLDS, PART, UNDECIDED, FAILS, OPEN, WRONG = (
    "holds", "holds in part", "undecided here", "does not hold here", "not yet run", "wrong in the paper",
)  # fmt: skip
VERDICTS = (HOLDS, PART, UNDECIDED, FAILS, OPEN, WRONG)


@dataclass(frozen=True)
class Finding:
    """A verdict and what it rests on: a sentence with numbers, and the records' ids."""

    verdict: str
    text: str
    ids: tuple[str, ...] = ()


PAPER: dict[str, Callable[..., Finding]] = {}
RUNS: dict[str, Callable[..., Finding | None]] = {}


def _paper(check: Callable) -> Callable:
    PAPER[check.__name__] = check
    return check


def _runs(check: Callable) -> Callable:
    RUNS[check.__name__] = check
    return check


def _graded(*parts: bool) -> str:
    """Holds if all parts do, fails if none does."""
    return HOLDS if all(parts) else PART if any(parts) else FAILS


def _compared(*tests: stats.Paired) -> str:
    """Of differences that a claim says are positive: holds where each one's 95 % interval lies above zero.

    In part where some do. Does not hold where every interval lies at or below zero; else the runs are too
    few, or the differences too small, to tell. (Stricter than the paper's one-sided test at 5 %, whose
    interval may hold zero; among so many comparisons that is no loss.)
    """
    if any(test.low > 0 for test in tests):
        return _graded(*(test.low > 0 for test in tests))
    return FAILS if all(test.high <= 0 for test in tests) else UNDECIDED


def _p(value: float) -> str:
    return "p < 0.001" if value < 0.0005 else f"p = {value:.3f}"


# --- from what the paper prints ------------------------------------------------------------------


@_paper
def stated(verdict: str, text: str) -> Finding:
    """A finding that reading alone decides; the sentence says what was read."""
    return Finding(verdict, text)


@_paper
def averages() -> Finding:
    frame = reproduce.averages()
    odd = frame[frame.std_is != reproduce.CONVENTIONS[0]]
    text = (
        f"all {len(frame)} averages are the means of their rows; the ± is the root of the sum of squares in "
        f"{len(frame) - len(odd)}, the root mean square in {len(odd)}"
    )
    return Finding(HOLDS if frame.mean_agrees.all() and odd.empty else PART, text)


@_paper
def kilobytes() -> Finding:
    frame = reproduce.kilobyte_labels()
    return Finding(_graded(*frame.agrees), f"{frame.agrees.sum()} of {len(frame)} labels are ceil(4 x elements / 1024)")


@_paper
def budget_range() -> Finding:
    sizes = [costs.kilobytes(budget) for tiers in schemes.PRINTED_BUDGETS.values() for budget in tiers.values()]
    return Finding(
        PART,
        f"the nine budgets are {min(sizes)} to {max(sizes)} kB of selected weights and inputs for a batch of one; "
        "weights, masks, batch norm's inputs and the batch size are not in them",
    )


@_paper
def budgets() -> Finding:
    equal, different = 0, []
    for network, tiers in schemes.PRINTED_BUDGETS.items():
        for tier, printed in tiers.items():
            cost = schemes.cost_elements(network, tier, notebook.backbone(network))
            equal += cost == printed
            if cost != printed:
                different.append(f"{network}, tier {tier}: printed {printed:,}, by eq. 4 {cost:,}")
    return Finding(_graded(equal == 9, equal > 0), f"{equal} of 9 are the scheme's cost by eq. 4; {'; '.join(different)}")


@_paper
def totals() -> Finding:
    found = {name: costs.totals(notebook.backbone(name))["total_elements"] for name in schemes.SCHEMES}
    same = [found[name] == paper.total_elements(name) for name in found]
    return Finding(_graded(*same), "; ".join(f"{name} {total:,}" for name, total in found.items()))


@_paper
def depthwise() -> Finding:
    frame = reproduce.channel_costs()
    own = frame[frame.kind == "depthwise"]
    count = (own.closer == "1 + HW").sum()
    return Finding(PART, f"{count} of {len(own)} depthwise layers are drawn at 1 + HW elements a channel in TraDy's Fig. 9b, all other layers by eq. 4")


@_paper
def share_of_rgn() -> Finding:
    frame = reproduce.layers_by_share().set_index("share")
    return Finding(
        WRONG,
        f"97 % of the recovered RGN is reached at K = {frame.loc[0.97, 'first_above']}; 35 is the largest K below 98 %",
    )


@_paper
def exploration() -> Finding:
    seen = {epoch: 1 - 0.8**epoch for epoch in (8, 11, 14)}
    enough = [seen[epoch] >= share for epoch, share in ((8, 0.8), (11, 0.9), (14, 0.95))]
    return Finding(_graded(*enough), ", ".join(f"{share:.1%} at epoch {epoch}" for epoch, share in seen.items()))


@_paper
def best_layers_rise() -> Finding:
    curves = paper.curves("fig6a")
    best = curves.loc[curves.groupby("budget_elements").top1_percent.idxmax()].sort_values("budget_elements")
    rises = best.layers.is_monotonic_increasing and best.layers.nunique() > 1
    return Finding(_graded(rises), "best K " + ", ".join(map(str, best.layers)) + " from the smallest budget to the largest")


@_paper
def both_ends_fall() -> Finding:
    drops = []
    for _, curve in paper.curves("fig6a").groupby("series"):
        best = curve.top1_percent.max()
        drops.append((best - curve.top1_percent.iloc[0], best - curve.top1_percent.iloc[-1]))
    few, many = zip(*drops)
    return Finding(
        _graded(min(few) > 0.3, min(many) > 0.3),
        f"from the best K to the fewest layers {min(few):.1f} to {max(few):.1f} points lost, to all 52 layers {min(many):.1f} to {max(many):.1f}",
    )


@_paper
def plateaus() -> Finding:
    widths = {}
    for budget, curve in paper.curves("fig6a").groupby("budget_elements"):
        near = curve[curve.top1_percent > curve.top1_percent.max() - 0.5].layers
        widths[budget] = f"{near.min()}-{near.max()}"
    return Finding(HOLDS, "K within half a point of the best: " + ", ".join(f"{b:,}: {w}" for b, w in widths.items()))


@_paper
def axis() -> Finding:
    frame = reproduce.alphas()
    return Finding(
        WRONG if frame.axis_agrees.all() else PART,
        f"all {len(frame)} x values are the budget over MCUNet-in1's 1,309,808; over MbV2's 1,252,320 they are "
        f"{frame.budget_percent.min():.2f} to {frame.budget_percent.max():.2f} %",
    )


@_paper
def regression() -> Finding:
    frame = reproduce.alphas()
    line = stats.regression(frame.budget_percent, frame.alpha_percent)
    ends = [line.slope * x + line.intercept for x in (frame.budget_percent.min(), frame.budget_percent.max())]
    return Finding(
        _graded(max(ends) < 20),
        f"the regression runs from {ends[0]:.1f} to {ends[1]:.1f} %, but explains nothing: R² = {line.r_squared:.2f}, p = {line.p:.2f}",
    )


@_paper
def alphas() -> Finding:
    frame = reproduce.alphas()
    pools = ", ".join(f"{pool:,}" for pool in sorted(frame.pool_elements.unique()))
    return Finding(_graded(frame.alpha_agrees.all()), f"all {len(frame)} alphas follow from four search spaces M_K: {pools}")


def _peaks(figure: str):
    curves = paper.curves(figure)
    best = curves.loc[curves.groupby("series").top1_percent.idxmax()].set_index("series")
    return {name: (int(row.layers), float(row.top1_percent)) for name, row in best.iterrows()}


@_paper
def lara_peaks() -> Finding:
    peaks = _peaks("fig7")
    pairs = [(peaks[f"LaRa order + {metric}"], peaks[f"Prev order + {metric}"]) for metric in ("raw norm", "RGN")]
    fine = [lara[1] > prev[1] and lara[0] < prev[0] for lara, prev in pairs]
    return Finding(_graded(*fine), "; ".join(f"{name}: {top:.2f} % at K = {k}" for name, (k, top) in peaks.items()) + " (no intervals)")


@_paper
def twenty_layers() -> Finding:
    peaks = _peaks("fig7")
    lara, prev, rgn = (peaks[name] for name in ("LaRa order + raw norm", "Prev order + raw norm", "Prev order + RGN"))
    return Finding(
        _graded(lara[0] == 20, rgn[0] == 35, prev[0] == 35),
        f"LaRa order best at K = {lara[0]}; Prev order at {prev[0]} with raw norms, at {rgn[0]} with RGN",
    )


@_paper
def raw_over_rgn() -> Finding:
    curves = paper.curves("fig7").pivot(index="layers", columns="series", values="top1_percent")
    gains = {order: curves[f"{order} order + raw norm"] - curves[f"{order} order + RGN"] for order in ("LaRa", "Prev")}
    clear = [bool((gain > 0).all()) for gain in gains.values()]
    text = "; ".join(f"{order} order: ahead at {(gain > 0).sum()} of {len(gain)} K, mean {gain.mean():+.2f} points" for order, gain in gains.items())
    return Finding(HOLDS if all(clear) else PART, text)


@_paper
def boosting(upper: bool) -> Finding:
    curves = paper.curves("fig11").pivot(index="layers", columns="series", values="top1_percent")
    gains = {name: curves[f"{name} boosted"] - curves[f"{name} uniform"] for name in ("TraDy", "MeDyate")}
    means = {name: (gain[gain.index > 40] if upper else gain[gain.index.isin([15, 20, 25])]).mean() for name, gain in gains.items()}
    fine = [mean > 0.2 if upper else abs(mean) < 0.3 for mean in means.values()]
    where = "K = 45 and 52" if upper else "K = 15 to 25"
    return Finding(_graded(*fine), f"at {where}: " + ", ".join(f"{name} {mean:+.2f} points" for name, mean in means.items()))


@_paper
def run_count() -> Finding:
    cells = len(paper.cells(1))
    return Finding(_graded(cells * 3 == 189), f"{cells} cells of Table 1 x 3 seeds = {cells * 3}")


@_paper
def figure_8() -> Finding:
    frame = reproduce.p_values("CNNs")
    means = frame.set_index(["row", "column"]).p
    return Finding(
        _graded(frame.bracketed.all(), frame.bracketed.any()),
        f"{frame.bracketed.sum()} of {len(frame)} cells fit a test over the 189 single runs; over the 63 means that the tables print, "
        f"p is larger, such as {means['LaRa MeDyate', 'LaRa Prob Raw']:.2f} for 0.14 and {means['LaRa MeDyate', 'Prev MeDyate']:.2f} for 0.06",
    )


@_paper
def ahead(row: str, column: str, group: str = "CNNs") -> Finding:
    """Whether ``row`` beats ``column`` in the tables, at 5 %, over cell means."""
    frame = reproduce.p_values(group).set_index(["row", "column"])
    test = frame.loc[(row, column)]
    printed = f", printed {_p(test.printed)}" if "printed" in test else ""
    text = f"{test.difference:+.2f} points [{test.low:+.2f}, {test.high:+.2f}], {_p(test.p)}{printed}, n = {int(test.n)} cells"
    return Finding(HOLDS if test.p < 0.05 else PART if test.difference > 0 else FAILS, text)


@_paper
def ranked(strategy: str, place: int, group: str = "CNNs", collapsed: bool = True) -> Finding:
    """Whether a strategy has this place by mean over the table's cells; -1 is the last."""
    _, table, networks = reproduce.GROUPS[group]
    cells = paper.cells(table, networks=networks)
    if not collapsed:
        cells = cells.drop(index=[paper.COLLAPSED])
    means = cells.mean().sort_values(ascending=False)
    found = list(means.index).index(strategy) + 1
    wanted = len(means) if place == -1 else place
    text = f"place {found} of {len(means)}: " + ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    return Finding(HOLDS if found == wanted else FAILS, text)


@_paper
def collapsed_run() -> Finding:
    cells = paper.cells(2)
    with_it = cells.mean().rank(ascending=False)["LaRa MeDyate"]
    without = cells.drop(index=[paper.COLLAPSED]).mean().rank(ascending=False)["LaRa MeDyate"]
    return Finding(
        WRONG,
        f"place {with_it:.0f} of 7 hangs on one cell, 79.9 ± 23.43, in which one of three runs collapsed; without it place {without:.0f}",
    )


@_paper
def spread() -> Finding:
    parts = []
    for group, (_, table, networks) in reproduce.GROUPS.items():
        means = paper.cells(table, networks=networks).mean()
        tests = reproduce.p_values(group)
        parts.append((group, means.max() - means.min(), (tests.p < 0.05).sum(), len(tests) // 2))
    text = "; ".join(f"{g}: {s:.2f} points between best and worst, {n} of {m} pairs differ at 5 %" for g, s, n, m in parts)
    cnns, berts = parts[0], parts[2]
    return Finding(_graded(berts[1] < cnns[1], berts[2] / berts[3] < cnns[2] / cnns[3]), text)


@_paper
def sparsity_ranges() -> Finding:
    frame = paper.efficiency()
    inside = frame.weight_sparsity_percent.between(92, 96), frame.activation_sparsity_percent.between(98.4, 99.6)
    return Finding(
        _graded(*inside[0], *inside[1]),
        f"means over epochs: weights {frame.weight_sparsity_percent.min():.1f} to {frame.weight_sparsity_percent.max():.1f} %, "
        f"activations {frame.activation_sparsity_percent.min():.1f} to {frame.activation_sparsity_percent.max():.1f} %",
    )


@_paper
def sparsity_budget() -> Finding:
    frame = reproduce.sparsities()
    return Finding(
        _graded(*frame.within_budget),
        f"turned back into elements they fill {frame.fill_percent.min():.1f} to {frame.fill_percent.max():.1f} % of 27,946",
    )


@_paper
def sparsity_trade() -> Finding:
    frame = paper.efficiency()
    ends = frame.weight_sparsity_percent.idxmin(), frame.activation_sparsity_percent.idxmax()
    reverse = frame.weight_sparsity_percent.idxmax(), frame.activation_sparsity_percent.idxmin()
    return Finding(
        _graded(set(ends) == {"LaRa MeDyate"}, set(reverse) == {"TraDy"}),
        f"lowest weight and highest activation sparsity: {', '.join(dict.fromkeys(ends))}; the reverse: {', '.join(dict.fromkeys(reverse))}",
    )


@_paper
def flops_of_prev() -> Finding:
    frame = paper.efficiency().flops_saved_percent
    gains = frame["TraDy"] - frame["LaRa TraDy"], frame["Prev MeDyate"] - frame["LaRa MeDyate"]
    return Finding(_graded(*(0.95 <= gain <= 2.05 for gain in gains)), f"TraDy {gains[0]:+.2f}, MeDyate {gains[1]:+.2f} points")


# --- from our runs -------------------------------------------------------------------------------


@cache
def _every() -> dict:
    """All that the checks of runs read, once: strategies as named, and the table of rankings."""
    config = notebook.Parameters("ledger", networks="all", tasks="all", seeds="all", epochs="all")
    return {"runs": notebook.strategy_runs(config), "ranks": notebook.rankings(config)}


def forget() -> None:
    """Read the records anew at the next check."""
    _every.cache_clear()
    _curves.cache_clear()


def _ids(frame) -> tuple[str, ...]:
    return tuple(dict.fromkeys(frame["id"])) if len(frame) else ()


def _test(row: str, column: str) -> tuple[stats.Paired, tuple[str, ...]] | None:
    frame = _every()["runs"]
    cells = notebook.cells(frame, budgeted=False) if len(frame) else frame
    if row not in cells or column not in cells:
        return None
    both = cells[[row, column]].dropna()
    if len(both) < 2:
        return None
    return stats.paired(both[row], both[column]), _ids(frame[frame.strategy.isin([row, column])])


@_runs
def compare(row: str, column: str) -> Finding | None:
    """A one-sided paired test of two strategies over our cases."""
    found = _test(row, column)
    if found is None:
        return None
    test, ids = found
    text = f"{test.difference:+.2f} points [{test.low:+.2f}, {test.high:+.2f}], {_p(test.p)}, n = {test.n} cases"
    return Finding(_compared(test), text, ids)


@_runs
def best_of(strategy: str) -> Finding | None:
    """Whether a strategy has the highest mean over the cases that have all that were run.

    Where it has not, the one that has must be better than it by a 95 % interval above zero for the
    claim not to hold.
    """
    frame = _every()["runs"]
    cells = notebook.cells(frame).dropna() if len(frame) else frame
    if len(cells) < 2 or strategy not in cells or cells.shape[1] < 3:
        return None
    means = cells.mean().sort_values(ascending=False)
    text = f"n = {len(cells)} cases: " + ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    used = frame[frame.strategy.isin(cells.columns)]
    best = means.index[0]
    if best == strategy:
        return Finding(HOLDS, text, _ids(used))
    test = stats.paired(cells[best], cells[strategy])
    text += f"; {best} over {strategy}: {test.difference:+.2f} points [{test.low:+.2f}, {test.high:+.2f}]"
    return Finding(FAILS if test.low > 0 else UNDECIDED, text, _ids(used))


@_runs
def layer_orders() -> Finding | None:
    frame = _every()["ranks"]
    values, geometry, ids = [], [], []
    for network, runs_of in frame.groupby("network") if len(frame) else ():
        if runs_of.task.nunique() > 1:
            metric = notebook.layer_metric(runs_of, "lara")
            rho = stats.spearman(metric)
            memory = {layer.name: 1 / layer.search_elements for layer in notebook.backbone(network)}
            geometry += metric.corrwith(metric.index.to_series().map(memory), method="spearman").tolist()
            tasks = [name.rpartition(", ")[0] for name in rho]
            values += [rho.iloc[i, j] for i in range(len(rho)) for j in range(i) if tasks[i] != tasks[j]]
            ids += runs_of["id"].tolist()
    if not values:
        return None
    above = sum(value > 0.9 for value in values)
    return Finding(
        _graded(min(values) > 0.8, above > len(values) / 2),
        f"{len(values)} pairs of fine-tunings on different tasks: lowest {min(values):.2f}, above 0.9 in {above}; "
        f"with 1 / memory, which sees no gradient, they correlate at {min(geometry):.2f} to {max(geometry):.2f}",
        tuple(ids),
    )


def _steps(kind: str):
    import pandas as pd

    frame = _every()["ranks"]
    found = []
    for row in frame.itertuples() if len(frame) else ():
        norms, layer_of, names = notebook.channel_norms(row.id)
        if len(norms) < 3:
            continue
        if kind == "all":
            found.append(stats.consecutive(norms).assign(id=row.id))
        else:
            within = [
                stats.consecutive(norms[:, layer_of == index]).assign(id=row.id)
                for index in range(len(names)) if (layer_of == index).sum() >= 8
            ]  # fmt: skip
            found += within
    return pd.concat(found, ignore_index=True) if found else None


@_runs
def ranks_stay() -> Finding | None:
    steps = _steps("within")
    if steps is None:
        return None
    later = steps[steps.epoch > 2]
    share = (later.rho > 0.8).mean()
    return Finding(
        HOLDS if later.rho.median() > 0.8 and share > 0.9 else PART if later.rho.median() > 0.5 else FAILS,
        f"Spearman's ρ between consecutive epochs within a layer, from epoch 3 on: median {later.rho.median():.2f}, "
        f"above 0.8 in {share:.0%} of {len(later)} steps",
        _ids(steps),
    )


@_runs
def two_phases() -> Finding | None:
    steps = _steps("all")
    if steps is None:
        return None
    first, last = steps[steps.epoch == 2], steps[steps.groupby("id").epoch.transform("max") == steps.epoch]
    text = (
        f"{len(first)} fine-tunings: p from epoch 1 to 2 below 0.05 in {(first.p_paired < 0.05).sum()} paired and "
        f"{(first.p_unpaired < 0.05).sum()} unpaired; at the last step above 0.05 in {(last.p_paired > 0.05).sum()} and {(last.p_unpaired > 0.05).sum()}"
    )
    shares = [(first.p_unpaired < 0.05).mean() > 0.5, (last.p_unpaired > 0.05).mean() > 0.5]
    return Finding(_graded(*shares), text + "; a few epochs only", _ids(steps))


@_runs
def norms_fall() -> Finding | None:
    frame = _every()["ranks"]
    ratios = []
    for row in frame.itertuples() if len(frame) else ():
        norms, *_ = notebook.channel_norms(row.id)
        if len(norms) > 2:
            ratios.append(float(norms[-1].mean() / norms[0].mean()))
    if not ratios:
        return None
    return Finding(
        _graded(*(ratio < 1 for ratio in ratios)),
        f"mean norm of the last epoch over the first's: {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} fine-tunings",
        _ids(frame),
    )


def _epochs_of(names: Sequence[str]):
    frame = _every()["runs"]
    frame = frame[frame.strategy.isin(names)] if len(frame) else frame
    return notebook.epochs_of(frame) if len(frame) else frame


@_runs
def explores_faster() -> Finding | None:
    epochs = _epochs_of(["LaRa MeDyate"])
    if epochs.empty:
        return None
    epochs = epochs[epochs.epoch == 8]
    if epochs.empty:
        return None
    bound = 100 * (1 - (1 - epochs.alpha) ** 8)
    gain = stats.estimate(epochs.explored_percent - bound)
    # the bound is one of exploration: the run must have seen at least as much
    return Finding(
        FAILS if gain.mean < 0 else HOLDS if gain.low is not None and gain.low > 0 else PART,
        f"at epoch 8, {epochs.explored_percent.mean():.1f} % of the search space seen, bound {bound.mean():.1f} %; points above the bound: {gain}",
        tuple(epochs["id"]),
    )


@_runs
def all_seen() -> Finding | None:
    epochs = _epochs_of(["LaRa MeDyate"])
    if epochs.empty:
        return None
    last = epochs[epochs.groupby("id").epoch.transform("max") == epochs.epoch]
    whole = (last.explored_percent > 99.99).sum()
    return Finding(
        HOLDS if whole == len(last) else PART,
        f"after the last epoch ({last.epoch.min()} or more) % of the search space that was selected at least once: "
        f"{stats.estimate(last.explored_percent)}; all of it in {whole} of {len(last)} runs",
        tuple(last["id"]),
    )


@_runs
def steady_count() -> Finding | None:
    epochs = _epochs_of(["LaRa MeDyate"])
    if epochs.empty:
        return None
    spread = epochs.groupby("id").selected_channels.agg(lambda count: count.std() / count.mean())
    return Finding(
        HOLDS if spread.max() < 0.25 else PART,
        f"standard deviation of the number of selected channels over a run's epochs, % of its mean: {stats.estimate(100 * spread)}",
        tuple(spread.index),
    )


@_runs
def overhead_small() -> Finding | None:
    frame = _every()["runs"]
    epochs = _epochs_of(["LaRa MeDyate", "Prev MeDyate"])
    if epochs.empty:
        return None
    epochs = epochs[epochs.epoch > 1]
    epochs = epochs.assign(share=100 * epochs.selection_seconds / epochs.train_seconds)
    by_run = stats.estimate(epochs.groupby("id").share.mean())
    share = by_run.mean
    record = runs.load(frame[frame.strategy == "LaRa MeDyate"]["id"].iloc[0])
    layers = notebook.backbone(record["config"]["network"])
    inside = set(record["search_space"]["layers"])
    pool = sum(layer.channels for layer in layers if layer.name in inside)
    steps = -(-record["train_images"] // record["config"]["batch_size"])
    counted = overhead.operations(record["selection"], layers, pool, steps, record["config"]["batch_size"])
    return Finding(
        HOLDS if share < 1 and counted.share < 0.01 else PART if share < 5 else FAILS,
        f"one operation in {1 / counted.share:,.0f} of the weight derivatives'; measured, % of an epoch's training time: {by_run}",
        _ids(epochs),
    )


def _efficiency():
    epochs = _epochs_of(paper.efficiency().index.tolist())
    # the paper's setting: the smallest budget of MbV2-w0.35
    if not epochs.empty:
        epochs = epochs[(epochs.network == "mbv2-w0.35") & (epochs.budget == 27_946)]
    return epochs


@_runs
def our_sparsity_ranges() -> Finding | None:
    epochs = _efficiency()
    if epochs.empty:
        return None
    weights, activations = epochs.weight_sparsity_percent, epochs.activation_sparsity_percent
    return Finding(
        _graded(weights.between(92, 96).all(), activations.between(98.4, 99.6).all()),
        f"weights {weights.min():.1f} to {weights.max():.1f} %, activations {activations.min():.1f} to {activations.max():.1f} %",
        _ids(epochs),
    )


def _means_by_task(columns: Sequence[str], *needed: str):
    """Means over epochs and runs, by task and strategy; tasks whose runs lack a needed strategy are left out.

    By task, since tasks rank by other tasks' orders, and so draw from other layers.
    """
    epochs = _efficiency()
    if epochs.empty:
        return {}, ()
    means = {task: some.groupby("strategy")[list(columns)].mean() for task, some in epochs.groupby("task")}
    means = {task: mean for task, mean in means.items() if set(needed) <= set(mean.index)}
    return means, _ids(epochs[epochs.task.isin(means)])


@_runs
def our_sparsity_trade() -> Finding | None:
    means, ids = _means_by_task(("weight_sparsity_percent", "activation_sparsity_percent"), "LaRa MeDyate", "TraDy")
    if not means:
        return None
    parts, holds = [], []
    for task, mean in means.items():
        ours, trady = mean.loc["LaRa MeDyate"], mean.loc["TraDy"]
        holds += [ours.iloc[0] < trady.iloc[0], ours.iloc[1] > trady.iloc[1]]
        parts.append(f"{task}: weights LaRa MeDyate {ours.iloc[0]:.2f} %, TraDy {trady.iloc[0]:.2f} %, activations {ours.iloc[1]:.2f} and {trady.iloc[1]:.2f} %")
    return Finding(_graded(*holds), "; ".join(parts), ids)


@_runs
def our_flops_of_prev() -> Finding | None:
    means, ids = _means_by_task(("flops_saved_percent",), "TraDy", "LaRa TraDy", "Prev MeDyate", "LaRa MeDyate")
    if not means:
        return None
    parts, gains = [], []
    for task, mean in means.items():
        saved = mean.flops_saved_percent
        found = {f"{a} over {b}": saved[a] - saved[b] for a, b in (("TraDy", "LaRa TraDy"), ("Prev MeDyate", "LaRa MeDyate"))}
        gains += found.values()
        parts.append(f"{task}: " + ", ".join(f"{pair} {gain:+.2f} points" for pair, gain in found.items()))
    return Finding(HOLDS if all(0.5 < gain < 2.5 for gain in gains) else PART if any(gain > 0 for gain in gains) else FAILS, "; ".join(parts), ids)


@_runs
def memory_is_saved() -> Finding:
    """What a step holds with a uniform selection at the smallest budget: needs no record."""
    config = notebook.Parameters("ledger", network="mbv2-w0.35", budget=27_946)
    selection, *_ = notebook.example_selection(config, _every()["runs"])
    held = {name: sum(parts.values()) for name, parts in overhead.held_bytes(config.network, selection).items()}
    everything, masked = held["all trained, batch norm train"], held["masked dense gradients, batch norm train"]
    train, frozen = held["subnet, batch norm train"], held["subnet, batch norm frozen"]
    return Finding(
        HOLDS if frozen < 0.1 * everything else PART,
        f"measured, batch 8: {everything / 2**20:.1f} MiB held when all is trained, {masked / 2**20:.1f} with masked gradients, "
        f"{train / 2**20:.1f} in the subnet with train-mode batch norm, {frozen / 2**20:.2f} with frozen batch norm",
    )


@cache
def _curves(names: tuple[tuple[str, str, str, bool], ...]):
    """Accuracy over K of MbV2-w0.35: the task, and number of epochs, with the most runs."""
    wanted = {
        label: strategies.with_options(strategies.get("LaRa MeDyate"), order=order, metric=metric, boosted=boosted)
        for label, order, metric, boosted in names
    }
    config = notebook.Parameters("ledger", network="mbv2-w0.35", budget="all", epochs="all", seeds="all")
    frame = notebook.over_layers(config, wanted)
    if frame.empty:
        return frame
    config_of = notebook.table().set_index("id")[["task", "epochs"]]
    frame = frame.join(config_of, on="id")
    task, epochs = frame.groupby(["task", "epochs"]).size().idxmax()
    return frame[(frame.task == task) & (frame.epochs == epochs)]


def _by_budget(least: int = 5):
    frame = _curves((("MeDyate", "lara", "raw", False),))
    if frame.empty:
        return {}
    curves = {budget: curve.groupby("layers").top1_percent.mean() for budget, curve in frame.groupby("budget")}
    return {budget: curve for budget, curve in curves.items() if len(curve) >= least}


def _seeds() -> str:
    """How many seeds an accuracy over K rests on: one says little on a small test set."""
    frame = _curves((("MeDyate", "lara", "raw", False),))
    count = frame.seed.nunique()
    images = runs.load(frame["id"].iloc[0])["test_images"]
    share = frame.top1_percent.mean() / 100
    error = 100 * (share * (1 - share) / images) ** 0.5
    return f"; {count} seed{'s' if count > 1 else ''}, standard error of one accuracy {error:.1f} points"


@_runs
def our_best_layers_rise() -> Finding | None:
    curves = _by_budget()
    if len(curves) < 2:
        return None
    best = [int(curves[budget].idxmax()) for budget in sorted(curves)]
    rising = sum(b >= a for a, b in zip(best, best[1:]))
    return Finding(
        HOLDS if best == sorted(best) and best[0] < best[-1] else PART if best[-1] > best[0] else FAILS,
        f"best K {', '.join(map(str, best))} over {len(best)} budgets ({rising} of {len(best) - 1} steps not down){_seeds()}",
        _ids(_curves((("MeDyate", "lara", "raw", False),))),
    )


@_runs
def our_ends_fall() -> Finding | None:
    curves = _by_budget()
    if not curves:
        return None
    few = [curve.max() - curve.iloc[0] for curve in curves.values()]
    many = [curve.max() - curve.iloc[-1] for curve in curves.values()]
    noise = 0.5  # points; a test set of 500 images has a standard error of about 2 points
    return Finding(
        _graded(min(few) > noise, min(many) > noise),
        f"from the best K to the fewest layers {min(few):.1f} to {max(few):.1f} points lost, to all layers {min(many):.1f} to {max(many):.1f}, {len(curves)} budgets{_seeds()}",
        _ids(_curves((("MeDyate", "lara", "raw", False),))),
    )


_ORDERS = tuple((f"{order} {metric}", order, metric, False) for order in ("lara", "rgn") for metric in ("raw", "rgn"))


def _grid_of_orders():
    frame = _curves(_ORDERS)
    if frame.empty:
        return None
    frame = frame[frame.budget == 27_946]
    wide = frame.groupby(["layers", "series"]).top1_percent.mean().unstack().dropna()
    return (wide, frame) if set(wide) == {name for name, *_ in _ORDERS} and len(wide) >= 5 else None


@_runs
def our_lara_peaks() -> Finding | None:
    found = _grid_of_orders()
    if found is None:
        return None
    wide, frame = found
    pairs = [(wide[f"lara {metric}"], wide[f"rgn {metric}"]) for metric in ("raw", "rgn")]
    fine = [test for lara, prev in pairs for test in (lara.max() > prev.max(), lara.idxmax() < prev.idxmax())]
    text = "; ".join(f"{name}: {curve.max():.2f} % at K = {curve.idxmax()}" for name, curve in wide.items())
    return Finding(_graded(*fine), text, _ids(frame))


@_runs
def our_raw_over_rgn() -> Finding | None:
    found = _grid_of_orders()
    if found is None:
        return None
    wide, frame = found
    gains = {order: stats.paired(wide[f"{order} raw"], wide[f"{order} rgn"]) for order in ("lara", "rgn")}
    text = "; ".join(f"{order} order: {test.difference:+.2f} points [{test.low:+.2f}, {test.high:+.2f}]" for order, test in gains.items())
    return Finding(
        _compared(*gains.values()), f"{text}, over {len(wide)} K", _ids(frame),
    )  # fmt: skip


@_runs
def our_boosting(upper: bool) -> Finding | None:
    names = (("uniform", "lara", "raw", False), ("boosted", "lara", "raw", True))
    frame = _curves(names)
    if frame.empty:
        return None
    frame = frame[frame.budget == 27_946]
    wide = frame.groupby(["layers", "series"]).top1_percent.mean().unstack()
    if set(wide) != {"uniform", "boosted"}:
        return None
    gain = (wide.boosted - wide.uniform).dropna()
    gain = gain[gain.index > 40] if upper else gain[gain.index.isin([15, 20, 25])]
    if gain.empty:
        return None
    fine = gain.mean() > 0.2 if upper else abs(gain.mean()) < 0.5
    return Finding(HOLDS if fine else FAILS, f"MeDyate at K = {', '.join(map(str, gain.index))}: {gain.mean():+.2f} points", _ids(frame))
