"""The tests and intervals of the figures: plain arrays or tables in, plain data out.

Named after what the paper reports: one-sided paired t-tests (Figs. 8, 10), t-tests between
consecutive epochs (Fig. 4), Spearman's rank correlation (Fig. 3), a regression (Fig. 6b).

Student's t comes from :mod:`scipy.special`, whose import takes a tenth of a second; :mod:`scipy.stats`, which is built
on it, takes more than a second, and is imported where it alone has what is asked for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Estimate:
    """A mean with its t interval; the interval is None for a single value."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None

    def __str__(self) -> str:
        interval = "" if self.low is None else f" [{self.low:.2f}, {self.high:.2f}]"
        return f"{self.mean:.2f}{interval}, n = {self.n}"


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean, sample standard deviation (ddof 1) and t interval of ``values`` (at least one)."""
    from scipy.special import stdtrit

    x = np.asarray(values, dtype=float)
    if x.size == 0:
        raise InputError("an estimate needs at least one value; got none")
    if x.size == 1:
        return Estimate(1, float(x[0]), None, None, None)
    mean, std = float(x.mean()), float(x.std(ddof=1))
    half = float(stdtrit(x.size - 1, (1 + confidence) / 2)) * std / x.size**0.5
    return Estimate(int(x.size), mean, std, mean - half, mean + half)


@dataclass(frozen=True)
class Paired:
    """A one-sided paired t-test of ``x > y``. ``effect_size`` is Cohen's d_z: mean / std of x - y."""

    n: int
    difference: float
    low: float
    high: float
    effect_size: float
    t: float
    p: float


def paired(x: Sequence[float], y: Sequence[float], confidence: float = 0.95) -> Paired:
    """Test whether ``x`` exceeds ``y`` over matched cases (at least two, else InputError).

    Where all differences are equal the test is degenerate: p is 0, 0.5 or 1 by their sign.
    """
    from scipy.special import stdtr, stdtrit

    difference = np.asarray(x, dtype=float) - np.asarray(y, dtype=float)
    n = difference.size
    if n < 2:
        raise InputError(f"a paired test needs at least two pairs; got {n}")
    mean, std = float(difference.mean()), float(difference.std(ddof=1))
    half = float(stdtrit(n - 1, (1 + confidence) / 2)) * std / n**0.5
    if std == 0:
        t = float(np.sign(mean)) * np.inf if mean else 0.0
        effect = t
    else:
        t, effect = mean / (std / n**0.5), mean / std
    return Paired(n, mean, mean - half, mean + half, effect, t, float(stdtr(n - 1, -t)))


def paired_table(cells: pd.DataFrame) -> pd.DataFrame:
    """Every ordered pair of columns of ``cells`` (one row a case), tested "row better than column".

    Returns one row a pair: ``row``, ``column``, ``n``, ``difference``, ``low``, ``high`` (95 %),
    ``effect_size``, ``p``, ``p_holm`` (Holm over all ordered pairs). Cases that lack either value
    are left out of that pair; pairs with fewer than two cases are left out.
    """
    import pandas as pd

    rows = []
    for first in cells.columns:
        for second in cells.columns:
            both = cells[[first, second]].dropna() if first != second else cells.iloc[:0]
            if len(both) >= 2:
                test = paired(both[first], both[second])
                rows.append({"row": first, "column": second, **test.__dict__})
    columns = ["row", "column", *Paired.__dataclass_fields__]
    frame = pd.DataFrame(rows, columns=columns).drop(columns="t")
    frame["p_holm"] = holm(frame.p)
    return frame


def square(table: pd.DataFrame, value: str, names: Sequence[str]) -> pd.DataFrame:
    """One value of :func:`paired_table` as a matrix in the order of ``names``; NaN on the diagonal."""
    return table.pivot(index="row", columns="column", values=value).reindex(index=list(names), columns=list(names))


def holm(p: Sequence[float]) -> np.ndarray:
    """Holm's step-down correction: the smallest of m p-values times m, the next times m - 1, ..."""
    p = np.asarray(p, dtype=float)
    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * (p.size - np.arange(p.size)))
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(steps, 1)
    return corrected


def paired_from_summaries(
    means: tuple[Sequence[float], Sequence[float]],
    stds: tuple[Sequence[float], Sequence[float]],
    seeds: int,
    correlation: float,
) -> float:
    """p of the one-sided paired t-test over all single runs, from each cell's mean and std.

    A table gives, for every cell, mean and sample standard deviation over ``seeds`` runs of each
    strategy. The paired test over the ``cells x seeds`` runs needs one thing more: how the two
    strategies' runs of one seed are correlated inside a cell. ``correlation`` gives it; with 0 and 1
    (or -1) the result brackets what the single runs would give.
    """
    from scipy.special import stdtr

    x, y = (np.asarray(values, dtype=float) for values in means)
    sx, sy = (np.asarray(values, dtype=float) for values in stds)
    difference = x - y
    n = difference.size * seeds
    between = seeds * ((difference - difference.mean()) ** 2).sum()
    within = (seeds - 1) * (sx**2 + sy**2 - 2 * correlation * sx * sy).sum()
    error = ((between + within) / (n - 1) / n) ** 0.5
    return float(stdtr(n - 1, -difference.mean() / error))


def spearman(table: pd.DataFrame) -> pd.DataFrame:
    """Spearman's rank correlation between all columns of ``table`` (layers x runs)."""
    return table.corr(method="spearman")


def cluster(correlation: pd.DataFrame) -> list[str]:
    """The columns of a correlation matrix in the order of average-linkage clustering on 1 - rho."""
    from scipy.cluster import hierarchy
    from scipy.spatial.distance import squareform

    if len(correlation) < 3:
        return list(correlation.columns)
    distance = 1 - correlation.to_numpy()
    distance = np.clip((distance + distance.T) / 2, 0, None)
    np.fill_diagonal(distance, 0)
    tree = hierarchy.linkage(squareform(distance, checks=False), method="average")
    return [correlation.columns[index] for index in hierarchy.leaves_list(tree)]


def consecutive(norms: np.ndarray, top: float = 0.1) -> pd.DataFrame:
    """Compare the channel norms (epochs x channels) of each epoch with those of the epoch before.

    Returns one row an epoch from the second on: ``epoch`` (from 1), ``p_paired`` and
    ``p_unpaired`` (two-sided t-tests of equal means, what Fig. 4 shows), ``rho`` (Spearman) and
    ``overlap`` (the share of the ``top`` fraction of channels that stays in it): what the paper
    concludes, which the t-tests do not say.
    """
    import pandas as pd
    from scipy import stats

    rho = consecutive_ranks(norms)  # refuses what is no series
    norms = np.asarray(norms, dtype=float)
    before, now = norms[:-1], norms[1:]
    return pd.DataFrame(
        {
            "epoch": np.arange(2, len(norms) + 1),
            "p_paired": stats.ttest_rel(before, now, axis=1).pvalue,
            "p_unpaired": stats.ttest_ind(before, now, axis=1, equal_var=False).pvalue,
            "rho": rho,
            "overlap": [overlap(one, other, top) for one, other in zip(before, now)],
        }
    )


def consecutive_ranks(norms: np.ndarray) -> np.ndarray:
    """Spearman's rho of each epoch's channel norms with those of the epoch before: (epochs - 1,).

    ``norms`` are epochs x channels. NaN where all of an epoch's norms are alike.
    """
    from scipy.stats import rankdata

    norms = np.asarray(norms, dtype=float)
    if norms.ndim != 2 or len(norms) < 2:
        raise InputError(
            f"channel norms of shape {norms.shape} are not a series; allowed: epochs x channels, 2 epochs or more"
        )
    ranks = rankdata(norms, axis=1)
    ranks -= ranks.mean(axis=1, keepdims=True)
    lengths = np.sqrt((ranks**2).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return (ranks[:-1] * ranks[1:]).sum(axis=1) / (lengths[:-1] * lengths[1:])


def overlap(first: np.ndarray, second: np.ndarray, top: float = 0.1) -> float:
    """The share of the ``top`` fraction (at least one entry) that two vectors have in common."""
    count = max(1, round(top * len(first)))
    best = [set(np.argsort(-values, kind="stable")[:count]) for values in (first, second)]
    return len(best[0] & best[1]) / count


@dataclass(frozen=True)
class Regression:
    """An ordinary least-squares line; ``p`` tests slope = 0."""

    n: int
    slope: float
    intercept: float
    r_squared: float
    p: float


def regression(x: Sequence[float], y: Sequence[float]) -> Regression:
    """Fit ``y = slope x + intercept``; needs two different x, else InputError."""
    from scipy.special import stdtr

    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if np.unique(x).size < 2:
        raise InputError(f"a regression needs two different x; got {np.unique(x).tolist()}")
    (xx, xy), (_, yy) = np.cov(x, y, bias=True)
    slope, freedom = xy / xx, x.size - 2
    explained = min(1.0, xy**2 / (xx * yy)) if yy else 0.0
    with np.errstate(divide="ignore"):
        t = np.sqrt(freedom * explained / np.float64(1 - explained))
    p = float(2 * stdtr(freedom, -t)) if freedom else float(not explained)
    return Regression(x.size, float(slope), float(y.mean() - slope * x.mean()), float(explained), p)


def paired_power(difference: float, std: float, n: int, level: float = 0.05) -> float:
    """Power of the one-sided paired t-test of ``n`` pairs whose differences have this mean and deviation."""
    from scipy.special import nctdtr, stdtrit

    return float(1 - nctdtr(n - 1, difference / std * n**0.5, -stdtrit(n - 1, level)))


def pairs_needed(difference: float, std: float, power: float = 0.8, level: float = 0.05) -> int:
    """The fewest pairs (at least two) with which that test has this power; ``difference`` must be above 0."""
    if difference <= 0:
        raise InputError(f"difference {difference!r} is out of range; allowed: a number above 0")
    low, high = 1, 2
    while paired_power(difference, std, high, level) < power:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if paired_power(difference, std, middle, level) < power else (low, middle)
    return high


def hill(values: Sequence[float], share: float = 0.02) -> float:
    """Hill's estimate of the tail index of positive ``values`` from their largest ``share`` (at least two of them).

    For a tail that falls as a power, P(X > x) ~ x^-index; an index below 2 means no finite variance. It does not
    change with the unit.
    """
    x = np.sort(np.asarray(values, dtype=float))[::-1]
    count = max(2, round(share * x.size))
    if x.size <= count or x[count] <= 0:
        raise InputError(f"{x.size} values, share {share!r}: too few above zero for a tail; allowed: more values")
    return float(1 / np.mean(np.log(x[:count] / x[count])))
