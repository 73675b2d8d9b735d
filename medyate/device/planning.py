"""What a training on a device needs, before it is built: a bound over *every* selection within the budget.

The engine's memory is a state that lives as long as the training, a stack, and one arena. From the arena's
bottom grow the copies of the chosen weights, their gradients (mode ``accumulate``), one-bit masks and kept
inputs, in the order of the forward pass; from its top come the tensors in passing. The arena must hold the
largest sum of both over the moments of a step. How much a selection holds at a moment is linear in the number
of channels of each layer, so its largest value under the budget is a knapsack; Dantzig's bound (1957), the
whole channels of the best ratio and a fraction of one more, is never below it, and above it by less than one
channel.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from importlib import resources
from math import floor

from torch import nn

from .. import costs, networks, strategies
from ..errors import InputError, choose, whole
from ..networks import schemes
from ..ranking import Ranking
from ..runs import rankings
from ..selection import Selection, search_layers
from ..strategies import Needs
from .network import Network, Stage, describe

WORD = 4  # bytes of a float
GROUP = 4  # middle channels that are computed together: MD_GROUP
UNIT_BYTES = 32  # of the store: MD_UNIT
STACK_BYTES = 2048  # measured below that, see tests/device/test_firmware.py
TEXT_BYTES = 16384  # of the engine's code, with its constants: measured below that
LAYER_BYTES, STAGE_BYTES = 28, 12  # of a row of the tables
ERASE_BYTES = 4096  # of flash, where no board says otherwise

MODES = {
    "accumulate": "gradients live across a batch, as in the library",
    "in-place": "one image a step, each gradient applied where it arises and never stored",
}
BUDGET_MODES = {
    "paper": "a channel costs its kept input and its gradient (eq. 4)",
    "device": "a channel costs what the RAM holds for it: kept input, copy, and gradient where it is stored",
}
PARTS = ("kept", "masks", "transient", "copies", "gradients", "classifier", "selection", "stack")
DEVICE_STRATEGIES = tuple(
    name
    for name, entry in strategies.STRATEGIES.items()
    if not entry.needs(Needs.WHOLE_GRADIENT) and not entry.boosted and not entry.once and entry.metric == "raw"
)


class NoRoom(InputError):
    """What was asked for is sound, but outgrows a board, an amount of RAM or the store."""


# --- what is planned ----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Program:
    """A network, what may be chosen on it, and how: all that the plan and the export depend on.

    ``searched`` are the numbers of the convolutions of the search space in order of execution; ``fixed`` the
    channels by convolution where the strategy chooses once and for all, else None.
    """

    network: Network
    strategy: str
    budget: int | None
    mode: str
    budget_mode: str
    searched: tuple[int, ...]
    fixed: Mapping[int, tuple[int, ...]] | None = None

    @property
    def accumulates(self) -> bool:
        return self.mode == "accumulate"

    @property
    def weight_count(self) -> int:
        """How often a channel's weights count against the budget: MD_WEIGHT_COUNT."""
        return 1 + self.accumulates if self.budget_mode == "device" else 1

    def channel_cost(self, number: int) -> int:
        """Elements that a channel of this convolution costs."""
        c = self.network.convolutions[number]
        return c.plane + self.weight_count * c.channel_weights

    @property
    def search_channels(self) -> int:
        """N: the channels of the search space."""
        return sum(self.network.convolutions[number].channels for number in self.searched)

    @property
    def norms(self) -> int:
        """Length of Algorithm 1's norm vector: N, or 0 for a strategy that reads no norms."""
        return self.search_channels if strategies.get(self.strategy).needs(Needs.OWN_GRADIENT) else 0

    @property
    def first(self) -> int:
        """The first convolution that a selection may name; the number of all where there is none."""
        chosen = self.searched if self.fixed is None else [n for n, channels in self.fixed.items() if channels]
        return min(chosen, default=len(self.network.convolutions))

    def most(self, values: Mapping[int, int]) -> tuple[int, dict[int, int | Fraction]]:
        """The largest sum of ``values`` (by convolution, a channel) that a selection within the budget has, or
        a little more; and the channels of each convolution that make it."""
        counts: dict[int, int | Fraction] = {}
        if self.fixed is not None:
            counts = {number: len(channels) for number, channels in self.fixed.items()}
        else:
            left = self.budget
            # fractions of such small numbers that differ at all differ as floats too
            for number in sorted(self.searched, key=lambda n: -values.get(n, 0) / self.channel_cost(n)):
                cost, channels = self.channel_cost(number), self.network.convolutions[number].channels
                counts[number] = channels if channels * cost <= left else Fraction(left, cost)
                left -= min(left, channels * cost)
        return floor(sum(count * values.get(number, 0) for number, count in counts.items())), counts

    @functools.cached_property
    def most_chosen(self) -> int:
        """No selection has more channels: MD_MAX_CHOSEN."""
        return self.most({number: 1 for number in self.searched})[0]


def scratch_floats(program: Program, stage: Stage) -> int:
    """Working memory of a stage in floats, forward or backward: what stage.c takes, piece by piece."""
    c = program.network.convolutions
    expand = None if stage.expand is None else c[stage.expand]
    pieces = sums = 0
    if expand is not None:
        pieces = expand.channels * expand.taps * GROUP + expand.taps * expand.out_width
        if stage.expand in program.searched:
            sums = expand.channels * expand.taps * GROUP
    if stage.depthwise is None:
        return pieces + GROUP * expand.out_width + sums
    depthwise, project = c[stage.depthwise], c[stage.project]
    k, width = depthwise.kernel, depthwise.width
    pieces += GROUP * project.outputs + GROUP * depthwise.taps
    forward = (k * GROUP + 1) * (width + k) + GROUP * depthwise.out_width
    backward = (
        k * GROUP * depthwise.out_width + GROUP * (width + 2 * k) + project.outputs + GROUP * depthwise.taps + sums
    )
    return pieces + (max(forward, backward) if program.first <= stage.last else forward)


@dataclass(frozen=True)
class Moment:
    """A moment of the step: its largest arena over all selections, part by part; all in bytes."""

    name: str
    phase: str  # "choose", "forward", "head" or "backward"
    copies: int
    gradients: int
    masks: int
    kept: int
    transient: int

    @property
    def held(self) -> int:
        """What lies at the arena's bottom."""
        return self.copies + self.gradients + self.masks + self.kept

    @property
    def total(self) -> int:
        return self.held + self.transient


def moments(program: Program, counts: Mapping[int, int] | None = None) -> list[Moment]:
    """The arena over one step, forward and back.

    ``counts``: the channels of each convolution of *one* selection; without it, the bound over all of them,
    each moment's by itself. Parts of a bound are those of the selection that attains it, in whole bytes.
    """
    network, step = program.network, []
    if counts is not None:  # one selection: the masks begin at its own first layer
        program = replace(program, fixed={number: tuple(range(count)) for number, count in counts.items()})
    convolutions = network.convolutions

    def moment(name: str, phase: str, done: int, transient: int) -> Moment:
        """When the stages before ``done`` have put away what they keep."""
        inside = {number for stage in network.stages[:done] for number in stage.numbers}
        stored = 1 + program.accumulates
        value = {
            n: stored * convolutions[n].channel_weights + (convolutions[n].plane if n in inside else 0)
            for n in program.searched
        }
        total, chosen = program.most(value)
        copies = floor(sum(count * convolutions[n].channel_weights for n, count in chosen.items()))
        gradients = copies if program.accumulates else 0
        masks = sum(convolutions[n].mask_words for n in inside if n >= program.first)
        kept = total - copies - gradients  # what rounding leaves goes to the kept inputs
        return Moment(name, phase, *(WORD * words for words in (copies, gradients, masks, kept, transient)))

    if program.fixed is None:  # keys, costs and an order of the search space; no copies are there
        step.append(Moment("draw", "choose", 0, 0, 0, 0, WORD * -(-10 * program.search_channels // WORD)))
    for i, stage in enumerate(network.stages):
        passing = network.in_elements(stage) + network.out_elements(stage) + scratch_floats(program, stage)
        step.append(moment(_label(network, stage), "forward", i + 1, passing))
    head = network.out_elements(network.stages[-1]) + 2 * network.features + network.classes
    step.append(moment(network.classifier, "head", len(network.stages), head))
    for i, stage in reversed(list(enumerate(network.stages))):
        if stage.last < program.first:
            break
        passing = network.out_elements(stage) + scratch_floats(program, stage)
        if program.first < stage.first:
            passing += network.in_elements(stage)
        step.append(moment(_label(network, stage), "backward", i + 1, passing))
    return step


def _label(network: Network, stage: Stage) -> str:
    """The block's name where its convolutions share one, else the first convolution's."""
    names = [network.convolutions[number].name.split(".") for number in stage.numbers]
    shared = []
    for parts in zip(*names):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return ".".join(shared) or ".".join(names[-1][:-2] or names[-1])


# --- the plan -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """The bound in bytes. ``held_bytes`` and ``passing_bytes`` are the arena's parts where a board needs them in
    two blocks; together they are more than ``arena_bytes``, for they peak at different moments."""

    program: Program
    moments: tuple[Moment, ...] = field(repr=False)
    arena_bytes: int
    held_bytes: int
    passing_bytes: int
    state_bytes: int
    classifier_bytes: int
    bank_bytes: int
    flash_bytes: int

    @property
    def ram_bytes(self) -> int:
        """All of it in one block."""
        return self.arena_bytes + self.state_bytes + STACK_BYTES

    @property
    def peak(self) -> Moment:
        return max(self.moments, key=lambda moment: moment.total)

    @property
    def ram_by_part(self) -> dict[str, int]:
        """``ram_bytes`` by part (:data:`PARTS`), at the moment of the peak."""
        peak = self.peak
        return {
            "kept": peak.kept,
            "masks": peak.masks,
            "transient": self.arena_bytes - peak.held,
            "copies": peak.copies,
            "gradients": peak.gradients,
            "classifier": self.classifier_bytes,
            "selection": self.state_bytes - self.classifier_bytes,
            "stack": STACK_BYTES,
        }


def _up(value: int, unit: int) -> int:
    return -(-value // unit) * unit


def _state_bytes(program: Program) -> int:
    """sizeof(md_state_t)."""
    network, searched = program.network, max(1, len(program.searched))
    classifier = network.classes * (network.features + 1) * (1 + program.accumulates)
    floats = classifier + max(1, program.norms) + 2
    words = 2 * searched + len(network.convolutions) + 5
    halves = 4 + searched + 1 + max(1, program.most_chosen) + max(1, program.search_channels)
    return _up(8 + 4 * (floats + words) + 2 * halves, 8)


def _bank_bytes(program: Program, erase_bytes: int) -> int:
    """A bank of the store: a header and a record of every channel of the search space."""
    network, channels = program.network, program.search_channels
    front = _up(2 * channels, 4) + 8 + 4 * (network.classes * (network.features + 1) + program.norms)
    units = 1 + 2 + -(-front // UNIT_BYTES)
    for number in program.searched:
        c = network.convolutions[number]
        units += c.channels * -(-4 * c.channel_weights // UNIT_BYTES)
    return _up(units * UNIT_BYTES, erase_bytes)


def plan_of(program: Program, erase_bytes: int = ERASE_BYTES) -> Plan:
    """The bound for one program."""
    network, step = program.network, moments(program)
    arena = _up(max(moment.total for moment in step), 8)
    bank = _bank_bytes(program, erase_bytes)
    if bank // UNIT_BYTES > 0xFFFF:
        raise NoRoom(
            f"a search space of {program.search_channels} channels outgrows the store ({bank:,} bytes); allowed: at "
            f"most {0xFFFF * UNIT_BYTES:,} bytes, by a strategy, budget or network that searches fewer layers"
        )
    tables = LAYER_BYTES * len(network.convolutions) + STAGE_BYTES * len(network.stages)
    tables += 2 * (2 * len(program.searched) + 1)
    tables += 2 * sum(len(channels) for channels in (program.fixed or {}).values())
    return Plan(
        program,
        tuple(step),
        arena_bytes=arena,
        held_bytes=_up(max(moment.held if moment.phase != "choose" else moment.total for moment in step), 8),
        passing_bytes=_up(max(moment.transient for moment in step if moment.phase != "choose"), 8),
        state_bytes=_state_bytes(program),
        classifier_bytes=4 * network.classes * (network.features + 1) * (1 + program.accumulates),
        bank_bytes=bank,
        flash_bytes=TEXT_BYTES + _up(tables, 8) + 4 * network.weight_floats + 2 * bank,
    )


# --- programs from models -----------------------------------------------------------------------------------


def program_of(
    model: nn.Module,
    strategy: str = "LaRa MeDyate",
    budget: int | None = None,
    *,
    input_shape: Sequence[int] = (3, 128, 128),
    ranking: Ranking | None = None,
    mode: str = "accumulate",
    budget_mode: str = "paper",
    scheme: Selection | None = None,
    k: int | None = None,
    described: tuple[Network, tuple[costs.Layer, ...]] | None = None,
) -> Program:
    """A model (it may lie on the meta device), a strategy and a budget in elements.

    The search space is the library's (:func:`medyate.selection.search_layers`). ``scheme`` is SU's selection,
    ``described`` what :func:`describe` and :func:`medyate.costs.layers` say of the model, where that is known.
    Raises :class:`InputError` for what the engine does not run: an oracle, an unknown kind of layer.
    """
    entry = strategies.get(strategy)
    if entry.name not in DEVICE_STRATEGIES:
        raise InputError(
            f"strategy {entry.name!r} is not one that a device runs, which holds no whole gradient, boosts no draw and "
            f"chooses anew each epoch by raw norms; "
            f"allowed: {', '.join(DEVICE_STRATEGIES)}"
        )
    choose(mode, MODES, "mode")
    choose(budget_mode, BUDGET_MODES, "budget mode")
    network, layers = described or (describe(model, input_shape), None)
    numbers = {c.name: number for number, c in enumerate(network.convolutions)}
    layers = layers or costs.layers(model, input_shape, network.classifier)
    fixed = None
    if entry.needs(Needs.EVERYTHING):
        names, budget = tuple(numbers), None
        fixed = {number: tuple(range(c.channels)) for number, c in enumerate(network.convolutions)}
    elif not entry.uses_budget:
        names, fixed, budget = (), {}, None
    elif entry.needs(Needs.SCHEME):
        if scheme is None:
            raise InputError(f"strategy {entry.name!r} needs the scheme's selection")
        names = tuple(scheme.channels)
        fixed = {
            numbers[name]: tuple(channels)
            for name, channels in sorted(scheme.channels.items(), key=lambda one: numbers[one[0]])
        }
    else:
        whole(budget, "budget", 1)
        names = search_layers(entry, layers, ranking, budget, k)
    searched = tuple(sorted(numbers[name] for name in names))
    program = Program(network, entry.name, budget, mode, budget_mode, searched, fixed)
    if fixed is None:
        cheapest = min(program.channel_cost(number) for number in searched)
        if budget < cheapest:
            raise InputError(f"budget {budget!r} is below the cheapest channel; allowed: {cheapest:,} elements or more")
    if program.search_channels >= 0xFFFF:
        raise InputError(f"a search space of {program.search_channels} channels; allowed: at most 65,534")
    return program


@functools.cache
def _skeleton(name: str, classes: int) -> nn.Module:
    whole(classes, "classes", 2, 4096)
    model = networks.skeleton(name)
    model.classifier = nn.Linear(model.classifier.in_features, classes, device="meta")
    return model


@functools.cache
def _described(name: str, classes: int, resolution: int) -> tuple[Network, tuple[costs.Layer, ...]]:
    """A network in the engine's terms and in the library's."""
    model, shape = _skeleton(name, classes), networks.get(name).input_shape(resolution)
    return describe(model, shape), costs.layers(model, shape, "classifier")


def image_network(name: str) -> networks.Network:
    """The registry's entry; refuses a network of texts or of transformer blocks before anything is computed."""
    entry = networks.get(name)
    if not entry.has_batch_norm:
        allowed = [other.name for other in networks.NETWORKS.values() if other.has_batch_norm]
        raise InputError(
            f"network {entry.name!r} is no convolutional network; allowed on a device: {', '.join(allowed)}"
        )
    return entry


def network_program(
    name: str,
    strategy: str = "LaRa MeDyate",
    budget: int | None = None,
    *,
    resolution: int = 128,
    ranking: str | None = None,
    mode: str = "accumulate",
    budget_mode: str = "paper",
    classes: int = 10,
    model: nn.Module | None = None,
) -> Program:
    """A :class:`Program` of one of the paper's networks; ``budget`` None is tier 1, ``ranking`` a recorded one's name.

    SU's channels follow from the pretrained weights: without ``model`` (the plan needs no weights) as many
    channels of each layer are taken from the first on, which needs the same memory.
    """
    entry = image_network(name)
    whole(resolution, "resolution", 16, 1024)
    choose(mode, MODES, "mode")
    chosen = strategies.get(strategy)
    shape = entry.input_shape(resolution)
    network, layers = _described(entry.name, classes, resolution)
    scheme = known = None
    if chosen.uses_budget and budget is None:
        budget = schemes.budgets(entry.name, layers).get(1)
        if budget is None:
            raise InputError(f"budget {budget!r}: network {entry.name!r} has no tiers; allowed: a number of elements")
    if chosen.uses_budget:
        whole(budget, "budget", 1, sum(layer.search_elements for layer in layers) * 2)
    if chosen.needs(Needs.SCHEME):
        scheme = _scheme(entry.name, budget, layers, model)
    if chosen.order is not None:
        known = rankings.load(entry.name, ranking or rankings.automatic(entry.name, ""))
    return program_of(
        model, chosen.name, budget, input_shape=shape, ranking=known, mode=mode, budget_mode=budget_mode, scheme=scheme,
        described=(network, layers),
    )  # fmt: skip


def _scheme(name: str, budget: int, layers, model: nn.Module | None) -> Selection:
    tier = schemes.tier_of(name, budget, layers)
    if tier is None:
        tiers = schemes.budgets(name, layers).values()
        raise InputError(f"budget {budget!r} is no tier of {name!r}; SU allows: {', '.join(map(str, tiers))}")
    if model is not None:
        weights = {layer.name: model.get_submodule(layer.name).weight.detach() for layer in layers}
    else:
        import torch

        weights = {layer.name: torch.ones(_weight_shape(layer)) for layer in layers}
    chosen = schemes.scheme_selection(name, tier, layers, weights)
    return schemes.fitted(chosen, layers, weights, budget)


def _weight_shape(layer: costs.Layer) -> tuple[int, ...]:
    return (layer.out_channels, layer.channels // layer.groups, *layer.kernel)


# --- boards -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Region:
    name: str
    kind: str  # "ram" or "flash"
    origin: int
    length_bytes: int
    source: str


@dataclass(frozen=True)
class Board:
    """A board's memory, as its linker script sees it."""

    name: str
    description: str
    cpu: str
    fpu: str
    emulated: bool
    regions: tuple[Region, ...]

    def of_kind(self, kind: str) -> tuple[Region, ...]:
        return tuple(region for region in self.regions if region.kind == kind)

    @property
    def ram_bytes(self) -> int:
        return sum(region.length_bytes for region in self.of_kind("ram"))


@functools.cache
def boards() -> dict[str, Board]:
    """Every board that is known, by name (``boards.json``)."""
    data = json.loads(resources.files(__package__).joinpath("boards.json").read_text("utf-8"))
    boards_by_name = {}
    for name, entry in data.items():
        regions = tuple(Region(**region | {"origin": int(region["origin"], 16)}) for region in entry.pop("regions"))
        boards_by_name[name] = Board(name, **entry, regions=regions)
    return boards_by_name


def board(name: str) -> Board:
    """The board of that name; :class:`InputError` lists them."""
    return boards()[choose(str(name).lower(), boards(), "board")]


@dataclass(frozen=True)
class Placement:
    """Where a plan's parts go: region names by section. ``split``: the arena lies in two blocks."""

    split: bool
    regions: Mapping[str, str]


def _packed(sizes: Mapping[str, int], regions: Sequence[Region]) -> dict[str, str] | None:
    """Sections into regions, the largest first, each where the least room stays; None where one fits nowhere."""
    room, region_of = {region.name: region.length_bytes for region in regions}, {}
    for section, size in sorted(sizes.items(), key=lambda one: -one[1]):
        fitting = [name for name in room if room[name] >= size]
        if not fitting:
            return None
        region_of[section] = min(fitting, key=lambda name: room[name])
        room[region_of[section]] -= size
    return region_of


def place(plan: Plan, on: Board) -> Placement | None:
    """How the board holds the plan: in one block, with the state beside it, or with the arena in two; else None."""
    flash = {
        "code": TEXT_BYTES,
        "weights": plan.flash_bytes - TEXT_BYTES - 2 * plan.bank_bytes,
        "store": 2 * plan.bank_bytes,
    }
    flash_regions = _packed(flash, on.of_kind("flash"))
    if flash_regions is None:
        return None
    rest = plan.state_bytes + STACK_BYTES
    for split, sizes in (
        (False, {"arena": plan.ram_bytes}),
        (False, {"arena": plan.arena_bytes, "state": rest}),
        (True, {"arena": plan.held_bytes, "passing": plan.passing_bytes, "state": rest}),
    ):
        region_of = _packed(sizes, on.of_kind("ram"))
        if region_of is not None:
            return Placement(split, {"state": region_of["arena"], **region_of, **flash_regions})
    return None


# --- plain data, for the command line and the book ----------------------------------------------------------


def plan(network: str, budget: int | None = None, strategy: str = "LaRa MeDyate", **options) -> dict:
    """What training one of the paper's networks needs on a device, in bytes; plain data.

    ``options``: ``resolution``, ``mode``, ``budget_mode``, ``ranking``, ``classes`` of :func:`network_program`.

    ``network``, ``tier`` (None where the budget is none), ``budget`` (elements; None without one), ``strategy``,
    ``resolution``, ``mode``, ``ram_bytes``, ``ram_by_part`` (by :data:`PARTS`, at the moment of the peak),
    ``flash_bytes`` and ``boards``, the names of those that hold it. ``ram_bytes`` is a bound over every
    selection that the budget allows; the linker proves it (:mod:`medyate.device.exporting`).
    """
    program = network_program(network, strategy, budget, **options)
    return as_data(networks.get(network).name, plan_of(program))


def as_data(name: str, planned: Plan) -> dict:
    """The plan as ``medyate device plan --json`` prints it."""
    program, tier = planned.program, None
    if program.budget is not None:
        tier = schemes.tier_of(name, program.budget, _described(name, program.network.classes, 128)[1])
    return {
        "network": name,
        "tier": tier,
        "budget": program.budget,
        "strategy": program.strategy,
        "resolution": program.network.input_shape[1],
        "mode": program.mode,
        "budget_mode": program.budget_mode,
        "classes": program.network.classes,
        "ram_bytes": planned.ram_bytes,
        "ram_by_part": planned.ram_by_part,
        "flash_bytes": planned.flash_bytes,
        "boards": [one.name for one in boards().values() if place(planned, one) is not None],
    }


def timeline(
    network: str,
    budget: int | None = None,
    strategy: str = "LaRa MeDyate",
    *,
    channels: Mapping[str, int] | None = None,
    **options,
) -> list[dict]:
    """Memory over one step, moment by moment: drawing, stages forward, the head, stages backward; plain data.

    Each has ``moment`` (the block's name), ``phase`` and ``ram_by_part`` in bytes, whose sum is what is in use
    then. Without ``channels`` it is the bound over every selection, each moment by itself; ``channels``, how many
    of each layer are chosen, gives one selection's. ``options`` as for :func:`plan`. Raises :class:`InputError` for a
    layer outside the search space.
    """
    program = network_program(network, strategy, budget, **options)
    counts = None
    if channels is not None:
        inside = {program.network.convolutions[number].name: number for number in program.searched}
        counts = {inside[choose(name, inside, "layer of the search space")]: count for name, count in channels.items()}
    whole_plan = plan_of(program)
    steady = {
        "classifier": whole_plan.classifier_bytes,
        "selection": whole_plan.state_bytes - whole_plan.classifier_bytes,
        "stack": STACK_BYTES,
    }
    rows = []
    for at in moments(program, counts):
        parts = {part: getattr(at, part) for part in PARTS if part not in steady} | steady
        rows.append({"moment": at.name, "phase": at.phase, "ram_by_part": {part: parts[part] for part in PARTS}})
    return rows


def plans(
    network: str,
    *,
    resolution: int = 128,
    names: Sequence[str] = ("SU", "TraDy", "LaRa TraDy", "LaRa MeDyate"),
    modes: Sequence[str] = tuple(MODES),
    **options,
) -> list[dict]:
    """:func:`plan` for every tier, strategy and mode of a network, and for full fine-tuning; ``options`` as there."""
    entry = image_network(network)
    tiers = schemes.budgets(entry.name, _described(entry.name, 10, 128)[1])  # no tier counts the classifier
    options["resolution"] = resolution
    planned = [
        plan(entry.name, budget, strategy, mode=mode, **options)
        for mode in modes
        for budget in tiers.values()
        for strategy in names
        if resolution == 128 or strategy != "SU"  # a scheme is a tier only at the paper's resolution
    ]
    return planned + [plan(entry.name, None, "Baseline", mode=mode, **options) for mode in modes]


def largest(
    network: str,
    strategy: str = "LaRa MeDyate",
    *,
    ram_bytes: int | None = None,
    on: str | None = None,
    resolution: int = 128,
    mode: str = "accumulate",
    budget_mode: str = "device",
    **options,
) -> dict:
    """:func:`plan` of the largest budget that fits ``ram_bytes`` in one block, or the board ``on``.

    Of SU, the largest tier. ``options`` as there. Raises :class:`NoRoom`, an :class:`InputError`, where not even the
    cheapest channel fits.
    """
    entry = image_network(network)
    if (ram_bytes is None) == (on is None):
        raise InputError("say either how much RAM there is or which board; allowed: one of the two")
    held_by = None if on is None else board(on)
    if ram_bytes is not None:
        whole(ram_bytes, "RAM in bytes", 1)
    options |= {"resolution": resolution, "mode": mode, "budget_mode": budget_mode}
    network, layers = _described(entry.name, 10, resolution)

    def fitting(budget: int | None) -> Plan | None:
        try:
            candidate_plan = plan_of(network_program(entry.name, strategy, budget, **options))
        except NoRoom:
            return None
        except InputError as error:
            if "below the cheapest channel" in str(error):
                return None  # of this budget's search space
            raise
        holds = candidate_plan.ram_bytes <= ram_bytes if held_by is None else place(candidate_plan, held_by) is not None
        return candidate_plan if holds else None

    chosen = strategies.get(strategy)
    if not chosen.uses_budget:
        candidates = [fitting(None)]
    elif chosen.needs(Needs.SCHEME):
        candidates = [fitting(budget) for budget in schemes.budgets(entry.name, layers).values()]
    else:
        low = 0
        high = sum(c.channels * (c.plane + 2 * c.channel_weights) for c in network.convolutions)
        best = None
        while low < high:  # what a budget needs grows with it
            middle = (low + high + 1) // 2
            candidate_plan = fitting(middle)
            if candidate_plan is None and middle > _cheapest(layers):
                high = middle - 1
            else:
                low, best = middle, candidate_plan or best
        candidates = [best]
    fitting_plans = [candidate for candidate in candidates if candidate is not None]
    if not fitting_plans:
        limit = f"{ram_bytes:,} bytes" if held_by is None else f"board {held_by.name!r}"
        raise NoRoom(
            f"{limit} of RAM hold no budget of {chosen.name!r} on {entry.name!r} at {resolution} pixels, {mode}; "
            "give more RAM or a smaller resolution"
        )
    return as_data(entry.name, max(fitting_plans, key=lambda one: one.program.budget or 0))


def _cheapest(layers) -> int:
    return min(layer.channel_elements for layer in layers)
