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
# # Figure 9: what a selection saves
#
# For each strategy and epoch: the share of weights and of activations that the backward pass does not need (weight and activation sparsity), and the share of weight-derivative operations that it does not do. The paper shows MobileNetV2 on Food at the smallest budget. It computes these figures from shapes; a mask over dense gradients, which is how such methods are usually evaluated, saves none of it. So the page ends with bytes that were measured, and with the cost of MeDyate's work between epochs.
#
# **Predict first.** Two strategies spend the same budget. Can one of them save more weights *and* more activations than the other?

# %% tags=["parameters"]
budget: int = 27946  # elements
network: str = "mbv2-w0.35"  # any of `medyate networks`
task: str = "food10"  # any of `medyate tasks`
epochs: int = 9  # of each run, warm-up not included
seeds: "int or str" = "all"  # one seed, several as in "0,42", or "all"
protocol: str = "short"  # how our runs were made: short, authors or frozen
ranking: str = "declared"  # the ranking that the protocol declares, or another by name
mode: str = "recorded"  # recorded: draw what is there; missing: run the rest; fresh: run all anew

# %% tags=["hide-input"]
import pandas as pd

from medyate import costs, notebook, strategies
from medyate.notebook import plots
from medyate.paper import reproduce
from medyate.paper import values as paper
from medyate.runs import kept as overhead

config = notebook.Parameters(
    "fig9",
    budget=budget,
    network=network,
    task=task,
    epochs=epochs,
    seeds=seeds,
    protocol=protocol,
    ranking=ranking,
    mode=mode,
)
notebook.run(notebook.grid_of_strategies(config), config)

# %% [markdown]
# ## Sparsity and operations over epochs
#
# First ours beside the paper's, each strategy's mean over the epochs (the paper's are read off its figure); then our epochs.

# %% tags=["hide-input"]
theirs = paper.efficiency()
chosen = notebook.strategy_runs(config)
chosen = chosen[chosen.strategy.isin(paper.MAIN_STRATEGIES)] if len(chosen) else chosen
ours = notebook.epochs_of(chosen)
if ours.empty:
    notebook.nothing_recorded(config.described(), config.command())
else:
    ours["series"] = ours.strategy
panels = {
    "weight_sparsity_percent": "weights",
    "activation_sparsity_percent": "activations",
    "flops_saved_percent": "FLOPs",
}
means = None if ours.empty else ours.groupby("series")[list(panels)].mean().reindex(theirs.index).dropna()
both = [("paper", theirs[list(panels)]), ("ours", means)]
table = pd.concat(
    [frame.rename_axis("series").reset_index().assign(source=name) for name, frame in both if frame is not None]
)
most = theirs.activation_sparsity_percent.idxmax()
notebook.show(
    plots.beside_paper(means, theirs, panels, "not needed or not computed (%)"),
    "fig9a",
    table,
    "Dots of each strategy's mean weight sparsity, activation sparsity and saved FLOPs. The paper's: "
    + "; ".join(
        f"{name} {', '.join(f'{value:.1f}' for value in row)}" for name, *row in theirs[list(panels)].itertuples()
    )
    + ".",
    "Share of weights and activations that the backward pass does not need, and of the weight derivative's operations that are "
    f"not done; MbV2-w0.35, {paper.budget_label(config.budget)}.",
    f"In the paper {most} saves the most activations ({theirs.activation_sparsity_percent.max():.2f} %) and "
    f"{theirs.weight_sparsity_percent.idxmax()} the most weights ({theirs.weight_sparsity_percent.max():.2f} %)."
    + (
        ""
        if means is None
        else f" In our runs: {means.activation_sparsity_percent.idxmax()} and {means.weight_sparsity_percent.idxmax()}."
    ),
)
if not ours.empty:
    moved = ours.groupby(["series", "seed"])[list(panels)].std().mean(axis=1).groupby("series").mean()
    notebook.show(
        plots.over_epochs(ours, panels, f"{config.network} on {config.task}, {paper.budget_label(config.budget)}"),
        "fig9b",
        ours[["series", "epoch", "seed", *panels]],
        "Small multiples, one a strategy, of the three shares over the epochs. Lines are nearly flat.",
        "Our runs, epoch by epoch: mean and range over seeds.",
        f"The shares hardly move over the epochs: {moved.idxmax()} varies most, by {moved.max():.2f} points (standard deviation).",
    )

# %% [markdown]
# ## Do the paper's sparsities add up to its budget?
#
# They must: what is not sparse, of 288,864 weights and 963,456 activations, is what the selection costs.

# %% tags=["hide-input"]
notebook.show_table(
    reproduce.sparsities().rename(
        columns={
            "weight_sparsity_percent": "weight sparsity (%)",
            "activation_sparsity_percent": "activation sparsity (%)",
            "flops_saved_percent": "FLOPs saved (%)",
            "weight_elements": "weights",
            "activation_elements": "activations",
            "used_elements": "sum",
            "fill_percent": "of 27,946 (%)",
            "within_budget": "within",
        }
    ),
    "fig9-budget",
    "Fig. 9's means turned back into elements.",
)
notebook.say(
    "They do, to within the 0.01 points to which a figure can be read: the paper's selections fill 99.4 to 99.9 % of the budget. "
    "LaRa MeDyate has the lowest weight sparsity and the highest activation sparsity, TraDy the reverse, as the text says; the two "
    f"Prev strategies save {theirs.flops_saved_percent[['TraDy', 'Prev MeDyate']].mean() - theirs.flops_saved_percent[['LaRa TraDy', 'LaRa MeDyate']].mean():.1f} "
    "points more FLOPs than their LaRa counterparts (text: one to two)."
)
if not ours.empty:
    mean = ours.groupby("series")[[*panels, "used_elements"]].mean()
    mean["of the budget (%)"] = 100 * mean.used_elements / config.budget
    notebook.show_table(
        mean.loc[[name for name in strategies.STRATEGIES if name in mean.index]]
        .astype({"used_elements": int})
        .reset_index()
        .rename(
            columns={"series": "strategy", "used_elements": "elements"}
            | {value: f"{label} saved (%)" for value, label in panels.items()}
        ),
        "fig9-ours",
        "Ours: means over epochs and seeds.",
    )
    notebook.say(notebook.protocol_note(chosen))
notebook.say(notebook.other_ways(config))

# %% [markdown]
# ## Where the budget goes: which ranking of layers
#
# The paper's LaRa MeDyate spends 70 % of the smallest budget on weights, ours about half: our LaRa order begins earlier in the network, where inputs are large. The paper does not say which gradient an epoch's norms are taken from: every step's, with the norms averaged; the epoch's mean gradient; or the last step's alone. A single preliminary fine-tuning records all three. The table compares them with what the authors print: TraDy's norms of this network's layers, a pool of 192,384 elements for K = 20 (Fig. 6b), and the 70 %. The protocol `authors` ranks by the mean gradient, which comes closest. It was chosen by these numbers alone, without looking at any accuracy. Thirty epochs in place of five, one seed on two packs, bring neither the pool nor the share nearer to the paper's.

# %% tags=["hide-input"]
from medyate.paper.definitions import ranking_definitions

definitions = ranking_definitions()
means = definitions.groupby(["norm_gradient", "task", "epochs"], sort=False, dropna=False)[
    ["norms_rho", "pool_elements", "weights_percent"]
].mean()
known = {
    "last": "the last step's gradient",
    "mean_norm": "every step's gradient, norms averaged",
    "mean": "the epoch's mean gradient",
    "published": "TraDy's Fig. 9",
}
notebook.show_table(
    means.astype({"pool_elements": int})
    .reset_index()
    .replace({"norm_gradient": known})
    .rename(
        columns={
            "norm_gradient": "norms of",
            "task": "recorded on",
            "norms_rho": "ρ with TraDy's layer norms",
            "pool_elements": "pool at K = 20 (elements)",
            "weights_percent": "of the budget on weights (%)",
        }
    ),
    "fig9-definitions",
    "Rankings of MbV2-w0.35 by definition of an epoch's norms, means over seeds; the last row is the order that "
    "TraDy's Fig. 9 gives.",
    decimals=3,
)

# %% [markdown]
# ## Bytes that a step really holds
#
# One training step of this network at its resolution, batch 8, with channels drawn at random within the budget: every tensor that is kept for the backward pass, counted once, and the gradients. Weights and classifier are outside, as in the paper.

# %% tags=["hide-input"]
layers = notebook.backbone(config.network)
selection, pool, origin = notebook.example_selection(config, chosen)
held = overhead.held_bytes(config.network, selection)
parts = pd.DataFrame(held).T.rename_axis("execution").reset_index()
parts["sum"] = parts.drop(columns="execution").sum(axis=1)
table = pd.DataFrame({"series": parts.execution, "source": "", "value": parts["sum"] / 2**20})
smallest, largest = parts["sum"].min(), parts["sum"].max()
notebook.show(
    plots.bars(
        table, "held for the backward pass, batch 8 (MiB)", f"{config.network}, {paper.budget_label(config.budget)}"
    ),
    "fig9-bytes",
    parts,
    f"Bytes held: {largest / 2**20:.1f} MiB where everything is trained, {smallest / 2**20:.2f} MiB in the subnet with frozen "
    "batch norm; masked dense gradients hold almost as much as the full training.",
    "What one training step of 8 images holds for the backbone, for each way of running it.",
    f"Training everything holds {largest / smallest:.0f} times what the subnet with frozen batch norm holds.",
)
notebook.say(
    f"Selection: {origin}. The budget itself, for a batch of 8, is at most {8 * 4 * config.budget / 2**20:.2f} MiB by paper eq. 4. "
    f"Masking dense gradients holds {parts.set_index('execution')['sum']['masked dense gradients, batch norm train'] / smallest:.0f} "
    "times what the subnet with frozen batch norm holds. Train-mode batch norm, as the authors' earlier code has it, keeps its whole input in every layer "
    "that the gradient passes; the budget does not count that."
)

# %% [markdown]
# ## What MeDyate adds between epochs
#
# Norms of the selected channels (paper eq. 11) and sampling (paper eq. 12), against the weight derivatives of the epoch (paper eq. 13). The paper says "negligible" and gives no number.

# %% tags=["hide-input"]
images, batch = notebook.epoch_size(chosen)
counted = costs.operations(selection, layers, pool, -(-images // batch), batch)
notebook.say(
    f"**Computed.** {counted.channels:,} channels: {counted.norm:,} operations for norms, {counted.sampling:,} for sampling "
    f"among N = {pool:,} channels, {counted.derivatives:,} for the weight derivatives of {images:,} images. "
    f"The overhead is one operation in {1 / counted.share:,.0f}, and weight derivatives are themselves only part of an epoch's work."
)
if not ours.empty:
    timed = ours[ours.strategy.isin(["LaRa MeDyate", "Prev MeDyate"]) & (ours.epoch > 1)]
    shares = 100 * timed.selection_seconds / timed.train_seconds
    if len(shares):
        notebook.say(
            f"**Measured.** {len(shares)} epochs of MeDyate runs: norms, sampling and the exchange of the subnet took "
            f"{timed.selection_seconds.mean():.3f} s of {timed.train_seconds.mean():.1f} s of training, {shares.mean():.2f} % "
            f"(at most {shares.max():.2f} %)."
        )

# %% tags=["hide-input"]
notebook.run_again(config, "-p budget 66592")
