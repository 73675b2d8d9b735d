"""The front door: ``medyate COMMAND``. Thin: each command checks, calls the library, prints.

Modules that take seconds to import are imported by the command that needs them.
"""

from __future__ import annotations

import dataclasses
import os
import re
import sys
import warnings
from contextlib import contextmanager
from pathlib import Path

import click

from .. import __version__
from ..errors import InputError
from ..runs.config import RankConfig, RunConfig
from .device import device_group
from .help import NOTEBOOKS, Grouped, NotebookCommand
from .sweep import sweep_group
from .terminal import json_option, print_json, table


@click.group(cls=Grouped, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="medyate")
def cli():
    """Fine-tune a pretrained network under a memory budget; redo the figures of the MeDyate paper."""


cli.add_command(device_group)
cli.add_command(sweep_group)


@cli.command()
@json_option
@click.option("--resolution", default=128, show_default=True, help="Side of the input in pixels; of texts, the tokens.")
def networks(as_json, resolution):
    """The networks: where their weights come from, what training all of one costs."""
    from .. import costs
    from .. import networks as registry
    from ..errors import whole
    from ..networks import schemes

    whole(resolution, "resolution", 16, 1024)
    rows = []
    left_out = []
    for network in registry.NETWORKS.values():
        try:
            layers = registry.backbone(network.name, resolution=min(resolution, network.longest))
        except InputError as error:  # a text network without its extra hides no other network
            left_out.append(f"{network.name}: {error}")
            continue
        rows.append(
            {
                "name": network.name,
                "label": network.label,
                "description": network.description,
                "sources": list(network.sources),
                "layers": len(layers),
                "channels": sum(layer.channels for layer in layers),
                **costs.totals(layers),
                "kind": network.kind,
                "budgets": {str(tier): budget for tier, budget in schemes.budgets(network.name, layers).items()},
            }
        )
    for text in left_out:
        click.echo(text, err=True)
    if as_json:
        return print_json(rows)
    table(
        f"Networks; elements at {resolution}x{resolution} pixels or {resolution} tokens, one sample",
        ["name", "description", "weights from", "layers", "weights", "activations", "total"],
        [
            [
                r["name"],
                r["description"],
                ", ".join(r["sources"]),
                r["layers"],
                r["weight_elements"],
                r["activation_elements"],
                r["total_elements"],
            ]
            for r in rows
        ],
        right=(3, 4, 5, 6),
    )


@cli.command()
@json_option
def strategies(as_json):
    """The strategies: which layers, which channels, chosen when."""
    from .. import strategies as registry

    rows = [
        vars(strategy)
        | {
            "choice": strategy.choice.name,
            "channels": strategy.choice.says,
            "layers": registry.RULES[strategy.rule].says,
        }
        for strategy in registry.STRATEGIES.values()
    ]
    if as_json:
        return print_json(rows)
    table(
        "",
        ["name", "description", "layer order", "number of layers K", "metric"],
        [[r["name"], r["description"], r["order"], r["layers"], r["metric"]] for r in rows],
    )


@cli.command()
@json_option
def tasks(as_json):
    """The tasks: the paper's data sets, packs, and how to use one's own."""
    from .. import tasks as registry

    rows = registry.listing()
    if as_json:
        return print_json(rows)
    table(
        "",
        ["name", "description", "kind", "classes", "train", "test", "licence", "here"],
        [
            [
                r["name"],
                r["description"],
                r["kind"],
                r["classes"],
                r["train"],
                r["test"],
                r["licence"],
                "yes" if r["present"] else "no",
            ]
            for r in rows
        ],
        right=(3, 4, 5),
    )
    click.echo("Your own: folder:PATH (image folders as torchvision's ImageFolder, a folder or a tar), tsv:PATH.")


@cli.group()
def data():
    """Fetch and check data sets and weights."""


@data.command("fetch")
@click.argument("task")
def data_fetch(task):
    """Download TASK, resuming what was begun, and check its checksums."""
    from .. import tasks as registry

    for path in registry.fetch(task, progress=sys.stderr.isatty()):
        click.echo(path)


@data.command("check")
@json_option
def data_check(as_json):
    """For all tasks and weights: present, missing or damaged."""
    from .. import tasks as registry

    rows = registry.check()
    if as_json:
        print_json(rows)
    else:
        table("", ["of", "file", "state", "where"], [[r["of"], r["file"], r["state"], r["path"]] for r in rows])
    if any(row["state"] == "damaged" for row in rows):
        sys.exit(1)


@cli.command()
@click.argument("network")
@click.option("--resolution", default=128, show_default=True, help="Side of the input in pixels; of texts, the tokens.")
@click.option(
    "--depthwise",
    default="eq4",
    show_default=True,
    help="A depthwise channel's cost: eq4 (D^2 + HW) or authors (1 + HW).",
)
@click.option(
    "--weights",
    default=None,
    help="The source whose layers are meant; imagenet-int8 has no batch norm and no feature mix.",
)
@click.option("--measure", is_flag=True, help="Run one training step and count what it really holds.")
@click.option("--budget", type=int, default=None, help="With --measure: elements. [default: tier 1]")
@click.option("--strategy", default="LaRa MeDyate", show_default=True, help="With --measure.")
@click.option("--batch-size", default=1, show_default=True, help="With --measure.")
@click.option("--batch-norm", default="frozen", show_default=True, help="With --measure: frozen or train.")
@click.option(
    "--count",
    default="paper",
    show_default=True,
    help="With --measure: paper, or everything (masks count against the budget).",
)
@click.option("--seed", default=0, show_default=True, help="With --measure: the selection's.")
@click.option("--device", default="cpu", show_default=True, help="With --measure: auto, cpu or cuda.")
@json_option
def memory(
    network,
    resolution,
    depthwise,
    weights,
    measure,
    budget,
    strategy,
    batch_size,
    batch_norm,
    count,
    seed,
    device,
    as_json,
):
    """What NETWORK's layers cost (eqs. 4, 5); with --measure, what a step really holds."""
    from .. import costs
    from .. import networks as registry
    from ..errors import choose, whole

    whole(resolution, "resolution", 16, 1024)
    if measure:
        from ..runs.finetune import device_of
        from ..runs.kept import report

        return _show_measured(
            report(
                network,
                budget,
                strategy,
                resolution=resolution,
                batch_size=batch_size,
                batch_norm=batch_norm,
                count=count,
                seed=seed,
                device=device_of(device),
            ),
            as_json,
        )
    entry = registry.get(network)
    choose(depthwise, costs.DEPTHWISE, "depthwise cost")
    source = weights or "random"
    choose(source, entry.sources, f"weights of {entry.name}")
    layers = registry.backbone(entry.name, source, resolution, depthwise)
    rows = [
        {
            "name": layer.name,
            "kind": layer.kind,
            "channels": layer.channels,
            "out_channels": layer.out_channels,
            "kernel": list(layer.kernel),
            "channel_elements": layer.channel_elements,
            "weight_elements_per_channel": layer.weight_elements_per_channel,
            "activation_elements_per_channel": layer.activation_elements_per_channel,
            "weight_elements": layer.weight_elements,
            "activation_elements": layer.activation_elements,
            "total_elements": layer.total_elements,
            "weight_derivative_flops": layer.weight_flops,
        }
        for layer in layers
    ]
    totals = costs.totals(layers)
    if as_json:
        return print_json(
            {"network": entry.name, "resolution": resolution, "depthwise": depthwise, **totals, "layers": rows}
        )
    size = "x".join(map(str, entry.input_shape(resolution)[-2:])) + ("" if entry.kind == "image" else " tokens")
    table(
        f"{entry.name} at {size}: elements for one sample; FLOPs are multiply-accumulates of the weight derivative",
        ["layer", "kind", "channels", "weights/channel", "activations/channel", "cost/channel", "layer total", "FLOPs"],
        [
            [
                r["name"],
                r["kind"],
                r["channels"],
                r["weight_elements_per_channel"],
                r["activation_elements_per_channel"],
                r["channel_elements"],
                r["total_elements"],
                r["weight_derivative_flops"],
            ]
            for r in rows
        ],
        right=(2, 3, 4, 5, 6, 7),
    )
    click.echo(
        f"total {totals['total_elements']:,} elements ({costs.kilobytes(totals['total_elements']):,} kB): "
        f"weights {totals['weight_elements']:,}, activations {totals['activation_elements']:,}"
    )


def _show_measured(found: dict, as_json: bool) -> None:
    if as_json:
        return print_json(found)
    full = found["full_finetuning_kept_bytes"]
    rows = [[part.replace("_", " "), size, full[part]] for part, size in found["kept_bytes"].items()]
    rows.append(["all that is kept for the backbone", found["kept_total_bytes"], found["full_finetuning_bytes"]])
    table(
        f"{found['network']}, {found['strategy']}, batch {found['batch_size']}, batch norm {found['batch_norm']}: "
        "bytes",
        ["part", "this strategy", "full fine-tuning, train-mode batch norm"],
        rows,
        right=(1, 2),
    )
    if found["budget"]:
        ratio = found["kept_total_bytes"] / found["budget_bytes"]
        click.echo(
            f"budget {found['budget']:,} elements = {found['budget_bytes']:,} bytes; selection uses "
            f"{found['used_elements']:,}; kept / budget = {ratio:.3f}; "
            f"full fine-tuning keeps {found['full_finetuning_bytes'] / found['kept_total_bytes']:.1f} times as much"
        )
    click.echo(f"most held at once within the step, outputs in passing included: {found['peak_bytes']:,} bytes")
    click.echo("Outside the paper's unit: " + "; ".join(found["outside_paper_unit"].values()) + ".")


@cli.command()
@click.argument("network")
@click.argument("tier", type=int)
@click.option("--resolution", default=128, show_default=True)
@click.option("--depthwise", default="eq4", show_default=True)
@json_option
def scheme(network, tier, resolution, depthwise, as_json):
    """The sparse-update (SU) scheme of NETWORK's TIER (1 to 5) and its cost."""
    from .. import networks as registry
    from ..costs import DEPTHWISE
    from ..errors import choose, whole
    from ..networks import schemes

    name = registry.get(network).name
    whole(resolution, "resolution", 16, 1024)
    choose(depthwise, DEPTHWISE, "depthwise cost")
    layers = registry.backbone(name, "random", resolution, depthwise)
    counts = schemes.counts(name, tier, layers)
    by_name = {layer.name: layer for layer in layers}
    rows = [
        {
            "name": layer,
            "channels": count,
            "of": by_name[layer].channels,
            "channel_elements": by_name[layer].channel_elements,
            "elements": count * by_name[layer].channel_elements,
        }
        for layer, count in counts.items()
    ]
    total = schemes.cost_elements(name, tier, layers)
    printed = schemes.PRINTED_BUDGETS[name].get(tier)
    if as_json:
        return print_json(
            {"network": name, "tier": tier, "total_elements": total, "printed_budget": printed, "layers": rows}
        )
    table(
        f"SU scheme of {name}, tier {tier}",
        ["layer", "channels", "of", "cost/channel", "elements"],
        [list(row.values()) for row in rows],
        right=(1, 2, 3, 4),
    )
    click.echo(
        f"total {total:,} elements"
        + (f"; the paper prints {printed:,}" if printed else "; the paper prints no budget for this tier")
    )


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


def _options(*names, of=RunConfig):
    """Options of runs and rankings, by name: help and defaults are those of the config's fields."""
    fields = {field.name: field for field in dataclasses.fields(of)}

    def decorate(command):
        for name in reversed(names):
            command = _option(fields[name])(command)
        return command

    return decorate


def _option(field: dataclasses.Field):
    """The option of a config's field. What is not given stays None, so that the config's own default holds."""
    says, kind = field.metadata, str(field.type).partition(" ")[0]
    default = says["stands_for"] if field.default is None else field.default
    shown = "" if default is None or kind == "bool" else f"[default: {default if kind == 'str' else _plain(default)}]"
    return click.option(
        says["flags"] or f"--{field.name.replace('_', '-')}",
        type=None if kind == "bool" else {"int": int, "float": float, "str": str}[kind],
        default=None,
        help=f"{says['help']} {shown}".strip(),
    )


def _plain(default) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def _given(values: dict) -> dict:
    return {name: value for name, value in values.items() if value is not None}


_TRAINING = (
    "epochs",
    "warmup_epochs",
    "seed",
    "weights",
    "resolution",
    "batch_size",
    "learning_rate",
    "batch_norm",
    "depthwise",
)


@cli.command()
@click.argument("network")
@click.option("--task", required=True, help="A task's name, folder:PATH, or a pack of MEDYATE_DATA.")
@_options(*_TRAINING, "norm_gradient", of=RankConfig)
@click.option("--device", default="auto", show_default=True, help="auto, cpu or cuda.")
@click.option("--force", is_flag=True, help="Run anew even if the record is there.")
@json_option
def rank(network, device, force, as_json, **values):
    """Rank NETWORK's layers by a preliminary fine-tuning of all of it (LaRa, eq. 9; RGN, eq. 8).

    Ctrl-C ends it after the epochs that are finished and keeps what they gave.
    """
    from ..runs import finetune

    config = RankConfig.of({"network": network, **_given(values)}).check()
    try:
        with _progress(config.total_epochs, f"rank {config.network} on {config.task}") as update:
            record, found = finetune.rank(config, device=device, force=force, progress=update)
    except finetune.Diverged as error:
        raise click.ClickException(f"training diverged: {error}") from error
    if as_json:
        return print_json(record)
    if found:
        click.echo("This ranking was recorded already; --force records it anew.")
    if record["status"] == "interrupted":
        click.echo(f"Interrupted; kept what {len(record['epochs'])} of {config.total_epochs} epochs gave.")
    click.echo("by LaRa: " + ", ".join(record["lara_order"][:8]) + ", ..")
    click.echo("by RGN:  " + ", ".join(record["rgn_order"][:8]) + ", ..")
    click.echo(f"ranking {record['ranking']!r} of {config.network}; record {_where(record)}")


def _where(record: dict) -> str:
    from ..runs import records as runs

    return str(runs.path(record["id"]))


@cli.command()
@click.argument("network")
@click.argument("ranking")
@click.argument("how")
@json_option
def variant(network, ranking, how, as_json):
    """Write a variant HOW of NETWORK's recorded RANKING, for transformers: typed or shared.

    typed: LaRa over the mean of the layers of its place in the block; shared: the input of query, key and value charged
    once. The new ranking is called RANKING.HOW, and every LaRa strategy takes it by --ranking.
    """
    from .. import networks as registry
    from ..networks import attention_orders as orders
    from ..runs import rankings

    entry = registry.get(network)
    recorded = rankings.load(entry.name, ranking)
    length = re.search(r"-r(\d+)(?=-|$)", ranking)  # the size that it was recorded at, where not the paper's
    layers = registry.backbone(entry.name, resolution=int(length[1]) if length else None)
    found = orders.variant(recorded, layers, how)
    path = rankings.save(found)
    if as_json:
        return print_json(found.as_dict)
    click.echo(f"by {orders.VARIANTS[how][1]}: {', '.join(found.order('lara')[:8])}, ..")
    click.echo(f"ranking {found.name!r} of {entry.name}; {path}")


@cli.command()
@click.argument("network")
@_options("budget")
@click.option("--strategy", default="LaRa MeDyate", show_default=True)
@_options("layers", "order", "metric", "boosted", "ranking", "resolution", "fill", "count", "depthwise", "weights")
@click.option("--seed", default=0, show_default=True)
@json_option
def select(network, seed, as_json, **values):
    """One selection of channels under a budget: the first epoch's.

    Strategies that need the whole gradient first (Det, Prob) are shown by `medyate run`.
    """
    from .. import networks as registry
    from ..runs import finetune
    from ..runs.config import stand_in_task
    from ..strategies import Needs

    values = _given(values)
    config = RunConfig.of({"network": network, "task": stand_in_task(network), "seed": seed, **values}).check()
    if config.declaration.needs(Needs.WHOLE_GRADIENT):
        raise InputError(f"strategy {config.strategy!r} chooses by the gradient of a task; allowed here: the others")
    # others choose by no weight; the folded networks have layers of their own
    needed = config.declaration.needs(Needs.SCHEME) or config.weights == "imagenet-int8"
    weights = config.weights if needed else "random"
    model = registry.build(config.network, weights=weights, classes=10)
    layers = config.backbone_layers()
    subnet = finetune.subnet_of(config, model, check=False)
    selection = subnet.next_epoch()
    by_name = {layer.name: layer for layer in layers}
    chosen = {layer.name: selection.channels[layer.name] for layer in layers if layer.name in selection.channels}
    rows = [
        {
            "name": name,
            "channels": list(indices),
            "count": len(indices),
            "of": by_name[name].channels,
            "channel_elements": by_name[name].channel_elements,
            "elements": len(indices) * by_name[name].channel_elements,
        }
        for name, indices in chosen.items()
    ]
    used = selection.used_elements(layers)
    if as_json:
        return print_json(
            {
                "network": config.network,
                "strategy": config.strategy,
                "budget": config.budget,
                "used_elements": used,
                "K": len(subnet.selector.ranked),
                "search_space_elements": subnet.selector.space.elements,
                "ranking": config.ranking,
                "seed": seed,
                "layers": rows,
            }
        )
    table(
        f"{config.strategy} on {config.network}, seed {seed}",
        ["layer", "selected", "of", "cost/channel", "elements", "channels"],
        [
            [
                r["name"],
                r["count"],
                r["of"],
                r["channel_elements"],
                r["elements"],
                " ".join(map(str, r["channels"][:12])) + (" .." if r["count"] > 12 else ""),
            ]
            for r in rows
        ],
        right=(1, 2, 3, 4),
    )
    if config.budget:
        click.echo(
            f"uses {used:,} of {config.budget:,} elements ({100 * used / config.budget:.2f} %), {selection.count} "
            "channels"
        )


@cli.command()
@click.option("--network", required=True, help="See `medyate networks`.")
@click.option("--task", required=True, help="A task's name, folder:PATH, or a pack of MEDYATE_DATA.")
@click.option("--strategy", default="LaRa MeDyate", show_default=True, help="See `medyate strategies`.")
@_options(
    "budget",
    *_TRAINING[:-1],
    "layers",
    "order",
    "metric",
    "boosted",
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

    config = RunConfig.of(_given(values)).check()
    try:
        with _progress(config.total_epochs, f"{config.strategy} on {config.task}") as update:
            record, found = finetune.run(config, device=device, force=force, progress=update, save_weights=save_weights)
    except finetune.Diverged as error:
        raise click.ClickException(f"training diverged: {error}") from error
    if as_json:
        return print_json(record)
    if found:
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
    found = notebook.unused()
    if as_json:
        return print_json({"unused": found.to_dict("records")})
    for row in found.itertuples():
        click.echo(f"{row.id}: {row.why}")
    click.echo(f"{len(found)} of {len(notebook.table())} runs can be shown by no page")


@cli.command()
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
    found = runs.table(kind)
    if as_json:
        return click.echo(found.to_json(orient="records", indent=1))
    if found.empty:
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
        if name in found
    ]
    shown = found[columns].astype(object).where(found[columns].notna(), None)
    table("", columns, [[round(v, 2) if isinstance(v, float) else v for v in row] for row in shown.values.tolist()])


def _notebook_options(command):
    command = click.option(
        "-o",
        "output",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where the executed notebook is written. [default: NAME.ipynb beside the figures]",
    )(command)
    return click.option(
        "-p",
        "parameters",
        type=(str, str),
        multiple=True,
        metavar="NAME VALUE",
        help="A parameter of the notebook, as papermill's -p.",
    )(command)


def _execute(name: str, parameters, output: Path | None) -> None:
    from ..notebook.execute import execute

    notebook, figures = execute(name, dict(parameters), output)
    for figure in figures:
        click.echo(f"figure {figure}")
    click.echo(f"notebook {notebook}")


@cli.command("notebook")
@click.argument("name")
@_notebook_options
def notebook_command(name, parameters, output):
    """Execute any notebook of the project by NAME (fig6, table1, memory, ..)."""
    _execute(name, parameters, output)


def _register(name: str) -> None:
    """Each notebook of :data:`NOTEBOOKS` as a command of its own; `medyate notebook NAME` runs these and any other."""
    what = name.replace("fig", "Figure ").replace("table", "Table ")
    text = f"Redraw {what} of the paper from recorded runs; -p mode missing runs what is not recorded."

    @cli.command(name, cls=NotebookCommand, help=text if name not in _NO_RUNS else text.split(";")[0] + ".")
    @_notebook_options
    def command(parameters, output):
        _execute(name, parameters, output)


_NO_RUNS = ("fig1", "fig2", "fig10")  # notebooks without the parameter `mode`
for _name in NOTEBOOKS:
    _register(_name)


def main() -> None:
    """Entry point: errors in one line, exit 2 for bad input, 1 for a run that failed, 130 for Ctrl-C."""
    warnings.showwarning = lambda message, *_rest: click.echo(f"medyate: warning: {message}", err=True)
    try:
        cli(standalone_mode=False, prog_name="medyate")
    except InputError as error:
        _leave(str(error), 2)
    except click.UsageError as error:
        _leave(error.format_message().replace("\n", " "), 2)
    except click.ClickException as error:
        _leave(error.format_message().replace("\n", " "), 1)
    except (click.Abort, KeyboardInterrupt):
        _leave("interrupted; finished epochs are kept, the same command goes on from there", 130)
    except BrokenPipeError:  # `medyate results | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _leave(message: str, status: int) -> None:
    click.echo(f"medyate: error: {message}", err=True)
    sys.exit(status)
