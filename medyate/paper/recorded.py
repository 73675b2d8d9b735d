"""Recorded runs and rankings, as the pages read them.

Only runs of one protocol (:mod:`medyate.sweeps.protocols`) and of one ranking are compared. What is compared is a
cell: a network, task and budget, the mean over its seeds, where every strategy that is compared has each of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from .. import strategies
from ..errors import InputError, choose, whole
from ..sweeps import protocols
from . import values as paper
from .parameters import ALL, Parameters, backbone

if TYPE_CHECKING:
    import pandas as pd

    from ..selection import Selector

# What makes a cell, whose seeds are averaged over; a task has one content of its data, see `table`
CELL = tuple(name for name in protocols.VARIED if name not in ("seed", "data"))
DECLARED = "declared"  # the ranking that a protocol declares
LEAST_SEEDS = 2  # of a cell: one seed has no error


def table(kind: str = "run") -> pd.DataFrame:
    """All finished records of a kind, one row each, the config's entries as columns.

    Of one's own data only what was recorded on their content as it is now, or, where they are not here, on the
    content that most was recorded on: runs on other content are not runs of this task.
    """
    from ..files import paths

    # a record that is written changes its folder's time
    state = tuple((folder, folder.stat().st_mtime_ns) for folder in paths.folders("runs") if folder.is_dir())
    frame = _table(kind, state)
    if frame.empty or frame.data.isna().all():
        return frame.copy()
    own = frame[frame.data.notna()]
    wanted = {task: _data_now(task, rows.data.mode()[0]) for task, rows in own.groupby("task")}
    return frame[frame.data.isna() | (frame.data == frame.task.map(wanted))]


@lru_cache(maxsize=4)
def _table(kind: str, _state: tuple) -> pd.DataFrame:
    from ..runs import records as runs

    return runs.table(kind=kind, outcomes=True)


def _data_now(task: str, otherwise: str) -> str | None:
    from .. import tasks

    try:
        return tasks.fingerprint(tasks.get(task))
    except InputError:
        return otherwise


def pick(frame: pd.DataFrame, parameters: Parameters, names: Sequence[str]) -> pd.DataFrame:
    """The rows that agree with the named parameters; ``"all"`` agrees with everything."""
    for name in names:
        value = getattr(parameters, name)
        column = {"seeds": "seed", "tasks": "task", "networks": "network"}.get(name, name)
        if value is None or value == ALL or frame.empty:
            continue
        frame = frame[frame[column].isin(value if isinstance(value, tuple) else [value])]
    return frame


def protocols_of(frame: pd.DataFrame) -> list[tuple[str, ...]]:
    """The names of the protocols that each run is of."""
    return [protocols.names_of(row) for row in frame.to_dict("records")]


def of_protocol(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """The runs of a protocol by its name."""
    protocols.get(name)
    return frame if frame.empty else frame[[name in names for names in protocols_of(frame)]]


def of_ranking(frame: pd.DataFrame, name: str, wanted: str | None = DECLARED) -> pd.DataFrame:
    """The runs by one ranking for each network and task, and those that rank no layers.

    ``wanted`` names it; :data:`DECLARED` is the one that protocol ``name`` declares, or, where nothing was run
    by that, the first of those that something was run by. Runs by two rankings are never in one figure.
    """
    if frame.empty:
        return frame
    kept = []
    for (_, task), some in frame.groupby(["network", "task"], sort=False):
        there = sorted(some.ranking.dropna().unique())
        chosen = protocols.get(name).ranking(task) if wanted in (None, DECLARED) else wanted
        if wanted in (None, DECLARED) and chosen not in there and there:
            chosen = there[0]
        kept += some.index[some.ranking.isna() | (some.ranking == chosen)].tolist()
    return frame.loc[sorted(kept)]


def of_one_way(frame: pd.DataFrame) -> pd.DataFrame:
    """The preliminary fine-tunings that were made the way most of them were: their only protocol."""
    from ..runs.config import RankConfig

    names = [name for name in RankConfig.fields() if name in frame and name not in protocols.VARIED]
    if frame.empty:
        return frame
    most = frame.groupby(names, dropna=False, sort=False).size().idxmax()
    for name, value in zip(names, most):
        frame = frame[frame[name].isna() if value is None or value != value else frame[name] == value]
    return frame


def twins(frame: pd.DataFrame, entry: str, values: tuple[object, object]) -> pd.DataFrame:
    """Pairs of runs that differ in one entry of their configs alone.

    One row a pair: what both have in common, and for each of the two ``values`` of ``entry`` a
    column with the top-1 accuracy in percent.
    """
    from ..runs.config import KINDS

    common = [name for name in KINDS["run"].fields() if name in frame and name != entry]
    first, second = (
        frame.loc[frame[entry] == value, [*common, "test_top1_percent"]].rename(columns={"test_top1_percent": value})
        for value in values
    )
    return first.merge(second, on=common)


def _declared(row) -> tuple:
    """What a run's strategy comes to, its overrides included."""
    known = strategies.get(row.strategy)
    order = row.order if isinstance(row.order, str) else None  # pandas may hold None as NaN
    return _comes_to(known, order, row.metric, bool(row.boosted) and getattr(row, "boost", "value"))


def declaration(strategy: strategies.Strategy) -> tuple:
    """The same of a declared strategy, to compare with."""
    return _comes_to(strategy, strategy.order, strategy.metric, strategy.boosted and strategy.boost)


def _comes_to(strategy: strategies.Strategy, order: str | None, metric: str, boosted: bool | str) -> tuple:
    """A choice that reads no gradient has no metric either."""
    return strategy.choice, order, metric if strategy.choice.reads_gradients else None, boosted, strategy.once


def as_named(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs of a strategy as its name says: no K given, no order, metric or boost of one's own."""
    if frame.empty:
        return frame
    named = [_declared(row) == declaration(strategies.get(row.strategy)) for row in frame.itertuples()]
    return frame[frame.layers.isna() & np.array(named)]


def strategy_runs(config: Parameters, number: int | None = None) -> pd.DataFrame:
    """Recorded runs of the strategies as named that agree with the parameters, of their protocol and ranking.

    ``number`` 1, 2 or 3: only of the networks that stand beside the paper's table of that number. Of
    transformers, whose learning rates the paper does not say, those at the rates that the sweeps declare.
    """
    from ..sweeps import grids

    frame = as_named(pick(table(), config, _PICKED))
    if not frame.empty:
        number_of = [table_of(network) for network in frame.network]
        declared = [grids.transformer_rate(name) for name in frame.strategy]
        keep = [number in (None, one) for one in number_of]
        fine = [one == 1 or rate == its for one, rate, its in zip(number_of, frame.learning_rate, declared)]
        frame = frame[[a and b for a, b in zip(keep, fine)]]
    return of_ranking(of_protocol(frame, config.protocol or "short"), config.protocol or "short", config.ranking)


_PICKED = ("network", "networks", "task", "tasks", "strategy", "budget", "epochs", "seeds")


def unused() -> pd.DataFrame:
    """The runs that no page can show: ``id`` and ``why``.

    A page shows the strategies as named (any K), or the variants of Figs. 7 and 11; under a declared protocol.
    """
    import pandas as pd

    from ..sweeps import grids

    frame = table()
    medyate, trady = strategies.get("LaRa MeDyate"), strategies.get("LaRa TraDy")
    drawn = (
        {
            declaration(strategies.with_options(medyate, order=order, metric=metric))
            for order in ("lara", "rgn")
            for metric in ("raw", "rgn")
        }
        | {
            declaration(strategies.with_options(one, boosted=boosted))
            for one in (medyate, trady)
            for boosted in (False, True)
        }
        | {declaration(strategies.with_options(medyate, boosted=True, boost=boost)) for boost in strategies.BOOSTS}
    )
    whys = {}
    for row in frame.itertuples() if len(frame) else ():
        declared = _declared(row)
        named = row.layers != row.layers and declared == declaration(strategies.get(row.strategy))
        if not protocols.names_of(row._asdict()):
            whys[row.id] = "of no declared protocol"
        elif not named and declared not in drawn:
            whys[row.id] = "a strategy with options that no figure has"
        elif table_of(row.network) != 1 and row.learning_rate != grids.transformer_rate(row.strategy):
            whys[row.id] = "a learning rate that the sweeps of its network do not declare"
    return pd.DataFrame(whys.items(), columns=["id", "why"])


def other_ways(config: Parameters, named: bool = True, number: int | None = None) -> str:
    """What else was recorded of what a page shows: other protocols, other rankings, with numbers of runs.

    ``named``: of the strategies as named; else of those with a number of layers K. ``number``: as in
    :func:`strategy_runs`.
    """
    frame = pick(table(), config, _PICKED)
    if number is not None and len(frame):
        frame = frame[[table_of(network) == number for network in frame.network]]
    frame = as_named(frame) if named or frame.empty else frame[frame.layers.notna()]
    if frame.empty:
        return ""
    shown = config.protocol or "short"
    here = of_protocol(frame, shown)
    parts = []
    counts = {name: len(of_protocol(frame, name)) for name in protocols.PROTOCOLS if name != shown}
    if any(counts.values()):
        listed = ", ".join(f"`{name}` ({count} runs)" for name, count in counts.items() if count)
        parts.append(f"Other protocols have runs of this; `-p protocol NAME` shows them: {listed}.")
    ranked = here[~here["id"].isin(of_ranking(here, shown, config.ranking)["id"])].ranking.value_counts()
    if len(ranked):
        listed = ", ".join(f"`{name}` ({count} runs)" for name, count in ranked.items())
        parts.append(f"Other rankings, `-p ranking NAME`: {listed}.")
    return " ".join(parts)


def table_of(network: str) -> int:
    """The paper's table beside which runs of a network stand: 1 convolutions, 2 Swin, 3 text."""
    from .. import networks

    entry = networks.get(network)
    return 3 if entry.kind == "text" else 1 if entry.has_batch_norm else 2


def complete(frame: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The runs that a comparison of the named strategies may use.

    Of each cell the seeds that all of the strategies were run with, if there are :data:`LEAST_SEEDS` of them.
    """
    frame = frame[frame.strategy.isin(names)] if len(frame) else frame
    if frame.empty:
        return frame
    frame = frame.drop_duplicates([*CELL, "seed", "strategy"])
    frame = frame[frame.groupby([*CELL, "seed"], dropna=False).strategy.transform("nunique") == len(set(names))]
    return frame[frame.groupby(list(CELL), dropna=False).seed.transform("nunique") >= LEAST_SEEDS]


def cells(frame: pd.DataFrame, names: Sequence[str] | None = None, outcome: str = "test_top1_percent") -> pd.DataFrame:
    """One row a cell, one column a strategy: the mean of ``outcome`` over the seeds of :func:`complete`.

    ``names`` None takes all of the paper's strategies with a budget that ``frame`` has. Strategies stand in
    the book's order.
    """
    import pandas as pd

    if names is None and len(frame):
        names = [name for name in paper.MAIN_STRATEGIES if name in set(frame.strategy)]
    used = complete(frame, names or ())
    if used.empty:
        return pd.DataFrame()
    wide = used.pivot_table(index=list(CELL), columns="strategy", values=outcome)
    return wide[[name for name in strategies.STRATEGIES if name in wide]].rename_axis(None, axis=1)


def leader(frame: pd.DataFrame) -> str:
    """The column of the highest mean."""
    return str(frame.mean().idxmax())


def flagged(frame: pd.DataFrame) -> pd.DataFrame:
    """The runs with a column ``flag``: "at chance", "below Head only" or "".

    At chance: within two standard errors of one over the number of classes, or below. *Head only* is that of the
    same network, task, epochs and protocol, the mean over its seeds.
    """
    if frame.empty:
        return frame.assign(flag=[])
    same = [name for name in (*CELL, "batch_norm", "norm_affine", "warmup_epochs") if name != "budget"]
    heads = table()
    heads = heads[heads.strategy == "Head only"].groupby(same).test_top1_percent.mean()
    chance = 1 / frame.classes
    limit = 100 * (chance + 2 * (chance * (1 - chance) / frame.test_images) ** 0.5)
    keys = [tuple(row) for row in frame[same].itertuples(index=False)]
    below = [top1 < heads.get(key, float("-inf")) for key, top1 in zip(keys, frame.test_top1_percent)]
    flags = [
        "at chance" if top1 <= most else "below Head only" if less and name != "Head only" else ""
        for top1, most, less, name in zip(frame.test_top1_percent, limit, below, frame.strategy)
    ]
    return frame.assign(flag=flags)


def epochs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The epochs of runs, one row each: the run's columns and the epoch's."""
    import pandas as pd

    from ..runs import records as runs

    rows = []
    for run in frame.to_dict("records"):
        rows += [run | epoch for epoch in runs.load(run["id"])["epochs"]]
    return pd.DataFrame(rows)


def example_selection(config: Parameters, frame: pd.DataFrame) -> tuple[dict, int, str]:
    """A selection within the budget: the last epoch's of a recorded LaRa MeDyate run, else one drawn
    uniformly from all layers. Returns channels by layer, the size N of its pool, and its origin."""
    import torch

    from ..runs import records as runs

    layers = backbone(config.network)
    for run_id in frame[frame.strategy == "LaRa MeDyate"]["id"] if len(frame) else ():
        record = runs.load(run_id)
        if record.get("selection"):
            inside = set(record["search_space"]["layers"])
            pool = sum(layer.channels for layer in layers if layer.name in inside)
            return record["selection"], pool, f"the last epoch of run `{run_id}`"
    uniform = strategies.Strategy("uniform", "all channels alike", strategies.UNIFORM)
    selector = Selector(uniform, layers, config.budget, torch.Generator().manual_seed(0))
    pool = sum(layer.channels for layer in layers)
    return dict(selector.select().channels), pool, "drawn uniformly from all layers, seed 0"


def selections(network: str, budget: int, ranking_name: str, epochs: int, seed: int) -> tuple:
    """MeDyate's selections over epochs on recorded norms: no training, the numbers are real.

    The ranking's own run recorded every channel's norm in every epoch; the selector sees those of
    the channels that it drew, as a run would. Returns the :class:`medyate.selection.Selector`
    after the last epoch and the list of selections; only the first epoch where no norms are there.
    """
    import torch

    from ..runs import rankings
    from ..runs import records as runs
    from ..selection import Selector

    layers = backbone(network)
    recorded_ranking = rankings.load(network, ranking_name)
    generator = torch.Generator().manual_seed(seed)
    selector = Selector(strategies.get("LaRa MeDyate"), layers, budget, generator, ranking=recorded_ranking)
    drawn = [selector.select()]
    record = next(
        (
            one
            for one in runs.every("rank")
            if one.get("ranking") == recorded_ranking.name and one["config"]["network"] == network
        ),
        None,
    )
    arrays = runs.arrays(record) if record else {}
    for norms in arrays.get("channel_norms_mean", ())[: epochs - 1]:
        parts = torch.from_numpy(norms).split([layer.channels for layer in layers])
        named = {layer.name: part for layer, part in zip(layers, parts)}
        chosen = drawn[-1].channels
        drawn.append(selector.select({name: named[name][list(channels)] for name, channels in chosen.items()}))
    return selector, drawn


def epoch_size(frame: pd.DataFrame) -> tuple[int, int]:
    """Training images and batch size of recorded runs; those of Food-101 and the default without."""
    from ..runs import records as runs

    if frame.empty:
        return 75_750, 32
    record = runs.load(frame["id"].iloc[0])
    return record["train_images"], record["config"]["batch_size"]


# --- rankings: Figs. 3, 4, 5 ---


def rankings(config: Parameters) -> pd.DataFrame:
    """Recorded preliminary fine-tunings, made the way most were, that agree with the parameters."""
    return pick(of_one_way(table("rank")), config, ("network", "networks", "task", "tasks", "epochs", "seeds"))


def layer_metric(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Layers x rankings: the accumulated ``lara`` or ``layer_rgn``, columns named "task, seed"."""
    import pandas as pd

    from ..runs import records as runs

    columns = {}
    for row in frame.itertuples():
        record = runs.load(row.id)
        columns[f"{row.task}, {row.seed}"] = pd.Series(record[metric], index=record["layers"])
    return pd.DataFrame(columns)


def channel_norms(run_id: str, kind: str = "mean") -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Epochs x channels of a ranking's gradient norms, the layer of each channel, the layers' names.

    ``kind``: ``mean`` over an epoch's steps, or of its ``last`` step.
    """
    from ..runs import records as runs

    record = runs.load(run_id)
    arrays = runs.arrays(record)
    return arrays[f"channel_norms_{kind}"], arrays["layer_of_channel"], record["layers"]


def layer_index(wanted: int | str, names: Sequence[str]) -> int:
    """The index of a layer that is given by index or name; a module's last part may be left out."""
    if isinstance(wanted, int):
        return whole(wanted, "layer", 0, len(names) - 1)
    short = [name.removesuffix(".conv") for name in names]
    return short.index(choose(wanted.removesuffix(".conv"), short, "layer"))


# --- accuracy over K: Figs. 6, 7, 11 ---

OVER_LAYERS = ["series", "budget", "layers", "seed", "top1_percent", "alpha_percent", "flag", "id"]


def over_layers(config: Parameters, wanted: Mapping[str, strategies.Strategy]) -> pd.DataFrame:
    """Recorded runs of the wanted strategies, whatever their K: ``OVER_LAYERS`` columns.

    Those of one protocol and ranking; ``flag`` is that of :func:`flagged`.
    """
    import pandas as pd

    name = config.protocol or "short"
    frame = pick(table(), config, ("network", "task", "budget", "epochs", "seeds"))
    names = {declaration(strategy): name for name, strategy in wanted.items()}
    if not frame.empty:
        frame = frame.assign(series=[names.get(_declared(row)) for row in frame.itertuples()])
        frame = of_ranking(of_protocol(frame[frame.series.notna() & frame.K.notna()], name), name, config.ranking)
    if frame.empty:
        return pd.DataFrame(columns=OVER_LAYERS)
    frame = flagged(frame).assign(
        layers=frame.K.astype(int),
        budget=frame.budget.astype(int),
        top1_percent=frame.test_top1_percent,
        alpha_percent=100 * frame.alpha,
    )
    # a K that was given and the same K by the strategy's rule are the same run, of one task and length
    frame = frame.drop_duplicates(["series", *CELL, "layers", "seed"])
    return frame.sort_values(["series", "budget", "layers", "seed"])[OVER_LAYERS].reset_index(drop=True)


def best_alphas(frame: pd.DataFrame, network: str) -> pd.DataFrame:
    """For each budget and seed of :func:`over_layers` with two K or more, its best K and alpha_K."""
    from .. import costs

    if frame.empty:
        return frame
    several = frame.groupby(["budget", "seed"]).layers.transform("nunique") > 1
    best = frame[several].sort_values("top1_percent", kind="stable").groupby(["budget", "seed"]).tail(1)
    if network in paper.NETWORKS.values():
        total = paper.total_elements(network)  # as a walk over the network gives it, which would need torch
    else:
        total = costs.totals(backbone(network))["total_elements"]
    return best.assign(budget_percent=100 * best.budget / total).reset_index(drop=True)


def best_layers(frame: pd.DataFrame, of: str = "ours") -> str:
    """A sentence on the best K of each series; a series of a single K has no best."""
    mean = frame.groupby(["series", "layers"], sort=False).top1_percent.mean() if len(frame) else frame
    names = [name for name in frame.series.unique() if len(mean[name]) > 1] if len(frame) else []
    if not names:
        return "Nothing of ours is drawn."
    best = [f"{name}: K = {mean[name].idxmax()} with {mean[name].max():.1f} %" for name in names]
    return f"Best of {of}: " + "; ".join(best) + "."


# --- with the paper's ---


def beside(ours: pd.DataFrame, paper_values: pd.DataFrame) -> pd.DataFrame:
    """One table of ours and the paper's for a figure's CSV; ``source`` tells them apart."""
    import pandas as pd

    both = [("ours", ours), ("paper", paper_values)]
    return pd.concat([frame.assign(source=name) for name, frame in both if not frame.empty], ignore_index=True)


def protocol_note(frame: pd.DataFrame) -> str:
    """How the runs behind a figure were made, and how exact one accuracy is, from their records."""
    from ..runs import records as runs

    ids = set(frame["id"]) if len(frame) else set()
    chosen = table()
    chosen = chosen[chosen["id"].isin(ids)] if ids else chosen.iloc[:0]
    if chosen.empty:
        return "No runs of ours."
    common = chosen.iloc[0]
    named = " or ".join(f"`{name}`" for name in protocols.names_of(common.to_dict())) or "none that is declared"
    rates = {rate: sorted(of_rate.strategy.unique()) for rate, of_rate in chosen.groupby("learning_rate")}
    usual = chosen.learning_rate.mode()[0]
    others = "".join(f" ({', '.join(names)} {rate:g})" for rate, names in rates.items() if rate != usual)
    ranked = sorted(chosen.ranking.dropna().unique())
    ranked = f" Layers ranked by {', '.join(ranked)}." if ranked else ""
    flags = flagged(chosen).flag.value_counts()
    flags = "".join(f" {count} of them ended {flag}." for flag, count in flags.items() if flag)
    epochs = ", ".join(str(value) for value in sorted(chosen.epochs.unique()))
    seeds = ", ".join(str(value) for value in sorted(chosen.seed.unique()))
    seeds = f"seed{'s' if ',' in seeds else ''} {seeds}"
    from .. import networks

    known = [networks.get(name) for name in chosen.network.unique()]
    unit = "tokens" if all(network.kind == "text" for network in known) else "px"
    affine = ", its weight and bias trained" if common["norm_affine"] else ""
    norm = f"batch norm {common['batch_norm']}{affine}, " if any(one.has_batch_norm for one in known) else ""
    errors = {}
    for task, of_task in chosen.groupby("task"):
        images = runs.load(of_task["id"].iloc[0])["test_images"]
        share = of_task.test_top1_percent.mean() / 100
        errors[task] = f"{100 * (share * (1 - share) / images) ** 0.5:.1f} points on {task}'s {images:,} test images"
    return (
        f"Protocol {named}: {len(chosen)} recorded run{'s' if len(chosen) > 1 else ''}: "
        f"{', '.join(sorted(chosen.network.unique()))} on "
        f"{', '.join(sorted(chosen.task.unique()))}, {epochs} epochs after {common['warmup_epochs']} of warm-up, "
        f"{common['resolution']} {unit}, learning rate {usual:g}{others}, batch "
        f"{common['batch_size']}, {norm}{seeds}. The standard error of a single accuracy is "
        f"{', '.join(errors.values())}: smaller differences between single runs say nothing.{ranked}{flags}"
    )
