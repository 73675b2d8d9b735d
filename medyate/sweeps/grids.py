"""The sweeps, declared as data: which runs each figure and table needs, at three scales.

``paper`` is the paper's protocol on its full data sets, ``pack`` the same questions on small cuts
of them (what is recorded in ``results/runs``), ``quick`` a few minutes on the digits that every
installation has. A grid can be listed without its data.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

from .. import networks, strategies
from ..errors import InputError, choose
from ..networks import schemes
from ..networks.attention_orders import VARIANTS
from ..runs import rankings
from ..runs.config import KINDS, RankConfig, RunConfig
from . import protocols

SCALES = {
    "paper": "the paper's protocol (Sec. 4.1) on its full data sets",
    "pack": "small cuts of the paper's data sets, 1 + 9 epochs (rankings 1 + 4)",
    "quick": "EfficientNet-Lite0 on digits at 32x32, MiniLM-L6 on docstrings: minutes on a laptop, nothing to download",
}
SEEDS = (0, 42, 100)
CNNS = ("mbv2-w0.35", "mcunet-in1", "proxyless-w0.3")
PAPER_TASKS = ("cifar-10", "cifar-100", "cub", "flowers", "food", "pets", "vww")
PAPER_TEXTS = ("qnli", "rte", "sst-2")
PACKS = ("flowers12", "food10", "cub50", "cifar10")
TEXT_PACKS = ("rte", "sst2")
TIERS = (1, 3, 5)  # those that the paper prints
# Fig. 6: MbV2's five budgets, each with the numbers of layers K that Fig. 6a shows
FIG6_LAYERS = {
    27_946: (5, 10, 15, 20, 25, 30, 35, 40, 45, 52),
    46_208: (10, 15, 20, 25, 30, 35, 40, 45, 52),
    66_592: (10, 15, 20, 25, 30, 35, 40, 45, 52),
    83_840: (15, 20, 25, 30, 35, 40, 45, 52),
    93_696: (15, 20, 25, 30, 35, 40, 45, 52),
}
TEN_LAYERS = FIG6_LAYERS[27_946]
NAMED = tuple(name for name, one in strategies.STRATEGIES.items() if one.uses_budget and not one.once)
STATIC = tuple(name for name, one in strategies.STRATEGIES.items() if one.once)
WITHOUT_BUDGET = tuple(name for name, one in strategies.STRATEGIES.items() if not one.uses_budget)
# Of transformers, which have no SU scheme, the paper's Tables 2 and 3 show these and the baseline
APPENDIX = ("Prev MeDyate", "LaRa TraDy", "LaRa Det Raw", "LaRa Prob Raw", "LaRa MeDyate")

Config = RunConfig | RankConfig


@dataclass(frozen=True)
class Grid:
    """All combinations of ``axes``, the first varying slowest, each with the ``fixed`` values.

    Names are those of the config of ``kind``; ``tier`` stands for the network's budget of that
    tier, of a transformer for that one of its ``budgets``. ``ranking`` may be a pair: the second is
    taken where the first was recorded on the run's own task.
    """

    kind: str
    axes: Mapping[str, Sequence[Any]]
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self):
        choose(self.kind, KINDS, "kind of run")
        for name in (*self.axes, *self.fixed):
            choose(name, (*KINDS[self.kind].fields(), "tier"), f"{self.kind} option")

    def __iter__(self):
        for values in itertools.product(*self.axes.values()):
            yield self._config({**self.fixed, **dict(zip(self.axes, values))})

    def _config(self, values: dict[str, Any]) -> Config:
        if "tier" in values:
            layers = networks.backbone(values["network"], resolution=values.get("resolution", 128))
            values["budget"] = schemes.budgets(values["network"], layers)[values.pop("tier")]
        if isinstance(values.get("ranking"), tuple):
            first, second = values["ranking"]
            values["ranking"] = second if first.startswith(f"{values['task']}-s") else first
        return KINDS[self.kind].of(values).complete()


@dataclass(frozen=True)
class Sweep:
    """A named list of runs. ``rankings`` are the grids that make rankings which its runs name."""

    name: str
    scale: str
    description: str
    grids: tuple[Grid, ...]
    rankings: tuple[Grid, ...] = ()

    def __post_init__(self):
        choose(self.scale, SCALES, "scale")

    @cached_property
    def _configs(self) -> tuple[Config, ...]:
        return tuple({config.id: config for grid in self.grids for config in grid}.values())

    def configs(self) -> tuple[Config, ...]:
        """The runs in the order in which they are worth having; each once."""
        return self._configs

    def needed(self, configs: Sequence[Config]) -> tuple[RankConfig, ...]:
        """The ranking runs that must come before ``configs``, because what they rank by is not here."""
        missing = {
            (one.network, one.ranking)
            for one in configs
            if isinstance(one, RunConfig) and one.ranking and one.ranking not in rankings.names(one.network)
        }
        if not missing:
            return ()
        made = {config.id: config for grid in self.rankings for config in grid}
        return tuple(config for config in made.values() if (config.network, config.name) in missing)


# --- what the grids share ----------------------------------------------------------------------

_AUTHORS = protocols.get("authors")
# batch norm's weight and bias are trained under every strategy, as the authors' earlier code does
_PAPER = {"norm_affine": _AUTHORS.norm_affine, "ranking": ("flowers-s0-e205-mean", "food-s0-e55-mean")}
_PACK = {"epochs": 9, "warmup_epochs": 1, "ranking": ("flowers12-s0-e5", "food10-s0-e5")}
_QUICK = {
    "network": "efficientnet-lite0",
    "task": "digits",
    "resolution": 32,
    "epochs": 2,
    "warmup_epochs": 1,
    "batch_norm": "frozen",
    "ranking": "flowers12-s0-e5-r64",
}
_QUICK_BUDGETS = (78_000, 262_000)  # 2.2 % and 7.5 % of the whole, as MbV2's tiers 1 and 5
_QUICK_LAYERS = (5, 15, 30, 49)


def _without(values: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


_PAPER_RANKINGS = (Grid("rank", {"seed": SEEDS, "task": PAPER_TASKS, "network": CNNS}, {"norm_gradient": "mean"}),)
_PACK_RANKINGS = (Grid("rank", {"seed": SEEDS, "task": PACKS, "network": CNNS}, {"epochs": 4, "warmup_epochs": 1}),)
# Curves over K: MbV2 on Food, at tier 1 where nothing else is said
_PAPER_CURVE = {**_PAPER, "network": "mbv2-w0.35", "task": "food"}
_PACK_CURVE = {**_PACK, "network": "mbv2-w0.35", "task": "food10", "batch_norm": "frozen"}
_TIER1 = {"budget": 27_946}
_ORDERS = {"order": ("lara", "rgn"), "metric": ("raw", "rgn")}
_BOOST = {"strategy": ("LaRa TraDy", "LaRa MeDyate"), "boosted": (False, True)}
_OURS = {"strategy": "LaRa MeDyate"}


def _fig6(curve: Mapping[str, Any]) -> tuple[Grid, ...]:
    return tuple(
        Grid("run", {"seed": (seed,), "layers": layers}, {**curve, **_OURS, "budget": budget})
        for seed in SEEDS
        for budget, layers in FIG6_LAYERS.items()
    )


def _table1(fixed: Mapping[str, Any], tasks: Sequence[str]) -> tuple[Grid, ...]:
    """Seed by seed and tier by tier; what has no tier comes once for each seed."""
    return tuple(
        Grid("run", {**axes, "task": tasks, "network": CNNS, "strategy": names}, fixed)
        for seed in SEEDS
        for axes, names in [
            ({"seed": (seed,)}, WITHOUT_BUDGET),
            *(({"seed": (seed,), "tier": (tier,)}, NAMED) for tier in TIERS),
        ]
    )


_PACK_TABLE1 = tuple(grid for mode in ("frozen", "train") for grid in _table1({**_PACK, "batch_norm": mode}, PACKS))


def _of_protocol(name: str, task: str, strategy: Sequence[str], seeds: Sequence[int] = SEEDS, **changes: Any) -> Grid:
    """Runs of MbV2's tier 1 under a protocol, seed by seed."""
    one = protocols.get(name)
    fixed = {
        "network": "mbv2-w0.35",
        "task": task,
        "epochs": one.epochs(task) or _PACK["epochs"],
        "ranking": one.ranking(task),
        **one.settings("mbv2-w0.35"),
        **_TIER1,
        **changes,
    }
    return Grid("run", {"seed": seeds, "strategy": strategy}, fixed)


_RANKED = tuple(name for name in NAMED if strategies.get(name).order is not None)
_FOUR = ("SU", "TraDy", "LaRa TraDy", "LaRa MeDyate")
# what one thing at a time changes under `short`: when it is chosen, whose order, batch norm's weight and bias
_ABLATIONS = (
    _of_protocol("short", "food10", STATIC),
    _of_protocol("short", "food10", _RANKED, ranking="trady-fig9"),
    _of_protocol("short", "food10", (*NAMED, *STATIC, "Head only"), norm_affine=True),
    _of_protocol("frozen", "food10", STATIC),
)
_PACK_AUTHORS = (
    _of_protocol("authors", "food10", (*NAMED, *STATIC, *WITHOUT_BUDGET)),
    *(_of_protocol("authors", task, _FOUR) for task in ("cub50", "cifar10", "flowers12")),
    *(_of_protocol("authors", task, _FOUR, (1, 2, 3)) for task in ("food10", "cub50", "cifar10", "flowers12")),
)
# each is one fine-tuning: the second definition is read from the first one's record
_PACK_DEFINITIONS = (
    Grid(
        "rank",
        {"epochs": (4, 29), "task": ("flowers12", "food10"), "norm_gradient": ("mean", "last")},
        {"network": "mbv2-w0.35", "warmup_epochs": 1},
    ),
)
# Questions that the paper leaves open, MbV2 under `short`. Budgets: the printed tiers, then doubled up to 60 % of the
# network. K: what alpha_K at most 0.8, 0.4, 0.2 and 0.1 gives at tier 1; a test computes them from the ranking.
SATURATION = (27_946, 66_592, 93_696, 187_392, 374_784, 749_568)
ALPHA_LAYERS = {0.8: 7, 0.4: 11, 0.2: None, 0.1: 28}
_PACK_BUDGETS = tuple(
    grid
    for seed in SEEDS
    for grid in (
        *(_of_protocol("short", "food10", ("LaRa MeDyate",), (seed,), budget=budget) for budget in SATURATION),
        _of_protocol("short", "food10", WITHOUT_BUDGET, (seed,)),
    )
)
_PACK_ALPHAS = tuple(
    _of_protocol("short", task, ("LaRa MeDyate",), (seed,), layers=layers)
    for seed in SEEDS
    for task in ("food10", "flowers12")
    for layers in ALPHA_LAYERS.values()
)
# at the K of `LaRa MeDyate`, whose own runs draw unseen channels alike
_PACK_BOOSTS = tuple(
    _of_protocol("short", task, ("LaRa MeDyate",), (seed,), boosted=True, boost=boost)
    for seed in SEEDS
    for task in ("food10", "flowers12")
    for boost in strategies.BOOSTS
)
# digits: drawn, not photographed, and far from what the network was trained on
_PACK_FAR = (
    Grid("rank", {"seed": SEEDS}, {"network": "mbv2-w0.35", "task": "digits", "epochs": 4, "warmup_epochs": 1}),
    _of_protocol("short", "food10", ("LaRa MeDyate",), ranking="digits-s0-e5"),
    _of_protocol("short", "digits", ("LaRa MeDyate", "SU", "Head only")),
)
_QUICK_TABLE1 = (
    Grid("run", {"strategy": WITHOUT_BUDGET}, _without(_QUICK, "ranking")),
    # EfficientNet-Lite0 has no SU scheme
    Grid("run", {"budget": _QUICK_BUDGETS, "strategy": tuple(name for name in NAMED if name != "SU")}, _QUICK),
)


def _fig9(task: str, fixed: Mapping[str, Any]) -> tuple[Grid, ...]:
    return (
        Grid("run", {"seed": SEEDS, "strategy": NAMED}, {**fixed, **_TIER1, "network": "mbv2-w0.35", "task": task}),
    )


# --- transformers ------------------------------------------------------------------------------
# Learning rates, batch sizes and epochs stand nowhere in the paper. Here: its optimiser, batches of 32, and two
# learning rates that the sweep `search` found on a task that is in none of the tables. The paper's own 0.125 is the
# best of the four for selections (0.5 is better under the smallest budget alone, and unstable under the largest); all
# of the network at that rate falls to chance, so the baseline has its own.

RATES = (0.01, 0.03, 0.125, 0.5)
_RATE, _RATE_BASELINE, _RATE_RANKING = 0.125, 0.03, 0.05


def transformer_rate(strategy: str) -> float:
    """The learning rate that a transformer's runs of a strategy are declared with."""
    return _RATE_BASELINE if strategy == "Baseline" else _RATE


_TEXT = {"network": "minilm-l6", "batch_norm": "frozen", "warmup_epochs": 1}
_TEXT_RANKING = {**_TEXT, "learning_rate": _RATE_RANKING}
# a ranking comes from another task than the run's own
_TEXT_PACK = {**_TEXT, "epochs": 3, "learning_rate": _RATE, "ranking": "docstrings-s0-e5"}
_TEXT_QUICK = {**_TEXT, "epochs": 4, "task": "docstrings", "ranking": "rte-s0-e3"}


def _appendix(fixed: Mapping[str, Any], axes: Mapping[str, Any]) -> tuple[Grid, ...]:
    """Tables 2 and 3: seed by seed, budget by budget, then the baseline."""
    baseline = {**_without(fixed, "ranking"), "strategy": "Baseline", "learning_rate": transformer_rate("Baseline")}
    return tuple(
        grid
        for seed in SEEDS
        for grid in (
            *(
                Grid("run", {"tier": (tier,), "strategy": APPENDIX, **axes}, {**fixed, "seed": seed})
                for tier in (1, 2, 3, 4)
            ),
            Grid("run", axes, {**baseline, "seed": seed}),
        )
    )


def _text_rankings(tasks: Sequence[str], seeds: Sequence[int], epochs: int) -> Grid:
    return Grid("rank", {"seed": seeds, "task": tasks}, {**_TEXT_RANKING, "epochs": epochs})


_PAPER_SWIN = {"ranking": ("flowers-s0-e205", "food-s0-e55"), "network": "swin-t", "batch_norm": "frozen"}
_PACK_SWIN = {**_PACK, "network": "swin-t", "batch_norm": "frozen"}
_PAPER_TEXT = {
    "learning_rate": _RATE,
    "batch_norm": "frozen",
    "epochs": 10,
    "warmup_epochs": 1,
    "ranking": ("rte-s0-e11", "sst-2-s0-e11"),
}
_PAPER_TEXT_RANKINGS = Grid(
    "rank",
    {"seed": SEEDS, "task": PAPER_TEXTS, "network": ("bert-base", "roberta-base")},
    {**_without(_TEXT_RANKING, "network"), "epochs": 10},
)
_PAPER_SWIN_RANKINGS = Grid(
    "rank", {"seed": SEEDS, "task": PAPER_TASKS}, {"network": "swin-t", "learning_rate": _RATE_RANKING}
)
_PACK_SWIN_RANKINGS = Grid(
    "rank",
    {"seed": SEEDS, "task": PACKS},
    {"network": "swin-t", "learning_rate": _RATE_RANKING, "epochs": 4, "warmup_epochs": 1},
)
_PACK_TEXT_RANKINGS = (_text_rankings(("docstrings",), SEEDS, 4), _text_rankings(TEXT_PACKS, (0,), 2))
_SEARCH = tuple(
    Grid("run", {"learning_rate": RATES, **axes}, {**fixed, "seed": 0})
    for axes, fixed in [
        ({"tier": (1, 4), "strategy": ("LaRa MeDyate",)}, _TEXT_QUICK),
        ({"strategy": ("Baseline",)}, _without(_TEXT_QUICK, "ranking")),
    ]
)

_TEXTS = {
    "fig3": "LaRa and RGN rankings of whole-network fine-tunings (data of Figs. 3, 4 and 5)",
    "fig6": "accuracy of LaRa MeDyate by number of layers K, MbV2, five budgets",
    "fig7": "layer orders by channel metrics by K, MbV2, tier 1",
    "fig8": "the runs that the strategies' t-tests compare: those of Table 1",
    "fig9": "sparsity and saved FLOPs by strategy, MbV2, tier 1: part of Table 1",
    "fig11": "uniform and boosted first draws by K, MbV2, tier 1",
    "table1": "strategies by networks, tiers and tasks",
    "ablations": "what one thing at a time changes: static twins, TraDy's published order, batch norm's affine trained",
    "authors": "as the authors' earlier code trains (protocol `authors`): MbV2, tier 1",
    "definitions": "rankings by three definitions of an epoch's norms, MbV2 (see medyate.paper.definitions)",
    "budgets": "LaRa MeDyate from 2 to 60 % of the network's memory, beside Head only and Baseline, MbV2",
    "alphas": "LaRa MeDyate by alpha, the share of the search space that a draw takes, MbV2, tier 1",
    "boosts": "LaRa MeDyate with first draws by LaRa's value, rank or softmax, MbV2, tier 1",
    "far": "digits: rankings from a task far from photographs, and runs with them and on it, MbV2, tier 1",
    "table2": "strategies by budgets and tasks, SwinT",
    "table3": "strategies by budgets and tasks, BERT and RoBERTa; at scales pack and quick MiniLM-L6",
    "rankings": "LaRa and RGN rankings of transformers",
    "search": "learning rates for transformers: MiniLM-L6 on docstrings",
    "orders": "LaRa, two variants of it and RGN as orders of a transformer's layers: MiniLM-L6 on docstrings",
}
_GRIDS: dict[str, dict[str, tuple[Grid, ...]]] = {
    "paper": {
        "fig3": _PAPER_RANKINGS,
        "fig6": _fig6(_PAPER_CURVE),
        "fig7": (Grid("run", {"seed": SEEDS, **_ORDERS, "layers": TEN_LAYERS}, {**_PAPER_CURVE, **_OURS, **_TIER1}),),
        "fig8": _table1(_PAPER, PAPER_TASKS),
        "fig9": _fig9("food", _PAPER),
        "fig11": (Grid("run", {"seed": SEEDS, **_BOOST, "layers": TEN_LAYERS}, {**_PAPER_CURVE, **_TIER1}),),
        "table1": _table1(_PAPER, PAPER_TASKS),
        "table2": _appendix({**_PAPER_SWIN, "learning_rate": _RATE}, {"task": PAPER_TASKS}),
        "table3": _appendix(_PAPER_TEXT, {"task": PAPER_TEXTS, "network": ("bert-base", "roberta-base")}),
        "rankings": (_PAPER_SWIN_RANKINGS, _PAPER_TEXT_RANKINGS),
    },
    "pack": {
        "fig3": _PACK_RANKINGS,
        "fig6": _fig6(_PACK_CURVE),
        "fig7": (Grid("run", {"seed": SEEDS, **_ORDERS, "layers": TEN_LAYERS}, {**_PACK_CURVE, **_OURS, **_TIER1}),),
        "fig8": _PACK_TABLE1,
        "fig9": _fig9("food10", {**_PACK, "batch_norm": "train"}),
        "fig11": (Grid("run", {"seed": SEEDS, **_BOOST, "layers": TEN_LAYERS}, {**_PACK_CURVE, **_TIER1}),),
        "table1": _PACK_TABLE1,
        "ablations": _ABLATIONS,
        "authors": _PACK_AUTHORS,
        "definitions": _PACK_DEFINITIONS,
        "budgets": _PACK_BUDGETS,
        "alphas": _PACK_ALPHAS,
        "boosts": _PACK_BOOSTS,
        "far": _PACK_FAR,
        "table2": _appendix({**_PACK_SWIN, "learning_rate": _RATE}, {"task": PACKS}),
        "table3": _appendix(_TEXT_PACK, {"task": TEXT_PACKS}),
        "rankings": (*_PACK_TEXT_RANKINGS, _PACK_SWIN_RANKINGS),
    },
    "quick": {
        "fig3": (Grid("rank", {"seed": SEEDS}, {**_without(_QUICK, "ranking", "batch_norm")}),),
        "fig6": (Grid("run", {"budget": _QUICK_BUDGETS, "layers": _QUICK_LAYERS}, {**_QUICK, **_OURS}),),
        "fig7": (Grid("run", {**_ORDERS, "layers": _QUICK_LAYERS}, {**_QUICK, **_OURS, "budget": 78_000}),),
        "fig8": _QUICK_TABLE1,
        "fig9": _QUICK_TABLE1,
        "fig11": (Grid("run", {**_BOOST, "layers": _QUICK_LAYERS}, {**_QUICK, "budget": 78_000}),),
        "table1": _QUICK_TABLE1,
        "table3": _appendix({**_TEXT_QUICK, "learning_rate": _RATE}, {}),
        "rankings": _PACK_TEXT_RANKINGS[:1],
        "search": _SEARCH,
        "orders": tuple(
            Grid("run", {"tier": (1, 4), **axes}, {**_TEXT_QUICK, "learning_rate": _RATE, "seed": seed})
            for seed in SEEDS
            for axes in (
                {
                    "strategy": ("LaRa MeDyate",),
                    "ranking": (_TEXT_QUICK["ranking"], *(f"{_TEXT_QUICK['ranking']}.{how}" for how in VARIANTS)),
                },
                {"strategy": ("Prev MeDyate",)},
            )
        ),
    },
}
_RANKINGS = {
    "paper": (*_PAPER_RANKINGS, _PAPER_SWIN_RANKINGS, _PAPER_TEXT_RANKINGS),
    "pack": (*_PACK_RANKINGS, *_PACK_DEFINITIONS, _PACK_FAR[0], *_PACK_TEXT_RANKINGS, _PACK_SWIN_RANKINGS),
    "quick": (),
}

SWEEPS: Mapping[tuple[str, str], Sweep] = {
    (name, scale): Sweep(name, scale, _TEXTS[name], grids, _RANKINGS[scale])
    for scale, named in _GRIDS.items()
    for name, grids in named.items()
}


def get(name: str, scale: str = "pack") -> Sweep:
    """The sweep of that name and scale."""
    choose(name, _TEXTS, "sweep")
    choose(scale, SCALES, "scale")
    if (name, scale) not in SWEEPS:
        there = [s for s in SCALES if (name, s) in SWEEPS]
        raise InputError(f"sweep {name!r} has no scale {scale!r}; allowed: {', '.join(there)}")
    return SWEEPS[name, scale]


def only(configs: Sequence[Config], filters: Sequence[str]) -> list[Config]:
    """The configs that every filter ``KEY=VALUE[,VALUE..]`` lets through; names as in `medyate run`, and ``tier``.

    Raises :class:`InputError` for an unknown key, and for a value that no config of the grid has.
    """
    kept = list(configs)
    for text in filters:
        key, equals, values = text.partition("=")
        if not equals or not values:
            raise InputError(f"filter {text!r} is not understood; allowed: KEY=VALUE or KEY=VALUE,VALUE")
        choose(key, (*dict.fromkeys(name for one in configs for name in one.fields()), "tier"), "filter")
        there = {_plain(_value(one, key)) for one in configs}
        wanted = set()
        for value in values.split(","):
            plain = {"network": lambda v: networks.get(v).name, "strategy": lambda v: strategies.get(v).name}
            value = _plain(plain.get(key, str)(value.strip()))
            wanted.add(choose(value, sorted(there, key=_natural), f"{key} of this sweep"))
        kept = [one for one in kept if _plain(_value(one, key)) in wanted]
    return kept


def _value(config: Config, key: str) -> Any:
    if key == "tier":  # None for a budget that is no tier, and for runs without one
        budget = getattr(config, "budget", None)
        return _tier(config.network, budget, config.backbone_layers()) if budget else None
    return getattr(config, key, None)


_tier = cache(schemes.tier_of)  # few budgets, many runs


def _plain(value: Any) -> str:
    return str(value).lower()


def _natural(text: str):
    return (not text.isdigit(), int(text) if text.isdigit() else 0, text)
