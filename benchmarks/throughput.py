"""Benchmark: training images a second of several runs at once, beside one plain PyTorch loop.

    python benchmarks/throughput.py [--runs N]... [--seconds S] [--device NAME] [--task NAME] [--json FILE]

A run is what `medyate sweep run` starts: LaRa MeDyate on MobileNetV2 w0.35 under the budget of
tier 1 (27,946 elements) at 128x128, in a process of its own, threads divided between the runs (on a
CPU), the data and their augmentation on the device. Runs share nothing but the device, so their
numbers do not depend on how many there are. All warm up, start together, and count images for the
same seconds; the sum is over the runs.

The plain loop is what most people would write: an ImageFolder and a DataLoader with all processors,
dense gradients of the same channels, masked. From the largest sum follows what the paper's whole
Table 1 costs (`medyate sweep show table1 --scale paper`), as if all of it ran at this speed: other
networks, larger budgets, the oracles' probes and the baselines are slower.
"""

import argparse
import json
import multiprocessing
import os
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import nn

from medyate import grids, networks, ranking, tasks
from medyate.dynamic import Subnet
from medyate.sweep import processors

NETWORK, BUDGET, RESOLUTION, BATCH = "mbv2-w0.35", 27_946, 128, 32
GOAL_IMAGES_PER_SECOND, GOAL_HOURS, GOAL_RATIO = 20_000, 24, 10
WARM_UP_STEPS = 5


def endless(epoch):
    while True:
        yield from epoch()


def steps(batches, device: str, execution: str, classes: int):
    """One training step after another; gives the number of its images."""
    generator = torch.Generator().manual_seed(0)
    model = networks.build(NETWORK, weights="random", classes=classes, generator=generator)
    model = model.to(device, memory_format=torch.channels_last)
    order = ranking.load(NETWORK, ranking.automatic(NETWORK, ""))
    subnet = Subnet(
        model, BUDGET, "LaRa MeDyate", ranking=order, input_shape=(3, RESOLUTION, RESOLUTION),
        batch_norm="train", execution=execution,
    )  # fmt: skip
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.01)
    subnet.next_epoch(optimizer)
    model.train()
    for images, labels in endless(batches):
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        yield len(labels)


def tests(data, device: str):
    """One evaluation batch after another, as a run tests after each epoch."""
    model = networks.build(NETWORK, weights="random", classes=len(data.classes)).to(device, memory_format=torch.channels_last)
    model.eval()
    with torch.no_grad():
        for images, _ in endless(lambda: data.batches("test", 100, device=device, augment=False, channels_last=True)):
            model(images)
            yield len(images)


def images_per_second(counts, seconds: float, device: str, begin=lambda: None) -> float:
    for _ in range(WARM_UP_STEPS):
        next(counts)
    begin()
    begun, total = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        total += next(counts)
        if device == "cuda":
            torch.cuda.synchronize()
    return total / (time.perf_counter() - begun)


def one_run(index: int, task: str, device: str, threads: int, seconds: float, barrier, found) -> None:
    """What one process does: train, then test, each from a common start."""
    torch.set_num_threads(threads)
    data = tasks.load(task, resolution=RESOLUTION)
    generator = torch.Generator().manual_seed(index)

    def epoch():
        return data.batches("train", BATCH, generator=generator, device=device, augment=True, channels_last=True)

    train = images_per_second(steps(epoch, device, "subnet", len(data.classes)), seconds, device, barrier.wait)
    test = images_per_second(tests(data, device), seconds / 3, device, barrier.wait)
    found.put((train, test))


def at_once(count: int, task: str, device: str, seconds: float) -> tuple[float, float]:
    """Training and test images a second, summed over ``count`` runs."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(count), context.Queue()
    threads = max(1, processors() // count)
    runs = [
        context.Process(target=one_run, args=(index, task, device, threads, seconds, barrier, found), daemon=True)
        for index in range(count)
    ]
    for run in runs:
        run.start()
    results = [found.get(timeout=600) for _ in runs]
    for run in runs:
        run.join()
    return sum(train for train, _ in results), sum(test for _, test in results)


def plain_loop(task: str, device: str, seconds: float, folder: Path) -> float:
    from input import loader

    data = tasks.load(task, resolution=RESOLUTION)
    epoch = loader(task, folder, BATCH, device, processors() if device == "cuda" else 0)
    return images_per_second(steps(epoch, device, "dense", len(data.classes)), seconds, device)


def table1_images() -> tuple[int, int, int]:
    """Runs of the paper's Table 1, and the images that they train on and test on."""
    configs = grids.get("table1", "paper").configs()
    train = sum(tasks.TASKS[one.task].train_size * one.total_epochs for one in configs)
    test = sum(tasks.TASKS[one.task].test_size * one.total_epochs for one in configs)
    return len(configs), train, test


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, action="append", help="runs at once; may be repeated [default: 1, 4, 16; on a CPU 1 and its processors]")
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--task", help="an image task, for instance food10; [default: synthetic photos]")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    cpu = options.device == "cpu"
    counts = options.runs or (sorted({1, processors()}) if cpu else [1, 4, 16])
    device = f"CPU, {processors()} processors" if cpu else torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("MEDYATE_CACHE", str(Path(folder) / "cache"))
        task = options.task
        if task is None:
            from input import synthetic

            task = synthetic(Path(folder) / "photos")
        tasks.load(task, resolution=RESOLUTION)  # decoded once, before the runs start
        plain = plain_loop(task, options.device, options.seconds, Path(folder) / "plain")
        print(f"{device}; torch {torch.__version__}; {NETWORK}, {BUDGET:,} elements, {RESOLUTION}x{RESOLUTION}, batch {BATCH}")
        print(f"{'':24}{'training images/s':>18}{'of plain loop':>15}{'test images/s':>15}")
        print(f"{'one plain PyTorch loop':24}{plain:18,.0f}{1:15.2f}")
        rows = []
        for count in counts:
            train, test = at_once(count, task, options.device, options.seconds)
            rows.append({"runs": count, "train_images_per_second": train, "test_images_per_second": test, "ratio": train / plain})
            print(f"{f'{count} runs at once':24}{train:18,.0f}{train / plain:15.2f}{test:15,.0f}", flush=True)
    best = max(rows, key=lambda row: row["train_images_per_second"])
    runs, train_images, test_images = table1_images()
    hours = (train_images / best["train_images_per_second"] + test_images / best["test_images_per_second"]) / 3600
    print(
        f"the paper's Table 1: {runs:,} runs, {train_images / 1e9:.2f} billion training and {test_images / 1e9:.2f} billion "
        f"test images: {hours:,.0f} hours of this device at the speed of {best['runs']} runs at once"
    )
    goals = f"{GOAL_IMAGES_PER_SECOND:,} training images/s, {GOAL_RATIO} times the plain loop, {GOAL_HOURS} hours, on a GPU of H100's class"
    print(f"goals: {goals}" + ("; a CPU says nothing of them" if cpu else ""))
    if options.json:
        numbers = {"device": device, "torch": torch.__version__, "plain_images_per_second": plain, "rows": rows, "table1_hours": hours}
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
