"""How each claim of the ledger is judged: from the paper's own numbers, and from our runs.

A check is a small function, named in ``results/paper/claims.json``, that returns a
``Finding``. Checks of runs return None where nothing was recorded that could decide.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import pandas as pd

from .. import costs, device, strategies
from ..networks import schemes
from ..runs import kept as overhead
from ..runs import records as runs
from . import ours, parameters, recorded, reproduce, stats
from . import values as paper

HOLDS, PART, UNDECIDED, FAILS, OPEN, WRONG = (
    "holds",
    "holds in part",
    "undecided here",
    "does not hold here",
    "not yet run",
    "wrong in the paper",
)
VERDICTS = (HOLDS, PART, UNDECIDED, FAILS, OPEN, WRONG)


@dataclass(frozen=True)
class Finding:
    """A verdict and what it rests on: a sentence with numbers, the ids of the records used, their scope in words.

    ``brief`` is the part of the sentence that the verdict rests on; ``parts`` are the statements at its end, one a
    protocol, network or task, which a page can list.
    """

    verdict: str
    text: str
    ids: tuple[str, ...] = ()
    rests_on: str = ""
    brief: str = ""
    parts: tuple[str, ...] = ()


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
    interval may include zero; among so many comparisons that is the safer choice.)
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
            cost = schemes.cost_elements(network, tier, parameters.backbone(network))
            equal += cost == printed
            if cost != printed:
                different.append(f"{network}, tier {tier}: printed {printed:,}, by paper eq. 4 {cost:,}")
    return Finding(
        _graded(equal == 9, equal > 0), f"{equal} of 9 are the scheme's cost by paper eq. 4; {'; '.join(different)}"
    )


@_paper
def totals() -> Finding:
    total_of = {name: costs.totals(parameters.backbone(name))["total_elements"] for name in schemes.SCHEMES}
    same = [total_of[name] == paper.total_elements(name) for name in total_of]
    return Finding(_graded(*same), "; ".join(f"{name} {total:,}" for name, total in total_of.items()))


@_paper
def depthwise() -> Finding:
    frame = reproduce.channel_costs()
    own = frame[frame.kind == "depthwise"]
    count = (own.closer == "1 + HW").sum()
    return Finding(
        PART,
        f"{count} of {len(own)} depthwise layers are drawn at 1 + HW elements a channel in TraDy's Fig. 9b, all other "
        "layers by paper eq. 4",
    )


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
    return Finding(
        _graded(*enough), ", ".join(f"{100 * share:.1f} % at epoch {epoch}" for epoch, share in seen.items())
    )


@_paper
def best_layers_rise() -> Finding:
    curves = paper.curves("fig6a")
    best = curves.loc[curves.groupby("budget_elements").top1_percent.idxmax()].sort_values("budget_elements")
    rises = best.layers.is_monotonic_increasing and best.layers.nunique() > 1
    return Finding(
        _graded(rises), "best K " + ", ".join(map(str, best.layers)) + " from the smallest budget to the largest"
    )


@_paper
def both_ends_fall() -> Finding:
    drops = []
    for _, curve in paper.curves("fig6a").groupby("series"):
        best = curve.top1_percent.max()
        drops.append((best - curve.top1_percent.iloc[0], best - curve.top1_percent.iloc[-1]))
    few, many = zip(*drops)
    return Finding(
        _graded(min(few) > 0.3, min(many) > 0.3),
        f"from the best K to the fewest layers {min(few):.1f} to {max(few):.1f} points lost, to all 52 layers "
        f"{min(many):.1f} to {max(many):.1f}",
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
        f"the regression runs from {ends[0]:.1f} to {ends[1]:.1f} %, but explains nothing: R² = {line.r_squared:.2f}, "
        f"p = {line.p:.2f}",
    )


@_paper
def alphas() -> Finding:
    frame = reproduce.alphas()
    pools = ", ".join(f"{pool:,}" for pool in sorted(frame.pool_elements.unique()))
    return Finding(
        _graded(frame.alpha_agrees.all()), f"all {len(frame)} alphas follow from four search spaces M_K: {pools}"
    )


def _peaks(figure: str):
    curves = paper.curves(figure)
    best = curves.loc[curves.groupby("series").top1_percent.idxmax()].set_index("series")
    return {name: (int(row.layers), float(row.top1_percent)) for name, row in best.iterrows()}


@_paper
def lara_peaks() -> Finding:
    peaks = _peaks("fig7")
    pairs = [(peaks[f"LaRa order + {metric}"], peaks[f"Prev order + {metric}"]) for metric in ("raw norm", "RGN")]
    fine = [lara[1] > prev[1] and lara[0] < prev[0] for lara, prev in pairs]
    return Finding(
        _graded(*fine),
        "; ".join(f"{name}: {top:.2f} % at K = {k}" for name, (k, top) in peaks.items()) + " (no intervals)",
    )


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
    text = "; ".join(
        f"{order} order: ahead at {(gain > 0).sum()} of {len(gain)} K, mean {gain.mean():+z.2f} points"
        for order, gain in gains.items()
    )
    return Finding(HOLDS if all(clear) else PART, text)


@_paper
def boosting(upper: bool) -> Finding:
    curves = paper.curves("fig11").pivot(index="layers", columns="series", values="top1_percent")
    gains = {name: curves[f"{name} boosted"] - curves[f"{name} uniform"] for name in ("TraDy", "MeDyate")}
    means = {
        name: (gain[gain.index > 40] if upper else gain[gain.index.isin([15, 20, 25])]).mean()
        for name, gain in gains.items()
    }
    fine = [mean > 0.2 if upper else abs(mean) < 0.3 for mean in means.values()]
    where = "K = 45 and 52" if upper else "K = 15 to 25"
    return Finding(
        _graded(*fine), f"at {where}: " + ", ".join(f"{name} {mean:+z.2f} points" for name, mean in means.items())
    )


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
        f"{frame.bracketed.sum()} of {len(frame)} cells fit a test over the 189 single runs; over the 63 means that "
        f"the tables print, p is larger, such as {means['LaRa MeDyate', 'LaRa Prob Raw']:.2f} for 0.14 and "
        f"{means['LaRa MeDyate', 'Prev MeDyate']:.2f} for 0.06",
    )


@_paper
def ahead(row: str, column: str, group: str = "CNNs") -> Finding:
    """Whether ``row`` beats ``column`` in the tables, at 5 %, over cell means."""
    frame = reproduce.p_values(group).set_index(["row", "column"])
    test = frame.loc[(row, column)]
    printed = f", printed {_p(test.printed)}" if "printed" in test else ""
    text = (
        f"{test.difference:+z.2f} points [{test.low:+z.2f}, {test.high:+z.2f}], {_p(test.p)}{printed}, "
        f"n = {int(test.n)} cells"
    )
    return Finding(HOLDS if test.p < 0.05 else PART if test.difference > 0 else FAILS, text)


@_paper
def ranked(strategy: str, place: int, group: str = "CNNs", collapsed: bool = True) -> Finding:
    """Whether a strategy has this place by mean over the table's cells; -1 is the last."""
    _, table, networks = reproduce.GROUPS[group]
    cells = paper.cells(table, networks=networks)
    if not collapsed:
        cells = cells.drop(index=[paper.COLLAPSED])
    means = cells.mean().sort_values(ascending=False)
    actual = list(means.index).index(strategy) + 1
    wanted = len(means) if place == -1 else place
    text = f"place {actual} of {len(means)}: " + ", ".join(f"{name} {mean:.2f}" for name, mean in means.items())
    return Finding(HOLDS if actual == wanted else FAILS, text)


@_paper
def collapsed_run() -> Finding:
    cells = paper.cells(2)
    with_it = cells.mean().rank(ascending=False)["LaRa MeDyate"]
    without = cells.drop(index=[paper.COLLAPSED]).mean().rank(ascending=False)["LaRa MeDyate"]
    return Finding(
        WRONG,
        f"place {with_it:.0f} of 7 hinges on one cell, 79.9 ± 23.43, in which one of three runs collapsed; without it "
        f"place {without:.0f}",
    )


@_paper
def spread() -> Finding:
    parts = []
    for group, (_, table, networks) in reproduce.GROUPS.items():
        means = paper.cells(table, networks=networks).mean()
        tests = reproduce.p_values(group)
        parts.append((group, means.max() - means.min(), (tests.p < 0.05).sum(), len(tests) // 2))
    text = "; ".join(
        f"{g}: {s:.2f} points between best and worst, {n} of {m} pairs differ at 5 %" for g, s, n, m in parts
    )
    cnns, berts = parts[0], parts[2]
    return Finding(_graded(berts[1] < cnns[1], berts[2] / berts[3] < cnns[2] / cnns[3]), text)


@_paper
def sparsity_ranges() -> Finding:
    frame = paper.efficiency()
    inside = frame.weight_sparsity_percent.between(92, 96), frame.activation_sparsity_percent.between(98.4, 99.6)
    return Finding(
        _graded(*inside[0], *inside[1]),
        f"means over epochs: weights {frame.weight_sparsity_percent.min():.1f} to "
        f"{frame.weight_sparsity_percent.max():.1f} %, activations {frame.activation_sparsity_percent.min():.1f} to "
        f"{frame.activation_sparsity_percent.max():.1f} %",
    )


@_paper
def sparsity_budget() -> Finding:
    frame = reproduce.sparsities()
    return Finding(
        _graded(*frame.within_budget),
        f"turned back into elements they fill {frame.fill_percent.min():.1f} to {frame.fill_percent.max():.1f} % of "
        "27,946",
    )


@_paper
def sparsity_trade() -> Finding:
    frame = paper.efficiency()
    ends = frame.weight_sparsity_percent.idxmin(), frame.activation_sparsity_percent.idxmax()
    reverse = frame.weight_sparsity_percent.idxmax(), frame.activation_sparsity_percent.idxmin()
    return Finding(
        _graded(set(ends) == {"LaRa MeDyate"}, set(reverse) == {"TraDy"}),
        f"lowest weight and highest activation sparsity: {', '.join(dict.fromkeys(ends))}; the reverse: "
        f"{', '.join(dict.fromkeys(reverse))}",
    )


@_paper
def flops_of_prev() -> Finding:
    frame = paper.efficiency().flops_saved_percent
    gains = frame["TraDy"] - frame["LaRa TraDy"], frame["Prev MeDyate"] - frame["LaRa MeDyate"]
    return Finding(
        _graded(*(0.95 <= gain <= 2.05 for gain in gains)), f"TraDy {gains[0]:+z.2f}, MeDyate {gains[1]:+z.2f} points"
    )


@_paper
def static_twins() -> Finding:
    frame = paper.static_twins()
    tests, parts = [], []
    for name, own in frame.groupby("strategy", sort=False):
        tests.append(stats.paired(own.dynamic_percent, own.static_percent))
        ahead = (own.dynamic_percent > own.static_percent).sum()
        parts.append(
            f"{name} over its static twin {tests[-1].difference:+z.2f} points [{tests[-1].low:+z.2f}, "
            f"{tests[-1].high:+z.2f}], ahead in {ahead} of {len(own)} cells"
        )
    return Finding(
        _graded(*(test.low > 0 for test in tests)), "TraDy's Table 4 beside its Table 1: " + "; ".join(parts)
    )


@_paper
def lara_in_text() -> Finding:
    means = paper.cells(3).mean().sort_values(ascending=False)
    gap = means.iloc[0] - means["LaRa MeDyate"]
    spread = means.iloc[0] - means.iloc[-1]
    return Finding(
        HOLDS if gap < 0.5 else PART,
        f"Table 3: LaRa MeDyate {means['LaRa MeDyate']:.2f}, {gap:.2f} points below the best ({means.index[0]}), of "
        f"{spread:.2f} between best and worst; what is acceptable is not said",
    )


# --- from our runs -------------------------------------------------------------------------------


@cache
def _every() -> dict:
    """All that the checks of runs read, once: strategies as named under `short`, and the table of rankings."""
    config = parameters.Parameters("ledger", networks="all", tasks="all", seeds="all", epochs="all")
    return {"runs": ours.runs("short"), "ranks": recorded.rankings(config)}


def forget() -> None:
    """Read the records anew at the next check."""
    _every.cache_clear()
    ours.forget()
    _curves.cache_clear()
    _efficiency.cache_clear()
    _steps.cache_clear()
    _steps_within.cache_clear()


def _ids(frame) -> tuple[str, ...]:
    return tuple(dict.fromkeys(frame["id"])) if len(frame) else ()


# The regime that the claims are about comes first: what it says decides; the others are reported beside it.
_REGIMES = ("authors", "short", "frozen")


def _told(judged: dict[str, tuple[str, str, tuple[str, ...], str]]) -> Finding | None:
    """One finding of one for each protocol: (verdict, text, ids, scope).

    Where the protocol that the claim is about has been run at all, it decides, be it that it cannot yet; else the
    first that was run does.
    """
    if not judged:
        return None
    first = next(name for name in _REGIMES if name in judged)
    parts = tuple(f"`{name}`, {verdict}: {text}" for name, (verdict, text, _, _) in judged.items())
    brief = judged[first][1].rpartition("; ")[2]
    ids = tuple(dict.fromkeys(one for _, _, some, _ in judged.values() for one in some))
    return Finding(judged[first][0], "; ".join(parts), ids, judged[first][3], brief, parts)


def _difference(comparison: ours.Comparison) -> tuple[str, str, tuple[str, ...], str]:
    """Accuracy decides; where its interval has zero in it and the test loss's has not, the claim holds in part."""
    where = f"{comparison.cells} cell{'' if comparison.cells == 1 else 's'}"
    if comparison.top1 is None:
        return UNDECIDED, f"{comparison.difference:+z.2f} points in {where}", comparison.ids, comparison.rests_on
    test, loss = comparison.top1, comparison.loss
    text = f"{test.difference:+z.2f} points [{test.low:+z.2f}, {test.high:+z.2f}], {_p(test.p)}, n = {where}"
    verdict = _compared(test)
    if loss is not None:
        text += f" (test loss {-loss.difference:+.3f} [{-loss.high:+.3f}, {-loss.low:+.3f}], {_p(loss.p)})"
        if verdict == UNDECIDED and loss.low > 0:
            verdict = PART
    return verdict, text, comparison.ids, comparison.rests_on


@_runs
def compare(row: str, column: str) -> Finding | None:
    """A one-sided paired test of two strategies over our cells, protocol by protocol."""
    comparisons = {name: ours.compare(row, column, ours.runs(name), name) for name in _REGIMES}
    return _told({name: _difference(one) for name, one in comparisons.items() if one is not None})


@_runs
def best_of(strategy: str) -> Finding | None:
    """Whether a strategy has the highest mean over the cells that have all of the paper's strategies.

    Where it has not, the one that has must be better than it by a 95 % interval above zero for the
    claim not to hold; where it has, it must be better than the next by one for the claim to hold.
    """
    judged = {}
    for name in _REGIMES:
        frame = ours.runs(name)
        used = recorded.complete(frame, paper.MAIN_STRATEGIES)
        if used.empty:
            continue
        means = recorded.cells(used).mean().sort_values(ascending=False)
        rival = means.index[0] if means.index[0] != strategy else means.index[1]
        one = ours.compare(strategy, rival, used, name)
        text = ", ".join(f"{other} {mean:.2f}" for other, mean in means.items())
        _, difference, _, scope = _difference(one)
        if one.top1 is None or one.top1.low <= 0 <= one.top1.high:
            verdict = UNDECIDED
        else:
            verdict = HOLDS if one.top1.low > 0 else FAILS
        ids = tuple(dict.fromkeys(used["id"]))
        judged[name] = (verdict, f"{text}; {strategy} over {rival}: {difference}", ids, scope)
    return _told(judged)


@_runs
def layer_orders() -> Finding | None:
    frame = _every()["ranks"]
    values, geometry, ids = [], [], []
    for network, runs_of in frame.groupby("network") if len(frame) else ():
        if runs_of.task.nunique() > 1:
            metric = recorded.layer_metric(runs_of, "lara")
            rho = stats.spearman(metric)
            memory = {layer.name: 1 / layer.search_elements for layer in parameters.backbone(network)}
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


def _series():
    """The fine-tunings that recorded channel norms in three epochs or more."""
    frame = _every()["ranks"]
    for row in frame.itertuples() if len(frame) else ():
        norms, layer_of, names = recorded.channel_norms(row.id)
        if len(norms) >= 3:
            yield row.id, norms, [layer_of == index for index in range(len(names))]


@cache
def _steps():
    steps = [stats.consecutive(norms).assign(id=name) for name, norms, _ in _series()]
    return pd.concat(steps, ignore_index=True) if steps else None


@cache
def _steps_within():
    """Rank correlations of consecutive epochs, layer by layer."""
    steps = []
    for name, norms, layers in _series():
        for inside in layers:
            if inside.sum() >= 8:
                rho = stats.consecutive_ranks(norms[:, inside])
                steps.append(pd.DataFrame({"epoch": range(2, len(norms) + 1), "rho": rho, "id": name}))
    return pd.concat(steps, ignore_index=True) if steps else None


@_runs
def ranks_stay() -> Finding | None:
    steps = _steps_within()
    if steps is None:
        return None
    later = steps[steps.epoch > 2]
    stays = [own.rho.median() > 0.8 and (own.rho > 0.8).mean() > 0.9 for _, own in later.groupby("id")]
    return Finding(
        _graded(*stays),
        f"Spearman's ρ between consecutive epochs within a layer, from epoch 3 on: median {later.rho.median():.2f}, "
        f"above 0.8 in {100 * (later.rho > 0.8).mean():.0f} % of {len(later):,} steps, and in more than 90 % of a "
        f"fine-tuning's steps in {sum(stays)} of {len(stays)} fine-tunings",
        _ids(steps),
    )


@_runs
def two_phases() -> Finding | None:
    steps = _steps()
    if steps is None:
        return None
    first, last = steps[steps.epoch == 2], steps[steps.groupby("id").epoch.transform("max") == steps.epoch]
    text = (
        f"{len(first)} fine-tunings: p from epoch 1 to 2 below 0.05 in {(first.p_paired < 0.05).sum()} paired and "
        f"{(first.p_unpaired < 0.05).sum()} unpaired; at the last step above 0.05 in {(last.p_paired > 0.05).sum()} "
        f"and {(last.p_unpaired > 0.05).sum()}"
    )
    shares = [(first.p_unpaired < 0.05).mean() > 0.5, (last.p_unpaired > 0.05).mean() > 0.5]
    return Finding(_graded(*shares), text + "; a few epochs only", _ids(steps))


@_runs
def norms_fall() -> Finding | None:
    frame = _every()["ranks"]
    ratios = []
    for row in frame.itertuples() if len(frame) else ():
        norms, *_ = recorded.channel_norms(row.id)
        if len(norms) > 2:
            ratios.append(float(norms[-1].mean() / norms[0].mean()))
    if not ratios:
        return None
    return Finding(
        _graded(*(ratio < 1 for ratio in ratios)),
        f"mean norm of the last epoch over the first's: {min(ratios):.2f} to {max(ratios):.2f} in {len(ratios)} "
        "fine-tunings",
        _ids(frame),
    )


def _epochs_of(names: Sequence[str]):
    frame = _every()["runs"]
    frame = frame[frame.strategy.isin(names)] if len(frame) else frame
    return recorded.epochs_of(frame) if len(frame) else frame


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
        f"at epoch 8, {epochs.explored_percent.mean():.1f} % of the search space seen, bound {bound.mean():.1f} %; "
        f"points above the bound: {gain}",
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
        f"% of the search space selected at least once by the last epoch ({last.epoch.min()} or more): "
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
        "standard deviation of the number of selected channels over a run's epochs, % of its mean: "
        f"{stats.estimate(100 * spread)}",
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
    layers = parameters.backbone(record["config"]["network"])
    inside = set(record["search_space"]["layers"])
    pool = sum(layer.channels for layer in layers if layer.name in inside)
    steps = -(-record["train_images"] // record["config"]["batch_size"])
    counted = costs.operations(record["selection"], layers, pool, steps, record["config"]["batch_size"])
    return Finding(
        HOLDS if share < 1 and counted.share < 0.01 else PART if share < 5 else FAILS,
        f"one operation in {1 / counted.share:,.0f} of the weight derivatives'; measured, % of an epoch's training "
        f"time: {by_run}",
        _ids(epochs),
    )


@cache
def _efficiency():
    """Epochs of MbV2-w0.35's runs at its smallest budget, the paper's setting, under `short`, by any ranking."""
    names = paper.efficiency().index.tolist()
    config = parameters.Parameters(
        "ledger", network="mbv2-w0.35", tasks="all", budget=27_946, seeds="all", epochs="all", protocol="short"
    )
    frames = [
        recorded.strategy_runs(dataclasses.replace(config, ranking=name))
        for name in (recorded.DECLARED, ours.PUBLISHED)
    ]
    frame = pd.concat(frames).drop_duplicates("id") if any(map(len, frames)) else frames[0]
    return recorded.epochs_of(frame[frame.strategy.isin(names)]) if len(frame) else frame


def _by_order(epochs):
    """Runs by our own rankings, task by task, since tasks rank by other tasks' orders; and by the published norms."""
    if epochs.empty:
        return
    free = epochs.ranking.isna()
    for task, own in epochs[free | (epochs.ranking != ours.PUBLISHED)].groupby("task"):
        yield f"{task}, our ranking", own
    for task, own in epochs[epochs.ranking == ours.PUBLISHED].groupby("task"):
        yield f"{task}, ranked by {ours.PUBLISHED}", pd.concat([own, epochs[free & (epochs.task == task)]])


@_runs
def our_sparsity_ranges() -> Finding | None:
    epochs = _efficiency()
    if epochs.empty:
        return None
    parts, fine = [], []
    for name, own in _by_order(epochs):
        means = own.groupby("strategy")[["weight_sparsity_percent", "activation_sparsity_percent"]].mean()
        weights, activations = means.weight_sparsity_percent, means.activation_sparsity_percent
        fine += [weights.between(92, 96).all(), activations.between(98.4, 99.6).all()]
        parts.append(
            f"{name}: weights {weights.min():.1f} to {weights.max():.1f} %, activations {activations.min():.1f} to "
            f"{activations.max():.1f} %"
        )
    return Finding(_graded(*fine), "means over epochs; " + "; ".join(parts), _ids(epochs), parts=tuple(parts))


def _means_by_order(columns: Sequence[str], *needed: str):
    """Means over epochs and runs by strategy, for each of :func:`_by_order` that has the needed ones."""
    mean_of, ids = {}, []
    for name, own in _by_order(_efficiency()):
        mean = own.groupby("strategy")[list(columns)].mean()
        if set(needed) <= set(mean.index):
            mean_of[name] = mean
            ids += own[own.strategy.isin(needed)]["id"].tolist()
    return mean_of, tuple(dict.fromkeys(ids))


@_runs
def our_sparsity_trade() -> Finding | None:
    means, ids = _means_by_order(("weight_sparsity_percent", "activation_sparsity_percent"), "LaRa MeDyate", "TraDy")
    if not means:
        return None
    parts, holds = [], []
    for name, mean in means.items():
        lara, trady = mean.loc["LaRa MeDyate"], mean.loc["TraDy"]
        holds += [lara.iloc[0] < trady.iloc[0], lara.iloc[1] > trady.iloc[1]]
        parts.append(
            f"{name}: weights LaRa MeDyate {lara.iloc[0]:.2f} %, TraDy {trady.iloc[0]:.2f} %, activations "
            f"{lara.iloc[1]:.2f} and {trady.iloc[1]:.2f} %"
        )
    return Finding(_graded(*holds), "; ".join(parts), ids, parts=tuple(parts))


@_runs
def our_flops_of_prev() -> Finding | None:
    means, ids = _means_by_order(("flops_saved_percent",), "TraDy", "LaRa TraDy", "Prev MeDyate", "LaRa MeDyate")
    if not means:
        return None
    parts, gains = [], []
    for name, mean in means.items():
        saved = mean.flops_saved_percent
        gain_of = {
            f"{a} over {b}": saved[a] - saved[b] for a, b in (("TraDy", "LaRa TraDy"), ("Prev MeDyate", "LaRa MeDyate"))
        }
        gains += gain_of.values()
        parts.append(f"{name}: " + ", ".join(f"{pair} {gain:+z.2f} points" for pair, gain in gain_of.items()))
    return Finding(
        HOLDS if all(0.5 < gain < 2.5 for gain in gains) else PART if any(gain > 0 for gain in gains) else FAILS,
        "; ".join(parts),
        ids,
        parts=tuple(parts),
    )


@_runs
def same_everywhere() -> Finding | None:
    """Whether the strategies' order by Fig. 9's metrics is the same in other networks, budgets and tasks."""
    used = recorded.complete(ours.runs("short"), paper.MAIN_STRATEGIES)
    if used.empty:
        return None
    columns = ["weight_sparsity_percent", "activation_sparsity_percent", "flops_saved_percent"]
    means = recorded.epochs_of(used).groupby(["network", "task", "budget", "strategy"])[columns].mean()
    correlations = {}
    for column in columns:
        rho = means[column].unstack("strategy").T.corr(method="spearman").to_numpy()
        correlations[column] = rho[np.triu_indices_from(rho, 1)]
    if not len(correlations[columns[0]]):
        return None
    text = "; ".join(
        f"{name.removesuffix('_percent').replace('_', ' ').replace('flops', 'FLOPs')} {np.median(rho):.2f} "
        f"(lowest {rho.min():.2f})"
        for name, rho in correlations.items()
    )
    count = len(means.groupby(["network", "task", "budget"]))
    return Finding(
        _graded(*(np.median(rho) > 0.8 for rho in correlations.values())),
        f"rank correlation of the eight strategies between {count} cells, median: {text}",
        _ids(used),
    )


# --- channels: what the preliminary fine-tunings recorded ---------------------------------------------


@cache
def _ranks_within_layers(run_id: str):
    """Of each layer of eight channels or more, the ranks of its channels' norms, summed over the epochs; centred."""
    from scipy.stats import rankdata

    norms, layer_of, names = recorded.channel_norms(run_id)
    total, ranks = norms.sum(0), []
    for index in range(len(names)):
        own = rankdata(total[layer_of == index])
        if len(own) >= 8:
            ranks.append((own - own.mean()) / own.std())
    return ranks


@_runs
def channels_by_task() -> Finding | None:
    """Rank correlation of channels within layers, between fine-tunings of two tasks and of two seeds."""
    frame = _every()["ranks"]
    within: dict[str, dict[bool, float]] = {}
    for network, own in frame.groupby("network") if len(frame) else ():
        rows = list(own.itertuples())
        pairs = [(a, b) for i, a in enumerate(rows) for b in rows[:i] if a.task == b.task or a.seed == b.seed]
        rho = {True: [], False: []}
        for a, b in pairs:
            both = zip(_ranks_within_layers(a.id), _ranks_within_layers(b.id))
            rho[a.task == b.task].append(float(np.median([(x * y).mean() for x, y in both])))
        if all(rho.values()):
            within[network] = {same: float(np.mean(values)) for same, values in rho.items()}
    if not within:
        return None
    parts = tuple(
        f"{network}: between tasks {of[False]:.2f}, between seeds of one task {of[True]:.2f}"
        for network, of in within.items()
    )
    return Finding(
        _graded(*(of[False] < of[True] for of in within.values())),
        f"median over layers of Spearman's ρ within a layer, mean over pairs: {'; '.join(parts)}",
        _ids(frame[frame.network.isin(within)]),
        parts=parts,
    )


@_runs
def norms_known_soon() -> Finding | None:
    """MeDyate's N, replayed on recorded norms without training, against the whole gradient's norms of that epoch."""
    frame = _every()["ranks"]
    frame = frame[frame.network.isin(schemes.SCHEMES) & (frame.seed == 0)] if len(frame) else frame
    rho, ids = [], []
    for row in frame.itertuples() if len(frame) else ():
        record = runs.load(row.id)
        norms, layer_of, names = recorded.channel_norms(row.id)
        budget = schemes.PRINTED_BUDGETS[row.network][1]
        epochs = len(norms)
        selector, _ = recorded.selections(row.network, budget, record["ranking"], epochs, 0)
        inside = np.isin(np.array(names)[layer_of], selector.ranked)
        known, whole = pd.Series(selector.norms.numpy()), pd.Series(norms[epochs - 2][inside])
        rho.append(float(known.corr(whole, method="spearman")))
        ids.append(row.id)
    if not rho:
        return None
    return Finding(
        HOLDS if min(rho) > 0.8 else PART if np.mean(rho) > 0.5 else FAILS,
        f"after {epochs} epochs at the smallest budget, N and the whole gradient's norms over the search space: "
        f"Spearman's ρ {min(rho):.2f} to {max(rho):.2f}, mean {np.mean(rho):.2f}, in {len(rho)} fine-tunings",
        tuple(ids),
    )


@_runs
def tails_are_heavy() -> Finding | None:
    """Eq. 6: an alpha below 2. Hill's index of single steps' channel norms over the epoch's mean norms."""
    frame = _every()["ranks"]
    indices = []
    for row in frame.itertuples() if len(frame) else ():
        last, _, _ = recorded.channel_norms(row.id, "last")
        mean, _, _ = recorded.channel_norms(row.id)
        ratio = (last / np.where(mean > 0, mean, np.nan)).ravel()
        indices.append(stats.hill(ratio[np.isfinite(ratio) & (ratio > 0)]))
    if not indices:
        return None
    return Finding(
        _graded(*(alpha < 2 for alpha in indices)),
        f"Hill's index of the largest 2 % of a step's channel norms over their epoch's mean: {min(indices):.1f} to "
        f"{max(indices):.1f} in {len(indices)} fine-tunings; a symmetric α-stable noise has an index of α, below 2",
        _ids(frame),
    )


@cache
def _held_bytes() -> dict[str, int]:
    """What a step of batch 8 holds under MbV2's smallest budget, by way, with the selection of Figure 9's page."""
    config = parameters.Parameters(
        "fig9", network="mbv2-w0.35", task="food10", budget=27_946, epochs=9, seeds="all", protocol="short"
    )
    selection, *_ = recorded.example_selection(config, recorded.strategy_runs(config))
    return {name: sum(parts.values()) for name, parts in overhead.held_bytes(config.network, selection).items()}


A_FEW_HUNDRED_KB = 512 * 1024  # bytes


@_runs
@cache
def few_hundred_kilobytes() -> Finding:
    """All that a step holds under MbV2's smallest budget, at most 512 KiB: in PyTorch with a batch, and on a device."""
    held = _held_bytes()["subnet, batch norm frozen"]
    planned = {mode: device.plan("mbv2-w0.35", 27_946, mode=mode)["ram_bytes"] for mode in device.MODES}
    return Finding(
        _graded(held <= A_FEW_HUNDRED_KB, *(size <= A_FEW_HUNDRED_KB for size in planned.values())),
        f"measured for MbV2's smallest budget, 109 KiB by the paper's count: in PyTorch a step of batch 8 keeps "
        f"{held / 2**20:.2f} MiB for the backward pass, with frozen batch norm, beside weights and buffers; in C on a "
        "microcontroller (part 11) all of training takes "
        + " or ".join(f"{size / 1024:.0f} KiB of RAM ({mode})" for mode, size in planned.items())
        + " at 128 by 128 pixels, image by image, with the weights in flash",
    )


@_runs
@cache
def memory_is_saved() -> Finding:
    """What a step holds, in PyTorch."""
    held = _held_bytes()
    everything, masked = held["all trained, batch norm train"], held["masked dense gradients, batch norm train"]
    train, frozen = held["subnet, batch norm train"], held["subnet, batch norm frozen"]
    return Finding(
        HOLDS if frozen < 0.1 * everything else PART,
        f"measured, batch 8: {everything / 2**20:.1f} MiB held when all is trained, {masked / 2**20:.1f} with masked "
        f"gradients, {train / 2**20:.1f} in the subnet with train-mode batch norm, {frozen / 2**20:.2f} with frozen "
        "batch norm",
    )


LEAST_LAYERS = 5  # numbers of layers K that make a curve


@cache
def _curves(names: tuple[tuple[str, str, str, bool], ...]):
    """Accuracy over K of MbV2-w0.35 under `frozen`: the task, and number of epochs, with the most runs.

    Of each series and budget the seeds that have :data:`LEAST_LAYERS` K or more.
    """
    wanted = {
        label: strategies.with_options(strategies.get("LaRa MeDyate"), order=order, metric=metric, boosted=boosted)
        for label, order, metric, boosted in names
    }
    config = parameters.Parameters(
        "ledger", network="mbv2-w0.35", budget="all", epochs="all", seeds="all", protocol="frozen"
    )
    frame = recorded.over_layers(config, wanted)
    if frame.empty:
        return frame
    frame = frame[frame.groupby(["series", "budget", "seed"]).layers.transform("nunique") >= LEAST_LAYERS]
    if frame.empty:
        return frame
    config_of = recorded.table().set_index("id")[["task", "epochs"]]
    frame = frame.join(config_of, on="id")
    task, epochs = frame.groupby(["task", "epochs"]).size().idxmax()
    return frame[(frame.task == task) & (frame.epochs == epochs)]


_PLAIN = (("MeDyate", "lara", "raw", False),)
_ORDERS = tuple((f"{order} {metric}", order, metric, False) for order in ("lara", "rgn") for metric in ("raw", "rgn"))
_BOOSTED = (("uniform", "lara", "raw", False), ("boosted", "lara", "raw", True))


def _noise(frame) -> str:
    """How many seeds a comparison over K rests on, and how exact one accuracy is."""
    count = frame.seed.nunique()
    images = runs.load(frame["id"].iloc[0])["test_images"]
    share = frame.top1_percent.mean() / 100
    error = 100 * (share * (1 - share) / images) ** 0.5
    return f"{count} seed{'s' if count > 1 else ''}, standard error of one accuracy {error:.1f} points"


def _by_seed(frame, tell: Callable) -> tuple[list[float], str]:
    """``tell`` of the runs of each seed, a number; and what that rests on."""
    return [tell(own) for _, own in frame.groupby("seed")], _noise(frame)


def _positive(values: Sequence[float], text: str, frame, unit: str = "points") -> Finding:
    """Whether numbers, one a seed, that a claim says are positive are so: undecided from one seed.

    Holds where their 95 % interval lies above zero, does not where it lies below; else it is undecided.
    """
    interval = stats.estimate(values)
    verdict = UNDECIDED
    if interval.low is not None and (interval.low > 0 or interval.high < 0):
        verdict = HOLDS if interval.low > 0 else FAILS
    return Finding(verdict, f"{text}: {f'{interval} {unit}'.strip()}; {_noise(frame)}", _ids(frame))


@_runs
def our_best_layers_rise() -> Finding | None:
    """Per seed, Spearman's correlation of the budgets with their best K."""
    from scipy import stats as tests

    frame = _curves(_PLAIN)
    if frame.empty or frame.budget.nunique() < 3:
        return None

    def rising(own) -> float:
        best = own.loc[own.groupby("budget").top1_percent.idxmax()]
        fixed = best.layers.nunique() < 2
        return 0.0 if fixed else float(tests.spearmanr(best.budget, best.layers).statistic)

    best = frame.loc[frame.groupby(["seed", "budget"]).top1_percent.idxmax()]
    told = "; ".join(f"seed {seed}: {', '.join(map(str, own.layers))}" for seed, own in best.groupby("seed"))
    values, _ = _by_seed(frame, rising)
    return _positive(
        values, f"best K from the smallest budget to the largest, {told}; their rank correlation", frame, ""
    )


@_runs
def our_ends_fall() -> Finding | None:
    """What the ends lose against the best K, which is chosen by the *other* seeds.

    Chosen by the same runs, the best of many is above the ends by noise alone.
    """
    frame = _curves(_PLAIN)
    if frame.empty:
        return None
    if frame.seed.nunique() < 2:
        return Finding(UNDECIDED, f"the best K cannot be told from noise: {_noise(frame)}", _ids(frame))
    few, many = [], []
    for seed, own in frame.groupby("seed"):
        lost = {"few": [], "many": []}
        for budget, curve in own.groupby("budget"):
            curve = curve.set_index("layers").top1_percent
            other = frame[(frame.seed != seed) & (frame.budget == budget)].groupby("layers").top1_percent.mean()
            best = other[other.index.isin(curve.index)].idxmax()
            lost["few"].append(curve[best] - curve.iloc[0])
            lost["many"].append(curve[best] - curve.iloc[-1])
        few.append(sum(lost["few"]) / len(lost["few"]))
        many.append(sum(lost["many"]) / len(lost["many"]))
    parts = [
        _positive(values, text, frame) for values, text in ((few, "fewest layers lose"), (many, "all layers lose"))
    ]
    verdicts = {part.verdict for part in parts}
    both = verdicts.pop() if len(verdicts) == 1 else PART if HOLDS in verdicts else UNDECIDED
    return Finding(both, "; ".join(part.text for part in parts), _ids(frame))


def _grid_of_orders():
    frame = _curves(_ORDERS)
    if frame.empty:
        return None
    frame = frame[frame.budget == 27_946]
    wide = frame.groupby(["layers", "series"]).top1_percent.mean().unstack().dropna()
    complete = set(wide) == {name for name, *_ in _ORDERS} and len(wide) >= LEAST_LAYERS
    return (wide, frame[frame.layers.isin(wide.index)]) if complete else None


@_runs
def our_lara_peaks() -> Finding | None:
    grid = _grid_of_orders()
    if grid is None:
        return None
    wide, frame = grid
    text = "; ".join(f"{name}: {curve.max():.2f} % at K = {curve.idxmax()}" for name, curve in wide.items())

    def higher(own) -> float:
        peaks = own.groupby("series").top1_percent.max()
        return float(sum(peaks[f"lara {metric}"] - peaks[f"rgn {metric}"] for metric in ("raw", "rgn")) / 2)

    values, _ = _by_seed(frame, higher)
    return _positive(values, f"{text}; LaRa's peaks over the other order's", frame)


@_runs
def our_raw_over_rgn() -> Finding | None:
    """Over K, which share their data and seed: from one seed undecided."""
    grid = _grid_of_orders()
    if grid is None:
        return None
    _, frame = grid

    def gain(own) -> float:
        mean = own.groupby("series").top1_percent.mean()
        return float(sum(mean[f"{order} raw"] - mean[f"{order} rgn"] for order in ("lara", "rgn")) / 2)

    values, _ = _by_seed(frame, gain)
    return _positive(values, f"raw norm over RGN, mean over {frame.layers.nunique()} K and both orders", frame)


@_runs
def our_boosting(upper: bool) -> Finding | None:
    """``upper``: that boosting gains at many layers; else that it gains nothing worth the name at the best K."""
    frame = _curves(_BOOSTED)
    if frame.empty:
        return None
    frame = frame[(frame.budget == 27_946) & (frame.layers > 40 if upper else frame.layers.isin([15, 20, 25]))]
    if set(frame.series) != {"uniform", "boosted"}:
        return None

    def gain(own) -> float:
        mean = own.groupby("series").top1_percent.mean()
        return float(mean["boosted"] - mean["uniform"])

    values, _ = _by_seed(frame, gain)
    finding = _positive(values, f"boosted over uniform at K = {', '.join(map(str, sorted(set(frame.layers))))}", frame)
    if upper or len(values) < 2:
        return finding
    interval = stats.estimate(values)
    small = max(abs(interval.low), abs(interval.high)) < 0.5
    return Finding(HOLDS if small else UNDECIDED, finding.text, finding.ids)
