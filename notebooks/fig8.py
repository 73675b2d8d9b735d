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
# # Figure 8: which strategy is better?
#
# The paper compares strategies by one-sided paired t-tests over three CNNs, seven tasks and three budgets. A cell holds the p-value of "the row's strategy reaches a higher accuracy than the column's": blue near 0 says no chance finding, red near 1 says the reverse.
#
# Here: the printed matrix, the same tests recomputed from the tables, what a stricter reading makes of them, and our own runs.

# %% tags=["parameters"]
networks: str = "all"  # "all", or names with commas between: mbv2-w0.35, mcunet-in1, proxyless-w0.3
tasks: str = "all"  # "all", or names with commas between, such as food10,flowers12
epochs: "int or str" = "all"  # of our runs, or "all": each number of epochs is a case of its own
seeds: "int or str" = "all"  # one seed, several as in "0,42", or "all"
mode: str = "recorded"  # recorded: draw what is there; missing: run the rest; fresh: run all anew

# %%
from medyate import notebook, paper, plots, reproduce, stats

config = notebook.Parameters("fig8", networks=networks, tasks=tasks, epochs=epochs, seeds=seeds, mode=mode)
notebook.run(notebook.grid_of_strategies(config), config)

# %% [markdown]
# ## The paper's matrix, as printed

# %%
names = list(paper.MAIN_STRATEGIES)
printed = paper.p_values()
notebook.show(
    plots.p_matrix(printed, "Fig. 8 as printed: p of row > column"),
    "fig8-printed",
    printed.rename_axis("row").reset_index(),
    "Matrix of the p-values that Fig. 8 prints. LaRa MeDyate beats SU, Det RGN, TraDy, LaRa TraDy and LaRa Det Raw "
    "with p below 0.001, Prev MeDyate with p 0.059 and LaRa Prob Raw with p 0.141.",
)
mirrored = reproduce.mirrored()
pairs = "; ".join(f"{row} / {column}: {p:.3f} and {other:.3f}" for row, column, p, other in mirrored.values)
notebook.say(f"A cell and its mirror image must add up to one. {len(mirrored)} pairs do not, by 0.004 each: {pairs}.")

# %% [markdown]
# ## Recomputed from the tables
#
# SU, Det RGN and TraDy stand in the predecessor's Table 1 (arXiv 2510.19675), which ran under the same protocol. The tables give 63 cells, each the mean of three runs. The test over those 63 means:

# %%
tests = reproduce.p_values("CNNs")
matrix = stats.square(tests, "p", names)
notebook.show(
    plots.p_matrix(matrix, "From the tables' 63 means: p of row > column"),
    "fig8-tables",
    tests,
    "The same matrix recomputed from the 63 means of Table 1. The order of the strategies is that of the printed matrix; "
    "p is 0.191 for LaRa MeDyate over LaRa Prob Raw and 0.107 over Prev MeDyate.",
)

# %% [markdown]
# The printed p-values of close pairs are smaller than these. They fit a test over the **189 single runs**, three for each cell. The tables bracket that test: it also depends on how far two strategies' runs with the same seed go together, which is not printed, so the table below takes that correlation as 0 and as 1. Three runs of one cell are no independent cases, though, so the 63 means are the more honest sample.

# %%
inside = tests.bracketed.sum()
notebook.say(f"{inside} of {len(tests)} printed values lie within their bracket.")
outside = tests[~tests.bracketed]
for row in outside.itertuples():
    notebook.say(
        f"Outside: {row.row} over {row.column}, printed {row.printed:.3f}, bracket {row.p_runs_low:.4f} to "
        f"{row.p_runs_high:.4f}. Its mirror image, {printed.loc[row.column, row.row]:.3f}, is inside."
    )
notebook.show_table(
    tests.rename(
        columns={
            "row": "better?", "column": "than", "difference": "difference (points)", "low": "95 % low", "high": "95 % high",
            "effect_size": "effect size d_z", "p": "p, 63 means", "p_holm": "p, Holm", "p_runs_low": "p, 189 runs, low",
            "p_runs_high": "p, 189 runs, high", "printed": "p, printed",
        }
    ).drop(columns="bracketed"),
    "fig8-tests", "All pairs, from the tables; Holm's correction is over all 56 tests.", decimals=3,
)  # fmt: skip

# %% [markdown]
# **What holds.** MeDyate with LaRa has the highest mean. Its lead over LaRa Prob Raw, which sees the whole gradient, and over Prev MeDyate is not significant at 5 %, neither as printed nor over the means.

# %% [markdown]
# ## Our runs
#
# A case is a network, task, budget, number of epochs and seed on which two strategies were both run. The packs are small cuts of the data sets, so this is another scale than the paper's.

# %%
runs = notebook.strategy_runs(config)
cells = notebook.cells(runs)
ours = stats.paired_table(cells)
if ours.empty:
    notebook.nothing_recorded(
        "two strategies on the same network, task, budget and seed",
        'medyate run --network mbv2-w0.35 --task food10 --strategy "LaRa MeDyate" --budget 27946 --epochs 10 --seed 0',
    )
else:
    notebook.show(
        plots.p_matrix(stats.square(ours, "p", [name for name in names if name in cells]), "Our runs: p of row > column"),
        "fig8-ours",
        ours,
        f"Matrix of one-sided paired t-tests over our own runs, {len(cells)} cases at most. "
        f"The highest mean over the cases that have every strategy: {notebook.leader(cells)}.",
    )
    notebook.show_table(
        ours.rename(columns={"row": "better?", "column": "than", "difference": "difference (points)", "low": "95 % low",
                             "high": "95 % high", "effect_size": "effect size d_z", "p_holm": "p, Holm"}),
        "fig8-our-tests", "All pairs, from our runs.", decimals=3,
    )  # fmt: skip
