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
# # Beyond the paper: which layers should the first draws favour?
#
# Before its first epoch MeDyate knows no channel's gradient, only the layers' LaRa. The paper draws unseen channels alike, or *boosted*, in proportion to their layer's LaRa (App. A.2, its Fig. 11), and asks (Sec. 5) whether another weighting would do better at the best K. Here the same run is made four ways, at the K that MeDyate takes by itself. Boosted draws give a channel
#
# * *value*: its layer's LaRa, as the paper does;
# * *rank*: its layer's rank among the K that are searched, K for the highest and 1 for the lowest, so that a few large values cannot take all draws;
# * *softmax*: the exponential of its layer's LaRa over the standard deviation of the K values, so that a large value takes more.
#
# The same weights scale what unseen channels are given after the first epoch (the largest norm that was seen).
#
# **Predict first.** LaRa divides by a layer's memory, so a boosted draw favours cheap layers. Will it explore more channels or fewer, and does accuracy follow?

# %% tags=["parameters"]
network: str = "mbv2-w0.35"  # any of `medyate networks`
tasks: str = "food10,flowers12"  # names with commas between, of `medyate tasks`
budget: int = 27946  # elements
epochs: int = 9  # of each run, warm-up not included
seeds: "int or str" = "all"  # one seed, several as in "0,42", or "all"
protocol: str = "short"  # how the runs were made: short, authors or frozen
mode: str = "recorded"  # recorded: draw what is there; missing: run the rest; fresh: run all anew

# %% tags=["hide-input"]
from medyate import notebook
from medyate.notebook import beyond, plots
from medyate.paper import varied

config = notebook.Parameters(
    "boosts", network=network, tasks=tasks, budget=budget, epochs=epochs, seeds=seeds, protocol=protocol, mode=mode
)
notebook.run(beyond.grid_of_boosts(config), config)
runs = beyond.boost_runs(config)
if runs.empty:
    notebook.nothing_recorded(config.described(), config.command(), "There is nothing in the paper to show instead.")

# %% [markdown]
# ## Accuracy by weighting
#
# Each marker is LaRa MeDyate on one task; bars go from the lowest to the highest seed.

# %% tags=["hide-input"]
if len(runs):
    summary = varied.by_boost(runs)
    result = varied.by_boost_in_words(summary)
    place = {name: 2.0**index for index, name in enumerate((varied.UNIFORM, *varied.BOOSTS))}
    notebook.show(
        plots.accuracy_over(
            runs.assign(series=runs.task, x=runs["first"].map(place), top1_percent=runs.test_top1_percent),
            "how unseen channels are drawn",
            f"{config.network}, budget {config.budget:,} elements, {config.epochs} epochs, protocol {config.protocol}",
            ticks={x: name for name, x in place.items()},
            joined=False,
        ),
        "boosts",
        summary,
        "Test accuracy of LaRa MeDyate by how unseen channels are drawn, one marker a task. " + result,
        "Test accuracy of LaRa MeDyate by how channels are weighed that no gradient is known of.",
        result,
    )
    notebook.show_table(
        summary.rename(
            columns={
                "first": "unseen channels",
                "top1_percent": "top-1 (%)",
                "difference": "over uniform (points)",
                "low": "95 % from",
                "high": "to",
                "loss": "test loss over uniform",
            }
        ),
        "boosts-difference",
        "Each weighting against uniform first draws, paired by seed: mean difference in accuracy and its 95 % interval.",
        decimals=2,
    )
    notebook.say(notebook.protocol_note(runs))

# %% tags=["hide-input"]
notebook.run_again(config, "-p tasks food10")
