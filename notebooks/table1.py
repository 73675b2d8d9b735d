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
# # Table 1: three CNNs
#
# Three CNNs, seven vision tasks, three budgets each, and the baseline that trains everything.
#
# The paper's table leaves out SU, Det RGN and TraDy, "since we use the same framework"; their rows here are the predecessor's own (arXiv 2510.19675) and are marked so in the column "from".

# %% tags=["parameters"]
networks: str = "all"  # "all" of the table, or names with commas between
tasks: str = "all"  # "all", or names with commas between, such as food10,flowers12
epochs: "int or str" = "all"  # of our runs, warm-up not included
seeds: "int or str" = "all"  # of our runs: one seed, several as in "0,42", or "all"
protocol: str = "short"  # how our runs were made: short, authors or frozen
ranking: str = "declared"  # the ranking that the protocol declares, or another by name
mode: str = "recorded"  # recorded: show what is there; missing: run the rest; fresh: run all anew

# %% tags=["hide-input"]
from medyate import notebook

config = notebook.Parameters(
    "table1", networks=networks, tasks=tasks, epochs=epochs, seeds=seeds, protocol=protocol, ranking=ranking, mode=mode
)
notebook.run(notebook.grid_of_strategies(config), config)

# %% [markdown]
# ## The paper's values
#
# Test top-1 in percent: mean and sample standard deviation of three seeds. The ± of an average is the root of the sum of the squared deviations.

# %% tags=["hide-input"]
theirs = notebook.paper_table(1, config)
columns = [column for column in theirs.columns if column not in ("network", "budget (elements)", "strategy", "from")]
notebook.show_table(
    theirs,
    "table1-paper",
    "The paper's Table 1, completed from TraDy's tables.",
    names=3,
    best=columns,
    within=["network", "budget (elements)"],
)

# %% [markdown]
# ## Ours
#
# Our runs are on small cuts of the data sets, with fewer epochs; flowers12 is cut from Flowers-17, which is not the paper's Flowers (Flowers-102). MeDyate reads the gradient of one step of the previous epoch, the oracles (Det and Prob) the mean over eight batches. The columns "paper" and "difference" set them beside the paper's cell of the same network, budget and strategy, for orientation only. What can be compared is the order of strategies within a task.

# %% tags=["hide-input"]
ours = notebook.our_table(1, config)
if ours.empty:
    notebook.nothing_recorded(
        config.described(),
        'medyate run --network mbv2-w0.35 --task food10 --strategy "LaRa MeDyate" --budget 27946 --epochs 10 --seed 0',
    )
else:
    notebook.show_table(
        ours,
        "table1-ours",
        "Our runs: mean over seeds, 95 % interval, n seeds.",
        names=5,
        best=["top-1 (%)"],
        within=["network", "task", "budget (elements)", "epochs"],
    )
    notebook.say(notebook.protocol_note(notebook.strategy_runs(config, 1)))
notebook.say(notebook.other_ways(config, number=1))

# %% [markdown]
# ## The tables' own arithmetic

# %% tags=["hide-input"]
from medyate.paper import reproduce

averages = reproduce.averages()
odd = averages[averages.std_is != reproduce.CONVENTIONS[0]]
notebook.say(
    f"All {len(averages)} averages of the eight tables (three here, five of TraDy) are the means of their rows. Their ± is the root of the sum "
    f"of squares in {len(averages) - len(odd)}; in {len(odd)} it is the root *mean* square, and so is too small:"
)
notebook.show_table(
    odd[["file", "model", "budget", "method", "std_printed", "std"]].rename(
        columns={"std_printed": "± printed", "std": "± by the convention"}
    ),
    "table1-averages",
    "Averages whose ± follows another convention.",
)

# %% tags=["hide-input"]
notebook.run_again(config, "-p tasks food10")
