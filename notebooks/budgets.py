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
# # Beyond the paper: how much memory is worth paying for?
#
# The paper's five budgets per network lie between 2 and 8 % of what training the whole network would keep. What would more memory buy? Here LaRa MeDyate is given from 2 to 60 % of MobileNetV2's total, between two extremes: *Head only* trains no convolution, *Baseline* trains every weight.
#
# **Predict first.** At what budget does LaRa MeDyate reach half of *Baseline*'s gain over *Head only*?

# %% tags=["parameters"]
network: str = "mbv2-w0.35"  # any of `medyate networks` with batch norm
task: str = "food10"  # any of `medyate tasks`
epochs: int = 9  # of each run, warm-up not included
seeds: "int or str" = "all"  # one seed, several as in "0,42", or "all"
protocol: str = "short"  # how the runs were made: short, authors or frozen
mode: str = "recorded"  # recorded: draw what is there; missing: run the rest; fresh: run all anew

# %% tags=["hide-input"]
from medyate import notebook
from medyate.notebook import beyond, plots
from medyate.paper import varied

config = notebook.Parameters(
    "budgets", network=network, task=task, epochs=epochs, seeds=seeds, protocol=protocol, mode=mode
)
total = sum(layer.search_elements for layer in notebook.backbone(config.network))
notebook.run(notebook.grid_of_strategies(config, (varied.OURS, *varied.ENDS), beyond.spread(config.network)), config)
runs = beyond.budget_runs(config)
curve = varied.saturation(runs, total)
if curve.empty:
    notebook.nothing_recorded(config.described(), config.command(), "There is nothing in the paper to show instead.")

# %% [markdown]
# ## Accuracy over the budget
#
# The x axis is logarithmic: the budget as a share of the whole network's memory, by the paper's unit (paper eq. 4). Bars go from the lowest to the highest seed.

# %% tags=["hide-input"]
if len(curve):
    ours = runs[runs.strategy == varied.OURS].assign(series=varied.OURS)
    ours = ours.assign(x=100 * ours.budget / total, top1_percent=ours.test_top1_percent)
    levels = {name: runs[runs.strategy == name].test_top1_percent.mean() for name in varied.ENDS}
    levels = {name: height for name, height in levels.items() if height == height}
    ticks = {share: f"{share:.2g}" for share in sorted(set(ours.x))}
    result = varied.saturation_in_words(curve)
    notebook.show(
        plots.accuracy_over(
            ours,
            "budget (% of the network's memory)",
            f"{config.network} on {config.task}, {config.epochs} epochs, protocol {config.protocol}",
            levels,
            ticks,
        ),
        "budgets",
        curve,
        "Test accuracy of LaRa MeDyate over the budget as a share of the network's memory, with Head only and Baseline "
        "as horizontal lines. " + result,
        "Test accuracy of LaRa MeDyate over the memory budget, beside training the head alone and everything.",
        result,
    )
    notebook.show_table(
        curve.rename(
            columns={
                "budget": "budget (elements)",
                "share_percent": "share (%)",
                "top1_percent": "top-1 (%)",
                "gain": "over Head only (points)",
                "part_percent": "of Baseline's gain (%)",
            }
        ),
        "budgets-gain",
        "What each budget gains over training the head alone: means over the seeds that the budget and both extremes share.",
        decimals=1,
    )
    notebook.say(notebook.protocol_note(runs))

# %% [markdown]
# Two cautions. The budget is the paper's unit, which leaves out what train-mode batch norm keeps ([part 6](../book/course/left-out.md)). And a task of 500 test images has a standard error of almost two points on each run, so differences between neighbouring budgets mean little; the rise from *Head only* does not.

# %% tags=["hide-input"]
notebook.run_again(config, "-p seeds 0")
