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
# # Memory: the paper's accounting, and what is really held
#
# A budget counts, for one image, the gradients of the selected weights and the inputs that they need (paper eq. 4), in elements of 4 bytes. A real step also holds what the unit leaves out: which outputs of a ReLU6 let the gradient through, whatever batch norm saves, and every further image of the batch. This page sets the two side by side. Everything is measured on this machine as the page runs: every tensor saved for the backward pass, each storage once, and the gradients. What is held depends on shapes alone, so the weights are random. Bytes on a CPU and a GPU are the same.
#
# **Predict first.** As a multiple of the budget, how much is held with frozen batch norm, and how much in train mode?

# %% tags=["parameters"]
networks: str = "all"  # the paper's three, or any of `medyate networks` with commas between
budget: "int or str" = "all"  # elements, such as 27946, or "all" for the paper's three tiers of each network
strategy: str = "LaRa MeDyate"  # any of `medyate strategies` that has a budget
batch_size: int = 32  # of the larger batch that is set beside a single image
seed: int = 0  # of the strategy's first selection

# %% tags=["hide-input"]
import pandas as pd

from medyate import notebook
from medyate.errors import whole
from medyate.networks import schemes
from medyate.notebook import plots
from medyate.runs import kept

config = notebook.Parameters("memory", networks=networks, budget=budget, strategy=strategy)
sizes = (1, whole(batch_size, "batch size", 2, 256))
whole(seed, "seed", 0)
wanted = list(schemes.PRINTED_BUDGETS) if config.networks == notebook.ALL else config.networks
rows = pd.DataFrame(
    row
    for name in wanted
    for row in kept.compare(name, config.budgets_of(name), config.strategy, batch_sizes=sizes, seed=seed)
)
rows["series"] = [f"{row.network}, {row.budget:,}" for row in rows.itertuples()]
PARTS = {
    "weight_gradients_bytes": "weight gradients",
    "selected_activations_bytes": "selected activations",
    "masks_bytes": "one-bit masks",
    "batch_norm_bytes": "batch norm",
    "other_bytes": "other",
}


def multiples(batch_norm, size):
    """Bytes of each part over the budget's bytes, for plots.stacked."""
    chosen = rows[(rows.batch_norm == batch_norm) & (rows.batch_size == size)]
    long = chosen.melt(["series", "budget_bytes"], list(PARTS), "part", "bytes")
    return long.assign(part=long.part.map(PARTS), value=long.bytes / long.budget_bytes)


# %% [markdown]
# ## One image, frozen batch norm
#
# Frozen batch norm keeps nothing, so here the budget covers nearly all that is kept. The paper's part, gradients and selected inputs, never exceeds the budget. Masks come on top: one bit for every output of a ReLU6 after the first selected layer, so a selection that reaches into early layers, whose maps are large, pays more for them.

# %% tags=["hide-input"]
table = multiples("frozen", 1)
one = rows[(rows.batch_norm == "frozen") & (rows.batch_size == 1)]
notebook.show(
    plots.stacked(
        table, "held, in multiples of the budget", f"{config.strategy}, one image, frozen batch norm", "the budget"
    ),
    "memory-frozen",
    table,
    "Stacked bars, one a network and budget, of what one step holds for one image: weight gradients and selected activations "
    "fill the budget and never exceed it; one-bit masks come on top.",
    "What one training step holds for one image with frozen batch norm, in multiples of the budget.",
    f"{(one.kept_total_bytes / one.budget_bytes).min():.2f} to {(one.kept_total_bytes / one.budget_bytes).max():.2f} times the budget "
    "is held; what exceeds it are the masks.",
)
paper_part = one.weight_gradients_bytes + one.selected_activations_bytes
notebook.say(
    f"The paper's part is {100 * (paper_part / one.budget_bytes).min():.1f} to {100 * (paper_part / one.budget_bytes).max():.1f} % of the "
    f"budget, and matches paper eq. 4 to the byte for {(paper_part == one.paid_bytes).sum()} of {len(one)} selections. With masks, "
    f"{(one.kept_total_bytes / one.budget_bytes).min():.2f} to {(one.kept_total_bytes / one.budget_bytes).max():.2f} times the budget is held, "
    f"{(one.full_finetuning_bytes / one.kept_total_bytes).min():,.0f} to {(one.full_finetuning_bytes / one.kept_total_bytes).max():,.0f} times less than "
    'full fine-tuning holds. Where masks must be paid for as well, `count="everything"` (`--count everything`) counts them against the budget.'
)

# %% [markdown]
# ## One image, train-mode batch norm
#
# The authors' earlier code trains with batch statistics; the paper does not say which mode it uses. In train mode every batch norm that the gradient passes keeps its whole input, selected or not. The budget does not count that.

# %% tags=["hide-input"]
table = multiples("train", 1)
train = rows[(rows.batch_norm == "train") & (rows.batch_size == 1)]
notebook.show(
    plots.stacked(
        table, "held, in multiples of the budget", f"{config.strategy}, one image, train-mode batch norm", "the budget"
    ),
    "memory-train",
    table,
    "The same bars with batch norm in train mode: its inputs take many times the budget and dwarf every other part.",
    "The same with batch norm in train mode.",
    f"{(train.kept_total_bytes / train.budget_bytes).min():.1f} to {(train.kept_total_bytes / train.budget_bytes).max():.1f} times the "
    "budget is held, nearly all of it batch norm's inputs.",
)
notebook.say(
    f"Train-mode batch norm alone holds {(train.batch_norm_bytes / train.budget_bytes).min():,.1f} to "
    f"{(train.batch_norm_bytes / train.budget_bytes).max():,.1f} times the budget. A device with no more memory than the budget cannot train in this mode, whatever the selection."
)

# %% [markdown]
# ## A batch
#
# The unit counts one image. Gradients are held once whatever the batch; activations, masks and batch norm's inputs once per image.

# %% tags=["hide-input"]
shown = rows.assign(
    **{label: rows[part] / 1024 for part, label in PARTS.items()},
    budget_kB=rows.budget_bytes / 1024,
    eq4_kB=rows.paid_bytes / 1024,
    held_kB=rows.kept_total_bytes / 1024,
    times_budget=rows.kept_total_bytes / rows.budget_bytes,
    full_kB=rows.full_finetuning_bytes / 1024,
    times_less=rows.full_finetuning_bytes / rows.kept_total_bytes,
)
columns = {
    "network": "network",
    "budget": "budget (elements)",
    "batch_norm": "batch norm",
    "batch_size": "images",
    "budget_kB": "budget (kB)",
    "eq4_kB": "paper eq. 4, all images (kB)",
    "held_kB": "held (kB)",
    "times_budget": "held / budget",
    **{label: f"{label} (kB)" for label in PARTS.values() if label != "batch norm"},
    "batch_norm_bytes": "norm's inputs (kB)",
    "full_kB": "full fine-tuning (kB)",
    "times_less": "full / held",
}
shown["batch_norm_bytes"] = rows.batch_norm_bytes / 1024
notebook.show_table(
    shown[shown[[label for label in columns]].columns]
    .rename(columns=columns)
    .drop(columns=["other (kB)"] if not rows.other_bytes.any() else []),
    "memory",
    "The paper's accounting and the measurement; kB of 1,024 bytes.",
    names=3,
)
batch = rows[rows.batch_size == sizes[1]].set_index(["series", "batch_norm"]).kept_total_bytes.unstack()
notebook.say(
    f"With {sizes[1]} images, train-mode batch norm holds {(batch.train / batch.frozen).min():.0f} to {(batch.train / batch.frozen).max():.0f} times what "
    "frozen batch norm holds."
)

# %% tags=["hide-input"]
notebook.run_again(config, "-p networks mbv2-w0.35 -p budget 27946")
