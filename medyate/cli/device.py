"""``medyate device``: thin commands over :mod:`medyate.device`."""

from __future__ import annotations

import re
from pathlib import Path

import click

from ..errors import InputError
from .terminal import json_option, print_json, table

_resolution = click.option("--resolution", default=128, show_default=True, help="Side of the input in pixels.")
_ranking = click.option("--ranking", help="A recorded ranking by name. [default: a shipped one]")
_budget_mode = click.option(
    "--budget-mode",
    help="paper (its eq. 4), or device, which counts all of RAM. [default: paper; with --ram or --board: device]",
)


@click.group("device")
def device_group():
    """Training on a microcontroller: what it needs, and the C program for it."""


def _bytes(text: str) -> int:
    """\"512K\", \"1M\" (1,024 and 1,048,576) or a plain number of bytes."""
    match = re.fullmatch(r"(\d+)\s*([KM]?)i?B?", text.strip(), re.IGNORECASE)
    if not match:
        raise InputError(f"RAM {text!r} is not a size; allowed: bytes, or as 512K or 1M")
    return int(match[1]) * {"": 1, "K": 1024, "M": 1024**2}[match[2].upper()]


@device_group.command("plan")
@click.argument("network")
@_resolution
@click.option("--board", help="Only this board, and the largest budget that it holds.")
@click.option("--ram", help="Only this much RAM in one block, as 512K, and the largest budget that fits.")
@_budget_mode
@click.option("--classes", default=10, show_default=True, help="Of the classifier, which lies in RAM too.")
@_ranking
@click.option("--timeline", is_flag=True, help="Draw memory over the step: LaRa MeDyate at tier 1, or what was found.")
@json_option
def plan(network, resolution, board, ram, budget_mode, classes, ranking, timeline, as_json):
    """RAM and flash to train NETWORK, for each tier and strategy, and which boards hold it.

    All RAM is a bound over every selection that the budget allows.
    """
    from .. import device

    options = {"resolution": resolution, "classes": classes, "ranking": ranking}
    if board is None and ram is None:
        options["budget_mode"] = budget_mode or "paper"
        plans = device.plans(network, **options)
        shown = next((one for one in plans if one["strategy"] == "LaRa MeDyate"), plans[0])
    else:
        options |= {
            "budget_mode": budget_mode or "device",
            "ram_bytes": None if ram is None else _bytes(ram),
            "on": board,
        }
        plans, refused = [], []
        for mode in device.MODES:
            for strategy in ("SU", "TraDy", "LaRa TraDy", "LaRa MeDyate"):
                try:
                    plans.append(device.largest(network, strategy, mode=mode, **options))
                except device.NoRoom as error:  # any other mistake is the user's, and is told
                    refused.append(error)
        if not plans:
            raise refused[-1]
        for error in refused:
            click.echo(f"left out: {error}", err=True)
        shown = max(plans, key=lambda one: (one["strategy"] == "LaRa MeDyate", one["budget"]))
    if as_json:
        return print_json({"plans": plans})
    limit = "" if ram is None else f", at most {_bytes(ram):,} bytes of RAM in one block"
    table(
        f"{plans[0]['network']} at {resolution} pixels, {classes} classes{limit}: bytes of RAM and flash",
        ["tier", "budget", "strategy", "mode", "RAM", "at the peak", "flash", "boards"],
        [
            [
                p["tier"], p["budget"], p["strategy"], p["mode"], p["ram_bytes"],
                ", ".join(f"{part} {size:,}" for part, size in p["ram_by_part"].items() if size),
                p["flash_bytes"], ", ".join(p["boards"]) or "none",
            ]
            for p in plans
        ],
        right=(0, 1, 4, 6),
    )  # fmt: skip
    if timeline:
        _draw(shown, device.timeline, options | {"ranking": ranking})


def _draw(plan: dict, timeline, options: dict) -> None:
    """Memory over the step as bars of characters."""
    rows = timeline(
        plan["network"], plan["budget"], plan["strategy"], mode=plan["mode"], budget_mode=plan["budget_mode"],
        resolution=plan["resolution"], classes=plan["classes"], ranking=options["ranking"],
    )  # fmt: skip
    signs = dict(
        zip(("stack", "selection", "classifier", "copies", "gradients", "masks", "kept", "transient"), "|sCcgmk~")
    )
    click.echo(
        f"{plan['strategy']}, budget {plan['budget']:,}, {plan['mode']}; "
        + ", ".join(f"{s} {p}" for p, s in signs.items())
    )
    most = max(sum(row["ram_by_part"].values()) for row in rows)
    for row in rows:
        bar = "".join(sign * round(64 * row["ram_by_part"][part] / most) for part, sign in signs.items())
        click.echo(f"{row['phase']:>8} {row['moment']:<12} {sum(row['ram_by_part'].values()):>9,} {bar}")


@device_group.command("export")
@click.argument("network")
@click.option("--budget", type=int, help="Elements. [default: tier 1 of the network]")
@click.option("--strategy", default="LaRa MeDyate", show_default=True)
@_ranking
@click.option("--board", default="stm32h743", show_default=True)
@click.option(
    "-o", "--output", "folder", required=True, type=click.Path(file_okay=False, path_type=Path), metavar="DIR"
)
@click.option("--mode", default="accumulate", show_default=True, help="accumulate, or in-place (one image a step).")
@_budget_mode
@_resolution
@click.option("--task", help="A task whose images and classes go along.")
@click.option("--classes", type=int, help="Without a task. [default: 10]")
@click.option("--weights", help="imagenet or random. [default: imagenet]")
@click.option("--epochs", default=9, show_default=True, help="Epochs of the cosine.")
@click.option("--warmup-epochs", default=1, show_default=True, help="On top of --epochs.")
@click.option("--learning-rate", type=float, help="[default: 0.125; in place 0.125 / 32]")
@click.option("--batch-size", default=32, show_default=True, help="Of mode accumulate.")
@click.option("--seed", default=0, show_default=True, help="The new classifier's.")
def export(network, folder, task, budget_mode, **options):
    """Write C sources, weights, linker script, Makefile and reference values into DIR."""
    from .. import device

    data = None
    if task is not None:
        from .. import tasks

        data = tasks.load(task, resolution=options["resolution"])
    if data is not None and options["classes"] is not None:
        raise InputError(f"classes {options['classes']!r} and a task: the task says how many; allowed: one of the two")
    program_plan = device.export_network(network, folder, data=data, budget_mode=budget_mode or "paper", **options)
    click.echo(f"{folder}: {program_plan.ram_bytes:,} bytes of RAM in one block, {program_plan.flash_bytes:,} of flash")
    click.echo(f"make -C {folder} check")


@device_group.command("train")
@click.argument("network")
@click.option("--task", required=True, help="An image task, whose images the engine reads.")
@click.option("--budget", type=int, help="Elements. [default: tier 1 of the network]")
@click.option("--strategy", default="LaRa MeDyate", show_default=True)
@_ranking
@click.option("--board", default="stm32h743", show_default=True, help="Whose memory regions the emulator has.")
@click.option("--mode", default="accumulate", show_default=True, help="accumulate, or in-place (one image a step).")
@click.option("--machine", default="native", show_default=True, help="native, or emulated (QEMU's Cortex-M7).")
@_resolution
@click.option("--epochs", default=9, show_default=True, help="Epochs of the cosine.")
@click.option("--warmup-epochs", default=1, show_default=True, help="On top of --epochs.")
@click.option("--learning-rate", type=float, help="[default: 0.125; in place 0.125 / 32]")
@click.option("--batch-size", default=32, show_default=True, help="Of mode accumulate.")
@click.option("--seed", default=0, show_default=True, help="The new classifier's and the device's.")
@click.option("--train-images", type=int, help="Use only so many.")
@click.option("--test-images", type=int, help="Use only so many.")
@click.option(
    "-o", "--output", "folder", type=click.Path(file_okay=False, path_type=Path), help="Keep the export here."
)
@json_option
def train(network, task, train_images, test_images, as_json, **options):
    """Export NETWORK, train it with the C engine, write one record to results/device."""
    from .. import device

    images = {"train": train_images, "test": test_images}
    images = {split: count for split, count in images.items() if count is not None}
    record = device.train(network, task, images=images, **options)
    if as_json:
        return print_json(record)
    for row in record["epochs"]:
        click.echo(
            f"epoch {row['epoch']}: {row['channels']} channels, loss {row['train_loss']:.4f}, "
            + ("not tested" if row["test_top1_percent"] is None else f"test {row['test_top1_percent']} %")
        )
    click.echo(
        f"{record['config']['strategy']} on {record['config']['task']}, {record['ran_on']}: "
        f"test top-1 {record['test_top1_percent']} %, {record['seconds']:.0f} s, {record['ram_bytes']:,} bytes of RAM"
    )
    click.echo(f"record {record['id']}")
