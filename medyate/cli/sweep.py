"""``medyate sweep``: thin commands over :mod:`medyate.sweeps.grids`, :mod:`medyate.sweeps.sweep`,
:mod:`medyate.sweeps.cluster`."""

from __future__ import annotations

import sys
import time as clock

import click

from ..errors import InputError
from .terminal import json_option, print_json, table

_name = click.argument("name")
_scale = click.option("--scale", default="pack", show_default=True, help="paper, pack or quick.")
_only = click.option(
    "--only",
    multiple=True,
    metavar="KEY=VALUE[,VALUE..]",
    help="Only runs whose config has this value, as network=mbv2 or seed=0,42; may be repeated.",
)
_device = click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
_workers = click.option(
    "--workers", default=1, show_default=True, help="Runs at a time; they share the processors' threads, or the GPU."
)
_stack = click.option(
    "--stack",
    default=1,
    show_default=True,
    metavar="N",
    help="Up to N alike runs (network, task, resolution, batch) as one computation in each process, for a GPU; saves "
    "no memory.",
)
_graphs = click.option(
    "--cuda-graphs",
    "graphs",
    is_flag=True,
    help="With --stack on a GPU: capture steps as CUDA graphs (3 times as fast on an H200).",
)
_allocator = click.option(
    "--allocator",
    default="system",
    show_default=True,
    help="Whose memory the runs' processes take: system, tcmalloc (faster, keeps freed memory) or auto.",
)


def _here(command):
    """How runs are run on this machine: the options that ``run`` and ``retry`` take and give on to :func:`_run`."""
    for option in (_allocator, _device, _graphs, _stack, _workers):
        command = option(command)
    return command


@click.group("sweep")
def sweep_group():
    """The figures' and tables' runs: start, watch, resume, send to a cluster."""


def _chosen(name: str, scale: str, only: tuple[str, ...]):
    from ..sweeps import grids

    grid = grids.get(name, scale)
    return grid, grids.only(grid.configs(), only)


def _hours(hours: float | None) -> str:
    return "unknown" if hours is None else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


@sweep_group.command("list")
@json_option
def list_(as_json):
    """All sweeps: how many runs, how many are finished."""
    from ..sweeps import grids, progress

    rows = []
    for (name, scale), one in grids.SWEEPS.items():
        try:
            state = progress.state(one.configs())
        except InputError as error:  # text networks without their extra hide no other sweep
            click.echo(f"{name} at scale {scale}: {error}", err=True)
            continue
        rows.append(
            {
                "name": name,
                "scale": scale,
                "description": one.description,
                "runs": state.runs,
                "finished": len(state.finished),
                "pending": len(state.pending),
                "failed": len(state.failed),
            }
        )
    if as_json:
        return print_json({"sweeps": rows})
    table(
        "",
        ["sweep", "scale", "runs", "finished", "pending", "failed", "what"],
        [[r["name"], r["scale"], r["runs"], r["finished"], r["pending"], r["failed"], r["description"]] for r in rows],
        right=(2, 3, 4, 5),
    )
    for scale, text in grids.SCALES.items():
        click.echo(f"{scale}: {text}")


def _show(name: str, scale: str, configs, as_json: bool) -> None:
    from ..sweeps import progress

    data = progress.summary(name, scale, progress.state(configs))
    if as_json:
        return print_json(data)
    click.echo(_line(data))
    for run_id, told in data["running"].items():
        click.echo(
            f"  running {run_id}: epoch {told.get('epoch', '?')} of {told.get('epochs', '?')} on "
            f"{told.get('host', '?')}"
        )
    for file in data["damaged"]:
        click.echo(f"  damaged {file}: put aside and run anew by `medyate sweep run`", err=True)
    for failure in data["failures"]:
        click.echo(f"  failed {failure['id']}: {failure['kind']}: {failure['message'].splitlines()[0]}")
    if data["pending"]:
        covered = (
            ""
            if data["estimated_runs"] == data["pending"]
            else f" for {data['estimated_runs']:,} of the pending runs, the others' speed or size is unknown"
        )
        measured = f"; measured on {', '.join(data['measured_on'])}" if data["measured_on"] else ""
        click.echo(f"  left, one after another: {_hours(data['estimated_hours'])}{covered}{measured}")


def _line(data: dict) -> str:
    return (
        f"{data['sweep']} at scale {data['scale']}: {data['runs']:,} runs, {data['finished']:,} finished, "
        f"{data['pending']:,} pending, {data['failed']:,} failed, {len(data['running']):,} running"
    )


@sweep_group.command()
@_name
@_scale
@_only
@json_option
def show(name, scale, only, as_json):
    """What of NAME is finished, pending and failed, and how long the rest takes."""
    _show(name, scale, _chosen(name, scale, only)[1], as_json)


@sweep_group.command()
@_name
@_scale
@_only
@click.option("--watch", is_flag=True, help="Show it again and again until nothing is pending.")
@click.option("--every", default=5.0, show_default=True, help="With --watch: seconds.")
@json_option
def status(name, scale, only, watch, every, as_json):
    """As show, wherever the runs are at work: here, in another terminal, on a cluster."""
    from ..sweeps import progress

    configs = _chosen(name, scale, only)[1]
    while True:
        if watch and sys.stdout.isatty() and not as_json:
            click.clear()
        _show(name, scale, configs, as_json)
        if not watch or not progress.state(configs).pending:
            return
        sys.stdout.flush()
        clock.sleep(max(every, 0.1))


@sweep_group.command()
@_name
@_scale
@_only
@_here
@json_option
def run(name, scale, only, as_json, **how):
    """Run what is pending of NAME, here. Ctrl-C and kill lose at most an epoch of each run."""
    from ..sweeps import progress

    grid, configs = _chosen(name, scale, only)
    state = progress.state(configs)
    if state.failed:
        click.echo(
            f"{len(state.failed)} failed runs are left out; `medyate sweep retry {name} --scale {scale}` runs them",
            err=True,
        )
    _run(grid, configs, state.pending, as_json, **how)


@sweep_group.command()
@_name
@_scale
@_only
@_here
@json_option
def retry(name, scale, only, as_json, **how):
    """Run the failed runs of NAME again, here."""
    from ..sweeps import progress

    grid, configs = _chosen(name, scale, only)
    _run(grid, configs, progress.state(configs).failed, as_json, **how)


def _first(grid, todo) -> list:
    """The rankings that ``todo`` needs and that are not here, and then ``todo``."""
    before = [config for config in grid.needed(todo) if config.id not in {one.id for one in todo}]
    if before:
        click.echo(f"first {len(before)} rankings that these runs need", err=True)
    return [*before, *todo]


def _run(
    grid, configs, todo, as_json: bool, *, workers: int, stack: int, graphs: bool, device: str, allocator: str
) -> None:
    from ..runs import finetune
    from ..sweeps import allocators, sweep

    _check_stack(todo, stack, graphs, finetune.device_of(device))
    allocators.variables(allocator)  # before a ranking or a display is begun
    outcomes = {}
    if todo:
        todo = _first(grid, todo)
        with _Display(todo, workers * stack) as display:
            outcomes = sweep.run(
                todo,
                workers=workers,
                stack=stack,
                device=device,
                graphs=graphs,
                allocator=allocator,
                on_event=display.update,
            )
    told = {"failed", "killed", "full", "blocked", "busy"} & set(outcomes)
    for outcome in sorted(told):
        for config, message in outcomes[outcome]:
            click.echo(f"{outcome} {config.id}: {message}", err=True)
    _show(grid.name, grid.scale, configs, as_json)
    if told & {"failed", "killed", "full", "blocked"}:
        sys.exit(1)


def _check_stack(todo, stack: int, graphs: bool = False, device: str = "cuda") -> None:
    """Refuses a stack that none of the runs could share; tells of runs that have to run alone."""
    from ..errors import InputError, whole
    from ..sweeps import stack as stacks

    if graphs and (stack == 1 or not device.startswith("cuda")):
        raise InputError(
            f"--cuda-graphs with --stack {stack} on device {device!r}; allowed: a stack of at least 2 on cuda"
        )
    if whole(stack, "stack", 1) == 1:
        return
    reasons = {config.id: reason for config in todo if (reason := stacks.obstacle(config))}
    if reasons and len(reasons) == len(todo):
        raise InputError(f"--stack {stack}: no run of these can be stacked: {next(iter(reasons.values()))}")
    if reasons:
        click.echo(f"{len(reasons)} runs go alone: {next(iter(reasons.values()))}", err=True)


def _label(config) -> str:
    """What tells a run from its neighbours, short enough for a line of a terminal."""
    values = config.as_dict()
    parts = [values.get("strategy", "rank"), config.network.partition("-")[0], config.task]
    parts += [f"{values['budget']:,}"] if values.get("budget") else []
    parts += [f"K={values['layers']}"] if values.get("layers") else []
    return " ".join([*parts, f"s{config.seed}"])


class _Display:
    """Runs done, the epochs of those under way, time left; plain lines where there is no terminal."""

    def __init__(self, configs, workers: int):
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self.console = Console(stderr=True)
        self.bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TextColumn("{task.fields[last]}"),
            TimeRemainingColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        self.epochs = sum(config.total_epochs for config in configs)
        self.count, self.done = len(configs), 0
        # time left follows from epochs, of which there are many
        self.all = self.bar.add_task(f"all, {workers} at a time", total=self.epochs, last=f"0/{self.count} runs")
        self.tasks, self.seen = {}, {}

    def __enter__(self):
        self.bar.start()
        return self

    def __exit__(self, *_exception):
        self.bar.stop()

    def update(self, event) -> None:
        config, data = event.config, event.data
        if event.event == "begin":
            self.tasks[config.id] = self.bar.add_task(_label(config), total=config.total_epochs, last="")
        elif event.event == "epoch":
            self.bar.update(
                self.tasks[config.id], completed=data["epoch"], last=f"top-1 {data['test_top1_percent']:.1f} %"
            )
            # a run that goes on from a checkpoint begins with a later epoch
            self.bar.advance(self.all, data["epoch"] - self.seen.get(config.id, 0))
            self.seen[config.id] = data["epoch"]
        elif event.event == "warning":
            click.echo(f"medyate: warning: {data['message']}", err=True)
        elif event.event == "end":
            self.done += 1
            if config.id in self.tasks:
                self.bar.remove_task(self.tasks.pop(config.id))
            self.bar.advance(self.all, config.total_epochs - self.seen.pop(config.id, 0))
            self.bar.update(self.all, last=f"{self.done}/{self.count} runs")
            if not self.console.is_terminal:
                click.echo(f"{self.done}/{self.count} {data['outcome']} {config.id}: {data['message']}", err=True)


@sweep_group.command()
@_name
@_scale
@_only
@click.option("--slurm", is_flag=True, help="Submit to Slurm (the only cluster engine there is).")
@click.option("--partition", help="Slurm's partition. [default: the cluster's]")
@click.option("--tasks", default=40, show_default=True, help="Array tasks; the runs are divided between them.")
@click.option(
    "--time", default="04:00:00", show_default=True, help="Time limit of a task; it is queued again with what is left."
)
@click.option("--cpus", default=2, show_default=True, help="Processors of a task.")
@click.option("--gpus", default=0, show_default=True, help="GPUs of a task.")
@_workers
@_stack
@json_option
def submit(name, scale, only, slurm, partition, tasks, time, cpus, gpus, workers, stack, as_json):
    """Submit what is pending of NAME as one Slurm array; rankings that it needs go first."""
    from ..errors import InputError
    from ..sweeps import cluster, progress

    if not slurm:
        raise InputError("submit needs to know where to; allowed: --slurm")
    grid, configs = _chosen(name, scale, only)
    todo = progress.state(configs).pending
    _check_stack(todo, stack)
    arrays = []
    if todo:
        arrays = cluster.submit(
            name,
            _first(grid, todo),
            tasks=tasks,
            time=time,
            partition=partition,
            workers=workers,
            stack=stack,
            cpus=cpus,
            gpus=gpus,
        )
    if as_json:
        return print_json(arrays)
    if not arrays:
        click.echo("nothing is pending")
    for array in arrays:
        click.echo(f"array {array['job']}: {array['tasks']} tasks, {array['runs']} runs, output {array['output']}")
    click.echo(f"watch them with `medyate sweep status {name} --scale {scale} --watch`")
