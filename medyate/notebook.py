"""What the notebooks of figures and tables share: checked parameters, recorded runs, display.

A notebook has one cell of parameters, which papermill replaces without any check, and right after
it ``config = notebook.Parameters(...)``, which checks them before anything is computed. Then it
draws from recorded runs; where there are none it says so with :func:`nothing_recorded`, shows the
paper's values, and gives the command that would run what is missing.
"""

from __future__ import annotations

import base64
import html
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

import numpy as np

from . import networks, paper, plots, schemes, strategies
from .errors import InputError, choose, whole

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MODES = {
    "recorded": "draw what was recorded; compute nothing",
    "missing": "run what was not recorded yet, then draw",
    "fresh": "run everything anew, then draw",
}
ALL = "all"


@dataclass(frozen=True)
class Parameters:
    """A notebook's parameters. Those that it does not have stay None; the others are checked.

    ``network``, ``task``, ``strategy``: registered names (or the paper's); ``networks``, ``tasks``:
    a list of them, one text with commas, or ``"all"``. ``budget``: elements, or ``"all"`` for the network's tiers. ``epochs``:
    warm-up not included, or ``"all"``. ``seeds``: one seed, several (``"0,42"`` or a list), or ``"all"``.
    ``layer``: an index or a name. ``mode``: see :data:`MODES`. Raises :class:`InputError` in one
    line that quotes the value and lists what is allowed.
    """

    notebook: str
    network: str | None = None
    networks: str | Sequence[str] | None = None
    task: str | None = None
    tasks: str | Sequence[str] | None = None
    strategy: str | None = None
    budget: int | str | None = None
    epochs: int | str | None = None
    seeds: int | str | Sequence[int] | None = None
    layer: int | str | None = None
    mode: str | None = None

    def __post_init__(self):
        checks = {
            "network": _network, "networks": _networks, "task": _task, "tasks": _tasks, "strategy": _strategy, "budget": _budget,
            "epochs": _epochs, "seeds": _seeds, "layer": _layer, "mode": _mode,
        }  # fmt: skip
        given = {name: getattr(self, name) for name in checks if getattr(self, name) is not None}
        for name, value in given.items():
            object.__setattr__(self, name, checks[name](value))
        if isinstance(self.budget, int) and self.network is not None:
            _enough(self.budget, self.network)
        if self.runs:
            self._check_what_runs()

    def _check_what_runs(self) -> None:
        """The data must be there before anything runs, and "all" must not mean every data set."""
        from . import tasks

        if self.tasks == ALL:
            raise InputError(
                f"tasks {ALL!r} cannot be run in mode {self.mode!r}; allowed: names with commas between, of {', '.join(tasks.TASKS)}"
            )
        for task in self.tasks or (self.task,):
            if task is not None:
                tasks.get(task)

    @property
    def runs(self) -> bool:
        """Whether this notebook is to run anything."""
        return self.mode in ("missing", "fresh")

    @property
    def budgets(self) -> tuple[int, ...]:
        """The budgets that are meant, in elements: the one given, or the five tiers of the network."""
        return (self.budget,) if isinstance(self.budget, int) else tier_budgets(self.network)

    def budgets_of(self, network: str) -> tuple[int, ...]:
        """The one budget given, or those of Table 1; one as for the other networks where it has none."""
        if isinstance(self.budget, int):
            return (self.budget,)
        return tuple(schemes.PRINTED_BUDGETS.get(network, {1: 27_946}).values())

    def described(self) -> str:
        """The parameters in words, for a sentence."""
        values = {field.name: getattr(self, field.name) for field in fields(self)[1:] if field.name != "mode"}
        shown = {
            name: ", ".join(map(str, value)) if isinstance(value, tuple) else value
            for name, value in values.items() if value is not None
        }  # fmt: skip
        return ", ".join(f"{name} {value}" for name, value in shown.items())

    def command(self, mode: str = "missing", **changes) -> str:
        """The command that runs this notebook with these parameters, but for ``changes``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"mode": mode if self.mode is not None else None} | changes
        words = ["medyate", values.pop("notebook")]
        for name, value in values.items():
            if isinstance(value, tuple):
                value = ",".join(map(str, value))
            if value is not None:
                words += ["-p", name, str(value)]
        return shlex.join(words)


def _text(value, what: str, allowed: str) -> str:
    if not isinstance(value, str):
        raise InputError(f"{what} {value!r} is not a name; allowed: {allowed}")
    return value


def _network(value) -> str:
    return networks.get(_text(value, "network", ", ".join(networks.NETWORKS))).name


def _networks(value) -> str | tuple[str, ...]:
    return _several(value, "networks", _network, list(networks.NETWORKS))


def _several(value, what: str, check, allowed: Sequence[str]) -> str | tuple[str, ...]:
    if value == ALL:
        return ALL
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names:
        raise InputError(f"{what} {value!r} is no list of names; allowed: {ALL!r}, {', '.join(allowed)}")
    return tuple(dict.fromkeys(check(name) for name in names))


def known_tasks() -> list[str]:
    """Tasks that a page can speak of without any data: registered ones, the paper's and cuts of
    them, and all that something was recorded on."""
    from . import tasks

    recorded = {str(name) for kind in ("run", "rank") for name in table(kind).get("task", [])}
    return list(dict.fromkeys([*tasks.TASKS, *paper.TASKS, *sorted(recorded)]))


def _task(value) -> str:
    from . import tasks

    _text(value, "task", ", ".join(known_tasks()))
    known = {name.lower(): name for name in known_tasks()}
    # what is neither registered nor recorded must be found on disk
    return known.get(value.lower()) or tasks.get(value).name


def _tasks(value) -> str | tuple[str, ...]:
    return _several(value, "tasks", _task, known_tasks())


def _strategy(value) -> str:
    return strategies.get(_text(value, "strategy", ", ".join(strategies.STRATEGIES))).name


def _budget(value) -> int | str:
    if value == ALL:
        return ALL
    if isinstance(value, bool) or not isinstance(value, int):
        raise InputError(f"budget {value!r} is not an integer; allowed: a number of elements such as 27946, or {ALL!r}")
    return whole(value, "budget", 1)


def _enough(budget: int, network: str) -> None:
    cheapest = min(layer.channel_elements for layer in backbone(network))
    if budget < cheapest:
        raise InputError(
            f"budget {budget!r} is below the cheapest channel of {network!r}; allowed: at least {cheapest:,} elements"
        )


def _epochs(value) -> int | str:
    if value == ALL:
        return ALL
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"epochs {value!r} is out of range; allowed: an integer of at least 1, or {ALL!r}")
    return value


def _seeds(value) -> str | tuple[int, ...]:
    if value == ALL:
        return ALL
    seeds = [value] if isinstance(value, int) else value
    if isinstance(value, str) and all(part.strip().isdecimal() for part in value.split(",")):
        seeds = [int(part) for part in value.split(",")]  # papermill's -p has no lists
    fine = isinstance(seeds, (list, tuple)) and seeds
    if not fine or any(isinstance(seed, bool) or not isinstance(seed, int) or seed < 0 for seed in seeds):
        raise InputError(f"seeds {value!r} are not seeds; allowed: an integer of at least 0, several as in '0,42', or {ALL!r}")
    return tuple(dict.fromkeys(seeds))


def _layer(value) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InputError(f"layer {value!r} is no layer; allowed: an index in order of execution or a layer's name")
    return value


def _mode(value) -> str:
    return choose(_text(value, "mode", ", ".join(MODES)), MODES, "mode")


def backbone(network: str) -> tuple:
    """The :class:`medyate.costs.Layer` of a network at its resolution, without any weight file."""
    from . import costs

    found = networks.get(network)
    if found.name not in _BACKBONES:
        model = networks.build(found.name, weights="random")
        shape = (3, found.resolution, found.resolution)
        _BACKBONES[found.name] = costs.layers(model, shape)
    return _BACKBONES[found.name]


_BACKBONES: dict[str, tuple] = {}


def tier_budgets(network: str) -> tuple[int, ...]:
    """The budgets of the five SU tiers of a network, or none where it has no schemes."""
    if network not in schemes.SCHEMES:
        return ()
    return tuple(schemes.budget(network, tier, backbone(network)) for tier in schemes.SCHEMES[network])


# --- recorded runs ---

# Entries of a config that name the strategy or follow from it, and those that a page varies; all
# others are the protocol, which runs must share to be compared.
_STRATEGY = ("strategy", "layers", "order", "metric", "boosted", "ranking")
_VARIED = ("network", "weights", "task", "budget", "epochs", "seed")


def table(kind: str = "run") -> pd.DataFrame:
    """All finished records of a kind, one row each, the config's entries as columns."""
    from . import runs

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


def protocol(frame: pd.DataFrame, kind: str = "run") -> dict[str, object]:
    """The protocol (all that is neither strategy nor varied) that most of the runs share."""
    from .config import KINDS

    if frame.empty:
        return {}
    names = [name for name in KINDS[kind].fields() if name in frame and name not in _STRATEGY + _VARIED]
    most = frame.groupby(names, dropna=False, sort=False).size().idxmax()
    return {name: getattr(value, "item", lambda value=value: value)() for name, value in zip(names, most)}


def of_one_protocol(frame: pd.DataFrame, kind: str = "run") -> pd.DataFrame:
    """The runs of the protocol that most of them share; the others are no fair comparison."""
    for name, value in protocol(frame, kind).items():
        frame = frame[frame[name] == value]
    return frame


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


def strategy_runs(config: Parameters) -> pd.DataFrame:
    """Recorded runs of the strategies as named, of one protocol, that agree with the parameters."""
    names = ("network", "networks", "task", "tasks", "strategy", "budget", "epochs", "seeds")
    return of_one_protocol(as_named(pick(table(), config, names)))


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

    from . import runs

    rows = []
    for run in frame.to_dict("records"):
        rows += [run | epoch for epoch in runs.load(run["id"])["epochs"]]
    return pd.DataFrame(rows)


def example_selection(config: Parameters, frame: pd.DataFrame) -> tuple[dict, int, str]:
    """A selection within the budget: the last epoch's of a recorded LaRa MeDyate run, else one drawn
    uniformly from all layers. Returns channels by layer, the size N of its pool, and its origin."""
    import torch

    from . import runs

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

    from . import ranking, runs

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
    from . import runs

    if frame.empty:
        return 75_750, 32
    record = runs.load(frame["id"].iloc[0])
    return record["train_images"], record["config"]["batch_size"]


# --- recorded rankings: Figs. 3, 4, 5 ---


def rankings(config: Parameters) -> pd.DataFrame:
    """Recorded preliminary fine-tunings of one protocol that agree with the parameters."""
    names = ("network", "networks", "task", "tasks", "epochs", "seeds")
    return of_one_protocol(pick(table("rank"), config, names), "rank")


def layer_metric(frame: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Layers x rankings: the accumulated ``lara`` or ``layer_rgn``, columns named "task, seed"."""
    import pandas as pd

    from . import runs

    columns = {}
    for row in frame.itertuples():
        record = runs.load(row.id)
        columns[f"{row.task}, {row.seed}"] = pd.Series(record[metric], index=record["layers"])
    return pd.DataFrame(columns)


def channel_norms(run_id: str, kind: str = "mean") -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Epochs x channels of a ranking's gradient norms, the layer of each channel, the layers' names.

    ``kind``: ``mean`` over an epoch's steps, or of its ``last`` step.
    """
    from . import runs

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


def layer_counts(network: str) -> list[int]:
    """The paper's grid of K: 5, 10, .. and all layers (52 of MbV2-w0.35)."""
    layers = len(backbone(network))
    return [*range(5, layers - 5, 5), layers]


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
    from . import costs

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


def grid_over_layers(config: Parameters, wanted: Mapping[str, strategies.Strategy]) -> list:
    """The :class:`medyate.config.RunConfig` of every wanted strategy, budget, K and seed."""
    from .config import RunConfig

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
    config: Parameters, names: Sequence[str] = paper.MAIN_STRATEGIES, budgets: Sequence[int] | None = None
) -> list:
    """The :class:`medyate.config.RunConfig` of every strategy, network, task, budget and seed.

    ``budgets`` None takes the config's one, or each network's budgets of Table 1. SU is left out
    where the budget is no tier of its schemes.
    """
    from .config import RunConfig

    if not config.runs:
        return []
    seeds = (0,) if config.seeds in (ALL, None) else config.seeds
    chosen = (config.network,) if config.network else config.networks
    found = []
    for network in schemes.PRINTED_BUDGETS if chosen == ALL else chosen:
        sizes = budgets or config.budgets_of(network)
        for task in config.tasks or (config.task,):
            shared = _shared(config)
            found += [
                RunConfig(network=network, task=task, strategy=name, budget=budget, seed=seed, **shared)
                for budget in sizes for name in names for seed in seeds
                if name != "SU" or budget in tier_budgets(network)
            ]  # fmt: skip
    return found


def grid_of_rankings(config: Parameters) -> list:
    """The :class:`medyate.config.RankConfig` of every network, task and seed."""
    from .config import RankConfig

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


def _shared(config: Parameters, kind: str = "run") -> dict[str, object]:
    """Epochs, and the protocol that runs recorded with them share, so that a grid gets complete."""
    epochs = None if config.epochs == ALL else config.epochs
    recorded = pick(table(kind), config, ("network", "networks", "task", "tasks", "epochs"))
    return {"epochs": epochs} | protocol(recorded, kind)


def run(configs: Sequence, config: Parameters) -> None:
    """Run what the mode asks for, and say for each run what came of it. Nothing for ``recorded``."""
    from . import finetune

    for index, one in enumerate(configs if config.runs else (), start=1):
        start = finetune.rank if one.kind == "rank" else finetune.run
        record, was_there = start(one, force=config.mode == "fresh")
        done = "recorded already" if was_there else "ran"
        print(f"{index}/{len(configs)} {one.id}: {done}, test top-1 {record['test_top1_percent']:.2f} %")


def beside(ours: pd.DataFrame, paper_values: pd.DataFrame) -> pd.DataFrame:
    """One table of ours and the paper's for a figure's CSV; ``source`` tells them apart."""
    import pandas as pd

    both = [("ours", ours), ("paper", paper_values)]
    return pd.concat([frame.assign(source=name) for name, frame in both if not frame.empty], ignore_index=True)


def protocol_note(frame: pd.DataFrame) -> str:
    """How the runs behind a figure were made, in one sentence, from their records."""
    ids = set(frame["id"]) if len(frame) else set()
    chosen = table()
    chosen = chosen[chosen["id"].isin(ids)] if ids else chosen.iloc[:0]
    if chosen.empty:
        return "No runs of ours."
    common = protocol(chosen)
    epochs = ", ".join(str(value) for value in sorted(chosen.epochs.unique()))
    seeds = ", ".join(str(value) for value in sorted(chosen.seed.unique()))
    return (
        f"{len(chosen)} recorded runs: {', '.join(sorted(chosen.network.unique()))} on "
        f"{', '.join(sorted(chosen.task.unique()))}, {epochs} epochs after {common['warmup_epochs']} of warm-up, "
        f"{common['resolution']} px, learning rate {common['learning_rate']:g}, batch {common['batch_size']}, "
        f"batch norm {common['batch_norm']}, seed {seeds}."
    )


# --- tables ---


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
        note=["repeats D-Full Random" if repeated else "" for repeated in frame.repeated],
        strategy=frame.strategy.astype("category").cat.set_categories(kept, ordered=True),
    ).pivot(index=["network", "budget_elements", "strategy", "place", "note"], columns="task", values="text")
    wide = wide[order].sort_index().reset_index().rename_axis(None, axis=1)
    return wide.astype({"strategy": str}).rename(columns={"budget_elements": "budget (elements)", "place": "from"})


# Which networks of ours stand beside which table.
_FAMILY = {1: ("mbv2-w0.35", "mcunet-in1", "proxyless-w0.3"), 2: ("swin-t",), 3: ("bert", "roberta")}


def our_table(number: int, config: Parameters) -> pd.DataFrame:
    """Our runs beside the paper's cells: mean over seeds, 95 % interval, n, the paper's mean.

    Table 1 also takes every other network that takes images: it is the table of vision at our scale.
    """
    import pandas as pd

    from .stats import estimate

    frame = strategy_runs(config)
    if not frame.empty:
        others = set(_FAMILY[2] + _FAMILY[3])
        inside = ~frame.network.isin(others) if number == 1 else frame.network.isin(_FAMILY[number])
        frame = frame[inside]
    if frame.empty:
        return pd.DataFrame()
    theirs = paper.accuracies(number).set_index(["network", "budget_elements", "strategy", "task"]).mean_percent
    rank = {name: index for index, name in enumerate(strategies.STRATEGIES)}
    rows = []
    for (network, task, budget, epochs, strategy), found in frame.groupby(
        ["network", "task", "budget", "epochs", "strategy"], dropna=False
    ):
        ours = estimate(found.test_top1_percent)
        key = (network, paper.total_elements(network) if strategy == "Baseline" and network in _FAMILY[1] else budget)
        value = theirs.get((*key, strategy, paper.TASKS.get(task)))
        rows.append(
            {
                "network": network, "task": task, "budget (elements)": None if budget != budget else int(budget),
                "epochs": int(epochs), "strategy": strategy, "top-1 (%)": ours.mean, "95 % low": ours.low,
                "95 % high": ours.high, "n": ours.n, "paper's task": paper.TASKS.get(task) or "–", "paper (%)": value,
                "difference": None if value is None else ours.mean - value,
            }
        )  # fmt: skip
    rows.sort(key=lambda row: (row["network"], row["task"], row["epochs"], row["budget (elements)"] or 10**12, rank[row["strategy"]]))
    return pd.DataFrame(rows).astype({"budget (elements)": "Int64"})


# --- display ---

# Sorts a table by the column whose head is clicked; numbers as numbers, whatever follows them.
_SORT = (
    "const h=this,t=h.closest('table'),i=[...h.parentNode.children].indexOf(h),d=h.dataset.up!=='1';"
    "h.dataset.up=d?'1':'0';const b=t.tBodies[0],v=r=>r.children[i].dataset.v??r.children[i].innerText;"
    "[...b.rows].sort((x,y)=>{const p=parseFloat(v(x)),q=parseFloat(v(y));"
    "const c=isNaN(p)||isNaN(q)?(isNaN(p)-isNaN(q)||v(x).localeCompare(v(y))):p-q;return d?c:-c}).forEach(r=>b.append(r))"
)


def _display(text: str) -> None:
    from IPython.display import HTML, display

    display(HTML(text))


def _link(label: str, filename: str, content: bytes, kind: str) -> str:
    data = base64.b64encode(content).decode()
    return f'<a download="{filename}" href="data:{kind};base64,{data}">{label}</a>'


def show(figure: Figure, name: str, data: pd.DataFrame, alt: str) -> None:
    """Save a figure (see :func:`medyate.plots.save`) and show it with its files to download."""
    paths = plots.save(figure, name, data, alt)
    content = {ending: path.read_bytes() for ending, path in paths.items()}
    kinds = {"svg": "image/svg+xml", "pdf": "application/pdf", "csv": "text/csv"}
    links = " · ".join(_link(end.upper(), f"{name}.{end}", content[end], kinds[end]) for end in paths)
    image = base64.b64encode(content["svg"]).decode()
    _display(
        f'<figure style="margin:0"><img src="data:image/svg+xml;base64,{image}" alt="{html.escape(alt)}" '
        f'style="width:100%;max-width:640px;height:auto;background:white"/>'
        f'<figcaption style="font-size:.85em">{links}</figcaption></figure>'
    )


def show_table(frame: pd.DataFrame, name: str, caption: str, decimals: int = 2) -> None:
    """Show a table that sorts by a click on a column's head, with CSV and LaTeX to download."""
    plain = frame.reset_index(drop=True)
    heads = "".join(
        f'<th scope="col" style="cursor:pointer;text-align:left" onclick="{html.escape(_SORT)}" '
        f'title="sort">{html.escape(str(column))}</th>'
        for column in plain.columns
    )
    body = "".join(
        "<tr>" + "".join(_cell(value, decimals) for value in row) + "</tr>"
        for row in plain.itertuples(index=False, name=None)
    )
    csv = plain.to_csv(index=False, lineterminator="\n").encode()
    links = f"{_link('CSV', f'{name}.csv', csv, 'text/csv')} · " + _link(
        "LaTeX", f"{name}.tex", latex(plain, decimals).encode(), "application/x-tex"
    )
    _display(
        f'<div style="overflow-x:auto;max-height:32em"><table><caption style="text-align:left">{html.escape(caption)} '
        f"(click a head to sort)</caption><thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
        f'<p style="font-size:.85em">{links}</p>'
    )


def _plain(value, decimals: int) -> str:
    if value is None or str(value) in ("nan", "<NA>"):
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return f"{value:,.{decimals}f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _cell(value, decimals: int) -> str:
    number = isinstance(value, (int, float)) or hasattr(value, "item")
    key = f' data-v="{value}"' if number and str(value) != "nan" else ""
    align = "right" if number else "left"
    return f'<td{key} style="text-align:{align}">{html.escape(_plain(value, decimals))}</td>'


def latex(frame: pd.DataFrame, decimals: int = 2) -> str:
    """The table as LaTeX, for the ``booktabs`` package."""
    escape = str.maketrans({"%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "±": r"$\pm$", "–": "--"})
    lines = [r"\begin{tabular}{" + "l" * frame.shape[1] + "}", r"\toprule"]
    lines.append(" & ".join(str(column).translate(escape) for column in frame.columns) + r" \\")
    lines.append(r"\midrule")
    for row in frame.itertuples(index=False, name=None):
        lines.append(" & ".join(_plain(value, decimals).translate(escape) for value in row) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def say(text: str) -> None:
    """A line of computed text on the page, in Markdown."""
    from IPython.display import Markdown, display

    display(Markdown(text))


def nothing_recorded(what: str, command: str, instead: str = "The paper's values are shown alone.") -> None:
    """Say that nothing was recorded for the parameters, and how to run it."""
    say(f"> **Nothing recorded** for {what}. {instead} To run it:\n>\n> ```\n> {command}\n> ```")
