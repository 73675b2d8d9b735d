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
# # Figure 3: is the order of layers the same for every task?
#
# MeDyate ranks layers once, by a fine-tuning on some task, and uses the order for others. That is allowed if the ranking hardly depends on the task. The paper accumulates each layer's LaRa (eq. 9) over the epochs of 21 fine-tunings (seven tasks, three seeds) and correlates every two of them by rank. It reports correlations between tasks "consistently above 0.8, with the majority surpassing 0.9"; the cells themselves are not printed as numbers.

# %% tags=["parameters"]
networks: str = "all"  # "all", or names with commas between
tasks: str = "all"  # "all" that were recorded, or names with commas between
epochs: "int or str" = "all"  # of the preliminary fine-tunings, warm-up not included
seeds: "int or str" = "all"  # one seed, several as in "0,42", or "all"
mode: str = "recorded"  # recorded: draw what is there; missing: run the rest; fresh: run all anew

# %%
import pandas as pd

from medyate import notebook, plots, stats

config = notebook.Parameters("fig3", networks=networks, tasks=tasks, epochs=epochs, seeds=seeds, mode=mode)
notebook.run(notebook.grid_of_rankings(config), config)

# %% [markdown]
# ## Rank correlations
#
# Rows and columns are fine-tunings, "task, seed", in the order of a hierarchical clustering: what is alike stands together.

# %%
found = notebook.rankings(config)
summary = []
for network, runs in found.groupby("network") if len(found) else ():
    if len(runs) < 2:
        continue
    for metric, label in (("lara", "LaRa, eq. 9"), ("layer_rgn", "layer RGN, eq. 8")):
        rho = stats.spearman(notebook.layer_metric(runs, metric))
        order = stats.cluster(rho)
        rho = rho.loc[order, order]
        tasks_of = [name.rpartition(", ")[0] for name in order]
        between = [rho.iloc[i, j] for i in range(len(order)) for j in range(i) if tasks_of[i] != tasks_of[j]]
        within = [rho.iloc[i, j] for i in range(len(order)) for j in range(i) if tasks_of[i] == tasks_of[j]]
        lowest = min(between + within)
        notebook.show(
            plots.correlation(rho, f"{network}: {label}", low=min(0.5, lowest)),
            f"fig3-{network}-{metric}",
            rho.rename_axis("run").reset_index(),
            f"Matrix of Spearman correlations of {label} of {network} between {len(rho)} fine-tunings; "
            f"the lowest is {lowest:.2f}.",
        )
        values = pd.Series(between)
        summary.append(
            {
                "network": network, "metric": label, "fine-tunings": len(rho), "pairs of tasks": len(values),
                "lowest": values.min(), "mean": values.mean(), "above 0.8 (%)": 100 * (values > 0.8).mean(),
                "above 0.9 (%)": 100 * (values > 0.9).mean(), "mean, same task": pd.Series(within, dtype=float).mean(),
            }
        )  # fmt: skip
if summary:
    notebook.show_table(pd.DataFrame(summary), "fig3", "Correlations between different tasks.")
    notebook.say(
        "The paper's claim is about the rows of LaRa, between tasks: all above 0.8 and most above 0.9. "
        "Note that layers differ a thousandfold in cost, and cost is in the denominator: a large part of any such correlation "
        "is geometry, not gradients."
    )
else:
    notebook.nothing_recorded(
        f"two preliminary fine-tunings of one network ({config.described()})",
        "medyate rank mbv2-w0.35 --task food10 --epochs 5\nmedyate rank mbv2-w0.35 --task flowers12 --epochs 5",
        "The paper prints no numbers for this figure beyond the two thresholds above.",
    )

# %% [markdown]
# ## How much of it is geometry?
#
# The same correlation between LaRa and a "ranking" that never saw a gradient: the inverse of each layer's memory.

# %%
rows = []
for network, runs in found.groupby("network") if len(found) else ():
    layers = notebook.backbone(network)
    metric = notebook.layer_metric(runs, "lara")
    inverse = pd.Series({layer.name: 1 / layer.search_elements for layer in layers})
    rho = metric.corrwith(inverse, method="spearman")
    rows.append({"network": network, "fine-tunings": len(rho), "mean correlation with 1 / memory": rho.mean(), "lowest": rho.min()})
if rows:
    notebook.show_table(pd.DataFrame(rows), "fig3-geometry", "LaRa's order against the order of 1 / memory.")
else:
    notebook.say("No ranking is recorded to compare with.")
