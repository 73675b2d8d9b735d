"""The parameters of a notebook: checked before anything is computed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from .. import networks, strategies
from ..errors import InputError, choose, whole
from ..networks import schemes
from ..runs import records
from . import values as paper

MODES = {
    "recorded": "draw what was recorded; compute nothing",
    "missing": "run what was not recorded yet, then draw",
    "fresh": "run everything anew, then draw",
}
ALL = "all"
ABSENT: Any = object()  # the default of a parameter that a notebook does not have


@dataclass(frozen=True)
class Parameters:
    """A notebook's parameters. Those that it does not have are None; the others are checked, a None that is given too.

    ``network``, ``task``, ``strategy``: registered names (or the paper's); ``networks``, ``tasks``:
    a list of them, one text with commas, or ``"all"``. ``budget``: elements, or ``"all"`` for the network's tiers.
    ``epochs``: warm-up not included, or ``"all"``. ``seeds``: one seed, several (``"0,42"`` or a list), or ``"all"``.
    ``layer``: an index or a name. ``protocol``: how the runs were made, by a name of
    :data:`medyate.sweeps.protocols.PROTOCOLS`. ``ranking``: a recorded ranking's name, or ``"declared"``. ``mode``:
    see :data:`MODES`. Raises :class:`InputError` in one line that quotes the value and lists what is allowed.
    """

    notebook: str
    network: str | None = ABSENT
    networks: str | Sequence[str] | None = ABSENT
    task: str | None = ABSENT
    tasks: str | Sequence[str] | None = ABSENT
    strategy: str | None = ABSENT
    budget: int | str | None = ABSENT
    epochs: int | str | None = ABSENT
    seeds: int | str | Sequence[int] | None = ABSENT
    layer: int | str | None = ABSENT
    protocol: str | None = ABSENT
    ranking: str | None = ABSENT
    mode: str | None = ABSENT
    absent: frozenset[str] = field(default=frozenset(), repr=False)

    def __post_init__(self):
        checks = {
            "network": _network,
            "networks": _networks,
            "task": _task,
            "tasks": _tasks,
            "strategy": _strategy,
            "budget": _budget,
            "epochs": _epochs,
            "seeds": _seeds,
            "layer": _layer,
            "protocol": _protocol,
            "ranking": _ranking,
            "mode": _mode,
        }
        values = {name: getattr(self, name) for name in checks}
        # papermill's -p NAME None gives None, which is not the same as no such parameter
        absent = {name for name, value in values.items() if value is ABSENT or value is None and name in self.absent}
        object.__setattr__(self, "absent", frozenset(absent))
        for name, value in values.items():
            object.__setattr__(self, name, None if name in absent else checks[name](value))
        if isinstance(self.budget, int) and self.network is not None:
            _enough(self.budget, self.network)
        if self.runs:
            self._check_what_runs()

    def _check_what_runs(self) -> None:
        """The data must be there before anything runs, and "all" must not mean every data set."""
        from .. import tasks

        if self.tasks == ALL:
            raise InputError(
                f"tasks {ALL!r} cannot be run in mode {self.mode!r}; allowed: names with commas between, of "
                f"{', '.join(tasks.TASKS)}"
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

    def _values(self) -> dict[str, Any]:
        return {one.name: getattr(self, one.name) for one in fields(self) if one.name != "absent"}

    def described(self) -> str:
        """The parameters in words, for a sentence."""
        values = {name: value for name, value in self._values().items() if name not in ("notebook", "mode")}
        shown = {
            name: ", ".join(map(str, value)) if isinstance(value, tuple) else value
            for name, value in values.items()
            if value is not None and value != ALL
        }
        return ", ".join(f"{name} {value}" for name, value in shown.items()) or "any parameters"

    @property
    def bare_command(self) -> str:
        """The command that draws this notebook; only the paper's figures and tables are commands of their own."""
        return f"medyate {'' if self.notebook.startswith(('fig', 'table')) else 'notebook '}{self.notebook}"

    def command(self, mode: str = "missing", **changes) -> str:
        """The command that runs this notebook with these parameters, but for ``changes``."""
        values = self._values()
        values |= {"mode": mode if self.mode is not None else None} | changes
        del values["notebook"]
        words = self.bare_command.split()
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
    return _several(value, "networks", _network, lambda: list(networks.NETWORKS))


def _several(value, what: str, check, allowed: Callable[[], Sequence[str]]) -> str | tuple[str, ...]:
    if value == ALL:
        return ALL
    names = [part.strip() for part in value.split(",")] if isinstance(value, str) else value
    if not isinstance(names, (list, tuple)) or not names:
        raise InputError(f"{what} {value!r} is not a list of names; allowed: {ALL!r}, {', '.join(allowed())}")
    return tuple(dict.fromkeys(check(name) for name in names))


def known_tasks() -> list[str]:
    """Tasks that a page can speak of without any data: registered ones, the paper's and cuts of
    them, and all that something was recorded on."""
    from .. import tasks

    return list(dict.fromkeys([*tasks.TASKS, *paper.TASKS, *_recorded_tasks()]))


def _recorded_tasks() -> list[str]:
    return sorted({str(record["config"]["task"]) for record in records.every() if record["status"] == "finished"})


def _task(value) -> str:
    if not isinstance(value, str):
        _text(value, "task", ", ".join(known_tasks()))
    known = {name.lower(): name for name in (*paper.TASKS, *_recorded_tasks())}
    if value.lower() in known:
        return known[value.lower()]
    from .. import tasks  # with torch

    return tasks.get(value).name  # what is neither the paper's nor recorded is registered, or found on disk


def _tasks(value) -> str | tuple[str, ...]:
    return _several(value, "tasks", _task, known_tasks)


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
        raise InputError(
            f"seeds {value!r} are not seeds; allowed: an integer of at least 0, several as in '0,42', or {ALL!r}"
        )
    return tuple(dict.fromkeys(seeds))


def _layer(value) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise InputError(f"layer {value!r} is not a layer; allowed: an index in order of execution or a layer's name")
    return value


def _protocol(value) -> str:
    from ..sweeps import protocols

    return protocols.get(_text(value, "protocol", ", ".join(protocols.PROTOCOLS))).name


def _ranking(value) -> str:
    return _text(value, "ranking", "declared, or a recorded ranking by name")


def _mode(value) -> str:
    return choose(_text(value, "mode", ", ".join(MODES)), MODES, "mode")


def backbone(network: str) -> tuple:
    """The :class:`medyate.costs.Layer` of a network at its resolution, without any weight file."""
    return networks.backbone(network)


def tier_budgets(network: str) -> tuple[int, ...]:
    """The budgets of the five SU tiers of a network; of a transformer those of the paper's tables."""
    return tuple(schemes.budgets(network, backbone(network)).values())
