"""Commands that train, and the one that lists what was recorded."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import click

from ..errors import InputError
from ..runs.config import RankConfig, RunConfig
from .options import TRAINING, given, options
from .terminal import json_option, print_json, table


@contextmanager
def _progress(total: int, what: str):
    """A rich progress bar over epochs; gives the callback. Nothing of it stays where no epoch was run."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
        console=Console(stderr=True),
    )
    task = bar.add_task(what, total=total, last="")

    def update(row):
        bar.update(
            task, completed=row["epoch"], last=f"loss {row['train_loss']:.3f}, test {row['test_top1_percent']:.1f} %"
        )

    bar.start()
    try:
        yield update
    finally:
        if bar.tasks[task].completed:
            bar.stop()
        else:  # an error, or a record that was there
            bar.live.transient = True
            bar.live.stop()


@click.command()
@click.argument("network")
@click.option("--task", required=True, help="A task's name, folder:PATH, or a pack of MEDYATE_DATA.")
@options(*TRAINING, "norm_gradient", of=RankConfig)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--force", is_flag=True, help="Run anew even if the record is there.")
@json_option
def rank(network, device, force, as_json, **values):
    """Rank NETWORK's layers by a preliminary fine-tuning of all of it (LaRa, paper eq. 9; RGN, paper eq. 8).

    Ctrl-C ends it after the epochs that are finished and keeps what they gave.
    """
    from ..runs import finetune

    config = RankConfig.of({"network": network, **given(values)}).check()
    try:
        with _progress(config.total_epochs, f"rank {config.network} on {config.task}") as update:
            record, was_recorded = finetune.rank(config, device=device, force=force, progress=update)
    except finetune.Diverged as error:
        raise click.ClickException(f"training diverged: {error}") from error
    if as_json:
        return print_json(record)
    if was_recorded:
        click.echo("This ranking was recorded already; --force records it anew.")
    if record["status"] == "interrupted":
        click.echo(f"Interrupted; kept what {len(record['epochs'])} of {config.total_epochs} epochs gave.")
    click.echo("by LaRa: " + ", ".join(record["lara_order"][:8]) + ", ..")
    click.echo("by RGN:  " + ", ".join(record["rgn_order"][:8]) + ", ..")
    click.echo(f"ranking {record['ranking']!r} of {config.network}; record {_where(record)}")


def _where(record: dict) -> str:
    from ..runs import records as runs

    return str(runs.path(record["id"]))


@click.command()
@click.option("--network", required=True, help="See `medyate networks`.")
@click.option("--task", required=True, help="A task's name, folder:PATH, or a pack of MEDYATE_DATA.")
@click.option("--strategy", default="LaRa MeDyate", show_default=True, help="See `medyate strategies`.")
@options(
    "budget",
    *TRAINING[:-1],
    "layers",
    "order",
    "metric",
    "boosted",
    "boost",
    "ranking",
    "norm_gradient",
    "probe_batches",
    "fill",
    "count",
    "depthwise",
    "execution",
    "recompute",
    "momentum",
    "weight_decay",
    "norm_affine",
)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--force", is_flag=True, help="Run anew even if the record is there.")
@click.option(
    "--save-weights",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the trained weights here (a torch state_dict).",
)
@json_option
def run(device, force, save_weights, as_json, **values):
    """One fine-tuning run; writes one record. The same options again reuse the record."""
    from ..runs import finetune

    config = RunConfig.of(given(values)).check()
    try:
        with _progress(config.total_epochs, f"{config.strategy} on {config.task}") as update:
            record, was_recorded = finetune.run(
                config, device=device, force=force, progress=update, save_weights=save_weights
            )
    except finetune.Diverged as error:
        raise click.ClickException(f"training diverged: {error}") from error
    if as_json:
        return print_json(record)
    if was_recorded:
        click.echo("This very run was recorded already; --force runs it anew.")
    budget = f", budget {config.budget:,} elements" if config.budget else ""
    click.echo(
        f"{config.strategy} on {config.task} with {config.network}{budget}: "
        f"test top-1 {record['test_top1_percent']:.2f} % after {len(record['epochs'])} epochs, "
        f"{record['seconds']:.0f} s"
    )
    click.echo(f"record {_where(record)}")


def _unused(kind: str, as_csv: bool, as_json: bool) -> None:
    from .. import notebook

    if kind != "run" or as_csv:
        raise InputError("--unused is a list of runs; allowed with it: --kind run, --json")
    unused = notebook.unused()
    if as_json:
        return print_json({"unused": unused.to_dict("records")})
    for row in unused.itertuples():
        click.echo(f"{row.id}: {row.why}")
    click.echo(f"{len(unused)} of {len(notebook.table())} runs can be shown by no page")


@click.command()
@click.option("--kind", default="run", show_default=True, help="run or rank.")
@click.option(
    "--csv", "as_csv", is_flag=True, help="Print CSV: all that a record holds but for its lists, a row a record."
)
@click.option("--epochs", is_flag=True, help="With --csv: a row an epoch.")
@click.option("--unused", is_flag=True, help="Only the runs that no page can show, and why.")
@json_option
def results(kind, as_csv, epochs, unused, as_json):
    """The records that are there, as a table."""
    from ..errors import choose
    from ..runs import records as runs
    from ..runs import tables as flatten
    from ..runs.config import KINDS

    choose(kind, KINDS, "kind of record")
    if epochs and not as_csv:
        raise InputError("--epochs needs --csv")
    if unused:
        return _unused(kind, as_csv, as_json)
    if as_csv:
        return click.echo(flatten.table(kind, epochs).to_csv(index=False), nl=False)
    frame = runs.table(kind)
    if as_json:
        return click.echo(frame.to_json(orient="records", indent=1))
    if frame.empty:
        return click.echo(f"no records of kind {kind!r} yet")
    columns = [
        name
        for name in (
            "network",
            "task",
            "strategy",
            "budget",
            "layers",
            "batch_norm",
            "epochs",
            "seed",
            "test_top1_percent",
            "seconds",
        )
        if name in frame
    ]
    shown = frame[columns].astype(object).where(frame[columns].notna(), None)
    table("", columns, [[round(v, 2) if isinstance(v, float) else v for v in row] for row in shown.values.tolist()])
