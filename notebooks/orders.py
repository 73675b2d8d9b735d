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
# # Beyond the paper: how far does an order of layers carry?
#
# Sec. 3.4 justifies the offline ranking by its stability: a few epochs on any task give an order of layers that serves other tasks (Fig. 3). Two questions follow that the paper does not ask. Does an order carry over to another *architecture*, so that a new network needs no fine-tuning at all? And where Spearman's correlation over all layers is 0.99, how much of a run's search space is the same? Both are answered from the recorded rankings; nothing is trained.

# %% tags=["parameters"]
networks: str = "all"  # "all", or names with commas between: mbv2-w0.35, mcunet-in1, proxyless-w0.3
tasks: str = "all"  # "all", or names with commas between, such as food10,flowers12
epochs: "int or str" = "all"  # of each fine-tuning, warm-up not included, or "all"
seeds: "int or str" = "all"  # one seed, several as in "0,42", or "all"
mode: str = "recorded"  # recorded: use what is there; missing: run the rest; fresh: run all anew

# %% tags=["hide-input"]
from medyate import notebook
from medyate.paper import beyond

config = notebook.Parameters("orders", networks=networks, tasks=tasks, epochs=epochs, seeds=seeds, mode=mode)
notebook.run(notebook.grid_of_rankings(config), config)
found = notebook.rankings(config)
if found.empty:
    notebook.nothing_recorded(config.described(), config.command())

# %% [markdown]
# ## From one network to another
#
# A layer's metric is guessed from another network's: from the layers of its own kind (stem, depthwise, first and second pointwise convolution, feature mix), interpolated in relative depth. $\rho$ is Spearman's correlation of the guess with the metric that the network's own fine-tuning gave, on another task. The control, "geometry", looks at no gradient at all: it is one over the layer's memory cost.

# %% tags=["hide-input"]
between = beyond.between_networks(found) if len(found) else found
if len(between):
    notebook.show_table(
        between.replace({"metric": {"lara": "LaRa, paper eq. 9", "layer_rgn": "layer RGN, paper eq. 8"}}).rename(
            columns={
                "source": "guessed from",
                "target": "for",
                "rho": "ρ of the guess",
                "geometry": "ρ of geometry alone",
            }
        ),
        "orders-networks",
        "How well one network's metric ranks another's layers, means over pairs of tasks.",
        decimals=2,
    )
    mean = between.groupby("metric")[["rho", "geometry"]].mean()
    for metric, label in (("lara", "LaRa"), ("layer_rgn", "layer RGN")):
        guess, control = mean.loc[metric]
        verdict = "more than" if guess > control + 0.02 else "no more than"
        notebook.say(
            f"**{label}** carries over at ρ = {guess:.2f} on average, {verdict} what the layers' sizes alone give, {control:.2f}."
        )

# %% [markdown]
# LaRa divides a layer's gradient by the memory of *all* its channels, a number that spans orders of magnitude between layers; so most of its order is due to the network's geometry, and a correlation of LaRa orders between tasks or networks has to be read against that control. Layer RGN divides by the memory of one channel.

# %% [markdown]
# ## What two rankings share
#
# LaRa strategies search the smallest K layers with $\alpha_K \le 0.2$. For two rankings from different tasks: the number of layers in both divided by the number in either (Jaccard's index), and the same ratio in memory.

# %% tags=["hide-input"]
shared = beyond.agreement(found) if len(found) else found
if len(shared):
    notebook.show_table(
        shared.rename(
            columns={
                "budget": "budget (elements)",
                "rho": "ρ over all layers",
                "jaccard": "layers shared",
                "lowest_jaccard": "lowest",
                "memory": "memory shared",
            }
        ),
        "orders-shared",
        "How much of the search space two tasks' LaRa rankings share.",
        decimals=2,
    )
    worst = shared.loc[shared.memory.idxmin()]
    notebook.say(
        f"Where all layers correlate at {worst.rho:.2f}, two tasks' search spaces share {worst.memory:.0%} of their "
        f"memory in the worst case ({worst.network}, tier {worst.tier}): the layers that change places are those at the cut."
    )

# %% tags=["hide-input"]
notebook.run_again(config, "-p networks mbv2-w0.35,mcunet-in1", sweep="fig3")
