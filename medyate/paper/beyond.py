"""Questions that the paper leaves open, answered from the recorded rankings; nothing is trained.

Whether an order of layers that one network gave serves another, and how much of a search space two rankings share.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..networks import schemes
from ..ranking import smallest_k
from . import parameters, recorded

if TYPE_CHECKING:
    import pandas as pd

    from ..costs import Layer

METRICS = ("lara", "layer_rgn")


def kind(name: str) -> str:
    """What a layer is in its block: the last part of its name but for ``conv``, such as "pw1", "dw", "pw2", "stem"."""
    return name.removesuffix(".conv").rpartition(".")[2]


def guessed(values: Sequence[float], source: Sequence[str], target: Sequence[str]) -> np.ndarray:
    """A metric of the ``target`` network's layers, guessed from another network's ``values``.

    A target layer takes, by linear interpolation in depth (0 for a network's first layer, 1 for its last), the
    logarithm of the metric of the source's layers of its own kind; NaN where the source has none of that kind.
    Names stand in order of execution.
    """
    depth = {"source": np.linspace(0, 1, len(source)), "target": np.linspace(0, 1, len(target))}
    logs, estimates = np.log(np.asarray(values, dtype=float)), np.full(len(target), np.nan)
    for one in {kind(name) for name in target} & {kind(name) for name in source}:
        known = [index for index, name in enumerate(source) if kind(name) == one]
        wanted = [index for index, name in enumerate(target) if kind(name) == one]
        estimates[wanted] = np.interp(depth["target"][wanted], depth["source"][known], logs[known])
    return estimates


def between_networks(frame: pd.DataFrame) -> pd.DataFrame:
    """How well one network's metric ranks another's layers. ``frame``: rankings, as ``recorded.rankings`` gives them.

    One row a metric and ordered pair of networks: ``metric``, ``source``, ``target``, ``rho`` (Spearman, mean over
    pairs of rankings of two tasks), and ``geometry`` (Spearman of the target's metric with 1 / its layers' cost, which
    looks at no gradient: the control), ``pairs``.
    """
    import pandas as pd

    tables = {metric: {} for metric in METRICS}
    for network, own in frame.groupby("network"):
        if network in schemes.SCHEMES:
            for metric in METRICS:
                tables[metric][network] = recorded.layer_metric(own, metric)
    rows = []
    for metric, of in tables.items():
        for source, theirs in of.items():
            for target, own in of.items():
                if source == target:
                    continue
                cost = pd.Series({one.name: 1 / one.search_elements for one in parameters.backbone(target)})
                rho, geometry = [], []
                for a in theirs:
                    guess = pd.Series(guessed(theirs[a], list(theirs.index), list(own.index)), index=own.index)
                    for b in own:
                        if a.rpartition(", ")[0] != b.rpartition(", ")[0]:
                            rho.append(guess.corr(own[b], method="spearman"))
                            geometry.append(cost.reindex(own.index).corr(own[b], method="spearman"))
                if rho:
                    rows.append((metric, source, target, float(np.mean(rho)), float(np.mean(geometry)), len(rho)))
    return pd.DataFrame(rows, columns=["metric", "source", "target", "rho", "geometry", "pairs"])


def top_layers(values: pd.Series, layers: Sequence[Layer], budget: int) -> list[str]:
    """The layers that LaRa strategies would search by these values: the smallest K with alpha_K at most 0.2."""
    by_name = {layer.name: layer for layer in layers}
    ranked = list(values.sort_values(ascending=False, kind="stable").index)
    return ranked[: smallest_k([by_name[name].search_elements for name in ranked], budget)]


def agreement(frame: pd.DataFrame) -> pd.DataFrame:
    """How much of the search space two tasks' LaRa rankings share, where Spearman's ρ over all layers is near one.

    One row a network and tier: ``rho``, ``K`` (smallest to largest), ``jaccard`` (layers in both over layers in
    either) and ``memory`` (elements in both over elements in either), means over pairs of rankings of two tasks, and
    the lowest ``jaccard``.
    """
    import pandas as pd

    rows = []
    for network, own in frame.groupby("network"):
        if network not in schemes.SCHEMES:
            continue
        layers, table = parameters.backbone(network), recorded.layer_metric(own, "lara")
        cost = {layer.name: layer.search_elements for layer in layers}
        task = {name: name.rpartition(", ")[0] for name in table}
        rho = table.corr(method="spearman")
        pairs = [(a, b) for i, a in enumerate(table) for b in list(table)[:i] if task[a] != task[b]]
        for tier, budget in schemes.PRINTED_BUDGETS[network].items():
            top = {name: set(top_layers(table[name], layers, budget)) for name in table}
            both = [(top[a] & top[b], top[a] | top[b]) for a, b in pairs]
            jaccard = [len(x) / len(y) for x, y in both]
            memory = [sum(map(cost.get, x)) / sum(map(cost.get, y)) for x, y in both]
            sizes = sorted({len(one) for one in top.values()})
            if pairs:
                mean_rho = float(np.mean([rho.loc[a, b] for a, b in pairs]))
                k = f"{sizes[0]}-{sizes[-1]}"
                rows.append((network, tier, budget, mean_rho, k, np.mean(jaccard), min(jaccard), np.mean(memory)))
    columns = ["network", "tier", "budget", "rho", "K", "jaccard", "lowest_jaccard", "memory"]
    return pd.DataFrame(rows, columns=columns)
