"""What a notebook runs in the modes "missing" and "fresh": grids of configs, and running them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .. import grids, paper, schemes, strategies
from .parameters import ALL, Parameters, backbone, tier_budgets
from .recorded import as_named, declaration, pick, protocol, table, table_of


def layer_counts(network: str) -> list[int]:
    """The paper's grid of K: 5, 10, .. and all layers (52 of MbV2-w0.35)."""
    layers = len(backbone(network))
    return [*range(5, layers - 5, 5), layers]


def grid_over_layers(config: Parameters, wanted: Mapping[str, strategies.Strategy]) -> list:
    """The :class:`medyate.config.RunConfig` of every wanted strategy, budget, K and seed."""
    from ..config import RunConfig

    if not config.runs:
        return []
    seeds = (0,) if config.seeds == ALL else config.seeds
    shared = _shared(config)
    return [
        RunConfig(
            network=config.network, task=config.task, strategy=_named(strategy), budget=budget, layers=k, seed=seed,
            order=strategy.order, metric=strategy.metric, boosted=strategy.boosted, **shared,
        )
        for strategy in wanted.values() for budget in config.budgets for k in layer_counts(config.network) for seed in seeds
    ]  # fmt: skip


def grid_of_strategies(
    config: Parameters,
    names: Sequence[str] = paper.MAIN_STRATEGIES,
    budgets: Sequence[int] | None = None,
    everything: Sequence[str] = tuple(schemes.PRINTED_BUDGETS),
) -> list:
    """The :class:`medyate.config.RunConfig` of every strategy, network, task, budget and seed.

    ``budgets`` None takes the config's one, or each network's budgets of Tables 1 to 3. SU is left out
    where the budget is no tier of its schemes. ``everything``: the networks that "all" means.
    """
    from ..config import RunConfig

    if not config.runs:
        return []
    seeds = (0,) if config.seeds in (ALL, None) else config.seeds
    chosen = (config.network,) if config.network else config.networks
    found = []
    for network in everything if chosen == ALL else chosen:
        sizes = budgets or config.budgets_of(network)
        for task in config.tasks or (config.task,):
            shared = _shared(config, named=True)
            found += [
                RunConfig(network=network, task=task, strategy=name, budget=budget, seed=seed, **shared | _declared_rate(network, name))
                for budget in sizes for name in names for seed in seeds
                if name != "SU" or (network in schemes.SCHEMES and budget in tier_budgets(network))
            ]  # fmt: skip
    return list(dict.fromkeys(found))  # a strategy without a budget is the same run at each


def _declared_rate(network: str, strategy: str) -> dict[str, float]:
    """Of a transformer, the learning rate that its table's runs are declared with."""
    return {} if table_of(network) == 1 else {"learning_rate": grids.transformer_rate(strategy)}


def grid_of_rankings(config: Parameters) -> list:
    """The :class:`medyate.config.RankConfig` of every network, task and seed."""
    from ..config import RankConfig

    if not config.runs:
        return []
    seeds = (0,) if config.seeds in (ALL, None) else config.seeds
    chosen = (config.network,) if config.network else config.networks
    shared = _shared(config, "rank")
    return [
        RankConfig(network=network, task=task, seed=seed, **shared)
        for network in (schemes.PRINTED_BUDGETS if chosen == ALL else chosen)
        for task in config.tasks or (config.task,) for seed in seeds
    ]  # fmt: skip


def _named(strategy: strategies.Strategy) -> str:
    """The registered name that a strategy with other options goes under."""
    names = [name for name, known in strategies.STRATEGIES.items() if declaration(known) == declaration(strategy)]
    return names[0] if names else strategy.name


def _shared(config: Parameters, kind: str = "run", named: bool = False) -> dict[str, object]:
    """Epochs, and the protocol that runs recorded with them share, so that a grid gets complete.

    ``named``: of runs of the strategies as named, not of those over K.
    """
    epochs = None if config.epochs == ALL else config.epochs
    recorded = pick(table(kind), config, ("network", "networks", "task", "tasks", "epochs"))
    return {"epochs": epochs} | protocol(as_named(recorded) if named else recorded, kind)


def run(configs: Sequence, config: Parameters) -> None:
    """Run what the mode asks for, and say for each run what came of it. Nothing for ``recorded``."""
    from .. import finetune

    for index, one in enumerate(configs if config.runs else (), start=1):
        start = finetune.rank if one.kind == "rank" else finetune.run
        record, was_there = start(one, force=config.mode == "fresh")
        done = "recorded already" if was_there else "ran"
        print(f"{index}/{len(configs)} {one.id}: {done}, test top-1 {record['test_top1_percent']:.2f} %")
