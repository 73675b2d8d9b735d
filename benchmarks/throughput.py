"""Benchmark: training images a second of several runs at once, beside one plain PyTorch loop.

    python benchmarks/throughput.py [--mode processes|stacked|both] [--runs N]... [--seconds S] [--device NAME]
                                    [--task NAME] [--batch-norm MODE] [--cuda-graphs] [--clock cpu] [--json FILE]
    python benchmarks/throughput.py --recorded

A run is LaRa MeDyate on MobileNetV2 w0.35 under the budget of tier 1 (27,946 elements) at 128x128,
the data and their augmentation on the device. All warm up, start together, and count images for the
same seconds; the sum is over the runs.

processes: what `medyate sweep run --workers N` starts: each run in a process of its own, executed as
    a subnet, threads divided between the runs (on a CPU). Runs share nothing but the device.
stacked: what `medyate sweep run --stack N` starts: all runs in one process as one wide network, dense
    and masked. `--cuda-graphs` captures its steps.

`--clock cpu`, for a CPU that does other work as well, counts images a second of the processes' own time
on the processors instead; there the runs' mean is printed, not their sum.

--recorded measures nothing: it prints at what speed the recorded runs of stacks trained and tested, the median over
    their epochs. Such a stack may have shared its device with others.

The plain loop is what most people would write: an ImageFolder and a DataLoader with all processors,
dense gradients of the same channels, masked. From the largest sum follows what the paper's whole
Table 1 costs (`medyate sweep show table1 --scale paper`), as if all of it ran at this speed: other
networks, larger budgets, the oracles' probes and the baselines are slower.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from torch import nn

from medyate import networks, tasks
from medyate.runs import rankings, records
from medyate.runs.finetune import TEST_BATCH, in_float32
from medyate.subnet import Subnet
from medyate.sweeps import grids
from medyate.sweeps.sweep import processors
from medyate.sweeps.wide import Wide, cuda_graph

NETWORK, BUDGET, RESOLUTION, BATCH = "mbv2-w0.35", 27_946, 128, 32
GOAL_IMAGES_PER_SECOND, GOAL_HOURS, GOAL_RATIO = 20_000, 24, 10
WARM_UP_STEPS = 5
STEPS_AHEAD = 8  # between two waits for a GPU
TEST_SHARE = 1 / 3  # of the seconds


def endless(epoch):
    while True:
        yield from epoch()


def network(device: str, classes: int, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = networks.build(NETWORK, weights="random", classes=classes, generator=generator)
    return model.to(device, memory_format=torch.channels_last)


def medyate_of(model: nn.Module, execution: str, batch_norm: str, seed: int = 0) -> Subnet:
    order = rankings.load(NETWORK, rankings.automatic(NETWORK, ""))
    return Subnet(
        model,
        BUDGET,
        "LaRa MeDyate",
        ranking=order,
        input_shape=(3, RESOLUTION, RESOLUTION),
        batch_norm=batch_norm,
        execution=execution,
        seed=seed,
    )


def steps(batches, device: str, execution: str, classes: int, batch_norm: str):
    """One training step after another; gives the number of its images."""
    model = network(device, classes)
    subnet = medyate_of(model, execution, batch_norm)
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.01)
    subnet.next_epoch(optimizer)
    model.train()
    for images, labels in endless(batches):
        optimizer.zero_grad(set_to_none=True)
        nn.functional.cross_entropy(model(images), labels).backward()
        optimizer.step()
        yield len(labels)


def stacked_steps(wide: Wide, data, count: int, device: str):
    """One step of ``count`` runs in a stack after another; gives the number of their images."""
    generators = [torch.Generator().manual_seed(index) for index in range(count)]
    rates = torch.full((count,), 0.01, device=device)
    wide.begin_epoch()
    for images, labels in endless(lambda: data.batches_of_runs(BATCH, generators, device=device)):
        wide.step(images, labels, rates)
        yield labels.numel()


def stacked_tests(wide: Wide, data, device: str):
    """One evaluation batch of all runs of a stack after another."""
    wide.network.eval()
    with torch.no_grad():
        for batch in endless(
            lambda: data.batches("test", TEST_BATCH, device=device, augment=False, channels_last=True)
        ):
            images, labels = wide.beside(*batch)
            wide.network(images)
            yield labels.numel()


def tests(data, device: str):
    """One evaluation batch after another, as a run tests after each epoch."""
    model = network(device, len(data.classes))
    model.eval()
    with torch.no_grad():
        for images, _ in endless(
            lambda: data.batches("test", TEST_BATCH, device=device, augment=False, channels_last=True)
        ):
            model(images)
            yield len(images)


CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}


@dataclass(frozen=True)
class Measured:
    """What all measurements have in common."""

    task: str
    device: str
    seconds: float
    batch_norm: str
    clock: str
    cuda_graphs: bool

    def images_per_second(self, counts, share: float = 1.0, begin=lambda: None) -> float:
        """``counts`` gives each step's number of images; measured for ``share`` of the seconds."""
        now, cuda = CLOCKS[self.clock], self.device.startswith("cuda")
        wait = torch.cuda.synchronize if cuda else lambda: None
        for _ in range(WARM_UP_STEPS):
            next(counts)
        wait()
        begin()
        begun, total = now(), 0
        while now() - begun < share * self.seconds:
            # a run does not wait for the GPU after each step: the next one is prepared meanwhile
            for _ in range(STEPS_AHEAD if cuda else 1):
                total += next(counts)
            wait()
        return total / (now() - begun)


def one_run(index: int, how: Measured, threads: int, barrier, found) -> None:
    """What one process does: train, then test, each from a common start."""
    in_float32()
    torch.set_num_threads(threads)
    data = tasks.load(how.task, resolution=RESOLUTION)
    generator = torch.Generator().manual_seed(index)

    def epoch():
        return data.batches("train", BATCH, generator=generator, device=how.device, augment=True, channels_last=True)

    train = how.images_per_second(
        steps(epoch, how.device, "subnet", len(data.classes), how.batch_norm), 1, barrier.wait
    )
    found.put((train, how.images_per_second(tests(data, how.device), TEST_SHARE, barrier.wait)))


def in_processes(count: int, how: Measured) -> tuple[float, float]:
    """Training and test images a second, summed over ``count`` runs in processes."""
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(count), context.Queue()
    threads = max(1, processors() // count)
    runs = [
        context.Process(target=one_run, args=(index, how, threads, barrier, found), daemon=True)
        for index in range(count)
    ]
    for run in runs:
        run.start()
    results = [found.get(timeout=3600) for _ in runs]
    for run in runs:
        run.join()
    divisor = count if how.clock == "cpu" else 1
    return sum(train for train, _ in results) / divisor, sum(test for _, test in results) / divisor


def in_a_stack(count: int, how: Measured) -> tuple[float, float]:
    """Training and test images a second, summed over ``count`` runs in one stack."""
    data = tasks.load(how.task, resolution=RESOLUTION)
    models = [network(how.device, len(data.classes), seed) for seed in range(count)]
    subnets = [medyate_of(model, "dense", how.batch_norm, seed) for seed, model in enumerate(models)]
    for subnet in subnets:
        subnet.next_epoch()
    wide = Wide(models, batch_norm=how.batch_norm, capture=cuda_graph if how.cuda_graphs else None)
    wide.train_only([subnet.attached.masks() for subnet in subnets])
    train = how.images_per_second(stacked_steps(wide, data, count, how.device))
    return train, how.images_per_second(stacked_tests(wide, data, how.device), TEST_SHARE)


def plain_loop(how: Measured, folder: Path) -> float:
    from input import loader

    data = tasks.load(how.task, resolution=RESOLUTION)
    epoch = loader(how.task, folder, BATCH, how.device, 0 if how.device == "cpu" else processors())
    return how.images_per_second(steps(epoch, how.device, "dense", len(data.classes), how.batch_norm))


def table1_images() -> tuple[int, int, int]:
    """Runs of the paper's Table 1, and the images that they train on and test on."""
    configs = grids.get("table1", "paper").configs()
    train = sum(tasks.TASKS[one.task].train_size * one.total_epochs for one in configs)
    test = sum(tasks.TASKS[one.task].test_size * one.total_epochs for one in configs)
    return len(configs), train, test


def recorded() -> pd.DataFrame:
    """Images a second of the recorded runs that trained in stacks, over all runs of a stack: medians over epochs."""
    rows = []
    for record in records.every("run"):
        environment = record["environment"]
        before = {one["device"] for one in environment.get("earlier", [])}
        for row in record.get("epochs", ()):
            if "stacked_runs" in row:
                rows.append(
                    {
                        "device": ", ".join(before or {environment["device"]}),
                        "task": record["config"]["task"],
                        "runs": row["stacked_runs"],
                        # a row's seconds are the stack's divided by its runs
                        "train": record["train_images"] / row["train_seconds"],
                        "test": record["test_images"] / row["test_seconds"],
                    }
                )
    if not rows:
        raise SystemExit("no recorded run trained in a stack")
    table = pd.DataFrame(rows).groupby(["device", "task", "runs"])
    return table.agg(epochs=("train", "size"), train=("train", "median"), test=("test", "median")).reset_index()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--mode", choices=("processes", "stacked", "both"), default="both", help="how runs share the device"
    )
    parser.add_argument(
        "--runs",
        type=int,
        action="append",
        help="runs at once; may be repeated [default: 1, 4, 16; on a CPU 1 and its processors]",
    )
    parser.add_argument("--seconds", type=float, default=20.0, help="of each measurement")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--task", help="an image task, for instance food10; [default: synthetic photos]")
    parser.add_argument("--batch-norm", choices=("train", "frozen"), default="train")
    parser.add_argument("--cuda-graphs", action="store_true", help="capture the steps of a stack")
    parser.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: the processes' own time, on a CPU")
    parser.add_argument("--json", type=Path, help="write the numbers there")
    parser.add_argument("--recorded", action="store_true", help="print what recorded stacks reached; measure nothing")
    options = parser.parse_args()
    if options.recorded:
        print(recorded().to_string(index=False, float_format="{:,.0f}".format))
        return
    in_float32()  # as runs are, and the plain loop beside them
    cpu = options.device == "cpu"
    if options.cuda_graphs and cpu:
        parser.error("--cuda-graphs needs a CUDA device")
    if options.clock == "cpu" and not cpu:
        parser.error("--clock cpu says nothing of a GPU")
    counts = options.runs or (sorted({1, processors()}) if cpu else [1, 4, 16])
    device = f"CPU, {processors()} processors" if cpu else torch.cuda.get_device_name()
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("MEDYATE_CACHE", str(Path(folder) / "cache"))
        task = options.task
        if task is None:
            from input import synthetic

            task = synthetic(Path(folder) / "photos")
        tasks.load(task, resolution=RESOLUTION)  # decoded once, before the runs start
        how = Measured(task, options.device, options.seconds, options.batch_norm, options.clock, options.cuda_graphs)
        plain = plain_loop(how, Path(folder) / "plain")
        print(
            f"{device}; torch {torch.__version__}; {NETWORK}, {BUDGET:,} elements, {RESOLUTION}x{RESOLUTION}, batch "
            f"{BATCH}, batch norm {options.batch_norm}"
        )
        if options.clock == "cpu":
            print("a second is one of the processes' own time on a processor")
        print(f"{'':24}{'training images/s':>18}{'of plain loop':>15}{'test images/s':>15}")
        print(f"{'one plain PyTorch loop':24}{plain:18,.0f}{1:15.2f}")
        rows = []
        for mode, measure in {"processes": in_processes, "stacked": in_a_stack}.items():
            for count in counts if options.mode in (mode, "both") else ():
                train, test = measure(count, how)
                rows.append(
                    {
                        "mode": mode,
                        "runs": count,
                        "train_images_per_second": train,
                        "test_images_per_second": test,
                        "ratio": train / plain,
                    }
                )
                print(f"{f'{count} runs, {mode}':24}{train:18,.0f}{train / plain:15.2f}{test:15,.0f}", flush=True)
    best = max(rows, key=lambda row: row["train_images_per_second"])
    runs, train_images, test_images = table1_images()
    hours = (train_images / best["train_images_per_second"] + test_images / best["test_images_per_second"]) / 3600
    print(
        f"the paper's Table 1: {runs:,} runs, {train_images / 1e9:.2f} billion training and {test_images / 1e9:.2f} "
        f"billion test images: {hours:,.0f} hours of this device at the speed of {best['runs']} runs, {best['mode']}"
    )
    goals = (
        f"{GOAL_IMAGES_PER_SECOND:,} training images/s, {GOAL_RATIO} times the plain loop, {GOAL_HOURS} hours, on a "
        "GPU of H100's class"
    )
    print(f"goals: {goals}" + ("; a CPU says nothing of them" if cpu else ""))
    if options.json:
        numbers = {
            "device": device,
            "batch_norm": options.batch_norm,
            "cuda_graphs": options.cuda_graphs,
            "clock": options.clock,
            "torch": torch.__version__,
            "plain_images_per_second": plain,
            "rows": rows,
            "table1_hours": hours,
        }
        options.json.write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    main()
