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
# # Figure 2: how soon is everything seen?
#
# If each epoch draws channels anew at random, worth a share $\alpha$ of the search space, the share not seen after $e$ epochs is $u_e = (1 - \alpha)^e$ (Sec. 3.5). MeDyate gives channels that it has not seen the highest probability, so the paper takes this as its worst case, but it does not show what a real run does. This page shows both.
#
# **Predict first.** Will real runs of MeDyate explore faster than the bound, or slower? And runs of TraDy, which draws uniformly?

# %% tags=["parameters"]
length: int = 20  # how many epochs the curves go on
network: str = "mbv2-w0.35"  # of the recorded runs
tasks: str = "all"  # of the recorded runs: "all", or names with commas between
budget: "int or str" = "all"  # of the recorded runs, in elements
seeds: "int or str" = "all"  # of the recorded runs: one, several as in "0,42", or "all"

# %% tags=["hide-input"]
import pandas as pd

from medyate import notebook
from medyate.errors import whole
from medyate.notebook import plots

config = notebook.Parameters("fig2", network=network, tasks=tasks, budget=budget, seeds=seeds)
length = whole(length, "length", 1, 1000)
alphas = (0.05, 0.1, 0.2, 0.3, 0.5)
marks = {8: 0.8, 11: 0.9, 14: 0.95}

# %% [markdown]
# ## The bound
#
# Dashed: $(1 - \alpha)^e$. Dots: the epochs that the paper names for $\alpha = 0.2$. Solid: the part of the search space, by memory, that real runs had not yet selected by that epoch.

# %% tags=["hide-input"]
runs = notebook.strategy_runs(config)
if not runs.empty:
    runs = runs[runs.strategy.isin(["LaRa MeDyate", "LaRa TraDy"])]
observed = notebook.epochs_of(runs)
if observed.empty:
    notebook.nothing_recorded(
        f"LaRa MeDyate ({config.described()})",
        f'medyate run --network {config.network} --task food10 --strategy "LaRa MeDyate" --budget 27946 --epochs 15',
        "The bound is shown alone.",
    )
else:
    observed = observed[observed.epoch <= length]
    observed["unexplored_percent"] = 100 - observed.explored_percent
    observed["series"] = observed.strategy
    observed["bound_percent"] = 100 * (1 - observed.alpha) ** observed.epoch
bound = pd.DataFrame(
    [
        {"series": f"alpha = {alpha}", "epoch": e, "unexplored_percent": 100 * (1 - alpha) ** e}
        for alpha in alphas
        for e in range(length + 1)
    ]
)
said = "By the formula with alpha = 0.2, 80, 90 and 95 % are seen by epochs 8, 11 and 14."
if not observed.empty:
    last = observed[observed.groupby("id").epoch.transform("max") == observed.epoch].groupby("series")
    left = last[["unexplored_percent", "bound_percent"]].mean()
    said = " ".join(
        f"{name}: {row.unexplored_percent:.1f} % left unseen at the end, the formula says {row.bound_percent:.1f} %."
        for name, row in left.iterrows()
    )
notebook.show(
    plots.unexplored(alphas, length, marks, None if observed.empty else observed),
    "fig2",
    notebook.beside(observed, bound),
    "Unexplored share of the search space over epochs, an exponential decay for each alpha. For alpha of 0.2 it falls "
    "below 20 percent at epoch 8, 10 percent at epoch 11 and 5 percent at epoch 14.",
    "Share of the search space that has not been drawn yet. Dashed: the formula. Dots: the epochs that the paper names. "
    "Solid, with a band over runs: recorded runs.",
    said,
)

# %% [markdown]
# ## The three epochs

# %% tags=["hide-input"]
rows = []
for epoch, share in marks.items():
    row = {
        "epoch": epoch,
        "claimed": share,
        "bound, alpha = 0.2": 1 - 0.8**epoch,
        "bound, an epoch earlier": 1 - 0.8 ** (epoch - 1),
    }
    if not observed.empty:
        at = observed[observed.epoch == epoch]
        for name, found in at.groupby("series"):
            row[f"seen, {name} (n = {len(found)})"] = found.explored_percent.mean() / 100
            row[f"bound at the alpha of {name}"] = 1 - found.bound_percent.mean() / 100
    rows.append(row)
notebook.show_table(pd.DataFrame(rows), "fig2-epochs", "Share of the search space that was seen at least once.")
if not observed.empty:
    notebook.say(
        "The bound counts draws by memory as if every channel had the same chance; a real draw is by channel, and fills "
        "what is left with channels that fit, so the two need not agree exactly."
    )

# %% tags=["hide-input"]
notebook.run_again(config, "-p length 40")
