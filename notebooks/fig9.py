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
# For each strategy and epoch: the share of weights and of activations that the backward pass does not need (weight and activation sparsity), and the share of weight-derivative operations that it does not do. The paper shows MobileNetV2 on Food at the smallest budget. It computes these figures from shapes; a mask over dense gradients, which is how such methods are usually tried, saves none of it. So the page ends with bytes that were measured, and with the cost of MeDyate's work between epochs.

# %% tags=["parameters"]
budget: int = 27946  # elements
network: str = "mbv2-w0.35"  # any of `medyate networks`
task: str = "food10"  # any of `medyate tasks`
epochs: int = 9  # of each run, warm-up not included
seeds: "int or str" = "all"  # one seed, several as in "0,42", or "all"
mode: str = "recorded"  # recorded: draw what is there; missing: run the rest; fresh: run all anew

# %%
import pandas as pd

from medyate import notebook, overhead, paper, plots, reproduce, strategies

config = notebook.Parameters("fig9", budget=budget, network=network, task=task, epochs=epochs, seeds=seeds, mode=mode)
notebook.run(notebook.grid_of_strategies(config), config)

# %% [markdown]
# ## Sparsity and operations over epochs
#
# Solid: ours. Dashed: the mean over epochs, read off the paper's figure.

# %%
theirs = paper.efficiency()
chosen = notebook.strategy_runs(config)
chosen = chosen[chosen.strategy.isin(paper.MAIN_STRATEGIES)] if len(chosen) else chosen
ours = notebook.epochs_of(chosen)
if ours.empty:
    notebook.nothing_recorded(config.described(), config.command())
else:
    ours["series"] = ours.strategy
panels = (
    ("weight_sparsity_percent", "weight sparsity (%)", "fig9a"),
    ("activation_sparsity_percent", "activation sparsity (%)", "fig9b"),
    ("flops_saved_percent", "weight-derivative FLOPs saved (%)", "fig9c"),
)
for value, label, name in panels:
    means = theirs[value]
    alt = f"{label}. The paper's means: " + ", ".join(f"{strategy} {mean:.1f}" for strategy, mean in means.items()) + "."
    if ours.empty:
        table = means.rename("value").rename_axis("series").reset_index().assign(source="paper, mean over epochs")
        notebook.show(plots.bars(table, label, "the paper's means over epochs", start=90), name, table, alt)
    else:
        data = notebook.beside(ours[["series", "epoch", "seed", value]], means.rename_axis("series").reset_index())
        title = f"{config.network} on {config.task}, {paper.budget_label(config.budget)}"
        notebook.show(plots.over_epochs(ours, value, label, title, means.to_dict()), name, data, alt)

# %% [markdown]
# ## Do the paper's sparsities add up to its budget?
#
# They must: what is not sparse, of 288,864 weights and 963,456 activations, is what the selection costs.

# %%
notebook.show_table(
    reproduce.sparsities().rename(
        columns={"weight_sparsity_percent": "weight sparsity (%)", "activation_sparsity_percent": "activation sparsity (%)",
                 "flops_saved_percent": "FLOPs saved (%)", "weight_elements": "weights", "activation_elements": "activations",
                 "used_elements": "sum", "fill_percent": "of 27,946 (%)", "within_budget": "within"}
    ), "fig9-budget", "Fig. 9's means turned back into elements.",
)  # fmt: skip
notebook.say(
    "They do, to within the 0.01 points to which a figure can be read: the paper's selections fill 99.4 to 99.9 % of the budget. "
    "LaRa MeDyate has the lowest weight sparsity and the highest activation sparsity, TraDy the reverse, as the text says; the two "
    f"Prev strategies save {theirs.flops_saved_percent[['TraDy', 'Prev MeDyate']].mean() - theirs.flops_saved_percent[['LaRa TraDy', 'LaRa MeDyate']].mean():.1f} "
    "points more FLOPs than their LaRa counterparts (text: one to two)."
)
if not ours.empty:
    mean = ours.groupby("series")[[value for value, *_ in panels] + ["used_elements"]].mean()
    mean["of the budget (%)"] = 100 * mean.used_elements / config.budget
    notebook.show_table(
        mean.loc[[name for name in strategies.STRATEGIES if name in mean.index]].reset_index().rename(
            columns={"series": "strategy", "used_elements": "elements"} | {value: label for value, label, _ in panels}),
        "fig9-ours", "Ours: means over epochs and seeds.")  # fmt: skip
    notebook.say(notebook.protocol_note(chosen))

# %% [markdown]
# ## Bytes that a step really holds
#
# One training step of this network at its resolution, batch 8, with channels drawn at random within the budget: every tensor that is kept for the backward pass, counted once, and the gradients. Weights and classifier are outside, as in the paper.

# %%
layers = notebook.backbone(config.network)
selection, pool, origin = notebook.example_selection(config, chosen)
held = overhead.held_bytes(config.network, selection)
parts = pd.DataFrame(held).T.rename_axis("execution").reset_index()
parts["sum"] = parts.drop(columns="execution").sum(axis=1)
table = pd.DataFrame({"series": parts.execution, "source": "", "value": parts["sum"] / 2**20})
smallest, largest = parts["sum"].min(), parts["sum"].max()
notebook.show(
    plots.bars(table, "held for the backward pass, batch 8 (MiB)", f"{config.network}, {paper.budget_label(config.budget)}"),
    "fig9-bytes", parts,
    f"Bytes held: {largest / 2**20:.1f} MiB where everything is trained, {smallest / 2**20:.2f} MiB in the subnet with frozen "
    "batch norm; masked dense gradients hold almost as much as the full training.",
)  # fmt: skip
notebook.say(
    f"Selection: {origin}. The budget itself, for a batch of 8, is at most {8 * 4 * config.budget / 2**20:.2f} MiB by eq. 4. "
    f"Masking dense gradients holds {parts.set_index('execution')['sum']['masked dense gradients, batch norm train'] / smallest:.0f} "
    "times what the subnet with frozen batch norm holds. Train-mode batch norm, the paper's, keeps its whole input in every layer "
    "that the gradient passes; the budget does not count that."
)

# %% [markdown]
# ## What MeDyate adds between epochs
#
# Norms of the selected channels (eq. 11) and sampling (eq. 12), against the weight derivatives of the epoch (eq. 13). The paper says "negligible" and gives no number.

# %%
images, batch = notebook.epoch_size(chosen)
counted = overhead.operations(selection, layers, pool, -(-images // batch), batch)
notebook.say(
    f"**Computed.** {counted.channels:,} channels: {counted.norm:,} operations for norms, {counted.sampling:,} for sampling "
    f"among N = {pool:,} channels, {counted.derivatives:,} for the weight derivatives of {images:,} images. "
    f"The overhead is one operation in {1 / counted.share:,.0f}, and weight derivatives are themselves a part of an epoch only."
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
