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
# # Figure 5: beams
#
# The channel norms of one layer over the epochs of a fine-tuning, each epoch divided by its largest. If channels keep their place, lines run in parallel: the paper calls them beams, and shows one layer of MobileNetV2 on CIFAR-10 (it does not say which).
#
# **Predict first.** Will the beams already be there in the first epochs?

# %% tags=["parameters"]
network: str = "mbv2-w0.35"  # any of `medyate networks`
task: str = "food10"  # a task with a recorded ranking
layer: "int or str" = "b14.pw2"  # an index in order of execution, or a name of `medyate memory`
epochs: "int or str" = "all"  # of the preliminary fine-tuning, warm-up not included
seeds: "int or str" = "0"  # the first of them is shown
mode: str = "recorded"  # recorded: draw what is there; missing: run the rest; fresh: run all anew

# %% tags=["hide-input"]
import pandas as pd

from medyate import notebook
from medyate.notebook import plots
from medyate.paper import stats

config = notebook.Parameters("fig5", network=network, task=task, layer=layer, epochs=epochs, seeds=seeds, mode=mode)
index = notebook.layer_index(config.layer, [found.name for found in notebook.backbone(config.network)])
notebook.run(notebook.grid_of_rankings(config), config)

# %% tags=["hide-input"]
found = notebook.rankings(config)
if len(found):
    run = found.iloc[0]
    norms, layer_of, names = notebook.channel_norms(run["id"])
    own = norms[:, layer_of == index]
if len(found) and len(own) > 1:
    steps = stats.consecutive(own)
    notebook.show(
        plots.beams(
            own, f"{config.network} on {config.task}, {names[index].removesuffix('.conv')}: {own.shape[1]} channels"
        ),
        "fig5",
        pd.DataFrame(own, index=range(1, len(own) + 1)).rename_axis("epoch").reset_index(),
        f"Lines of {own.shape[1]} channels' gradient norms over {len(own)} epochs, normalised per epoch. Rank correlation with "
        f"the epoch before: {steps.rho.iloc[0]:.2f} at first, {steps.rho.iloc[-1]:.2f} at last.",
        "Each channel's gradient norm over the epochs, divided by the epoch's largest and coloured by the channel's mean rank.",
        f"The rank correlation with the epoch before goes from {steps.rho.iloc[0]:.2f} to {steps.rho.iloc[-1]:.2f}.",
    )
    notebook.say(
        "Spearman's ρ with the epoch before: "
        + ", ".join(f"{rho:.2f}" for rho in steps.rho)
        + f". First against last epoch: {stats.consecutive(own[[0, -1]]).rho[0]:.2f}."
    )
else:
    notebook.nothing_recorded(
        f"a preliminary fine-tuning over two epochs or more ({config.described()})",
        f"medyate rank {config.network} --task {config.task} --epochs 5",
        "The paper prints no numbers for this figure.",
    )

# %% tags=["hide-input"]
notebook.run_again(config, "-p layer b10.pw1", sweep="fig3")
