"""A training by the engine itself, built natively or for the emulator, and its record in ``results/device``.

A record says what ran (network, task, plan), what it was built with and where, how long it took, what the plan
and the engine say of memory, and each epoch as the engine printed it.
"""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from .. import tasks
from ..errors import InputError, choose, whole
from ..files import paths
from ..runs import rankings, records
from . import exporting, planning

MACHINES = {
    "native": ("train", "train", "this machine's processor"),
    "emulated": ("qemu", "build/emulated.elf", "QEMU's mps2-an500, a Cortex-M7, in regions of the board's lengths"),
}
SCHEMA = 1
_EPOCH = re.compile(
    r"^epoch (\d+)/\d+: (\d+) channels, (\d+) elements; loss (\S+); train (\S+) %(?:; test (\S+) %)?$", re.M
)


def run(folder: str | Path, machine: str = "native", **options) -> dict:
    """Train in an exported folder and read what the engine prints; plain data.

    ``options`` are the engine's: ``epochs`` (warm-up included), ``warmup``, ``batch``, ``rate``, ``seed``, ``train``
    and ``test`` (how many images), ``resume``. Gives ``epochs`` (epoch, channels, elements, train_loss,
    train_top1_percent, test_top1_percent), ``checksum`` of the weights, ``arena_peak_bytes``, ``stack_peak_bytes``
    (emulated) and ``seconds``. Raises :class:`InputError` with the last line of what went wrong.
    """
    goal, target, _ = MACHINES[choose(machine, MACHINES, "machine")]
    if machine == "native":
        target = "build/native/train"
    arguments = " ".join(f"{name}={value}" for name, value in options.items())
    _made(folder, target)
    begun = time.perf_counter()
    output = _made(folder, goal, f"ARGS={arguments}")
    seconds = time.perf_counter() - begun
    rows = [
        {
            "epoch": int(epoch), "channels": int(channels), "elements": int(elements), "train_loss": float(loss),
            "train_top1_percent": float(train), "test_top1_percent": float(test) if test else None,
        }
        for epoch, channels, elements, loss, train, test in _EPOCH.findall(output)
    ]  # fmt: skip
    match = re.search(r"^checksum (\w+); most arena in use (\d+) of \d+ bytes$", output, re.M)
    if match is None:
        raise InputError(f"the training in {str(folder)!r} did not end: {_last_line(output)}")
    stack = re.search(r"^most stack in use: (\d+) bytes$", output, re.M)
    return {
        "epochs": rows,
        "checksum": match[1],
        "arena_peak_bytes": int(match[2]),
        "stack_peak_bytes": int(stack[1]) if stack else None,
        "seconds": seconds,
    }


def _made(folder: str | Path, *goals: str) -> str:
    if shutil.which("make") is None:
        raise InputError("there is no 'make' here; install it with a C compiler")
    done = subprocess.run(["make", "-C", str(folder), *goals], capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"make {goals[0]} in {str(folder)!r} failed: {_last_line(done.stderr or done.stdout)}")
    return done.stdout


def _last_line(text: str) -> str:
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("make")]
    return lines[-1] if lines else "it said nothing"


def train(
    network: str,
    task: str,
    *,
    budget: int | None = None,
    strategy: str = "LaRa MeDyate",
    ranking: str | None = None,
    mode: str = "accumulate",
    budget_mode: str = "paper",
    board: str = "stm32h743",
    resolution: int = 128,
    machine: str = "native",
    images: Mapping[str, int] | None = None,
    folder: str | Path | None = None,
    **training,
) -> dict:
    """Export one of the paper's networks, train it with the engine, write the record; returns it.

    ``images`` limits how many of ``train`` and ``test`` are used; ``folder`` keeps the export. ``ranking`` None is
    one that was recorded on another task. ``training``: fields of :class:`medyate.device.exporting.Training`.
    """
    choose(machine, MACHINES, "machine")
    for split, count in (images or {}).items():
        # 0 is the engine's word for all, so it would train on more than was asked for
        whole(count, f"{choose(split, ('train', 'test'), 'split')} images", 1 if split == "train" else 0)
    trained_with = exporting.Training.of(training)
    if folder is not None:
        exporting.check_folder(Path(folder))
    planning.board(board)
    data = tasks.load(task, resolution=resolution)
    name = planning.image_network(network).name
    ranking = ranking or rankings.automatic(name, task)
    options = {
        "budget": budget, "strategy": strategy, "ranking": ranking, "mode": mode, "budget_mode": budget_mode,
        "board": board, "resolution": resolution, **dataclasses.asdict(trained_with),
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(folder) if folder is not None else Path(temporary)
        plan = exporting.export_network(name, place, data=data, **options)
        trained = run(place, machine, seed=trained_with.seed, **(images or {}))
        compiler = compiler_version("cc" if machine == "native" else "arm-none-eabi-gcc")
    limits = images or {}
    config = {
        "network": name, "task": task, **options, "budget": plan.program.budget, "machine": machine,
        "learning_rate": trained_with.rate(plan.program), "batch_size": trained_with.batch(plan.program),
    }  # fmt: skip
    record = {
        "schema": SCHEMA,
        "kind": "device",
        "id": _identity(config, limits),
        "config": config,
        "classes": plan.program.network.classes,
        "train_images": min(limits.get("train") or len(data.train), len(data.train)),
        "test_images": min(limits.get("test", len(data.test)), len(data.test)),
        "test_top1_percent": trained["epochs"][-1]["test_top1_percent"],
        "ram_bytes": plan.ram_bytes,
        "ram_by_part": plan.ram_by_part,
        "flash_bytes": plan.flash_bytes,
        **trained,
        "ran_on": MACHINES[machine][2],
        "compiler": compiler,
        "environment": records.environment("cpu"),
    }
    paths.write_json(paths.writable("device") / f"{record['id']}.json", record)
    return record


def _identity(config: Mapping, limits: Mapping) -> str:
    budget = f"-{config['budget']}" if config["budget"] else ""
    few = "".join(f"-{split}{count}" for split, count in limits.items())
    text = (
        f"{config['network']}-{config['task']}-{config['strategy']}{budget}-{config['mode']}-{config['machine']}"
        f"-r{config['resolution']}{few}-s{config['seed']}"
    )
    return re.sub(r"[^a-z0-9.]+", "-", text.lower())


def compiler_version(name: str) -> str:
    """The first line of what a compiler says of its version."""
    return subprocess.run([name, "--version"], capture_output=True, text=True).stdout.splitlines()[0]


def recorded() -> list[dict]:
    """Every record of a training by the engine, in the order of their ids; one's own before a shipped one."""
    return [json.loads(file.read_text()) for _, file in sorted(paths.records("device").items())]
