"""What the notebooks of figures and tables share: checked parameters, recorded runs, display.

A notebook has one cell of parameters, which papermill replaces without any check, and right after
it ``config = notebook.Parameters(...)``, which checks them before anything is computed. Then it
draws from recorded runs; where there are none it says so with :func:`nothing_recorded`, shows the
paper's values, and gives the command that would run what is missing.
"""

from .display import latex, nothing_recorded, say, show, show_table
from .grids import grid_of_rankings, grid_of_strategies, grid_over_layers, layer_counts, run
from .parameters import ALL, MODES, Parameters, backbone, known_tasks, tier_budgets
from .recorded import (
    OVER_LAYERS,
    as_named,
    beside,
    best_alphas,
    best_layers,
    cells,
    channel_norms,
    epoch_size,
    epochs_of,
    example_selection,
    layer_index,
    layer_metric,
    leader,
    over_layers,
    pick,
    protocol,
    protocol_note,
    rankings,
    selections,
    strategy_runs,
    table,
    twins,
)
from .tables import our_table, paper_table

__all__ = [
    "ALL", "MODES", "OVER_LAYERS", "Parameters", "as_named", "backbone", "beside", "best_alphas", "best_layers", "cells",
    "channel_norms", "epoch_size", "epochs_of", "example_selection", "grid_of_rankings", "grid_of_strategies",
    "grid_over_layers", "known_tasks", "latex", "layer_counts", "layer_index", "layer_metric", "leader",
    "nothing_recorded", "our_table", "over_layers", "paper_table", "pick", "protocol", "protocol_note", "rankings", "run",
    "say", "selections", "show", "show_table", "strategy_runs", "table", "tier_budgets", "twins",
]  # fmt: skip
