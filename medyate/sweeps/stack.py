"""Several runs in one process as one computation, for a GPU that a single small network starves.

Runs of the same network, task, resolution, batch size and mode of batch norm take their steps
together (:mod:`medyate.sweeps.wide`); strategies, budgets, seeds, learning rates and lengths are each run's
own. A run in a stack is a :class:`medyate.runs.finetune.Tuning` like one alone: it draws its own data and
selections, looks at its own whole gradient, and writes its own checkpoints and record. So its
numbers are those of the run alone up to rounding, and either may go on from the other's checkpoint.

Gradients are dense and masked: a stack saves no memory. Its records say so (``environment``:
``stacked_runs``, ``execution``). Seconds of training and testing are the stack's divided by its runs.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from .. import importance, networks
from ..errors import InputError
from ..runs import finetune
from ..runs import records as runs
from ..runs.config import RankConfig, RunConfig
from .wide import Wide, cuda_graph

SHARED = ("network", "weights", "task", "data", "resolution", "batch_size", "batch_norm")


def key(config: RunConfig | RankConfig) -> tuple | None:
    """What configs of one stack have in common; None for one that cannot be stacked."""
    return None if obstacle(config) else tuple(getattr(config, name) for name in SHARED)


def obstacle(config: RunConfig | RankConfig) -> str:
    """Why a config cannot be stacked with any other, in a line; "" where it can."""
    if config.kind != "run":
        return f"kind {config.kind!r} cannot be stacked; allowed: run"
    if not networks.get(config.network).has_batch_norm:
        allowed = ", ".join(name for name, network in networks.NETWORKS.items() if network.has_batch_norm)
        return f"network {config.network!r} cannot be stacked; allowed: {allowed}"
    for name in ("momentum", "weight_decay"):
        if getattr(config, name):
            return f"{name} {getattr(config, name)!r} cannot be stacked, a stack takes plain steps; allowed: 0"
    return ""


def check(configs: Sequence[RunConfig | RankConfig]) -> None:
    """:class:`InputError` where ``configs`` cannot be one stack."""
    if not configs:
        raise InputError("a stack of 0 runs; allowed: at least 1")
    for config in configs:
        if obstacle(config):
            raise InputError(f"{config.id}: {obstacle(config)}")
        for name in SHARED:
            mine, first = getattr(config, name), getattr(configs[0], name)
            if mine != first:
                raise InputError(
                    f"{name} {mine!r} beside {first!r} cannot be stacked; allowed: runs of the same {', '.join(SHARED)}"
                )
    if len({config.id for config in configs}) < len(configs):
        raise InputError("a run is twice in a stack; allowed: different configs")


@dataclass(frozen=True)
class Left:
    """A run that left its stack without a record, and why. Its checkpoint is that of its last good epoch."""

    config: RunConfig
    reason: str


def run(
    configs: Sequence[RunConfig],
    *,
    device: str = "auto",
    graphs: bool = False,
    progress: Callable[[RunConfig, dict[str, Any]], None] = lambda config, row: None,
    ended: Callable[[RunConfig, dict[str, Any], bool], None] = lambda config, record, was_there: None,
) -> list[Left]:
    """Fine-tune as ``configs`` say, in one stack; a run's record is written when its own epochs are done.

    ``progress`` gets each run's rows, ``ended`` its record and whether it was there already.
    ``graphs``: CUDA graphs of the steps, on a CUDA device.

    Returns the runs that left early: one whose loss is no longer finite, or that raised an error of
    its own. What went wrong may be the stack's doing (its memory; a library's grouped convolution
    that carries a not-a-number from one group to the next), so no verdict is passed here: the
    caller lets such a run go on alone (:func:`medyate.runs.finetune.run`). The others are not touched.

    Raises :class:`InputError` where the configs cannot be one stack.
    """
    check(configs)
    device = finetune.device_of(device)
    stack = _Stack(device, graphs, progress, ended)
    todo = []
    for config in configs:
        recorded = runs.load(config.id)
        if recorded is not None and recorded["status"] == "finished":
            ended(config, recorded, True)
        else:
            todo.append(config)
    if todo:
        stack.enter(todo)
    while stack.members:
        stack.epoch()
    return stack.left


class _Stack:
    """The runs that are still at work, and how an epoch of all of them goes."""

    def __init__(self, device: str, graphs: bool, progress: Callable, ended: Callable):
        self.device, self.progress, self.ended = device, progress, ended
        self.capture = cuda_graph if graphs and device.startswith("cuda") else None
        self.members: list[finetune.Tuning] = []
        self.left: list[Left] = []
        self.wide: Wide | None = None

    def enter(self, configs: Iterable[RunConfig]) -> None:
        data = None  # the task is loaded, and copied to the device, once
        for config in configs:
            try:
                if data is None:
                    data = finetune.load_data(config)
                # one execution for all, which Baseline needs as well
                self.members.append(finetune.Tuning(config, self.device, data=data, execution="dense"))
            except Exception as error:
                self._leave(config, error)
        self._each(self.members, self._finish)  # interrupted between the last epoch and the record

    def _leave(self, config: RunConfig, error: Exception) -> None:
        self.left.append(Left(config, f"{type(error).__name__}: {error}".splitlines()[0]))

    def _each(self, members: Sequence[finetune.Tuning], action: Callable[[finetune.Tuning], bool | None]) -> None:
        """Do ``action`` for each; those for which it raises an error leave, those for which it is True are done."""
        staying = []
        for member in members:
            try:
                if not action(member):
                    staying.append(member)
            except Exception as error:
                self._leave(member.config, error)
        self.members = staying

    def _finish(self, member: finetune.Tuning) -> bool:
        if member.done:
            self.ended(member.config, member.write(), False)
        return member.done

    def epoch(self) -> None:
        """One epoch of all members, from the selection to the checkpoint."""
        try:
            probed = self._probe()
            self._each(self.members, lambda one: one.choose(probed.get(id(one))))
            rows = dict(zip(map(id, self.members), self._train_and_test() if self.members else (), strict=True))
        except Exception as error:  # of what all share, as memory that is too small
            members, self.members, self.wide = self.members, [], None
            for member in members:
                self._leave(member.config, error)
            return
        self._each(self.members, lambda one: self._end_epoch(one, rows[id(one)]))

    def _widen(self) -> Wide:
        """The wide network of those that are here now."""
        models = [one.model for one in self.members]
        if self.wide is None or list(map(id, self.wide.models)) != list(map(id, models)):
            self.wide = None  # before the next one, for its memory
            self.wide = Wide(models, batch_norm=self.members[0].config.batch_norm, capture=self.capture)
        return self.wide

    def _batches(self, generators: list[torch.Generator]):
        first = self.members[0]
        return first.data.batches_of_runs(first.config.batch_size, generators, device=self.device)

    def _probe(self) -> dict[int, tuple[dict[str, torch.Tensor], float]]:
        """The oracles' look at their whole gradients, by the member's id, and each one's share of the seconds.

        All members take part, each other one with an oracle's images, for nothing but that the
        network is there. Oracles of other numbers of probe batches look one after another.
        """
        norms_of = {}
        oracles = [one for one in self.members if one.subnet.selector.needs_whole_gradient]
        for count in sorted({one.config.probe_batches for one in oracles}):
            begun, now = time.perf_counter(), [one for one in oracles if one.config.probe_batches == count]
            layers = now[0].layers
            batches = islice(self._batches([one.probe_generator for one in now]), count)
            column = {id(one): index for index, one in enumerate(now)}
            columns = torch.tensor([column.get(id(one), 0) for one in self.members], device=self.device)
            gradients = self._widen().mean_gradients(
                [f"{layer.name}.weight" for layer in layers],
                (
                    (images.unflatten(1, (len(now), -1))[:, columns].flatten(1, 2), labels[:, columns])
                    for images, labels in batches
                ),
            )
            norms = {}
            for index, one in enumerate(self.members):
                if id(one) in column:
                    parts = [
                        importance.channel_norms(gradients[f"{layer.name}.weight"][index], layer.groups)
                        for layer in layers
                    ]
                    split = torch.cat(parts).cpu().split([layer.channels for layer in layers])
                    norms[id(one)] = dict(zip((layer.name for layer in layers), split, strict=True))
            seconds = (time.perf_counter() - begun) / len(now)
            norms_of |= {member: (one, seconds) for member, one in norms.items()}
        return norms_of

    def _train_and_test(self) -> list[dict[str, Any]]:
        """What one epoch has given each member, in plain numbers."""
        begun, members, wide = time.perf_counter(), self.members, self._widen()
        count = len(members)
        wide.train_only([one.subnet.attached.masks() for one in members])
        steps = members[0].steps_per_epoch
        rates = [
            [finetune.learning_rate(len(one.rows) * steps + step, steps, one.config) for one in members]
            for step in range(steps)
        ]
        on_device = torch.tensor(rates, dtype=wide.loss_sum.dtype).to(self.device)
        gathering = [one for one in members if one.subnet.gathers]
        wide.begin_epoch()
        for step, (images, labels) in enumerate(self._batches([one.data_generator for one in members])):
            wide.step(images, labels, on_device[step])
            if gathering:
                wide.lend_gradients()
                for one in gathering:
                    one.subnet.gather()
        wide.end_epoch()
        train_losses, train_right = (wide.loss_sum / wide.count).tolist(), wide.right.tolist()
        trained = time.perf_counter()
        batches = (wide.beside(*batch) for batch in members[0].test_batches())
        test_loss, test_right, tested = finetune.summed(wide.network, batches)
        test_losses, test_right = (test_loss / tested).tolist(), test_right.tolist()
        spent = {
            "train_seconds": (trained - begun) / count,
            "test_seconds": (time.perf_counter() - trained) / count,
            "stacked_runs": count,
            **({"cuda_graphs": True} if wide.captured else {}),
        }
        return [
            {
                "rate": rates[-1][index],
                "train": (train_losses[index], 100 * train_right[index] / wide.count),
                "test": (test_losses[index], 100 * test_right[index] / tested),
                "spent": spent,
            }
            for index in range(count)
        ]

    def _end_epoch(self, member: finetune.Tuning, got: dict[str, Any]) -> bool:
        row = member.train_row(got["rate"], *got["train"])
        if not math.isfinite(got["test"][0]):
            raise finetune.Diverged(f"the test loss is {got['test'][0]} in epoch {row['epoch']}")
        for group in member.optimizer.param_groups:
            group["lr"] = got["rate"]
        row = member.end_epoch({**row, **finetune.test_row(*got["test"]), **got["spent"]})
        self.progress(member.config, row)
        return self._finish(member)
