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
# # Figure 11: does it help to sample important layers first?
#
# TraDy samples all channels of its layers alike, and so does MeDyate in its first epoch. Appendix A.2 tries probabilities in proportion to each layer's LaRa instead ("boosted"). The paper calls the result inconclusive.
#
# **Predict first.** Boosting draws from the layers of largest LaRa first. When should that matter more: with few layers or with many?

# %% tags=["parameters"]
budget: int = 27946  # elements
network: str = "mbv2-w0.35"  # any of `medyate networks`
task: str = "food10"  # any of `medyate tasks`
epochs: int = 9  # of each run, warm-up not included
seeds: "int or str" = "0"  # one seed, or several as in "0,42"
protocol: str = "frozen"  # how the runs were made: short, authors or frozen
ranking: str = "declared"  # the ranking that the protocol declares, or another by name
mode: str = "recorded"  # recorded: draw what is there; missing: run the rest; fresh: run all anew

# %% tags=["hide-input"]
from medyate import notebook, strategies
from medyate.notebook import plots
from medyate.paper import values as paper

config = notebook.Parameters(
    "fig11",
    budget=budget,
    network=network,
    task=task,
    epochs=epochs,
    seeds=seeds,
    protocol=protocol,
    ranking=ranking,
    mode=mode,
)
wanted = {
    f"{name} {sampling}": strategies.with_options(strategies.get(f"LaRa {name}"), boosted=sampling == "boosted")
    for name in ("TraDy", "MeDyate")
    for sampling in ("uniform", "boosted")
}
notebook.run(notebook.grid_over_layers(config, wanted), config)

# %% [markdown]
# ## Accuracy over K
#
# All four use the LaRa order. A ring marks the best K of each curve. Ours are drawn where at least two curves are recorded.

# %% tags=["hide-input"]
curves = paper.curves("fig11")
runs = notebook.over_layers(config, wanted)
drawn = notebook.curves_of(runs)
if drawn.empty:
    notebook.nothing_recorded(
        f"this comparison, which needs two curves or more ({config.described()})", config.command()
    )
notebook.show(
    plots.accuracy_over_layers(
        None if drawn.empty else drawn,
        curves,
        f"ours: {config.network} on {config.task}, {config.epochs} epochs",
        "the paper: MbV2-w0.35 on Food, 27,946 elements, 50 epochs",
    ),
    "fig11",
    notebook.beside(drawn, curves),
    "Test accuracy over K for TraDy and MeDyate, each with uniform and with boosted sampling. In the paper boosting "
    "changes little up to K of 35 and softens the loss at 45 and 52 layers. " + notebook.best_layers(drawn),
    "Test accuracy over K for TraDy and MeDyate, each with uniform and with boosted sampling; all four use the LaRa order.",
    notebook.best_layers(drawn) if len(drawn) else notebook.best_layers(curves, "the paper's curves"),
)
if len(drawn):
    notebook.say(notebook.protocol_note(drawn))
notebook.say(notebook.other_ways(config, named=False))

# %% [markdown]
# ## What boosting changes


# %% tags=["hide-input"]
def gains(frame):
    mean = frame.groupby(["series", "layers"]).top1_percent.mean()
    return {name: (mean[f"{name} boosted"] - mean[f"{name} uniform"]).dropna() for name in ("TraDy", "MeDyate")}


def told(found):
    few, many = (lambda gain: gain[gain.index <= 40].mean()), (lambda gain: gain[gain.index > 40].mean())
    return "; ".join(
        f"{name}: {few(gain):+.2f} points up to K = 40, {many(gain):+.2f} above" for name, gain in found.items()
    )


notebook.say(f"**The paper:** {told(gains(curves))}. This agrees with its text.")
if set(wanted) <= set(drawn.series):
    notebook.say(f"**Ours:** {told(gains(drawn))}.")

# %% tags=["hide-input"]
notebook.run_again(config, "-p budget 27946 -p seeds 0,42")
