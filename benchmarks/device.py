"""Benchmark: the C engine beside PyTorch, and what the cross compiler and the emulator say of it.

    python benchmarks/device.py [--network NAME]... [--rounds N] [--json FILE]

For each network at tier 1, LaRa MeDyate, 128 pixels, 10 classes, random weights (time and memory do not depend on
them), one image a step:

* native: processor time of a step of the engine (in-place mode), of PyTorch's full fine-tuning (train-mode batch norm)
  and of the library's subnet (frozen), by turns in one run, one thread; ratios are medians of the rounds' ratios;
* linked: bytes of the engine's code and of RAM, whether the link succeeds in exactly the planned RAM and fails with
  8 bytes less, and by how much full fine-tuning overflows each board (needs arm-none-eabi-gcc);
* emulated: instructions a step on QEMU's Cortex-M7, by function (needs qemu-system-arm with plugins).

What needs a missing tool is left out, with a word. `make device-tools` installs them on Debian.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from medyate import device, networks
from medyate.device import images, planning
from medyate.files import paths
from medyate.networks import schemes
from medyate.runs import rankings, records
from medyate.subnet import Subnet

PLUGIN = Path(__file__).with_name("instructions.c")
RESOLUTION, CLASSES = 128, 10
FEW, MANY = 8, 40  # images: the difference of two runs is steps alone, without start-up, choice and store
STRATEGY = "LaRa MeDyate"
ENGINE = ("maths", "kernels", "stage", "step", "select", "store", "train")  # without tables, port and C library


def make(folder: Path, *goals: str, **variables: object) -> subprocess.CompletedProcess:
    assigned = [f"{name}={value}" for name, value in variables.items()]
    return subprocess.run(["make", "-C", str(folder), *goals, *assigned], capture_output=True, text=True)


def export(network: str, folder: Path, **options) -> planning.Plan:
    """An exported network with random weights, and noise for images."""
    plan = device.export_network(network, folder, weights="random", resolution=RESOLUTION, classes=CLASSES, **options)
    generator = torch.Generator().manual_seed(0)
    noise = torch.rand(MANY, 3, RESOLUTION, RESOLUTION, generator=generator) * 2 - 1
    images.write(folder / "train.bin", [(noise, torch.arange(MANY) % CLASSES)])
    images.write(folder / "test.bin", [(noise[:1], torch.zeros(1, dtype=torch.long))])
    return plan


def torch_step(network: str, strategy: str, budget: int | None, batch_norm: str) -> Callable[[], None]:
    """One SGD step on one image."""
    model = networks.build(network, weights="random", classes=CLASSES, generator=torch.Generator().manual_seed(0))
    model = model.train().to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, RESOLUTION, RESOLUTION).to(memory_format=torch.channels_last)
    label = torch.zeros(1, dtype=torch.long)
    if strategy == "Baseline":
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-4)
    else:
        ranking = rankings.load(network, rankings.automatic(network, "digits"))
        subnet = Subnet(model, budget=budget, strategy=strategy, ranking=ranking, batch_norm=batch_norm)
        optimizer = torch.optim.SGD(subnet.parameters(), lr=1e-4)
        subnet.next_epoch(optimizer)

    def step() -> None:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(image), label).backward()
        optimizer.step()

    return step


def native(network: str, budget: int, rounds: int) -> dict:
    """Milliseconds of processor time a step: the engine, and PyTorch by turns with it."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(network, folder, strategy=STRATEGY, budget=budget, mode="in-place")
        built = make(folder, "build/native/train")
        if built.returncode:
            raise SystemExit(built.stderr)

        def engine() -> float:
            spent = []
            for count in (FEW, MANY):
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                arguments = ["epochs=1", "warmup=0", "batch=1", f"train={count}", "test=0"]
                subprocess.run([folder / "build/native/train", *arguments], cwd=folder, check=True, capture_output=True)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
            return 1e3 * (spent[1] - spent[0]) / (MANY - FEW)

        def timed(step: Callable[[], None]) -> float:
            begun = time.process_time()
            for _ in range(MANY - FEW):
                step()
            return 1e3 * (time.process_time() - begun) / (MANY - FEW)

        full = torch_step(network, "Baseline", None, "train")
        subnet = torch_step(network, STRATEGY, budget, "frozen")
        for step in (full, subnet):
            timed(step)
        rows = [(engine(), timed(full), timed(subnet)) for _ in range(rounds)]
    return {
        "engine_milliseconds": statistics.median(row[0] for row in rows),
        "full_milliseconds": statistics.median(row[1] for row in rows),
        "subnet_milliseconds": statistics.median(row[2] for row in rows),
        "full_times_engine": statistics.median(row[1] / row[0] for row in rows),
        "subnet_times_engine": statistics.median(row[2] / row[0] for row in rows),
        "rounds": rounds,
    }


def code_bytes(file: Path) -> int:
    """Bytes of instructions and constants in an object file."""
    out = subprocess.run(["arm-none-eabi-size", str(file)], capture_output=True, text=True, check=True).stdout
    return int(out.splitlines()[1].split()[0])


def linked(network: str, budget: int) -> dict | None:
    """What the linker says at the planned RAM, 8 bytes below, and of full fine-tuning on every board."""
    if shutil.which("arm-none-eabi-gcc") is None:
        return None
    found: dict = {"modes": {}, "full_finetuning_overflow_bytes": {}}
    with tempfile.TemporaryDirectory() as temporary:
        for mode in device.MODES:
            folder = Path(temporary, mode)
            plan = export(network, folder, strategy=STRATEGY, budget=budget, mode=mode, board="stm32h743")
            # the planner puts the arena into the smallest block of RAM that holds it
            block = re.search(r"\.arena .*> (\w+)", (folder / "board.ld").read_text())[1]
            refused = make(folder, "firmware", LINK_FLAGS=f"-Wl,--defsym=md_length_{block}={plan.ram_bytes - 8}")
            exact = make(folder, "firmware", LINK_FLAGS=f"-Wl,--defsym=md_length_{block}={plan.ram_bytes}")
            image = device.sizes(folder / "build/stm32h743.elf") if exact.returncode == 0 else None
            objects = [folder / "build/stm32h743" / f"{name}.o" for name in ENGINE]
            found["modes"][mode] = {
                "engine_bytes": sum(map(code_bytes, objects)) if image else None,
                "ram_bytes": plan.ram_bytes,
                "ram_by_part": plan.ram_by_part,
                "flash_bytes": plan.flash_bytes,
                "block": block,
                "links_at_planned_ram": exact.returncode == 0,
                "refused_8_bytes_below": device.refusal(refused.stdout + refused.stderr),
                "text_bytes": image and image["sections"][".text"],
            }
        for name in device.boards():
            folder = Path(temporary, name)
            export(network, folder, strategy="Baseline", mode="in-place", board=name)
            done = make(folder, "firmware")
            overflow = device.refusal(done.stdout + done.stderr) if done.returncode else {}
            found["full_finetuning_overflow_bytes"][name] = max(overflow.values(), default=0)
    return found


def emulated(network: str, budget: int) -> dict | None:
    """Instructions a step, by function, as QEMU executes them: the difference of two lengths of training."""
    if shutil.which("qemu-system-arm") is None or shutil.which("arm-none-eabi-gcc") is None:
        return None
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        export(network, folder, strategy=STRATEGY, budget=budget, mode="in-place", board="mps2-an500")
        plugin = folder / "instructions.so"
        compiler = ["cc", "-std=c99", "-O2", "-fPIC", "-shared", str(PLUGIN), "-o", str(plugin)]
        subprocess.run(compiler, check=True)
        counted = []
        for count in (FEW, 2 * FEW):
            done = make(
                folder, "qemu", QEMU_FLAGS=f"-plugin {plugin},to={folder}/counts",
                ARGS=f"epochs=1 warmup=0 batch=1 train={count} test=0",
            )  # fmt: skip
            if done.returncode:
                raise SystemExit(done.stdout + done.stderr)
            counted.append(_by_function(folder / "counts", folder / "build/emulated.elf"))
    step = {name: (number - counted[0][name]) / FEW for name, number in counted[1].items()}
    return {
        "instructions": sum(step.values()),
        "by_function": {name: number for name, number in sorted(step.items(), key=lambda one: -one[1]) if number >= 1},
    }


def _by_function(counts: Path, image: Path) -> Counter:
    """Executed instructions by the function that holds their address."""
    listed = subprocess.run(["arm-none-eabi-nm", "-n", image], check=True, capture_output=True, text=True).stdout
    symbols = [line.split() for line in listed.splitlines()]
    starts = [(int(at, 16) & ~1, name) for at, kind, name in symbols if kind in "tT" and not name.startswith("$")]
    found, here = Counter(), 0
    for line in counts.read_text().splitlines():  # both lists are in order of addresses
        address, number = map(int, line.split())
        while here + 1 < len(starts) and starts[here + 1][0] <= address:
            here += 1
        found[starts[here][1]] += number
    return found


def measured(network: str, rounds: int) -> dict:
    name = networks.get(network).name
    budget = schemes.PRINTED_BUDGETS[name][1]
    return {
        "network": name,
        "strategy": STRATEGY,
        "budget": budget,
        "resolution": RESOLUTION,
        "classes": CLASSES,
        "native": native(name, budget, rounds),
        "linked": linked(name, budget),
        "emulated": emulated(name, budget),
    }


def show(result: dict) -> None:
    one = result["native"]
    print(f"{result['network']}, {result['strategy']}, {result['budget']:,} elements, {result['resolution']} pixels")
    print(
        f"  native, one image a step: engine {one['engine_milliseconds']:.1f} ms; PyTorch, full fine-tuning "
        f"{one['full_milliseconds']:.1f} ms ({one['full_times_engine']:.1f} times), the library's subnet "
        f"{one['subnet_milliseconds']:.1f} ms ({one['subnet_times_engine']:.1f} times); {one['rounds']} rounds"
    )
    if result["linked"] is None:
        print("  linked: no arm-none-eabi-gcc here")
    else:
        for mode, row in result["linked"]["modes"].items():
            print(
                f"  linked, {mode}: {row['ram_bytes']:,} bytes of RAM, links there: {row['links_at_planned_ram']}; "
                f"8 bytes less: over by {row['refused_8_bytes_below']}; engine {row['engine_bytes']} bytes, "
                f"with tables, port and C library {row['text_bytes']} bytes"
            )
        for board, over in result["linked"]["full_finetuning_overflow_bytes"].items():
            print(f"  full fine-tuning on {board}: {'fits' if not over else f'refused, {over:,} bytes too many'}")
    if result["emulated"] is None:
        print("  emulated: no qemu-system-arm here")
    else:
        print(f"  emulated: {result['emulated']['instructions'] / 1e6:.1f} million instructions a step")
        for name, number in list(result["emulated"]["by_function"].items())[:8]:
            print(f"    {name:24s} {number / 1e6:8.2f} million")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", action="append", help="may be repeated [default: the paper's three CNNs]")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="write the measurement there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    results = []
    for network in options.network or list(schemes.PRINTED_BUDGETS):
        results.append(measured(network, options.rounds))
        show(results[-1])
    if options.json:
        record = {
            "command": "python benchmarks/device.py",
            "environment": records.environment("cpu"),
            "compiler": device.training.compiler_version("cc"),
            "emulator": "QEMU mps2-an500, Cortex-M7",
            "machine": platform.processor() or platform.machine(),
            "results": results,
        }
        paths.write_json(options.json, record)
        print(json.dumps({"written": str(options.json)}))


if __name__ == "__main__":
    main()
