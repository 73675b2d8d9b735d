"""What the input pipeline costs, beside a torchvision DataLoader and beside the training step.

    python benchmarks/input.py [--task NAME] [--batch-size N] [--threads N] [--json FILE]

Without --task a folder of synthetic photos (160 pixels on the short side) is made. Each number is
the median over epochs after one that warms up. The step is a training step of MobileNetV2 w0.35
with the SU scheme of tier 1 (27,946 elements), weights random: its time does not depend on them.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from medyate import networks, tasks
from medyate.networks._torchvision import torchvision
from medyate.runs.config import RunConfig
from medyate.runs.finetune import scheme_for
from medyate.subnet import Subnet

RESOLUTION = 128
EPOCHS = 3


def synthetic(folder: Path, count: int = 600) -> str:
    """An image folder of smooth noise with the sizes of photos; the name of its task."""
    from PIL import Image

    rng = np.random.default_rng(0)
    for index in range(count):
        small = rng.integers(0, 256, (12, 16, 3), np.uint8)
        size = (160 + int(rng.integers(0, 80)), 160)
        place = folder / f"class{index % 4}" / f"{index}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(place, quality=90)
    return f"folder:{folder}"


def milliseconds_per_image(batches, device: str) -> float:
    """Median over epochs. batches: a call that starts an epoch."""
    found = []
    for _ in range(EPOCHS + 1):
        begun, count = time.perf_counter(), 0
        for _, labels in batches():
            count += len(labels)
        if device == "cuda":
            torch.cuda.synchronize()
        found.append((time.perf_counter() - begun) / count * 1e3)
    return statistics.median(found[1:])


def ours(data, batch_size: int, device: str, split: str):
    generator = torch.Generator().manual_seed(0)
    train = split == "train"
    return lambda: data.batches(
        split, batch_size, generator=generator if train else None, device=device, augment=train, channels_last=True
    )


def loader(task: str, folder: Path, batch_size: int, device: str, workers: int):
    """The same transforms as most people would write them: ImageFolder and DataLoader."""
    torchvision()
    from torchvision import datasets, transforms

    samples = tasks.get(task).source.read()
    for index, sample in enumerate(samples.train):
        place = folder / f"{sample.label:04d}" / f"{index}{Path(sample.name).suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(sample.read())
    pipeline = transforms.Compose(
        [
            transforms.RandomResizedCrop(RESOLUTION),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(0.4, 0.4, 0.4),
            transforms.ToTensor(),
            transforms.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    batches = torch.utils.data.DataLoader(
        datasets.ImageFolder(folder, pipeline),
        batch_size,
        shuffle=True,
        num_workers=workers,
        pin_memory=device == "cuda",
        persistent_workers=workers > 0,
    )

    def epoch():
        for images, labels in batches:
            images = images.to(device, non_blocking=True, memory_format=torch.channels_last)
            yield images, labels.to(device, non_blocking=True)

    return epoch


def step_milliseconds_per_image(batch_size: int, device: str) -> float:
    """A training step of MbV2, tier 1, without its input."""
    config = RunConfig(network="mbv2-w0.35", task="digits", strategy="SU", budget=27_946, weights="random").check()
    generator = torch.Generator().manual_seed(0)
    model = networks.build("mbv2-w0.35", weights="random", classes=10, generator=generator)
    model = model.to(device, memory_format=torch.channels_last)
    scheme = scheme_for(config, config.backbone_layers(), model)
    subnet = Subnet(model, config.budget, "SU", scheme=scheme, batch_norm="train")
    optimizer = torch.optim.SGD(subnet.parameters(), lr=0.01)
    subnet.next_epoch(optimizer)
    model.train()
    images = torch.randn(batch_size, 3, RESOLUTION, RESOLUTION, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (batch_size,), device=device)

    def steps():
        for _ in range(20):
            optimizer.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            yield images, labels

    return milliseconds_per_image(steps, device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--task", help="an image task, for instance food10 or folder:PATH")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path, help="write the numbers there")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    devices = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    with tempfile.TemporaryDirectory() as folder:
        if not options.task:
            os.environ["MEDYATE_CACHE"] = str(Path(folder, "cache"))
        task = options.task or synthetic(Path(folder, "synthetic"))
        data = tasks.load(task, resolution=RESOLUTION)
        size = options.batch_size
        rows = {"task": options.task or "synthetic", "threads": options.threads, "batch_size": size}
        print(f"{rows['task']}: {len(data.train):,} training images, batch {size}, {options.threads} threads")
        for device in devices:
            cost = {
                "medyate, train": ours(data, size, device, "train"),
                "medyate, test": ours(data, size, device, "test"),
            }
            for workers in sorted({0, os.cpu_count()}):
                place = Path(folder, f"{device}-{workers}")
                name = f"torchvision DataLoader, train, {workers} workers"
                cost[name] = loader(task, place, size, device, workers)
            step = step_milliseconds_per_image(size, device)
            print(f"\n{device}: a training step takes {step:.3f} ms per image")
            rows[device] = {"step_ms_per_image": step}
            for name, batches in cost.items():
                spent = milliseconds_per_image(batches, device)
                print(
                    f"  {name:45s} {spent:7.3f} ms per image, {1e3 / spent:9,.0f} images/s, "
                    f"{100 * spent / step:5.1f} % of a step"
                )
                rows[device][name] = spent
        if devices == ["cpu"]:
            print("\nno GPU here: the goal of 20,000 images/s on one is not measured")
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
