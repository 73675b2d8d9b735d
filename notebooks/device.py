# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # On a device: what a step needs in RAM
#
# The paper's budget counts gradients and kept inputs of one image. A microcontroller that trains must also hold the trained weights' copies (the network itself lies in flash), one-bit masks, what the forward and backward passes hold only for a moment, the classifier with its gradient, the norms that MeDyate remembers, and a stack. All numbers here are bounds that the linker proves: they hold for *every* selection that the budget allows.

# %% tags=["parameters"]
network: str = "mbv2-w0.35"  # one of the paper's three CNNs
budget: int = 27946  # elements; see `medyate scheme` for a network's tiers
board: str = "stm32h743"  # one of `medyate device plan`'s boards
resolution: int = 128  # side of the input in pixels

# %% tags=["hide-input"]
import pandas as pd

from medyate import device, notebook
from medyate.device.planning import board as known_board
from medyate.errors import whole
from medyate.notebook import plots

config = notebook.Parameters("device", network=network, budget=budget)
chosen_board = known_board(board)
side = whole(resolution, "resolution", 16, 512)
whole(config.budget, "budget", 1)
one = {"budget": config.budget, "strategy": "LaRa MeDyate", "resolution": side}
largest_block = max(region.length_bytes for region in chosen_board.of_kind("ram"))

# %% [markdown]
# ## What the paper's unit leaves out
#
# Each bar shows the moment of the step at which the most RAM is in use. *accumulate* adds up the gradients of a batch before weights change, as the paper trains; *in-place* changes the weights image by image and stores no gradient, so that MeDyate's norm comes from a single image.

# %% tags=["hide-input"]
plans = [
    device.plan(config.network, config.budget, strategy, resolution=side, mode=mode)
    for mode in device.MODES
    for strategy in ("TraDy", "LaRa TraDy", "LaRa MeDyate")
]
full = device.plan(config.network, None, "Baseline", resolution=side, mode="in-place")
held = pd.DataFrame(
    {"series": f"{row['strategy']}, {row['mode']}", "part": part, "value": size / 1000}
    for row in plans
    for part, size in row["ram_by_part"].items()
)
unit_bytes = 4 * config.budget
ours = next(row for row in plans if row["strategy"] == "LaRa MeDyate" and row["mode"] == "in-place")
notebook.show(
    plots.stacked(held, "RAM (kB of 1,000 bytes)", f"{config.network}, {config.budget:,} elements, {side} pixels", ""),
    "device-parts",
    held,
    "Stacked bars of RAM by part, three strategies in two modes. The transient buffers and the copies of trained weights "
    "take most of it; what the paper's unit counts is a small part.",
    f"RAM by part at the peak of a training step, {config.network} at {side} pixels.",
    f"LaRa MeDyate in place needs {ours['ram_bytes']:,} bytes, {ours['ram_bytes'] / unit_bytes:.1f} times the budget's "
    f"{unit_bytes:,}; full fine-tuning in place needs {full['ram_bytes']:,}.",
)

# %% [markdown]
# ## Memory over the step
#
# The buffers share one arena: what the forward pass needs only for a moment is free again when the backward pass begins. The dashed line is the largest block of RAM of the board.

# %% tags=["hide-input"]
moments = pd.DataFrame(
    {"moment": f"{row['moment']} ({row['phase'][0]})", "part": part, "value": size / 1000}
    for row in device.timeline(config.network, config.budget, "LaRa MeDyate", resolution=side)
    for part, size in row["ram_by_part"].items()
)
notebook.show(
    plots.over_step(
        moments, "RAM in use (kB)", "LaRa MeDyate, accumulate", {f"{board}'s largest block": largest_block / 1000}
    ),
    "device-step",
    moments,
    "Stacked steps of RAM in use over the moments of one training step: choosing, forward through the blocks, the "
    "classifier, backward. It is highest in the first blocks of the forward pass, where maps are largest.",
    "RAM in use at each moment of a step; (c) choosing, (f) forward, (h) classifier, (b) backward.",
    f"The peak is at {moments.groupby('moment', sort=False).value.sum().idxmax()}.",
)

# %% [markdown]
# ## Which boards hold it
#
# The program is linked against each board's regions of RAM and flash; nothing here has run on a real board. What has run is an *emulated* Cortex-M7.

# %% tags=["hide-input"]
boards = pd.DataFrame(
    {
        "board": name,
        "RAM (kB)": sum(region.length_bytes for region in entry.of_kind("ram")) / 1000,
        "largest block (kB)": max(region.length_bytes for region in entry.of_kind("ram")) / 1000,
        **{
            f"{row['strategy']}, {row['mode']}": "holds" if name in row["boards"] else "too small"
            for row in plans
            if row["strategy"] == "LaRa MeDyate"
        },
        "full fine-tuning": "holds" if name in full["boards"] else "refused",
    }
    for name, entry in device.boards().items()
)
notebook.show_table(boards, "device-boards", "Boards, and what each of them holds at this budget and resolution.")

# %% [markdown]
# ## Training with the engine
#
# Recorded with `medyate device train`, which exports and compiles the C program and lets it train, natively or on the emulated Cortex-M7.

# %% tags=["hide-input"]
trained = [row for row in device.recorded() if row["config"]["network"] == config.network]
if not trained:
    notebook.nothing_recorded(
        f"a training run of {config.network} with the engine", f"medyate device train {config.network} --task flowers12"
    )
else:
    table = pd.DataFrame(
        {
            "strategy": row["config"]["strategy"],
            "task": row["config"]["task"],
            "budget": row["config"]["budget"],
            "mode": row["config"]["mode"],
            "machine": row["config"]["machine"],
            "pixels": row["config"]["resolution"],
            "images": row["train_images"],
            "epochs": len(row["epochs"]),
            "seed": row["config"]["seed"],
            "test top-1 (%)": row["test_top1_percent"],
            "planned RAM (bytes)": row["ram_bytes"],
            "seconds": row["seconds"],
        }
        for row in trained
    )
    notebook.show_table(table, "device-trained", "Training runs of the C engine, one row per record in results/device.")

# %% tags=["hide-input"]
notebook.run_again(config, "-p budget 66592")
