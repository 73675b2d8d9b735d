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
# # Beyond the paper: a task far from photographs
#
# All of the paper's image tasks are photographs, as is ImageNet, so its layer rankings never had to travel far (Fig. 3). Handwritten digits are drawn, grey and 8 by 8 pixels. Does a fine-tuning on them rank the layers as one on photographs does? And does it matter to a run on photographs which of the two its search space comes from?
#
# **Predict first.** Digits look like nothing in ImageNet. Will their LaRa order correlate with that of flowers at 0.5, 0.8 or above 0.95? What about the order by layer RGN, which does not divide by a layer's size?

# %% tags=["parameters"]
network: str = "mbv2-w0.35"  # any of `medyate networks` with recorded rankings
far: str = "digits"  # the task that is unlike the others
near: str = "all"  # the tasks to compare with: "all" recorded ones, or names with commas between
task: str = "food10"  # the task of the runs
budget: int = 27946  # elements
seeds: "int or str" = "all"  # one seed, several as in "0,42", or "all"

# %% tags=["hide-input"]
from medyate import notebook
from medyate.notebook import beyond
from medyate.paper import varied

config = notebook.Parameters("far", network=network, tasks=near, task=task, budget=budget, seeds=seeds)
far = notebook.Parameters("far", task=far).task
ranked = beyond.far_rankings(config, far)
if ranked.empty:
    notebook.nothing_recorded(f"a ranking of {network} on {far}", "medyate sweep run far", "Nothing is shown.")

# %% [markdown]
# ## Do the orders agree?
#
# Spearman's $\rho$ over all layers: between photographs, between digits and photographs, and between seeds of the same task, which is the most that could be expected.

# %% tags=["hide-input"]
if len(ranked):
    notebook.show_table(
        ranked.replace({"metric": {"lara": "LaRa, paper eq. 9", "layer_rgn": "layer RGN, paper eq. 8"}}).rename(
            columns={"between": "rankings from", "rho": "ρ, mean", "lowest": "ρ, lowest"}
        ),
        "far-orders",
        f"Correlation of layer orders of {config.network} within and between kinds of task.",
        decimals=3,
    )
    notebook.say(varied.within_and_between_in_words(ranked, far))

# %% [markdown]
# ## Does it matter to a run?
#
# LaRa MeDyate with the search space from each ranking, all else equal, paired by seed.

# %% tags=["hide-input"]
pairs = varied.by_origin(beyond.origin_runs(config, far), far)
if pairs.empty:
    notebook.nothing_recorded(
        f"LaRa MeDyate on {config.task} by a ranking from {far}", "medyate sweep run far", "Nothing is shown."
    )
else:
    notebook.show_table(
        pairs, "far-runs", f"Test top-1 (%) on {config.task}, budget {config.budget:,} elements, by the ranking's task."
    )
    notebook.say(varied.by_origin_in_words(pairs, far))

# %% tags=["hide-input"]
notebook.run_again(config, "-p seeds 0")
