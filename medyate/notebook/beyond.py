"""The recorded runs and rankings that the pages beyond the paper look at, and what they run where some are missing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..networks import schemes
from ..paper import varied
from ..paper.parameters import Parameters, backbone
from ..paper.recorded import layer_metric, of_protocol, pick, rankings, table
from ..ranking import smallest_k
from ..strategies import BOOSTS
from .rerun import grid_of_strategies

if TYPE_CHECKING:
    import pandas as pd

ALPHAS = (0.1, 0.2, 0.4, 0.8)


def spread(network: str) -> tuple[int, ...]:
    """Budgets of Table 1, then doubled as long as they are at most 60 % of the whole network's memory. In elements."""
    layers = backbone(network)
    total = sum(layer.search_elements for layer in layers)
    sizes = list(schemes.PRINTED_BUDGETS.get(network, schemes.budgets(network, layers)).values())
    while 2 * sizes[-1] <= 0.6 * total:
        sizes.append(2 * sizes[-1])
    return tuple(sizes)


def budget_runs(config: Parameters) -> pd.DataFrame:
    """Runs of LaRa MeDyate at any budget by the protocol's declared ranking, and of the two ends."""
    from ..paper.recorded import strategy_runs

    frame = strategy_runs(config)
    return frame[frame.strategy.isin((varied.OURS, *varied.ENDS))] if len(frame) else frame


def _layers(config: Parameters, ranking: str) -> dict[float, int]:
    """K by alpha, for the page's network and budget."""
    from ..runs import rankings as recorded

    cost = {layer.name: layer.search_elements for layer in backbone(config.network)}
    costs = [cost[name] for name in recorded.load(config.network, ranking).order("lara")]
    return {alpha: smallest_k(costs, config.budget, alpha) for alpha in ALPHAS}


def grid_of_alphas(config: Parameters) -> list:
    """The :class:`medyate.runs.config.RunConfig` of LaRa MeDyate for each alpha, task and seed; 0.2 gives no K."""
    import dataclasses

    usual = grid_of_strategies(config, (varied.OURS,))
    return [
        dataclasses.replace(one, layers=None if alpha == 0.2 else _layers(config, one.ranking)[alpha]).check()
        for one in usual
        for alpha in ALPHAS
    ]


def _ours(config: Parameters) -> pd.DataFrame:
    """Runs of LaRa MeDyate with its own order and metric, by the protocol's declared ranking; any K, any first draw."""
    from ..sweeps import protocols

    protocol = config.protocol or "short"
    frame = of_protocol(pick(table(), config, ("network", "tasks", "budget", "epochs", "seeds")), protocol)
    if frame.empty:
        return frame
    frame = frame[(frame.strategy == varied.OURS) & (frame.order.isna() | (frame.order == "lara"))]
    frame = frame[frame.metric.isna() | (frame.metric == "raw")]
    return frame[frame.ranking == frame.task.map(protocols.get(protocol).ranking)]


def _boosted(frame: pd.DataFrame) -> pd.Series:
    return frame.boosted.fillna(False).astype(bool)


def alpha_runs(config: Parameters) -> pd.DataFrame:
    """Runs of LaRa MeDyate by the protocol's declared ranking, with the alpha that their K stands for as ``wanted``."""
    frame = _ours(config)
    if frame.empty:
        return frame.assign(wanted=[])
    rows = []
    for row in frame[~_boosted(frame)].to_dict("records"):
        wanted = {k: alpha for alpha, k in _layers(config, row["ranking"]).items()}
        if row["K"] in wanted:
            rows.append(row | {"wanted": wanted[row["K"]]})
    # K given and K by default are one run where they are the same number of layers
    matched = frame.iloc[:0].assign(wanted=[]) if not rows else type(frame)(rows)
    return matched.drop_duplicates(["task", "seed", "wanted"])


def grid_of_boosts(config: Parameters) -> list:
    """The :class:`medyate.runs.config.RunConfig` of LaRa MeDyate, uniform and by each boost, for each task and seed."""
    import dataclasses

    usual = grid_of_strategies(config, (varied.OURS,))
    return [
        one if boost is None else dataclasses.replace(one, boosted=True, boost=boost).check()
        for one in usual
        for boost in (None, *BOOSTS)
    ]


def boost_runs(config: Parameters) -> pd.DataFrame:
    """Runs of LaRa MeDyate at its own K, by the declared ranking; ``first`` says how unseen channels are drawn."""
    frame = _ours(config)
    if frame.empty:
        return frame.assign(first=[])
    frame = frame[frame.layers.isna()]
    return frame.assign(first=frame.boost.where(_boosted(frame), varied.UNIFORM))


def far_rankings(config: Parameters, far: str) -> pd.DataFrame:
    """Correlations of layer orders between the ``far`` task and the others, see :func:`varied.within_and_between`."""
    frame = pick(rankings(Parameters(config.notebook, network=config.network)), config, ("seeds",))
    if config.tasks is not None and config.tasks != "all" and len(frame):
        frame = frame[frame.task.isin((*config.tasks, far))]
    tables = {metric: layer_metric(frame, metric) for metric in ("lara", "layer_rgn")} if len(frame) else {}
    return varied.within_and_between(tables, far)


def origin_runs(config: Parameters, far: str) -> pd.DataFrame:
    """Runs of LaRa MeDyate as named under ``short``, by a ranking from ``far`` and by the declared one."""
    from ..paper.recorded import as_named
    from ..sweeps import protocols

    declared = protocols.get("short").ranking(config.task)
    frame = of_protocol(as_named(pick(table(), config, ("network", "task", "budget", "seeds"))), "short")
    if frame.empty:
        return frame
    frame = frame[frame.strategy == varied.OURS]
    return frame[(frame.ranking == declared) | frame.ranking.fillna("").str.startswith(f"{far}-s")]
