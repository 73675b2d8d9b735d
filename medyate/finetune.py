"""One run: a frozen config in, a record out (Sec. 4.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from . import importance, networks, ranking, runs, schemes, storage, strategies, tasks, tokens
from .config import RankConfig, RunConfig
from .costs import Layer, totals
from .dense import Dense
from .dynamic import Subnet
from .errors import InputError, choose

Progress = Callable[[dict[str, Any]], None]
# Streams of random numbers of one seed, apart from one another: a strategy that draws more channels
# must not change the data that the run sees.
_STREAMS = ("classifier", "data", "selection", "probe")


def generator(seed: int, stream: str) -> torch.Generator:
    """The generator of one stream of a seed."""
    return torch.Generator().manual_seed(seed * len(_STREAMS) + _STREAMS.index(stream))


def device_of(name: str) -> str:
    """"auto" is CUDA where there is one, else the CPU; checks that the device is there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    choose(name.partition(":")[0], ("auto", "cpu", "cuda"), "device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: torch sees no CUDA device here; allowed: auto, cpu")
    return name


def learning_rate(step: int, steps_per_epoch: int, config: RunConfig | RankConfig) -> float:
    """Linear warm-up from 0, then a cosine to 0, per iteration; ``step`` counts from 0 (Sec. 4.1)."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.learning_rate * step / warmup
    share = (step - warmup) / (config.epochs * steps_per_epoch)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def evaluate(model: nn.Module, batches) -> tuple[float, float]:
    """Mean loss and top-1 in percent."""
    model.eval()
    loss = right = count = 0
    with torch.no_grad():
        for images, labels in batches:
            output = model(images)
            loss += float(nn.functional.cross_entropy(output, labels, reduction="sum"))
            right += int((output.argmax(1) == labels).sum())
            count += len(labels)
    return loss / count, 100 * right / count


def _network_totals(layers: tuple[Layer, ...]) -> dict[str, int]:
    return {"layers": len(layers), "channels": sum(layer.channels for layer in layers), **totals(layers)}


def _peak_memory_bytes(device: str) -> int:
    """CUDA: the allocator's peak. CPU: the process's largest resident size so far."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    import resource
    import sys

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _Loop:
    """What runs and rankings share: data, model, schedule, one epoch, checkpoints."""

    def __init__(self, config: RunConfig | RankConfig, device: str):
        self.config, self.device = config, device_of(device)
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats()
        runs.environment(self.device)  # asks for the commit now, while it is that of the loaded code
        network = networks.get(config.network)
        if network.kind == "text":
            self.data = tokens.encode(tasks.load(config.task), network, config.resolution)
        else:
            self.data = tasks.load(config.task, resolution=config.resolution)
        self.model = networks.build(
            config.network,
            weights=config.weights,
            classes=len(self.data.classes),
            generator=generator(config.seed, "classifier"),
        ).to(self.device, memory_format=torch.channels_last)
        self.layers = config.backbone_layers()
        self.data_generator = generator(config.seed, "data")
        self.steps_per_epoch = -(-len(self.data.train) // config.batch_size)
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.checkpoint = storage.writable("checkpoints") / f"{config.id}.pt"

    def train(self, optimizer: torch.optim.Optimizer, after_backward: Callable[[], None] | None = None) -> dict:
        """One epoch of training; returns its row of the record."""
        self.model.train()
        epoch = len(self.rows)
        step = epoch * self.steps_per_epoch
        loss_sum = torch.zeros((), device=self.device)
        right = torch.zeros((), dtype=torch.long, device=self.device)
        count = 0
        batches = self.data.batches(
            "train", self.config.batch_size, generator=self.data_generator, device=self.device,
            augment=True, channels_last=True,
        )  # fmt: skip
        for images, labels in batches:
            rate = learning_rate(step, self.steps_per_epoch, self.config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            output = self.model(images)
            loss = nn.functional.cross_entropy(output, labels)
            loss.backward()
            if after_backward is not None:
                after_backward()
            optimizer.step()
            loss_sum += loss.detach() * len(labels)
            right += (output.detach().argmax(1) == labels).sum()
            count += len(labels)
            step += 1
        mean_loss = float(loss_sum) / count
        if not math.isfinite(mean_loss):
            raise Diverged(f"the loss is {mean_loss} in epoch {epoch + 1}; a smaller learning rate may help")
        return {
            "epoch": epoch + 1,
            "learning_rate": rate,
            "train_loss": mean_loss,
            "train_top1_percent": 100 * int(right) / count,
        }

    def test(self) -> dict[str, float]:
        batches = self.data.batches("test", 100, device=self.device, augment=False, channels_last=True)
        loss, top1 = evaluate(self.model, batches)
        return {"test_loss": loss if math.isfinite(loss) else None, "test_top1_percent": top1}

    def save(self, **state: Any) -> None:
        """A checkpoint at an epoch's end; replaced atomically."""
        import io

        buffer = io.BytesIO()
        torch.save(
            {
                "config": self.config.as_dict(), "rows": self.rows, "seconds": self.seconds,
                "threads": torch.get_num_threads(),
                "model": self.model.state_dict(), "data": self.data_generator.get_state(), **state,
            },
            buffer,
        )  # fmt: skip
        storage.write_bytes(self.checkpoint, buffer.getvalue())

    def resume(self) -> dict[str, Any] | None:
        """The checkpoint of this very config, loaded; None where there is none."""
        if not self.checkpoint.is_file():
            return None
        try:
            # on the CPU: generators' states and norms belong there, the rest is copied to where it goes
            state = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception:  # a checkpoint that cannot be read is worth nothing: begin again
            self.checkpoint.unlink()
            return None
        if state["config"] != self.config.as_dict():
            return None
        self.model.load_state_dict(state["model"])
        self.data_generator.set_state(state["data"])
        self.rows, self.seconds = state["rows"], state["seconds"]
        if self.device == "cpu" and state.get("threads"):
            # sums depend on how many threads share them: as it began, so it goes on
            torch.set_num_threads(state["threads"])
        return state

    def record(self, **content: Any) -> dict[str, Any]:
        return {
            "schema": runs.SCHEMA,
            "kind": self.config.kind,
            "id": self.config.id,
            "status": "finished",
            "config": self.config.as_dict(),
            "network": _network_totals(self.layers),
            "train_images": len(self.data.train),
            "test_images": len(self.data.test),
            "classes": len(self.data.classes),
            **content,
            "epochs": self.rows,
            "seconds": self.seconds,
            "peak_memory_bytes": _peak_memory_bytes(self.device),
            "environment": runs.environment(self.device),
            "arrays": None,
        }


class Diverged(RuntimeError):
    """Training went to infinity; the run has no accuracy."""


def scheme_for(config: RunConfig, layers: tuple[Layer, ...], model: nn.Module) -> strategies.Selection | None:
    """The SU scheme's channels where the strategy is SU, chosen by the pretrained weights.

    A scheme that costs more than the budget (MbV2's tier 1, whose printed budget counts its
    depthwise layer lower) gives up channels of the smallest norm in its last layers until it fits,
    for the budget is a hard bound.
    """
    if config.declaration.choice != "scheme":
        return None
    tier = schemes.tier_of(config.network, config.budget, layers)
    weights = {layer.name: model.get_submodule(layer.name).weight.detach() for layer in layers}
    chosen = strategies.scheme_selection(config.network, tier, layers, weights)
    return strategies.fitted(chosen, layers, weights, config.budget)


def run(
    config: RunConfig, *, device: str = "auto", force: bool = False, progress: Progress | None = None,
    save_weights: Path | None = None,
) -> tuple[dict[str, Any], bool]:  # fmt: skip
    """Fine-tune as ``config`` says. Returns the record and whether it was there already.

    ``progress`` is called with each epoch's row. Continues from the checkpoint of an interrupted
    run of the same config. ``save_weights``: a file for the trained weights, a state_dict. Raises
    :class:`Diverged` where the loss is no longer finite.
    """
    if not force:
        found = runs.load(config.id)
        if found is not None and found["status"] == "finished":
            if save_weights is not None:
                raise InputError(f"record {config.id!r} is there already, without its weights; --force runs it anew and writes them")
            return found, True
    storage.writable("runs")  # before anything is computed
    if save_weights is not None:
        storage.check_file(save_weights)
    loop = _Loop(config, device)
    if force:
        loop.checkpoint.unlink(missing_ok=True)
    order = ranking.load(config.network, config.ranking) if config.ranking else None
    subnet = Subnet(
        loop.model,
        config.budget,
        config.declaration,
        ranking=order,
        input_shape=config.input_shape,
        classifier="classifier",
        k=config.layers,
        batch_norm=config.batch_norm,
        norm_affine=config.norm_affine,
        execution=config.execution,
        depthwise=config.depthwise,
        norm_gradient=config.norm_gradient,
        count=config.count,
        fill=config.fill,
        generator=generator(config.seed, "selection"),
        scheme=scheme_for(config, loop.layers, loop.model),
    )
    probe_generator = generator(config.seed, "probe")
    state = loop.resume()
    if state is not None:
        subnet.load_state_dict(state["subnet"])
        probe_generator.set_state(state["probe"])
    optimizer = torch.optim.SGD(
        subnet.parameters(), lr=config.learning_rate, momentum=config.momentum, weight_decay=config.weight_decay
    )
    if state is not None:
        optimizer.load_state_dict(state["optimizer"])
    while len(loop.rows) < config.total_epochs:
        begun = time.perf_counter()
        whole = _whole_gradient(subnet, loop, probe_generator)
        probed = time.perf_counter()
        subnet.next_epoch(optimizer, whole)
        chosen = time.perf_counter()
        row = loop.train(optimizer)
        trained = time.perf_counter()
        row |= loop.test()
        row |= {
            "train_seconds": trained - chosen,
            "test_seconds": time.perf_counter() - trained,
            "probe_seconds": probed - begun,
            "selection_seconds": chosen - probed,
            **efficiency(subnet.selection, loop.layers),
            "explored_percent": 100 * subnet.selector.explored_fraction,
        }
        loop.rows.append(row)
        loop.seconds += time.perf_counter() - begun
        loop.save(subnet=subnet.state_dict(), optimizer=optimizer.state_dict(), probe=probe_generator.get_state())
        if progress is not None:
            progress(row)
    selector = subnet.selector
    subnet.detach()
    record = loop.record(
        search_space={
            "K": len(selector.ranked) if config.declaration.order else None,
            "layers": list(selector.ranked),
            "elements": selector.space.elements,
            "alpha": selector.alpha if config.declaration.uses_budget else None,
        },
        test_top1_percent=loop.rows[-1]["test_top1_percent"],
        selection={name: list(chosen) for name, chosen in subnet.selection.channels.items()}
        if config.declaration.uses_budget
        else {},
    )
    runs.write(record)
    loop.checkpoint.unlink(missing_ok=True)
    if save_weights is not None:
        torch.save(loop.model.state_dict(), save_weights)
    return record, False


def _whole_gradient(subnet: Subnet, loop: _Loop, probe: torch.Generator):
    """Channel norms of the whole gradient over some training batches, for the oracles."""
    if not subnet.strategy.needs_whole_gradient:
        return None
    batches = loop.data.batches(
        "train", loop.config.batch_size, generator=probe, device=loop.device, augment=True, channels_last=True
    )
    loop.model.train()
    return subnet.channel_norms_of(islice(batches, loop.config.probe_batches))


def efficiency(selection: strategies.Selection, layers: tuple[Layer, ...]) -> dict[str, Any]:
    """Fig. 9's metrics of one selection: what is used, and the shares of the whole network saved."""
    whole = totals(layers)
    weights, activations = selection.weight_elements(layers), selection.activation_elements(layers)
    flops = selection.weight_flops(layers)
    return {
        "selected_channels": selection.count,
        "selected_layers": len(selection.channels),
        "used_elements": selection.used_elements(layers),
        "weight_elements": weights,
        "activation_elements": activations,
        "weight_sparsity_percent": 100 * (1 - weights / whole["weight_elements"]),
        "activation_sparsity_percent": 100 * (1 - activations / whole["activation_elements"]),
        "flops_saved_percent": 100 * (1 - flops / whole["weight_flops"]),
    }


# --- rankings ----------------------------------------------------------------------------------


def rank(
    config: RankConfig, *, device: str = "auto", force: bool = False, progress: Progress | None = None
) -> tuple[dict[str, Any], bool]:
    """A preliminary fine-tuning of the whole network; records LaRa and layer RGN (eqs. 8, 9).

    Every step's channel norms are taken; an epoch's are those of its last step ("last", what
    eq. 11 counts) and their mean over the steps ("mean"). The metrics are computed from the means
    and accumulated over epochs, as Sec. 4.2 says. Ctrl-C ends the run after the epochs that are
    finished and keeps what they gave, with status "interrupted".
    """
    if not force:
        found = runs.load(config.id)
        if found is not None and found["status"] == "finished":
            return found, True
    storage.writable("runs")
    storage.writable("rankings")
    loop = _Loop(config, device)
    if force:
        loop.checkpoint.unlink(missing_ok=True)
    trainer = Dense(loop.model, classifier="classifier", batch_norm=config.batch_norm)
    trainer.select({}, everything=True)
    state = loop.resume()
    weights = [loop.model.get_submodule(layer.name).weight for layer in loop.layers]
    gatherer = importance.Gatherer(weights, loop.layers)
    if state is not None:
        gatherer.last, gatherer.mean = state["last"], state["mean"]
    optimizer = torch.optim.SGD(trainer.parameters(), lr=config.learning_rate)
    status = "finished"
    try:
        while len(loop.rows) < config.total_epochs:
            begun = time.perf_counter()
            row = loop.train(optimizer, gatherer.step)
            row["train_seconds"] = time.perf_counter() - begun
            row |= loop.test()
            row["test_seconds"] = time.perf_counter() - begun - row["train_seconds"]
            gatherer.epoch()
            loop.rows.append(row)
            loop.seconds += time.perf_counter() - begun
            loop.save(last=gatherer.last, mean=gatherer.mean)
            if progress is not None:
                progress(row)
    except KeyboardInterrupt:
        if not loop.rows:
            raise
        status = "interrupted"
    trainer.detach()
    found = ranking.Ranking(
        network=config.network, name=config.name, task=config.task, layers=tuple(layer.name for layer in loop.layers),
        **gatherer.metrics(),
        source=f"run {config.id}, {len(loop.rows)} of {config.total_epochs} epochs",
    )  # fmt: skip
    record = loop.record(
        layers=list(found.layers), lara=list(found.lara), layer_rgn=list(found.layer_rgn),
        lara_order=list(found.order("lara")), rgn_order=list(found.order("rgn")), ranking=found.name,
        test_top1_percent=loop.rows[-1]["test_top1_percent"],
    ) | {"status": status}  # fmt: skip
    ranking.save(found)  # before the record: a finished one says that the ranking is there
    runs.write(
        record,
        {
            "channel_norms_last": torch.stack(gatherer.last).float().numpy(),
            "channel_norms_mean": torch.stack(gatherer.mean).float().numpy(),
            "layer_of_channel": np.repeat(
                np.arange(len(loop.layers)), [layer.channels for layer in loop.layers]
            ).astype(np.int32),
        },
    )
    if status == "finished":
        loop.checkpoint.unlink(missing_ok=True)
    return runs.load(config.id), False
