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
# # Table 3: BERT and RoBERTa
#
# BERT and RoBERTa, three tasks of GLUE's development sets, four budgets, and the baseline.
#
# The paper's table leaves out SU, Det RGN and TraDy, "since we use the same framework"; their rows here are the predecessor's own (arXiv 2510.19675) and are marked so in the column "from".

# %% tags=["parameters"]
networks: str = "all"  # "all" of the table, or names with commas between
tasks: str = "all"  # "all", or names with commas between, such as food10,flowers12
epochs: "int or str" = "all"  # of our runs, warm-up not included
seeds: "int or str" = "all"  # of our runs: one seed, several as in "0,42", or "all"
mode: str = "recorded"  # recorded: show what is there; missing: run the rest; fresh: run all anew

# %% tags=["hide-input"]
from medyate import notebook
from medyate.sweeps import grids

config = notebook.Parameters("table3", networks=networks, tasks=tasks, epochs=epochs, seeds=seeds, mode=mode)
grid = notebook.grid_of_strategies(config, [*grids.APPENDIX, "Baseline"], everything=["minilm-l6"])
notebook.run(grid, config)

# %% [markdown]
# ## The paper's values
#
# Test top-1 in percent: mean and sample standard deviation of three seeds. The ± of an average is the root of the sum of the squared deviations.

# %% tags=["hide-input"]
theirs = notebook.paper_table(3, config)
columns = [column for column in theirs.columns if column not in ("network", "budget (elements)", "strategy", "from")]
notebook.show_table(
    theirs,
    "table3-paper",
    "The paper's Table 3, completed from TraDy's tables.",
    names=3,
    best=columns,
    within=["network", "budget (elements)"],
)

# %% [markdown]
# ## Ours
#
# BERT and RoBERTa need a GPU; our runs are of MiniLM-L6, six layers of BERT's form whose weights install from the package index, under the paper's two absolute budgets and the same two shares of its own total ({doc}`Part 8 <../book/course/transformers>`). The tasks are RTE, a cut of SST-2 (`sst2`), and `docstrings`, a task of first sentences of documentation that needs no download. So no cell of ours can be set beside one of the paper's; what can be compared is the order of strategies within a task.

# %% tags=["hide-input"]
ours = notebook.our_table(3, config)
if ours.empty:
    notebook.nothing_recorded(
        config.described(),
        'medyate run --network minilm-l6 --task docstrings --strategy "LaRa MeDyate" --budget 27946 --epochs 4 --warmup-epochs 1 --seed 0',
    )
else:
    notebook.show_table(
        ours,
        "table3-ours",
        "Our runs: mean over seeds, 95 % interval, n seeds.",
        names=5,
        best=["top-1 (%)"],
        within=["network", "task", "budget (elements)", "epochs"],
    )
    notebook.say(notebook.protocol_note(notebook.strategy_runs(config, 3)))

# %% tags=["hide-input"]
notebook.run_again(config, "-p tasks rte")
