"""The parameters of a notebook: checked before anything is computed."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, fields

from .. import networks, paper, schemes, strategies
from ..errors import InputError, choose, whole

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
        from .. import tasks

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
        others = networks.get(network).budgets or (27_946,)
        return tuple(schemes.PRINTED_BUDGETS.get(network, dict(enumerate(others))).values())

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
    from .. import runs, tasks

    recorded = {str(name) for kind in ("run", "rank") for name in runs.table(kind).get("task", [])}
    return list(dict.fromkeys([*tasks.TASKS, *paper.TASKS, *sorted(recorded)]))


def _task(value) -> str:
    from .. import tasks

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
    from .. import config

    found = networks.get(network)
    return config._backbone(found.name, "random", found.resolution, "eq4")


def tier_budgets(network: str) -> tuple[int, ...]:
    """The budgets of the five SU tiers of a network; of a transformer those of the paper's tables."""
    return tuple(schemes.budgets(network, backbone(network)).values())
