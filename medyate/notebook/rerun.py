"""What a notebook runs in the modes "missing" and "fresh": grids of configs, and running them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .. import strategies
from ..networks import schemes
from ..paper import values as paper
from ..paper.parameters import ALL, Parameters, backbone, tier_budgets
from ..paper.recorded import DECLARED, declaration, of_one_way, table, table_of
from ..runs import rankings
from ..sweeps import grids, protocols


def layer_counts(network: str) -> list[int]:
    """The paper's grid of K: 5, 10, .. and all layers (52 of MbV2-w0.35)."""
    layers = len(backbone(network))
    return [*range(5, layers - 5, 5), layers]


def grid_over_layers(config: Parameters, wanted: Mapping[str, strategies.Strategy]) -> list:
    """The :class:`medyate.runs.config.RunConfig` of every wanted strategy, budget, K and seed."""
    from ..runs.config import RunConfig

    if not config.runs:
        return []
    seeds = (0,) if config.seeds == ALL else config.seeds
    shared = _shared(config, config.network, config.task)
    return [
        RunConfig(
            network=config.network,
            task=config.task,
            strategy=_named(strategy),
            budget=budget,
            layers=k,
            seed=seed,
            order=strategy.order,
            metric=strategy.metric,
            boosted=strategy.boosted,
            boost=strategy.boost,
            **shared,
        ).check()
        for strategy in wanted.values()
        for budget in config.budgets
        for k in layer_counts(config.network)
        for seed in seeds
    ]


def grid_of_strategies(
    config: Parameters,
    names: Sequence[str] = paper.MAIN_STRATEGIES,
    budgets: Sequence[int] | None = None,
    everything: Sequence[str] = tuple(schemes.PRINTED_BUDGETS),
) -> list:
    """The :class:`medyate.runs.config.RunConfig` of every strategy, network, task, budget and seed.

    ``budgets`` None takes the config's one, or each network's budgets of Tables 1 to 3. SU is left out
    where the budget is no tier of its schemes. ``everything``: the networks that "all" means.
    """
    from ..runs.config import RunConfig

    if not config.runs:
        return []
    seeds = (0,) if config.seeds in (ALL, None) else config.seeds
    chosen = (config.network,) if config.network else config.networks
    configs = []
    for network in everything if chosen == ALL else chosen:
        sizes = budgets or config.budgets_of(network)
        for task in config.tasks or (config.task,):
            shared = _shared(config, network, task)
            configs += [
                RunConfig(
                    network=network,
                    task=task,
                    strategy=name,
                    budget=budget,
                    seed=seed,
                    **shared | _declared_rate(network, name),
                ).check()
                for budget in sizes
                for name in names
                for seed in seeds
                if name != "SU" or (network in schemes.SCHEMES and budget in tier_budgets(network))
            ]
    return list(dict.fromkeys(configs))  # a strategy without a budget is the same run at each


def _declared_rate(network: str, strategy: str) -> dict[str, float]:
    """Of a transformer, the learning rate that its table's runs are declared with."""
    return {} if table_of(network) == 1 else {"learning_rate": grids.transformer_rate(strategy)}


def grid_of_rankings(config: Parameters) -> list:
    """The :class:`medyate.runs.config.RankConfig` of every network, task and seed."""
    from ..runs.config import RankConfig

    if not config.runs:
        return []
    seeds = (0,) if config.seeds in (ALL, None) else config.seeds
    chosen = (config.network,) if config.network else config.networks
    shared = {"epochs": None if config.epochs == ALL else config.epochs} | _way_of_ranking()
    return [
        RankConfig(network=network, task=task, seed=seed, **shared).check()
        for network in (schemes.PRINTED_BUDGETS if chosen == ALL else chosen)
        for task in config.tasks or (config.task,)
        for seed in seeds
    ]


def _named(strategy: strategies.Strategy) -> str:
    """The registered name that a strategy with other options goes under."""
    names = [name for name, known in strategies.STRATEGIES.items() if declaration(known) == declaration(strategy)]
    return names[0] if names else strategy.name


def _shared(config: Parameters, network: str, task: str) -> dict[str, object]:
    """Epochs, ranking and the settings of the page's protocol, so that what a page runs is what it shows."""
    protocol = protocols.get(config.protocol or "short")
    epochs = protocol.epochs(task) or (None if config.epochs == ALL else config.epochs)
    name = protocol.ranking(task) if config.ranking in (None, DECLARED) else config.ranking
    known = name in rankings.names(network) or config.ranking not in (None, DECLARED)
    return {"epochs": epochs, "ranking": name if known else None, **protocol.settings(network)}


def _way_of_ranking() -> dict[str, object]:
    """The settings of the recorded preliminary fine-tunings, so that their grid gets complete."""
    from ..runs.config import RankConfig

    made = of_one_way(table("rank"))
    names = [name for name in RankConfig.fields() if name not in protocols.VARIED]
    return {} if made.empty else {name: made[name].tolist()[0] for name in names}


def run(configs: Sequence, config: Parameters) -> None:
    """Run what the mode asks for, and say for each run what came of it. Nothing for ``recorded``."""
    if not config.runs or not configs:
        return
    from ..runs import finetune  # with torch, which a page of recorded runs does without

    for index, one in enumerate(configs, start=1):
        start = finetune.rank if one.kind == "rank" else finetune.run
        record, was_there = start(one, force=config.mode == "fresh")
        done = "recorded already" if was_there else "ran"
        print(f"{index}/{len(configs)} {one.id}: {done}, test top-1 {record['test_top1_percent']:.2f} %")
