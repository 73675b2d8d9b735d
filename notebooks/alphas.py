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
# # Beyond the paper: does $\alpha = 0.2$ fit every network and task?
#
# MeDyate searches the smallest number of layers K with $\alpha_K = B_{mem} / M_K \le 0.2$: each draw takes about a fifth of the search space (paper eq. 10). The paper read this value off one network on one task (its Fig. 6) and leaves open whether it is right elsewhere (Sec. 5). Here the same run is made with K for $\alpha$ of 0.1, 0.2, 0.4 and 0.8.
#
# **Predict first.** With $\alpha = 0.8$ almost everything in a small search space is trained in each epoch. Is that better or worse than a fifth of a large one?

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
    "alphas", network=network, tasks=tasks, budget=budget, epochs=epochs, seeds=seeds, protocol=protocol, mode=mode
)
notebook.run(beyond.grid_of_alphas(config), config)
runs = beyond.alpha_runs(config)
if runs.empty:
    notebook.nothing_recorded(config.described(), config.command(), "There is nothing in the paper to show instead.")

# %% [markdown]
# ## Accuracy over $\alpha$
#
# Each curve is LaRa MeDyate on one task; bars go from the lowest to the highest seed.

# %% tags=["hide-input"]
if len(runs):
    summary = varied.by_alpha(runs)
    result = varied.by_alpha_in_words(summary)
    notebook.show(
        plots.accuracy_over(
            runs.assign(series=runs.task, x=runs.wanted, top1_percent=runs.test_top1_percent),
            "α wanted (smallest K with budget / search space ≤ α)",
            f"{config.network}, budget {config.budget:,} elements, {config.epochs} epochs, protocol {config.protocol}",
        ),
        "alphas",
        summary,
        "Test accuracy of LaRa MeDyate over alpha, one line a task. " + result,
        "Test accuracy of LaRa MeDyate over the share of the search space that one draw takes.",
        result,
    )
    notebook.show_table(
        summary.rename(
            columns={
                "wanted": "α wanted",
                "K": "layers K",
                "alpha": "α reached",
                "top1_percent": "top-1 (%)",
                "difference": "over α = 0.2 (points)",
                "low": "95 % from",
                "high": "to",
            }
        ),
        "alphas-difference",
        "Each α against 0.2, paired by seed: mean difference in accuracy and its 95 % interval.",
        decimals=2,
    )
    notebook.say(notebook.protocol_note(runs))

# %% tags=["hide-input"]
notebook.run_again(config, "-p tasks food10")
