"""One run: a frozen config in, a record out (Sec. 4.1)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .. import importance, networks, ranking, tasks
from ..costs import Layer, totals
from ..errors import InputError, choose
from ..execution.masked import Dense
from ..files import paths as storage
from ..networks import schemes
from ..networks import transformers as encoders
from ..selection import Selection
from ..strategies import Needs
from ..subnet import Subnet
from ..tasks import tokens
from . import rankings
from . import records as runs
from .config import RankConfig, RunConfig

Data = tasks.ImageData | tokens.TokenData
Progress = Callable[[dict[str, Any]], None]
# Streams of random numbers of one seed, apart from one another: a strategy that draws more channels
# must not change the data that the run sees.
_STREAMS = ("classifier", "data", "selection", "probe")
TEST_BATCH = 100  # images


def generator(seed: int, stream: str) -> torch.Generator:
    """The generator of one stream of a seed."""
    return torch.Generator().manual_seed(seed * len(_STREAMS) + _STREAMS.index(stream))


def device_of(name: str) -> str:
    """ "auto" is CUDA where there is one, else the CPU; checks that the device is there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    choose(name.partition(":")[0], ("auto", "cpu", "cuda"), "device")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(f"device {name!r}: torch sees no CUDA device here; allowed: auto, cpu")
    return name


def in_float32() -> None:
    """From now on convolutions and products on CUDA compute in float32, as a CPU does: torch's own default rounds the
    inputs of convolutions to TF32, 10 bits of mantissa, on every GPU since Ampere."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False


def learning_rate(step: int, steps_per_epoch: int, config: RunConfig | RankConfig) -> float:
    """Linear warm-up from 0, then a cosine to 0, per iteration; ``step`` counts from 0 (Sec. 4.1)."""
    warmup = config.warmup_epochs * steps_per_epoch
    if step < warmup:
        return config.learning_rate * step / warmup
    share = (step - warmup) / (config.epochs * steps_per_epoch)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * share))


def evaluate(model: nn.Module, batches) -> tuple[float, float]:
    """Mean loss and top-1 in percent."""
    loss, right, count = summed(model, batches)
    return float(loss) / count, 100 * int(right) / count


def summed(model: nn.Module, batches) -> tuple[Tensor, Tensor, int]:
    """Summed loss (float64) and right answers of the images of ``batches``, and how many images.

    Logits are (N, classes) for labels (N,), and the sums have no dimension; or (N, runs, classes)
    for labels (N, runs), and the sums are (runs,). The device is asked for nothing on the way.
    """
    model.eval()
    loss, right, count = 0, 0, 0
    with torch.no_grad():
        for images, labels in batches:
            output = model(images)
            if labels.dim() == 1:
                value = nn.functional.cross_entropy(output, labels, reduction="sum")
            else:
                value = nn.functional.cross_entropy(output.movedim(-1, 1), labels, reduction="none").sum(0)
            loss = loss + value.double()
            right = right + (output.argmax(-1) == labels).sum(0)
            count += len(labels)
    return loss, right, count


def test_row(loss: float, top1_percent: float) -> dict[str, float | None]:
    """What the record says of an epoch's test."""
    return {"test_loss": loss if math.isfinite(loss) else None, "test_top1_percent": top1_percent}


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


def load_data(config: RunConfig | RankConfig) -> Data:
    """The task of a config: images at its resolution, or texts in its network's tokens."""
    network = networks.get(config.network)
    if network.kind == "text":
        return tokens.encode(tasks.load(config.task), network, config.resolution)
    return tasks.load(config.task, resolution=config.resolution)


class _Loop:
    """What runs and rankings share: data, model, schedule, one epoch, checkpoints."""

    def __init__(self, config: RunConfig | RankConfig, device: str, data: Data | None = None):
        self.config, self.device = config.complete(), device_of(device)
        config = self.config
        if self.device.startswith("cuda"):
            in_float32()
            torch.cuda.reset_peak_memory_stats()
        runs.environment(self.device)  # asks for the commit now, while it is that of the loaded code
        self.earlier: list[dict[str, Any]] = []  # environments of the epochs that a checkpoint brought, and how many
        self.data = load_data(config) if data is None else data
        if config.data is not None and tasks.fingerprint(tasks.get(config.task)) != config.data:
            raise InputError(f"the data of task {config.task!r} changed while they were read; run it anew")
        self.model = networks.build(
            config.network,
            weights=config.weights,
            classes=len(self.data.classes),
            generator=generator(config.seed, "classifier"),
        ).to(self.device, memory_format=torch.channels_last)
        self._check_last_batch()
        self.layers = config.backbone_layers()
        self.data_generator = generator(config.seed, "data")
        self.steps_per_epoch = -(-len(self.data.train) // config.batch_size)
        self.rows: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.checkpoint = storage.writable("checkpoints") / f"{config.id}.pt"

    def _check_last_batch(self) -> None:
        """Refuse a batch of one image where a batch norm that trains sees one pixel: it has nothing to average over."""
        count, size = len(self.data.train), self.config.batch_size
        if self.config.batch_norm != "train" or (size > 1 and count % size != 1):
            return
        sizes = []
        norms = [module for module in self.model.modules() if isinstance(module, nn.BatchNorm2d)]
        hooks = [
            norm.register_forward_pre_hook(lambda _, inputs: sizes.append(inputs[0][0, 0].numel())) for norm in norms
        ]
        self.model.eval()
        with torch.no_grad():
            self.model(torch.zeros(1, *self.config.input_shape, device=self.device))
        for hook in hooks:
            hook.remove()
        if 1 in sizes:
            raise InputError(
                f"batch size {size:,} leaves a batch of one image of {count:,}, and at resolution "
                f"{self.config.resolution} a batch norm sees one pixel of it, which it cannot train on; "
                f"allowed: another batch size, a larger resolution, or batch norm mode 'frozen'"
            )

    def train(self, optimizer: torch.optim.Optimizer, after_backward: Callable[[], None] | None = None) -> dict:
        """One epoch of training; returns its row of the record."""
        self.model.train()
        step = len(self.rows) * self.steps_per_epoch
        loss_sum = torch.zeros((), device=self.device, dtype=next(self.model.parameters()).dtype)
        right = torch.zeros((), dtype=torch.long, device=self.device)
        count = 0
        batches = self.data.batches(
            "train",
            self.config.batch_size,
            generator=self.data_generator,
            device=self.device,
            augment=True,
            channels_last=True,
        )
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
        return self.train_row(rate, float(loss_sum) / count, 100 * int(right) / count)

    def train_row(self, rate: float, loss: float, top1_percent: float) -> dict[str, Any]:
        """What the record says of an epoch's training; raises :class:`Diverged`."""
        epoch = len(self.rows) + 1
        if not math.isfinite(loss):
            raise Diverged(f"the loss is {loss} in epoch {epoch}; a smaller learning rate may help")
        return {"epoch": epoch, "learning_rate": rate, "train_loss": loss, "train_top1_percent": top1_percent}

    def test_batches(self):
        return self.data.batches("test", TEST_BATCH, device=self.device, augment=False, channels_last=True)

    def test(self) -> dict[str, float | None]:
        return test_row(*evaluate(self.model, self.test_batches()))

    def save(self, **state: Any) -> None:
        """A checkpoint at an epoch's end; replaced atomically."""
        import io

        buffer, before = io.BytesIO(), sum(one["epochs"] for one in self.earlier)
        torch.save(
            {
                "config": self.config.identity,
                "rows": self.rows,
                "seconds": self.seconds,
                "threads": torch.get_num_threads() if self.device == "cpu" else None,
                "environments": [*self.earlier, {**runs.environment(self.device), "epochs": len(self.rows) - before}],
                # copies: of a tensor that is a part of a larger one, all of it would be written
                "model": {name: value.clone() for name, value in self.model.state_dict().items()},
                "data": self.data_generator.get_state(),
                **state,
            },
            buffer,
        )
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
        if state["config"] != self.config.identity:
            return None
        self.model.load_state_dict(state["model"])
        self.data_generator.set_state(state["data"])
        self.rows, self.seconds = state["rows"], state["seconds"]
        if self.device == "cpu" and state.get("threads"):
            # sums depend on how many threads share them: as it began, so it goes on
            torch.set_num_threads(state["threads"])
        self.earlier = state.get("environments", [])
        if self.earlier and {**self.earlier[-1], "epochs": 0} == {**runs.environment(self.device), "epochs": 0}:
            self.earlier.pop()  # it goes on where it stopped
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
            "environment": runs.environment(self.device) | ({"earlier": self.earlier} if self.earlier else {}),
            "arrays": None,
        }


class Diverged(RuntimeError):
    """Training went to infinity; the run has no accuracy."""


def scheme_for(config: RunConfig, layers: tuple[Layer, ...], model: nn.Module) -> Selection | None:
    """The SU scheme's channels where the strategy is SU, chosen by the pretrained weights.

    A scheme that costs more than the budget (MbV2's tier 1, whose printed budget counts its
    depthwise layer lower) gives up channels of the smallest norm in its last layers until it fits,
    for the budget is a hard bound.
    """
    if not config.declaration.needs(Needs.SCHEME):
        return None
    tier = schemes.tier_of(config.network, config.budget, layers)
    weights = {layer.name: model.get_submodule(layer.name).weight.detach() for layer in layers}
    chosen = schemes.scheme_selection(config.network, tier, layers, weights)
    return schemes.fitted(chosen, layers, weights, config.budget)


def subnet_of(config: RunConfig, model: nn.Module, *, execution: str | None = None, check: bool = True) -> Subnet:
    """The Subnet that a config describes, around its network: the one place where options become arguments.

    ``execution`` in place of the config's; ``check``: see :class:`medyate.subnet.Subnet`.
    """
    return Subnet(
        model,
        config.budget,
        config.declaration,
        ranking=rankings.load(config.network, config.ranking) if config.ranking else None,
        input_shape=config.input_shape,
        classifier="classifier",
        k=config.layers,
        batch_norm=config.batch_norm,
        norm_affine=config.norm_affine,
        recompute=config.recompute,
        execution=execution or config.execution,
        depthwise=config.depthwise,
        norm_gradient=config.norm_gradient,
        count=config.count,
        fill=config.fill,
        generator=generator(config.seed, "selection"),
        scheme=scheme_for(config, config.backbone_layers(), model),
        check=check,
    )


def run(
    config: RunConfig,
    *,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
    save_weights: Path | None = None,
) -> tuple[dict[str, Any], bool]:
    """Fine-tune as ``config`` says. Returns the record and whether it was there already.

    ``progress`` is called with each epoch's row. Continues from the checkpoint of an interrupted
    run of the same config. ``save_weights``: a file for the trained weights, a state_dict. Raises
    :class:`Diverged` where the loss is no longer finite.
    """
    config = config.check()
    if not force:
        recorded = runs.load(config.id)
        if recorded is not None and recorded["status"] == "finished":
            if save_weights is not None:
                raise InputError(
                    f"record {config.id!r} is there already, without its weights; --force runs it anew and writes them"
                )
            return recorded, True
    storage.writable("runs")  # before anything is computed
    if save_weights is not None:
        storage.check_file(save_weights)
    tuning = Tuning(config, device, force=force)
    while not tuning.done:
        tuning.choose()
        begun = time.perf_counter()
        row = tuning.train(tuning.optimizer)
        trained = time.perf_counter()
        row |= tuning.test()
        row |= {"train_seconds": trained - begun, "test_seconds": time.perf_counter() - trained}
        row = tuning.end_epoch(row)
        if progress is not None:
            progress(row)
    record = tuning.write()
    if save_weights is not None:
        torch.save(tuning.model.state_dict(), save_weights)
    return record, False


class Tuning(_Loop):
    """The fine-tuning of one config, epoch by epoch; alone (:func:`run`) or in a stack.

    An epoch is :meth:`choose`, training and a test, :meth:`end_epoch`; after the last one comes
    :meth:`write`. Begins at the checkpoint of the config where there is one, unless ``force``.
    ``data`` saves loading the task anew; ``execution`` may differ from the config's, which changes
    no number beyond rounding.
    """

    def __init__(
        self,
        config: RunConfig,
        device: str,
        *,
        force: bool = False,
        data: Data | None = None,
        execution: str | None = None,
    ):
        super().__init__(config, device, data)
        config = self.config
        if force:
            self.checkpoint.unlink(missing_ok=True)
        self.subnet = subnet_of(config, self.model, execution=execution)
        self.probe_generator = generator(config.seed, "probe")
        state = self.resume()
        if state is not None:
            self.subnet.load_state_dict(state["subnet"])
            self.probe_generator.set_state(state["probe"])
        self.optimizer = torch.optim.SGD(
            self.subnet.parameters(),
            lr=config.learning_rate,
            momentum=config.momentum,
            weight_decay=config.weight_decay,
        )
        if state is not None:
            self._load_optimizer(state["optimizer"])
        self._spent: dict[str, float] = {}

    def _load_optimizer(self, state: dict[str, Any]) -> None:
        """The optimiser's state; of a checkpoint that names only what was trained then, under its own numbers."""
        ours, theirs = self.optimizer.state_dict()["param_groups"][0], state["param_groups"][0]
        if len(theirs["params"]) != len(ours["params"]):
            values = {}
            if state["state"]:  # of plain SGD there is none, and another execution may list other parameters
                place = {id(parameter): number for number, parameter in enumerate(self.subnet.parameters())}
                active = [place[id(parameter)] for parameter in self.subnet.attached.active()]
                if len(active) != len(theirs["params"]):
                    raise InputError(
                        f"{str(self.checkpoint)!r} knows {len(theirs['params'])} trained parameters, where there are "
                        f"{len(active)}; allowed: a checkpoint of this version; remove it to begin anew"
                    )
                number = dict(zip(theirs["params"], active, strict=True))
                values = {number[key]: value for key, value in state["state"].items()}
            state = {"state": values, "param_groups": [theirs | {"params": ours["params"]}]}
        self.optimizer.load_state_dict(state)

    @property
    def done(self) -> bool:
        return len(self.rows) >= self.config.total_epochs

    def choose(self, probed: tuple[dict[str, Tensor], float] | None = None) -> None:
        """The next epoch's channels; for the oracles after a look at the whole gradient.

        ``probed``: what that look has given, and its seconds, where someone else has taken it.
        """
        begun = time.perf_counter()
        reading = {}
        if self.reads_once and self.model.known is None:
            self.model.remember([*self.data.train.tokens, *self.data.test.tokens])
            reading = {"encoder_seconds": time.perf_counter() - begun}
        begun = time.perf_counter()
        if probed is None and self.subnet.selector.needs_whole_gradient:
            whole = self._whole_gradient()
            probed = whole, time.perf_counter() - begun
        whole, seconds = probed or (None, 0.0)
        begun = time.perf_counter()
        self.subnet.next_epoch(self.optimizer, whole)
        self._spent = {**reading, "probe_seconds": seconds, "selection_seconds": time.perf_counter() - begun}

    @property
    def reads_once(self) -> bool:
        """Whether this is a text network whose encoder stays as it is, whatever will be selected.

        Then its features of a text never change (texts are not augmented), and each text is read
        once in place of once an epoch.
        """
        if not isinstance(self.model, encoders.TextClassifier) or self.subnet.strategy.needs(Needs.EVERYTHING):
            return False
        chosen = self.subnet.selector.ranked if self.subnet.strategy.uses_budget else ()
        return not any(self.model.encodes(layer) for layer in chosen)

    def _whole_gradient(self) -> dict[str, Tensor]:
        """Channel norms of the whole gradient over some training batches."""
        batches = self.data.batches(
            "train",
            self.config.batch_size,
            generator=self.probe_generator,
            device=self.device,
            augment=True,
            channels_last=True,
        )
        self.model.train()
        return self.subnet.channel_norms_of(
            islice(batches, self.config.probe_batches), layers=self.subnet.selector.ranked
        )

    def end_epoch(self, row: dict[str, Any]) -> dict[str, Any]:
        """Completes ``row`` (training, test and their seconds), keeps it, writes the checkpoint."""
        row = {
            **row,
            **self._spent,
            **efficiency(self.subnet.selection, self.layers),
            "explored_percent": 100 * self.subnet.selector.explored_fraction,
        }
        self.rows.append(row)
        self.seconds += sum(value for name, value in row.items() if name.endswith("_seconds"))
        self.save(
            subnet=self.subnet.state_dict(),
            optimizer=self.optimizer.state_dict(),
            probe=self.probe_generator.get_state(),
        )
        return row

    def write(self) -> dict[str, Any]:
        """Writes the record of the finished run and gives it back; the model is a plain one again."""
        selector, selection = self.subnet.selector, self.subnet.selection
        self.subnet.detach()
        uses_budget = self.config.declaration.uses_budget
        record = self.record(
            search_space={
                "K": len(selector.ranked) if self.config.declaration.order else None,
                "layers": list(selector.ranked),
                "elements": selector.space.elements,
                "alpha": selector.alpha if uses_budget else None,
            },
            test_top1_percent=self.rows[-1]["test_top1_percent"],
            selection={name: list(chosen) for name, chosen in selection.channels.items()} if uses_budget else {},
        )
        shared = [row["stacked_runs"] for row in self.rows if "stacked_runs" in row]
        if any("encoder_seconds" in row for row in self.rows):
            record["environment"]["encoder"] = "read once"
        if shared:
            record["environment"] |= {"stacked_runs": max(shared), "execution": "dense"}
        runs.write(record)
        self.checkpoint.unlink(missing_ok=True)
        return record


def efficiency(selection: Selection, layers: tuple[Layer, ...]) -> dict[str, Any]:
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
    """A preliminary fine-tuning of the whole network; records LaRa and layer RGN (paper eqs. 8, 9).

    An epoch's channel norms are recorded under each definition of :data:`medyate.importance.NORM_GRADIENTS`:
    of its last step (what paper eq. 11 counts), their mean over the steps, and those of the steps' mean gradient.
    The metrics are computed from those that ``config.norm_gradient`` names and accumulated over epochs, as
    Sec. 4.2 says; a second definition is read from the first one's record, without another fine-tuning.
    Ctrl-C ends the run after the epochs that are finished and keeps what they gave, with status "interrupted".
    """
    config = config.check()
    if not force:
        recorded = runs.load(config.id)
        if recorded is not None and recorded["status"] == "finished":
            return recorded, True
        _check_name(config)
        if (recorded := _redefined(config)) is not None:
            return recorded, False
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
        gatherer.last, gatherer.mean, gatherer.of_mean = state["last"], state["mean"], state["of_mean"]
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
            loop.save(last=gatherer.last, mean=gatherer.mean, of_mean=gatherer.of_mean)
            if progress is not None:
                progress(row)
    except KeyboardInterrupt:
        if not loop.rows:
            raise
        status = "interrupted"
    trainer.detach()
    metrics = gatherer.metrics(config.norm_gradient)
    source = f"run {config.id}, {len(loop.rows)} of {config.total_epochs} epochs"
    top1_percent = loop.rows[-1]["test_top1_percent"]
    record = loop.record(**_ranked(config, metrics, source), test_top1_percent=top1_percent) | {"status": status}
    runs.write(
        record,
        {
            **{array: torch.stack(gatherer.gathered(name)).float().numpy() for name, array in runs.NORM_ARRAYS.items()},
            "layer_of_channel": np.repeat(
                np.arange(len(loop.layers)), [layer.channels for layer in loop.layers]
            ).astype(np.int32),
        },
    )
    if status == "finished":
        loop.checkpoint.unlink(missing_ok=True)
    return runs.load(config.id), False


def _ranked(config: RankConfig, metrics: dict[str, tuple[float, ...]], source: str) -> dict[str, Any]:
    """Writes the ranking that ``metrics`` make, and returns what its record says of it.

    Before the record, so that a finished one says that the ranking is there.
    """
    layers = tuple(layer.name for layer in config.backbone_layers())
    ranked = ranking.Ranking(config.network, config.name, layers, **metrics, task=config.task, source=source)
    rankings.save(ranked)
    return {
        "layers": list(ranked.layers),
        "lara": list(ranked.lara),
        "layer_rgn": list(ranked.layer_rgn),
        "lara_order": list(ranked.order("lara")),
        "rgn_order": list(ranked.order("rgn")),
        "ranking": ranked.name,
    }


def _check_name(config: RankConfig) -> None:
    """Refuse to replace a ranking of the same name that was made with other options."""
    if config.name not in rankings.names(config.network):
        return
    source = rankings.load(config.network, config.name).source
    if not any(replace(config, norm_gradient=one).id in source for one in importance.NORM_GRADIENTS):
        raise InputError(
            f"ranking {config.name!r} of {config.network!r} is there already, made with other options ({source}); "
            f"allowed: another seed, length or resolution, or --force, which replaces it"
        )


def _redefined(config: RankConfig) -> dict[str, Any] | None:
    """The record of ``config`` made from the same fine-tuning's under another definition of norms.

    None where no such record has the arrays; it names that record (``derived_from``) and shares its arrays.
    """
    for definition in runs.NORM_ARRAYS:
        other = replace(config, norm_gradient=definition)
        record = runs.load(other.id)
        if record is None or record["status"] != "finished":
            continue
        norms = runs.arrays(record).get(runs.NORM_ARRAYS[config.norm_gradient])
        if norms is None:  # recorded before this definition was
            continue
        gatherer = importance.Gatherer([], config.backbone_layers())
        gatherer.gathered(config.norm_gradient).extend(torch.from_numpy(norms).double())
        metrics = gatherer.metrics(config.norm_gradient)
        ranked = _ranked(config, metrics, f"norms of run {other.id}, {len(norms)} epochs")
        derived = record | {"id": config.id, "config": config.as_dict(), "derived_from": other.id} | ranked
        runs.write(derived)
        return derived
    return None
