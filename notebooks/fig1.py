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
# # Figure 1: MeDyate at a glance
#
# The paper's first figure is a drawing of the method's two phases. This one is drawn by code from a real selection: the layers as a recorded fine-tuning ranked them, the cut that the budget makes, and the channels that Algorithm 1 draws in the first epochs, given that fine-tuning's gradient norms.
#
# **Predict first.** With a budget of 110 kB, how many of the network's 52 layers will stay in the search space? And after five epochs, how much of it will have been drawn at least once?

# %% tags=["parameters"]
budget: int = 27946  # elements
network: str = "mbv2-w0.35"  # any of `medyate networks` with a recorded ranking
ranking: str = "auto"  # the name of a recorded ranking, or auto
epochs: int = 5  # how many epochs are drawn
seeds: int = 0  # the seed of the sampling

# %% tags=["hide-input"]
import pandas as pd

from medyate import notebook
from medyate.notebook import plots
from medyate.runs import rankings

config = notebook.Parameters("fig1", budget=budget, network=network, epochs=epochs, seeds=seeds)
names = rankings.names(config.network)
if names:
    name = rankings.automatic(config.network, "none") if ranking == "auto" else ranking
    order = rankings.load(config.network, name)

# %% tags=["hide-input"]
if not names:
    notebook.nothing_recorded(
        f"a ranking of {config.network}",
        f"medyate rank {config.network} --task digits --epochs 3",
        "There is nothing to draw.",
    )
else:
    selector, drawn = notebook.selections(config.network, config.budget, name, config.epochs, config.seeds[0])
    layers = {layer.name: layer for layer in selector.layers}
    ranked = pd.DataFrame({"layer": order.layers, "lara": order.lara}).sort_values(
        "lara", ascending=False, kind="stable"
    )
    ranked["inside"] = ranked.layer.isin(selector.ranked)
    shares = pd.DataFrame(
        {
            epoch: {
                layer: 100 * len(selection.channels.get(layer, ())) / layers[layer].channels
                for layer in selector.ranked
            }
            for epoch, selection in enumerate(drawn, start=1)
        }
    )
    short = shares.rename(index=lambda layer: layer.removesuffix(".conv"))
    used = [selection.used_elements(selector.layers) for selection in drawn]
    notebook.show(
        plots.overview(
            ranked,
            short,
            f"Before training: rank the layers of {config.network} once,\n"
            f"keep the smallest K with B / M$_K$ = {config.budget:,} / {selector.space.elements:,} = {selector.alpha:.3f} ≤ 0.2",
            "While training: draw channels of these layers, epoch by epoch",
        ),
        "fig1",
        short.rename_axis("layer").reset_index(),
        f"Overview of MeDyate. Above, LaRa of all {len(ranked)} layers in ranked order, the first {len(selector.ranked)} "
        "marked as the search space. In the middle, the loop: draw, train, keep norms, draw anew. Below, the share of "
        "channels drawn in each layer of the search space in each epoch.",
        f"Above: LaRa of the {len(ranked)} layers of {config.network}, in ranked order, and where the list is cut. In the middle: the loop. "
        "Below: the share of each layer's channels that is drawn, epoch by epoch.",
        f"{len(selector.ranked)} of {len(ranked)} layers stay in, and after {len(drawn)} epochs "
        f"{100 * selector.explored_fraction:.0f} % of their channels' memory was drawn at least once.",
    )
    notebook.say(
        f"The search space holds {len(selector.space.costs):,} channels in {len(selector.ranked)} layers. Each epoch's selection costs, "
        f"of the budget of {config.budget:,} elements: " + ", ".join(f"{elements:,}" for elements in used) + ". "
        f"After {len(drawn)} epochs {100 * selector.explored_fraction:.0f} % of the search space were drawn at least once."
    )
    notebook.say(f"Ranking: `{order.name}` ({order.source or 'no source noted'}).")
    if len(drawn) < config.epochs:
        notebook.say(
            f"Only {len(drawn)} epoch{'s' if len(drawn) > 1 else ''} drawn: no more norms are recorded with this ranking."
        )

# %% tags=["hide-input"]
notebook.run_again(config, "-p budget 66592")
