"""A model, a plan and a board into a folder of C: what ``medyate device export`` writes.

The engine (``runtime/``) is copied as it is. Generated are tables (``network.h``, ``network.c``), weights, linker
scripts whose regions have the board's lengths, and one batch with its losses and gradients by torch's float64,
for ``make check``.
"""

from __future__ import annotations

import copy
import shutil
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from torch import nn

from .. import networks
from ..errors import InputError, positive, whole
from ..files import paths
from ..ranking import Ranking
from ..selection import Selection
from . import images, planning
from .network import ACTIVATIONS, packed
from .planning import Board, Placement, Plan, Program
from .sampler import Generator, sample

REFERENCE_MAGIC = 0x4D445246
TOLERANCE = 1e-4  # of `make check`; the goal is 1e-5, see tests/device
FROZEN = 0xFFFF
PAPER_RATE, PAPER_BATCH = 0.125, 32


@dataclass(frozen=True)
class Training:
    """What the engine trains with. ``epochs`` are those of the cosine, ``warmup_epochs`` come on top.

    ``learning_rate`` is the highest; None is 0.125, in place divided by 32: one step an image in place of one a batch
    of 32. ``batch_size`` is that of mode ``accumulate``, ``seed`` the new classifier's and the device's.
    """

    epochs: int = 9
    warmup_epochs: int = 1
    learning_rate: float | None = None
    batch_size: int = 32
    seed: int = 0

    def __post_init__(self):
        whole(self.epochs, "epochs", 1, 10_000)  # md_main refuses a cosine of no length
        whole(self.warmup_epochs, "warm-up epochs", 0, 10_000)
        whole(self.batch_size, "batch size", 1, 65_536)
        whole(self.seed, "seed", 0, 2**32 - 1)
        if self.learning_rate is not None:
            positive(self.learning_rate, "learning rate")

    @classmethod
    def of(cls, options: Mapping) -> Training:
        """From options by name; what the engine has no code for (augmentation, a boosted draw) is refused by name."""
        allowed = [field.name for field in fields(cls)]
        for name in options:
            if name not in allowed:
                raise InputError(f"option {name!r} is not one that a device knows; allowed: {', '.join(allowed)}")
        return cls(**options)

    def rate(self, program: Program) -> float:
        """The highest learning rate: the one given, else the paper's, by 32 where each image is a step."""
        if self.learning_rate is None:
            return PAPER_RATE if program.accumulates else PAPER_RATE / PAPER_BATCH
        return self.learning_rate

    def batch(self, program: Program) -> int:
        """Images a step."""
        return self.batch_size if program.accumulates else 1


def export(
    model: nn.Module,
    folder: str | Path,
    *,
    budget: int | None = None,
    strategy: str = "LaRa MeDyate",
    ranking: Ranking | None = None,
    board: str = "stm32h743",
    mode: str = "accumulate",
    budget_mode: str = "paper",
    input_shape: Sequence[int] = (3, 128, 128),
    scheme: Selection | None = None,
    k: int | None = None,
    data=None,
    **training,
) -> Plan:
    """Write C sources that fine-tune ``model`` on ``board``, under ``budget``, into ``folder``.

    ``model`` is any torch model whose layers are of the kinds that :func:`medyate.device.network.describe` knows, in
    its present state; batch norm stays frozen. ``ranking`` is what LaRa and TraDy strategies need
    (``medyate.rank``), ``scheme`` what SU needs. ``data``: a loaded image task (:func:`medyate.tasks.loading.load`),
    whose images go along. ``training``: fields of :class:`Training` by name, as ``epochs=20``.

    Returns the plan. Where the board does not hold it the sources are written all the same: its linker will
    refuse them. Raises :class:`InputError` before anything is written.
    """
    trained_with = Training.of(training)
    check_folder(Path(folder))
    on = planning.board(board)
    program = planning.program_of(
        model, strategy, budget, input_shape=input_shape, ranking=ranking, mode=mode, budget_mode=budget_mode,
        scheme=scheme, k=k,
    )  # fmt: skip
    return write(program, model, Path(folder), on, trained_with, data)


def export_network(
    network: str,
    folder: str | Path,
    *,
    budget: int | None = None,
    strategy: str = "LaRa MeDyate",
    ranking: str | None = None,
    board: str = "stm32h743",
    mode: str = "accumulate",
    budget_mode: str = "paper",
    resolution: int = 128,
    weights: str | None = None,
    classes: int | None = None,
    data=None,
    **training,
) -> Plan:
    """:func:`export` of one of the paper's networks, with a new classifier drawn from the training's ``seed``.

    ``budget`` None is tier 1, ``ranking`` the name of a recorded one; ``classes`` those of ``data``, else 10.
    """
    trained_with = Training.of(training)
    check_folder(Path(folder))
    on = planning.board(board)
    entry = planning.image_network(network)
    if classes is None:
        classes = 10 if data is None else len(data.classes)
    # every check before weights are fetched
    options = {
        "resolution": resolution,
        "mode": mode,
        "budget_mode": budget_mode,
        "classes": classes,
        "ranking": ranking,
    }
    planning.network_program(entry.name, strategy, budget, **options)
    if weights == "imagenet-int8":
        raise InputError(f"weights {weights!r} are for the folded networks; allowed on a device: imagenet, random")
    drawn = torch.Generator().manual_seed(trained_with.seed)
    model = networks.build(entry.name, weights=weights, classes=classes, generator=drawn)
    program = planning.network_program(entry.name, strategy, budget, **options, model=model)
    return write(program, model, Path(folder), on, trained_with, data)


def check_folder(folder: Path) -> None:
    """Refuse a folder with somebody's own files in it: an export replaces its ``Makefile`` and ``README.md``."""
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "src" / "medyate.h").is_file():
        raise InputError(
            f"folder {str(folder)!r} is not empty and holds no export; "
            "allowed: a new folder, an empty one, or an earlier export's, whose files are replaced"
        )


def write(program: Program, model: nn.Module, folder: Path, on: Board, training: Training, data=None) -> Plan:
    """The folder of :func:`export`, for a program that is made already and a folder that was checked."""
    if data is not None and (3, data.resolution, data.resolution) != program.network.input_shape:
        raise InputError(
            f"images of {data.resolution} pixels; allowed: {program.network.input_shape[1]}, the network's"
        )
    if data is not None and len(data.classes) > program.network.classes:
        raise InputError(
            f"a task of {len(data.classes)} classes; allowed: at most {program.network.classes}, the classifier's"
        )
    plan = planning.plan_of(program)
    placed = planning.place(plan, on)
    try:
        (folder / "src").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"cannot write to {str(folder)!r} ({error.strerror}); give a folder that can be written"
        ) from error
    runtime = resources.files(__package__).joinpath("runtime")
    for entry in runtime.iterdir():
        if entry.name.endswith((".c", ".h", ".S")):
            (folder / "src" / entry.name).write_bytes(entry.read_bytes())
    (folder / "Makefile").write_bytes(runtime.joinpath("Makefile").read_bytes())
    (folder / "build").is_dir() and shutil.rmtree(folder / "build")

    numbers, offsets = packed(model, program.network)
    paths.write_bytes(folder / "weights.bin", numbers.tobytes())
    texts = {
        "network.h": _header(plan, placed, len(numbers), training),
        "network.c": _tables(program, offsets),
        "config.mk": f"BOARD := {on.name}\nCPU := {on.cpu}\nFPU := {on.fpu}\n",
        "board.ld": _linker_script(plan, placed, on),
        "emulated.ld": _linker_script(plan, placed, _as_emulated(on)),
        "README.md": _readme(plan, placed, on),
    }
    for name, text in texts.items():
        paths.write_bytes(folder / name, text.encode())
    _write_reference(folder / "reference.bin", program, model, data, training.seed)
    for split in ("train.bin", "test.bin"):
        (folder / split).unlink(missing_ok=True)
    if data is not None:
        images.write_task(folder, data)
    return plan


# --- tables -------------------------------------------------------------------------------------------------


def _header(plan: Plan, placed: Placement | None, weights: int, training: Training) -> str:
    program, network = plan.program, plan.program.network
    split = placed is not None and placed.split
    strategy = "MD_FIXED" if program.fixed is not None else "MD_MEDYATE" if program.norms else "MD_UNIFORM"
    arena = plan.held_bytes if split else plan.arena_bytes
    values = {
        "MD_LAYERS": len(network.convolutions),
        "MD_STAGES": len(network.stages),
        "MD_MAX_KERNEL": max(c.kernel for c in network.convolutions),
        "MD_IMAGE_BYTES": network.image_bytes,
        "MD_FEATURES": network.features,
        "MD_CLASSES": network.classes,
        "MD_CLASSIFIER": weights - network.classes * (network.features + 1),
        "MD_SEARCHED": len(program.searched),
        "MD_CHANNELS": program.search_channels,
        "MD_STORED": program.search_channels,
        "MD_NORMS": program.norms,
        "MD_MAX_CHOSEN": program.most_chosen,
        "MD_STRATEGY": strategy,
        "MD_BUDGET": program.budget or 0,
        "MD_WEIGHT_COUNT": program.weight_count,
        "MD_ACCUMULATE": int(program.accumulates),
        "MD_SPLIT": int(split),
        "MD_ARENA_FLOATS": arena // 4,
        "MD_PASSING_FLOATS": plan.passing_bytes // 4 if split else 0,
        "MD_STATE_BYTES": plan.state_bytes,
        "MD_STACK_BYTES": planning.STACK_BYTES,
        "MD_UNIT": planning.UNIT_BYTES,
        "MD_BANK_BYTES": plan.bank_bytes,
        "MD_EPOCHS": training.epochs + training.warmup_epochs,
        "MD_WARMUP": training.warmup_epochs,
        "MD_BATCH": training.batch(program),
        "MD_RATE": f"{float(np.float32(training.rate(program)))!r}f",
        "MD_IMAGES_MAGIC": f"{images.MAGIC:#x}u",
        "MD_REFERENCE_MAGIC": f"{REFERENCE_MAGIC:#x}u",
        "MD_TOLERANCE": TOLERANCE,
    }
    lines = [f"#define {name} {value}" for name, value in values.items()]
    about = f"/* {program.strategy}, {program.mode}; made by medyate device export. */"
    return "\n".join([about, "#ifndef NETWORK_H", "#define NETWORK_H", *lines, "#endif", ""])


def _list(kind: str, name: str, values: Sequence[object]) -> list[str]:
    """A constant array; C has no empty ones, so an empty list is one 0."""
    body = [str(value) for value in values] or ["0"]
    rows = [" " * 4 + ", ".join(body[i : i + 12]) + "," for i in range(0, len(body), 12)]
    return [f"const {kind} {name}[{len(body)}] = {{", *rows, "};", ""]


def _tables(program: Program, offsets: Sequence[tuple[int, int]]) -> str:
    network = program.network
    place = {number: at for at, number in enumerate(program.searched)}
    starts = np.cumsum([0, *(network.convolutions[number].channels for number in program.searched)]).tolist()
    lines = ['#include "medyate.h"', "", "const md_layer md_layers[MD_LAYERS] = {"]
    for number, (c, (weight, scale)) in enumerate(zip(network.convolutions, offsets)):
        row = (
            weight, scale, c.channels, c.outputs, c.height, c.width, c.out_height, c.out_width, c.kernel, c.stride,
            c.pad_top, c.pad_left, int(c.depthwise), ACTIVATIONS.index(c.activation), place.get(number, FROZEN),
        )  # fmt: skip
        lines.append(f"    {{{', '.join(map(str, row))}}}, /* {number}: {c.name} */")
    lines += ["};", "", "const md_stage md_stages[MD_STAGES] = {"]
    for stage in network.stages:
        parts = [-1 if part is None else part for part in (stage.expand, stage.depthwise, stage.project)]
        row = (*parts, int(stage.residual), planning.scratch_floats(program, stage))
        lines.append(f"    {{{', '.join(map(str, row))}}},")
    lines += ["};", ""]
    fixed = [
        starts[place[n]] + channel for n, channels in sorted((program.fixed or {}).items()) for channel in channels
    ]
    lines += _list("uint16_t", "md_searched", program.searched)
    lines += _list("uint16_t", "md_search_start", starts)
    lines += _list("uint16_t", "md_fixed", fixed)
    return "\n".join(lines)


# --- linker scripts -----------------------------------------------------------------------------------------


def _as_emulated(on: Board) -> Board:
    """The emulator's board with RAM in blocks of the given board's lengths, one behind another."""
    host = planning.board("mps2-an500")
    ram, at = [], host.of_kind("ram")[0].origin
    for region in on.of_kind("ram"):
        ram.append(planning.Region(region.name, "ram", at, region.length_bytes, region.source))
        at += region.length_bytes
    flash = {region.name: region for region in host.of_kind("flash")}
    return Board(host.name, host.description, host.cpu, host.fpu, True, (flash["FLASH"], flash["STORE"], *ram))


def _linker_script(plan: Plan, placed: Placement | None, on: Board) -> str:
    """Sections to regions. A plan that the board does not hold goes to its largest ones, and is refused there."""
    largest = {kind: max(on.of_kind(kind), key=lambda region: region.length_bytes).name for kind in ("ram", "flash")}
    known = {region.name for region in on.regions}
    where = {
        "arena": largest["ram"],
        "state": largest["ram"],
        "code": on.of_kind("flash")[0].name,
        "weights": largest["flash"],
        "store": largest["flash"],
    }
    if placed is not None:
        where |= {section: region for section, region in placed.regions.items() if region in known}
    if on.emulated and "STORE" in known:
        where |= {"code": "FLASH", "weights": "FLASH", "store": "STORE"}
    passing = (
        [f"    .passing (NOLOAD) : {{ *(.md_passing) }} > {where['passing']}"]
        if placed is not None and placed.split
        else []
    )
    memory = []
    for region in on.regions:
        access, given = "rx" if region.kind == "flash" else "rwx", f"md_length_{region.name}"
        length = f"DEFINED({given}) ? {given} : {region.length_bytes}"
        memory.append(f"    {region.name} ({access}) : ORIGIN = {region.origin:#010x}, LENGTH = {length}")
        memory.append(f"    /* {region.source} */")
    return "\n".join(
        [
            f"/* {on.description}. A region's length can be lowered: -Wl,--defsym=md_length_NAME=BYTES */",
            "ENTRY(md_reset)",
            "MEMORY",
            "{",
            *memory,
            "}",
            "SECTIONS",
            "{",
            f"    .text : {{ KEEP(*(.vectors)) *(.text*) *(.rodata*) . = ALIGN(8); }} > {where['code']}",
            f"    .ARM.exidx : {{ *(.ARM.exidx*) }} > {where['code']}",
            f"    .weights : {{ *(.weights) }} > {where['weights']}",
            f"    .store (NOLOAD) : ALIGN({planning.UNIT_BYTES})",
            f"        {{ md_store_begin = .; . += {2 * plan.bank_bytes}; }} > {where['store']}",
            f"    .arena (NOLOAD) : {{ *(.md_arena) }} > {where['arena']}",
            *passing,
            f"    .state (NOLOAD) : {{ *(.md_state) }} > {where['state']}",
            "    .stack (NOLOAD) :",
            f"        {{ md_stack_begin = .; . += {planning.STACK_BYTES}; md_stack_end = .; }} > {where['state']}",
            f"    .other : {{ *(.data* .bss* COMMON) }} > {where['state']}",
            '    ASSERT(SIZEOF(.other) == 0, "something lies in RAM that the plan does not know")',
            "}",
            "",
        ]
    )


# --- the reference ------------------------------------------------------------------------------------------


def first_selection(program: Program, seed: int = 0) -> list[int]:
    """Channels of the search space that the device chooses first, by their numbers in it."""
    starts = np.cumsum([0, *(program.network.convolutions[number].channels for number in program.searched)])
    if program.fixed is not None:
        place = {number: at for at, number in enumerate(program.searched)}
        return [
            int(starts[place[n]]) + channel for n, channels in sorted(program.fixed.items()) for channel in channels
        ]
    channel_costs = [
        program.channel_cost(number)
        for number in program.searched
        for _ in range(program.network.convolutions[number].channels)
    ]
    return sample(None, channel_costs, program.budget, Generator(seed))


def by_layer(program: Program, channels: Sequence[int]) -> dict[int, list[int]]:
    """Numbers in the search space -> channels by convolution."""
    rows_of, start = {}, 0
    for number in program.searched:
        count = program.network.convolutions[number].channels
        own = [channel - start for channel in channels if start <= channel < start + count]
        if own:
            rows_of[number] = own
        start += count
    return rows_of


def reference(
    program: Program, model: nn.Module, batch: np.ndarray, labels: Sequence[int], channels: Sequence[int]
) -> list[tuple[str, np.ndarray]]:
    """Logits of each image, the mean loss, gradients of the classifier and the chosen channels, by float64 autograd.

    ``batch`` is (N, 3, H, W) uint8. Gradients of a layer are (k, weights a channel), in the engine's layout.
    """
    network = program.network
    exact = copy.deepcopy(model).double().eval().requires_grad_(True)
    pixels = torch.from_numpy(batch).double() / 127.5 - 1
    logits = exact(pixels)
    loss = nn.functional.cross_entropy(logits, torch.tensor(labels))
    loss.backward()
    tensors = [(f"logits of image {i}", row.detach().numpy()) for i, row in enumerate(logits)]
    classifier = exact.get_submodule(network.classifier)
    tensors.append(("loss", loss.detach().reshape(1).numpy()))
    tensors.append((network.classifier, torch.cat([classifier.weight.grad.flatten(), classifier.bias.grad]).numpy()))
    for number, own in by_layer(program, channels).items():
        c = network.convolutions[number]
        gradient = exact.get_submodule(c.name).weight.grad
        rows = gradient[own] if c.depthwise else gradient.transpose(0, 1)[own]
        tensors.append((c.name, rows.flatten(1).numpy()))
    return tensors


def _write_reference(path: Path, program: Program, model: nn.Module, data, seed: int) -> None:
    count = 2 if program.accumulates else 1
    if data is not None:
        given, labels = next(iter(data.batches("train", count, augment=False)))
        batch, labels = images.as_bytes(given), labels.tolist()
    else:
        generator = torch.Generator().manual_seed(seed)
        shape = (count, *program.network.input_shape)
        batch = torch.randint(256, shape, generator=generator).to(torch.uint8).numpy()
        labels = torch.randint(program.network.classes, (count,), generator=generator).tolist()
    channels = first_selection(program, seed)
    tensors = dict(reference(program, model, batch, labels, channels))
    parts = [struct.pack("<III", REFERENCE_MAGIC, count, len(channels)), np.array(channels, "<u2").tobytes()]

    def tensor(name: str) -> bytes:
        values = tensors.pop(name).astype("<f4").ravel()
        return name.encode()[:47].ljust(48, b"\0") + struct.pack("<I", len(values)) + values.tobytes()

    for i in range(count):
        parts += [struct.pack("<I", labels[i]), batch[i].tobytes(), tensor(f"logits of image {i}")]
    parts += [tensor(name) for name in list(tensors)]
    paths.write_bytes(path, b"".join(parts))


def _readme(plan: Plan, placed: Placement | None, on: Board) -> str:
    program = plan.program
    rows = "\n".join(f"| {part} | {size:,} |" for part, size in plan.ram_by_part.items())
    budget = "no budget" if program.budget is None else f"{program.budget:,} elements"
    fits = (
        f"{on.name} holds it."
        if placed is not None
        else f"{on.name} does not hold it: `make firmware` ends with the linker's refusal."
    )
    return f"""# {program.strategy} on {on.name}

{budget}, mode {program.mode}. {on.description}. {fits}

* `make check`: gradients and losses of one batch against the reference (float64)
* `make train`: the whole training, natively, on `train.bin`; `make train ARGS="epochs=2 seed=1"`
* `make firmware`: the image for the board, where the linker proves the memory
* `make qemu`: the same training on an emulated Cortex-M7; its checksum of the weights is that of `make train`
* `make size`: what lies where

`src/` is the engine, the same for every network; read `src/medyate.h` first. `network.c` and `network.h` are tables.
A product replaces `src/port_cortexm.c`: where images come from, how the store's flash is written.

RAM, {plan.ram_bytes:,} bytes in one block, a bound over every selection within the budget:

| part | bytes |
| --- | --- |
{rows}

Flash: {plan.flash_bytes:,} bytes, of which {2 * plan.bank_bytes:,} for the store of trained weights.
"""
