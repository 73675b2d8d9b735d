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
# # Figure 4: do channels keep their place?
#
# MeDyate samples channels by norms that it saw epochs ago. That is sound if the order of channels by norm is stable. The paper argues this with a t-test between the channel norms of consecutive epochs: p near 0 at first, high later.
#
# **The test does not show this.** A t-test of equal means asks whether the *average* norm changed. If every norm halves, ranks stay and p is 0; if norms are shuffled among channels, ranks are gone and p is 1. The paper means rank stability, so the panels below the tests show Spearman's rank correlation and the share of the top tenth of channels that stays in the top tenth.
#
# **Predict first.** Gradients shrink during fine-tuning. What will the t-test say of two epochs whose ranks are nearly the same, but whose norms have all become smaller?

# %% tags=["parameters"]
network: str = "mbv2-w0.35"  # any of `medyate networks`
tasks: str = "all"  # "all" that were recorded, or names with commas between
epochs: "int or str" = "all"  # of the preliminary fine-tunings, warm-up not included
seeds: "int or str" = "0"  # one seed, several as in "0,42", or "all"
mode: str = "recorded"  # recorded: draw what is there; missing: run the rest; fresh: run all anew

# %% tags=["hide-input"]
import pandas as pd

from medyate import notebook
from medyate.notebook import plots
from medyate.paper import stats

config = notebook.Parameters("fig4", network=network, tasks=tasks, epochs=epochs, seeds=seeds, mode=mode)
notebook.run(notebook.grid_of_rankings(config), config)

# %% [markdown]
# ## Consecutive epochs
#
# The paper does not say whether its test pairs the channels, so both versions are drawn. The paper's figure prints no numbers to set beside them.

# %% tags=["hide-input"]
found = notebook.rankings(config)
frames = []
for run in found.itertuples():
    norms, _, _ = notebook.channel_norms(run.id)
    if len(norms) > 1:
        frames.append(
            stats.consecutive(norms).assign(series=run.task if len(config.seeds) == 1 else f"{run.task}, {run.seed}")
        )
if frames:
    table = pd.concat(frames, ignore_index=True)
    notebook.show(
        plots.stability(table, f"{config.network}, all channels of all layers"),
        "fig4",
        table,
        "Above: p of paired and unpaired t-tests between each epoch's channel norms and the epoch before. Below: Spearman's "
        f"rank correlation, {table.rho.min():.2f} at the lowest and {table.rho.max():.2f} at the highest, and the share of the "
        "top tenth of channels that stays.",
        "Above: p of t-tests with the epoch before, on a logarithmic axis; values below 1e-12 lie on its lower edge. In the middle "
        "and below: rank stability of the same epochs.",
        f"In {((table.p_paired <= 0.05) & (table.rho > 0.8)).sum()} of {len(table)} steps the t-test calls the epochs different "
        f"although ranks stay (rho {table.rho.min():.2f} to {table.rho.max():.2f}).",
    )
    notebook.say(
        f"Paired p is above 0.05 in {(table.p_paired > 0.05).sum()} of {len(table)} steps, unpaired p in "
        f"{(table.p_unpaired > 0.05).sum()}; the rank correlation is above 0.8 in {(table.rho > 0.8).sum()}."
    )
    notebook.show_table(
        table[["series", "epoch", "p_paired", "p_unpaired", "rho", "overlap"]].rename(
            columns={
                "series": "task",
                "p_paired": "p, paired",
                "p_unpaired": "p, unpaired",
                "rho": "ρ",
                "overlap": "top tenth kept",
            }
        ),
        "fig4",
        "Every pair of consecutive epochs: the later one's number, the tests and the ranks.",
        decimals=3,
        names=1,
    )
else:
    notebook.nothing_recorded(
        f"a preliminary fine-tuning of {config.network} over two epochs or more ({config.described()})",
        f"medyate rank {config.network} --task food10 --epochs 5",
        "The paper prints no numbers for this figure: p is 0 in the first epochs and above 0.05 in most later ones.",
    )

# %% [markdown]
# ## Ranks within a layer
#
# Over all layers, much of the order is the order of layers. The stricter question is whether channels keep their place *within* their layer, for that is where MeDyate chooses.

# %% tags=["hide-input"]
rows = []
for run in found.itertuples():
    norms, layer_of, names = notebook.channel_norms(run.id)
    for epoch in range(1, len(norms)):
        within = [
            stats.consecutive(norms[epoch - 1 : epoch + 1, layer_of == index]).iloc[0]
            for index in range(len(names))
            if (layer_of == index).sum() >= 8
        ]
        rho = pd.Series([step.rho for step in within])
        rows.append(
            {
                "task": run.task,
                "seed": run.seed,
                "epoch": epoch + 1,
                "layers": len(rho),
                "median ρ": rho.median(),
                "lowest ρ": rho.min(),
                "layers with ρ > 0.8": int((rho > 0.8).sum()),
            }
        )
if rows:
    notebook.show_table(
        pd.DataFrame(rows),
        "fig4-within",
        "Spearman's ρ with the epoch before, within each layer of 8 channels or more.",
    )
else:
    notebook.say("No ranking is recorded to look into.")

# %% tags=["hide-input"]
notebook.run_again(config, "-p tasks food10", sweep="fig3")
