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
# The paper compares strategies by one-sided paired t-tests over three CNNs, seven tasks and three budgets. A cell holds the p-value of "the row's strategy reaches a higher accuracy than the column's": near 0 (blue) chance is an unlikely explanation, near 1 (red) the reverse holds.
#
# This page shows the printed matrix, the same tests recomputed from the tables, what a stricter test makes of them, and our own runs.
#
# **Predict first.** LaRa MeDyate has the highest mean of eight strategies. Over how many of the other seven will its lead be significant?

# %% tags=["parameters"]
networks: str = "all"  # "all", or names with commas between: mbv2-w0.35, mcunet-in1, proxyless-w0.3
tasks: str = "all"  # "all", or names with commas between, such as food10,flowers12
epochs: "int or str" = "all"  # of our runs, or "all": each number of epochs is a case of its own
seeds: "int or str" = "all"  # one seed, several as in "0,42", or "all"
protocol: str = "short"  # how our runs were made: short, authors or frozen
ranking: str = "declared"  # the ranking that the protocol declares, or another by name
mode: str = "recorded"  # recorded: draw what is there; missing: run the rest; fresh: run all anew

# %% tags=["hide-input"]
from medyate import notebook
from medyate.notebook import plots
from medyate.paper import ours, reproduce, stats
from medyate.paper import values as paper

config = notebook.Parameters(
    "fig8", networks=networks, tasks=tasks, epochs=epochs, seeds=seeds, protocol=protocol, ranking=ranking, mode=mode
)
notebook.run(notebook.grid_of_strategies(config), config)

# %% [markdown]
# ## The paper's matrix, as printed

# %% tags=["hide-input"]
names = list(paper.MAIN_STRATEGIES)
printed = paper.p_values()
notebook.show(
    plots.p_matrix(printed, "Fig. 8 as printed: p of row > column"),
    "fig8-printed",
    printed.rename_axis("row").reset_index(),
    "Matrix of the p-values that Fig. 8 prints. LaRa MeDyate beats SU, Det RGN, TraDy, LaRa TraDy and LaRa Det Raw "
    "with p below 0.001, Prev MeDyate with p 0.059 and LaRa Prob Raw with p 0.141.",
    "The p-values that the paper's Fig. 8 prints: is the row's strategy better than the column's?",
    f"LaRa MeDyate's lead is significant at 5 % over {(printed.loc['LaRa MeDyate'] < 0.05).sum()} of {len(names) - 1} others.",
)
mirrored = reproduce.mirrored()
pairs = "; ".join(f"{row} / {column}: {p:.3f} and {other:.3f}" for row, column, p, other in mirrored.values)
notebook.say(f"A cell and its mirror image must add up to one. {len(mirrored)} pairs do not, by 0.004 each: {pairs}.")

# %% [markdown]
# ## Recomputed from the tables
#
# SU, Det RGN and TraDy are in the predecessor's Table 1 (arXiv 2510.19675), which ran under the same protocol. The tables give 63 cells, each the mean of three runs. The test over those 63 means:

# %% tags=["hide-input"]
tests = reproduce.p_values("CNNs")
matrix = stats.square(tests, "p", names)
notebook.show(
    plots.p_matrix(matrix, "From the tables' 63 means: p of row > column"),
    "fig8-tables",
    tests,
    "The same matrix recomputed from the 63 means of Table 1. The order of the strategies is that of the printed matrix; "
    "p is 0.191 for LaRa MeDyate over LaRa Prob Raw and 0.107 over Prev MeDyate.",
    "The same tests over the 63 means of the tables.",
    f"LaRa MeDyate leads on average and is significantly ahead of {(matrix.loc['LaRa MeDyate'] < 0.05).sum()} of {len(names) - 1} "
    f"others; with Holm's correction of {(tests[tests.row == 'LaRa MeDyate'].p_holm < 0.05).sum()}.",
)

# %% [markdown]
# The printed p-values of close pairs are smaller than these. They fit a test over the **189 single runs**, three for each cell. The tables bracket that test: it also depends on the correlation between two strategies' runs with the same seed, which is not printed, so the table below assumes 0 and 1. Three runs of one cell are not independent, though, so the 63 means are the more honest sample.

# %% tags=["hide-input"]
inside = tests.bracketed.sum()
notebook.say(f"{inside} of {len(tests)} printed values lie within their bracket.")
outside = tests[~tests.bracketed]
for row in outside.itertuples():
    notebook.say(
        f"Outside: {row.row} over {row.column}, printed {row.printed:.3f}, bracket {row.p_runs_low:.4f} to "
        f"{row.p_runs_high:.4f}. Its mirror image, {printed.loc[row.column, row.row]:.3f}, is inside."
    )
notebook.show_table(
    notebook.one_way(tests)
    .rename(
        columns={
            "row": "better?",
            "column": "than",
            "difference": "difference (points)",
            "low": "95 % low",
            "high": "95 % high",
            "effect_size": "effect size d_z",
            "p": "p, 63 means",
            "p_holm": "p, Holm",
            "p_runs_low": "p, 189 runs, low",
            "p_runs_high": "p, 189 runs, high",
            "printed": "p, printed",
        }
    )
    .drop(columns="bracketed"),
    "fig8-tests",
    "All pairs, from the tables, the better strategy first (the reverse test has 1 - p); Holm's correction is over all 56 tests.",
    decimals=3,
    names=2,
)

# %% [markdown]
# **What holds.** LaRa MeDyate has the highest mean. Its lead over LaRa Prob Raw, which sees the whole gradient, and over Prev MeDyate is not significant at 5 %, neither as printed nor over the means.

# %% [markdown]
# ## Our runs
#
# The unit is a cell: a network, task and budget, the mean over the seeds that every strategy has, two or more. Seeds of one cell are not independent. The packs are small cuts of the data sets, and flowers12 is cut from Flowers-17, which is not the paper's Flowers (Flowers-102): the scale is not the paper's. MeDyate reads the gradient of one step of the previous epoch; the oracles read the mean over eight batches.

# %% tags=["hide-input"]
runs = notebook.strategy_runs(config, 1)
cells = notebook.cells(runs)
tests_of = stats.paired_table(cells)
if tests_of.empty:
    notebook.nothing_recorded(
        "two strategies on the same network, task, budget and two seeds, in two cells, which a test needs",
        config.command(),
        "The cells that there are stand below." if len(cells) else "The paper's values are shown alone.",
    )
    if len(cells):
        notebook.show_table(
            cells.reset_index(),
            "fig8-our-cells",
            "Test top-1 in percent of each complete cell of our runs, means over seeds.",
            decimals=2,
        )
        notebook.say(notebook.protocol_note(notebook.complete(runs, list(cells))))
else:
    notebook.show(
        plots.p_matrix(
            stats.square(tests_of, "p", [name for name in names if name in cells]), "Our runs: p of row > column"
        ),
        "fig8-ours",
        tests_of,
        f"Matrix of one-sided paired t-tests over our own runs, {len(cells)} complete cells. "
        f"The highest mean: {notebook.leader(cells)}.",
        f"The same tests over the {len(cells)} complete cells of our runs.",
        f"{notebook.leader(cells)} has the highest mean, and is significantly ahead of "
        f"{(tests_of[tests_of.row == notebook.leader(cells)].p < 0.05).sum()} of {cells.shape[1] - 1} others.",
    )
    notebook.show_table(
        notebook.one_way(tests_of).rename(
            columns={
                "row": "better?",
                "column": "than",
                "difference": "difference (points)",
                "low": "95 % low",
                "high": "95 % high",
                "effect_size": "effect size d_z",
                "p_holm": "p, Holm",
            }
        ),
        "fig8-our-tests",
        f"All pairs, from our runs, the better strategy first; Holm's correction is over all {len(tests_of)} tests.",
        decimals=3,
    )
    notebook.say(notebook.protocol_note(notebook.complete(runs, list(cells))))
notebook.say(notebook.other_ways(config, number=1))

# %% [markdown]
# ### The test loss
#
# The same tests on a second outcome, the test loss, which changes smoothly where accuracy jumps by whole images. Negative differences are in the row's favour.

# %% tags=["hide-input"]
losses = notebook.cells(runs, outcome="test_loss")
tests_of_loss = stats.paired_table(-losses)
if len(tests_of_loss):
    claimed = tests_of_loss.set_index(["row", "column"])
    found = claimed.loc[[pair for pair in ours.CLAIMED if pair in claimed.index]].reset_index()
    found = found.assign(difference=-found.difference, low=-found.high, high=-found.low)
    notebook.show_table(
        found.rename(
            columns={
                "row": "better?",
                "column": "than",
                "difference": "difference (loss)",
                "low": "95 % low",
                "high": "95 % high",
                "effect_size": "effect size d_z",
                "p_holm": "p, Holm",
            }
        ),
        "fig8-our-losses",
        "The pairs that Sec. 4.3 speaks of, by test loss.",
        decimals=3,
    )

# %% [markdown]
# ## Task by task, beside the paper's same task
#
# In how many cells LaRa MeDyate is ahead of another strategy. An average over tasks hides that the paper's own tasks disagree: on Flowers, SU is ahead of LaRa MeDyate in every cell.

# %% tags=["hide-input"]
for other in ("SU", "TraDy"):
    table = ours.by_task("LaRa MeDyate", other, runs)
    notebook.show_table(
        table.rename(
            columns={
                "task": "our task",
                "cells": "our cells",
                "ahead": "ahead in",
                "difference": "difference (points)",
                "paper_task": "the paper's task",
                "paper_cells": "cells (paper)",
                "paper_ahead": "ahead in (paper)",
                "paper_difference": "difference (paper)",
            }
        ),
        f"fig8-by-task-{other.lower()}",
        f"LaRa MeDyate against {other}, task by task.",
        decimals=2,
    )

# %% [markdown]
# ## What could have been found
#
# Each of the paper's differences, the mean over its Table 1, beside what our cells could detect: the spread of their paired differences, the power of a one-sided test at 5 % for a difference of that size, and the number of cells needed for a power of 80 %. Where the power is low, "undecided" says nothing about the claim.

# %% tags=["hide-input"]
powers = ours.power(runs)
if len(powers):
    notebook.show_table(
        powers.rename(
            columns={
                "row": "better?",
                "column": "than",
                "paper_difference": "the paper's difference (points)",
                "cells": "our cells",
                "std": "spread of ours (points)",
                "needed": "cells needed",
            }
        ),
        "fig8-power",
        "The power of our cells against the paper's differences.",
        decimals=2,
    )

# %% tags=["hide-input"]
notebook.run_again(config, "-p tasks food10")
