"""Recorded runs and rankings, as the pages read them.

Only runs of one protocol are compared: all that is neither strategy nor a page's parameter must
be the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from .. import paper, strategies
from ..errors import choose, whole
from .parameters import ALL, Parameters, backbone

if TYPE_CHECKING:
    import pandas as pd

# Entries of a config that name the strategy or follow from it, and those that a page varies; all
# others are the protocol, which runs must share to be compared.
_STRATEGY = ("strategy", "layers", "order", "metric", "boosted", "ranking")
_VARIED = ("network", "weights", "task", "budget", "epochs", "seed")


def table(kind: str = "run") -> pd.DataFrame:
    """All finished records of a kind, one row each, the config's entries as columns."""
    from .. import runs

    return runs.table(kind=kind)


def pick(frame: pd.DataFrame, parameters: Parameters, names: Sequence[str]) -> pd.DataFrame:
    """The rows that agree with the named parameters; ``"all"`` agrees with everything."""
    for name in names:
        value = getattr(parameters, name)
        column = {"seeds": "seed", "tasks": "task", "networks": "network"}.get(name, name)
        if value is None or value == ALL or frame.empty:
            continue
        frame = frame[frame[column].isin(value if isinstance(value, tuple) else [value])]
    return frame


def protocol(frame: pd.DataFrame, kind: str = "run", but: Sequence[str] = ()) -> dict[str, object]:
    """The protocol (all that is neither strategy nor varied, nor in ``but``) that most of the runs share."""
    from ..config import KINDS

    if frame.empty:
        return {}
    names = [name for name in KINDS[kind].fields() if name in frame and name not in (*_STRATEGY, *_VARIED, *but)]
    most = frame.groupby(names, dropna=False, sort=False).size().idxmax()
    return {name: getattr(value, "item", lambda value=value: value)() for name, value in zip(names, most)}


def of_one_protocol(frame: pd.DataFrame, kind: str = "run", but: Sequence[str] = ()) -> pd.DataFrame:
    """The runs of the protocol that most of them share; the others are no fair comparison."""
    for name, value in protocol(frame, kind, but).items():
        frame = frame[frame[name] == value]
    return frame


def twins(frame: pd.DataFrame, entry: str, values: tuple[object, object]) -> pd.DataFrame:
    """Pairs of runs that differ in one entry of their configs alone.

    One row a pair: what both have in common, and for each of the two ``values`` of ``entry`` a
    column with the top-1 accuracy in percent.
    """
    from ..config import KINDS

    common = [name for name in KINDS["run"].fields() if name in frame and name != entry]
    first, second = (
        frame.loc[frame[entry] == value, [*common, "test_top1_percent"]].rename(columns={"test_top1_percent": value}) for value in values
    )
    return first.merge(second, on=common)


def _declared(row) -> tuple:
    """What a run's strategy comes to, its overrides included."""
    choice = strategies.get(row.strategy).choice
    order = row.order if isinstance(row.order, str) else None  # pandas may hold None as NaN
    # a uniform choice does not look at channels' norms
    return choice, order, None if choice == "uniform" else row.metric, bool(row.boosted)


def declaration(strategy: strategies.Strategy) -> tuple:
    """The same of a declared strategy, to compare with."""
    metric = None if strategy.choice == "uniform" else strategy.metric
    return strategy.choice, strategy.order, metric, strategy.boosted


def as_named(frame: pd.DataFrame) -> pd.DataFrame:
    """Runs of a strategy as its name says: no K given, no order, metric or boost of one's own."""
    if frame.empty:
        return frame
    named = [_declared(row) == declaration(strategies.get(row.strategy)) for row in frame.itertuples()]
    return frame[frame.layers.isna() & np.array(named)]


def strategy_runs(config: Parameters, number: int | None = None) -> pd.DataFrame:
    """Recorded runs of the strategies as named, of one protocol, that agree with the parameters.

    ``number`` 1, 2 or 3: only of the networks that stand beside the paper's table of that number. Of
    transformers, whose learning rates the paper does not say, those at the rates that the sweeps declare.
    """
    from .. import grids

    names = ("network", "networks", "task", "tasks", "strategy", "budget", "epochs", "seeds")
    frame = as_named(pick(table(), config, names))
    if number is not None and not frame.empty:
        frame = frame[[table_of(network) == number for network in frame.network]]
    if number in (2, 3) and not frame.empty:
        frame = frame[[rate == grids.transformer_rate(name) for rate, name in zip(frame.learning_rate, frame.strategy)]]
        return of_one_protocol(frame, but=("learning_rate",))  # the baseline has a rate of its own
    return of_one_protocol(frame)


def table_of(network: str) -> int:
    """The paper's table beside which runs of a network stand: 1 convolutions, 2 Swin, 3 text."""
    from .. import networks

    found = networks.get(network)
    return 3 if found.kind == "text" else 1 if found.has_batch_norm else 2


def cells(frame: pd.DataFrame, budgeted: bool = True) -> pd.DataFrame:
    """One row a case, one column a strategy, test top-1 in percent; strategies in the book's order.

    ``budgeted`` leaves out Baseline and Head only, which have no budget.
    """
    import pandas as pd

    if budgeted and not frame.empty:
        frame = frame[frame.strategy.isin(paper.MAIN_STRATEGIES)]
    if frame.empty:
        return pd.DataFrame()
    wide = frame.pivot_table(index=list(_VARIED), columns="strategy", values="test_top1_percent")
    return wide[[name for name in strategies.STRATEGIES if name in wide]]


def leader(frame: pd.DataFrame) -> str:
    """The column of the highest mean over rows that have all columns, or over all where none has."""
    whole_rows = frame.dropna()
    return str((frame if whole_rows.empty else whole_rows).mean().idxmax())


def epochs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """The epochs of runs, one row each: the run's columns and the epoch's."""
    import pandas as pd

    from .. import runs

    rows = []
    for run in frame.to_dict("records"):
        rows += [run | epoch for epoch in runs.load(run["id"])["epochs"]]
    return pd.DataFrame(rows)


def example_selection(config: Parameters, frame: pd.DataFrame) -> tuple[dict, int, str]:
    """A selection within the budget: the last epoch's of a recorded LaRa MeDyate run, else one drawn
    uniformly from all layers. Returns channels by layer, the size N of its pool, and its origin."""
    import torch

    from .. import runs

    layers = backbone(config.network)
    for run_id in frame[frame.strategy == "LaRa MeDyate"]["id"] if len(frame) else ():
        record = runs.load(run_id)
        if record.get("selection"):
            inside = set(record["search_space"]["layers"])
            pool = sum(layer.channels for layer in layers if layer.name in inside)
            return record["selection"], pool, f"the last epoch of run `{run_id}`"
    uniform = strategies.Strategy("uniform", "all channels alike", "uniform")
    selector = strategies.Selector(uniform, layers, config.budget, torch.Generator().manual_seed(0))
    pool = sum(layer.channels for layer in layers)
    return dict(selector.select().channels), pool, "drawn uniformly from all layers, seed 0"


def selections(network: str, budget: int, ranking_name: str, epochs: int, seed: int) -> tuple:
    """MeDyate's selections over epochs on recorded norms: no training, the numbers are real.

    The ranking's own run recorded every channel's norm in every epoch; the selector sees those of
    the channels that it drew, as a run would. Returns the :class:`medyate.strategies.Selector`
    after the last epoch and the list of selections; only the first epoch where no norms are there.
    """
    import torch

    from .. import ranking, runs

    layers = backbone(network)
    found = ranking.load(network, ranking_name)
    generator = torch.Generator().manual_seed(seed)
    selector = strategies.Selector(strategies.get("LaRa MeDyate"), layers, budget, generator, ranking=found)
    drawn = [selector.select()]
    record = next((one for one in runs.every("rank") if one.get("ranking") == found.name and one["config"]["network"] == network), None)
    arrays = runs.arrays(record) if record else {}
    for norms in arrays.get("channel_norms_mean", ())[: epochs - 1]:
        parts = torch.from_numpy(norms).split([layer.channels for layer in layers])
        named = {layer.name: part for layer, part in zip(layers, parts)}
        chosen = drawn[-1].channels
        drawn.append(selector.select({name: named[name][list(channels)] for name, channels in chosen.items()}))
    return selector, drawn


def epoch_size(frame: pd.DataFrame) -> tuple[int, int]:
    """Training images and batch size of recorded runs; those of Food-101 and the default without."""
    from .. import runs

    if frame.empty:
        return 75_750, 32
    record = runs.load(frame["id"].iloc[0])
    return record["train_images"], record["config"]["batch_size"]


# --- rankings: Figs. 3, 4, 5 ---


def rankings(config: Parameters) -> pd.DataFrame:
    """Recorded preliminary fine-tunings of one protocol that agree with the parameters."""
    names = ("network", "networks", "task", "tasks", "epochs", "seeds")
    return of_one_protocol(pick(table("rank"), config, names), "rank")


def layer_metric(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Layers x rankings: the accumulated ``lara`` or ``layer_rgn``, columns named "task, seed"."""
    import pandas as pd

    from .. import runs

    columns = {}
    for row in frame.itertuples():
        record = runs.load(row.id)
        columns[f"{row.task}, {row.seed}"] = pd.Series(record[metric], index=record["layers"])
    return pd.DataFrame(columns)


def channel_norms(run_id: str, kind: str = "mean") -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Epochs x channels of a ranking's gradient norms, the layer of each channel, the layers' names.

    ``kind``: ``mean`` over an epoch's steps, or of its ``last`` step.
    """
    from .. import runs

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

OVER_LAYERS = ["series", "budget", "layers", "seed", "top1_percent", "alpha_percent", "id"]


def over_layers(config: Parameters, wanted: Mapping[str, strategies.Strategy]) -> pd.DataFrame:
    """Recorded runs of the wanted strategies, whatever their K: ``OVER_LAYERS`` columns."""
    import pandas as pd

    frame = pick(table(), config, ("network", "task", "budget", "epochs", "seeds"))
    names = {declaration(strategy): name for name, strategy in wanted.items()}
    if not frame.empty:
        frame = frame.assign(series=[names.get(_declared(row)) for row in frame.itertuples()])
        frame = of_one_protocol(frame[frame.series.notna() & frame.K.notna()])
    if frame.empty:
        return pd.DataFrame(columns=OVER_LAYERS)
    frame = frame.assign(
        layers=frame.K.astype(int), budget=frame.budget.astype(int), top1_percent=frame.test_top1_percent, alpha_percent=100 * frame.alpha
    )  # fmt: skip
    # a K that was given and the same K by the strategy's rule are the same run
    frame = frame.drop_duplicates(["series", "budget", "layers", "seed"])
    return frame.sort_values(["series", "budget", "layers", "seed"])[OVER_LAYERS].reset_index(drop=True)


def best_alphas(frame: pd.DataFrame, network: str) -> pd.DataFrame:
    """For each budget and seed of :func:`over_layers` with two K or more, its best K and alpha_K."""
    from .. import costs

    if frame.empty:
        return frame
    several = frame.groupby(["budget", "seed"]).layers.transform("nunique") > 1
    best = frame[several].sort_values("top1_percent", kind="stable").groupby(["budget", "seed"]).tail(1)
    total = costs.totals(backbone(network))["total_elements"]
    return best.assign(budget_percent=100 * best.budget / total).reset_index(drop=True)


def best_layers(frame: pd.DataFrame) -> str:
    """A sentence on each series' best K."""
    if frame.empty:
        return "Nothing of ours is drawn."
    mean = frame.groupby(["series", "layers"], sort=False).top1_percent.mean()
    found = [f"{name}: K = {mean[name].idxmax()} with {mean[name].max():.1f} %" for name in frame.series.unique()]
    return "Best of ours: " + "; ".join(found) + "."


# --- with the paper's ---


def beside(ours: pd.DataFrame, paper_values: pd.DataFrame) -> pd.DataFrame:
    """One table of ours and the paper's for a figure's CSV; ``source`` tells them apart."""
    import pandas as pd

    both = [("ours", ours), ("paper", paper_values)]
    return pd.concat([frame.assign(source=name) for name, frame in both if not frame.empty], ignore_index=True)


def protocol_note(frame: pd.DataFrame) -> str:
    """How the runs behind a figure were made, and how exact one accuracy is, from their records."""
    from .. import runs

    ids = set(frame["id"]) if len(frame) else set()
    chosen = table()
    chosen = chosen[chosen["id"].isin(ids)] if ids else chosen.iloc[:0]
    if chosen.empty:
        return "No runs of ours."
    common = protocol(chosen)
    rates = {rate: sorted(of_rate.strategy.unique()) for rate, of_rate in chosen.groupby("learning_rate")}
    others = "".join(f" ({', '.join(names)} {rate:g})" for rate, names in rates.items() if rate != common["learning_rate"])
    epochs = ", ".join(str(value) for value in sorted(chosen.epochs.unique()))
    seeds = ", ".join(str(value) for value in sorted(chosen.seed.unique()))
    from .. import networks

    known = [networks.get(name) for name in chosen.network.unique()]
    unit = "tokens" if all(network.kind == "text" for network in known) else "px"
    norm = f"batch norm {common['batch_norm']}, " if any(network.has_batch_norm for network in known) else ""
    errors = {}
    for task, of_task in chosen.groupby("task"):
        images = runs.load(of_task["id"].iloc[0])["test_images"]
        share = of_task.test_top1_percent.mean() / 100
        errors[task] = f"{100 * (share * (1 - share) / images) ** 0.5:.1f} points on {task}'s {images:,} test images"
    return (
        f"{len(chosen)} recorded run{'s' if len(chosen) > 1 else ''}: {', '.join(sorted(chosen.network.unique()))} on "
        f"{', '.join(sorted(chosen.task.unique()))}, {epochs} epochs after {common['warmup_epochs']} of warm-up, "
        f"{common['resolution']} {unit}, learning rate {common['learning_rate']:g}{others}, batch {common['batch_size']}, "
        f"{norm}seed {seeds}. The standard error of a single accuracy is "
        f"{', '.join(errors.values())}: smaller differences between single runs say nothing."
    )
