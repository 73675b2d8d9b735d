"""Which gradient a ranking's norms are of: our definitions held against what the authors print."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch

from .. import importance, ranking, selection, strategies
from ..costs import Layer
from ..networks import schemes
from ..runs import rankings, records
from . import ours, parameters
from . import values as paper


def ranking_definitions(network: str = "mbv2-w0.35") -> pd.DataFrame:
    """Our preliminary fine-tunings under each definition of an epoch's norms, held against what the authors print.

    Of ``network``, whose layer norms TraDy's Fig. 9 shows. One row a fine-tuning and definition: ``task``, ``epochs``,
    ``norm_gradient`` (:data:`medyate.importance.NORM_GRADIENTS`), ``norms_rho`` (Spearman, our layers' summed channel
    norms and the published), ``pool_elements`` (of the first 20 layers by LaRa; the paper's is 192,384) and
    ``weights_percent`` (the share of the smallest budget that uniform draws from the search space spend on weights).
    The last row is that of the published norms themselves. No accuracy is looked at.
    """
    layers = parameters.backbone(network)
    published = paper.layer_norms().norm.to_numpy()
    sizes = [layer.channels for layer in layers]
    rows = []
    for record in records.every("rank"):
        if record["config"]["network"] != network or "derived_from" in record or record["status"] != "finished":
            continue
        arrays = records.arrays(record)
        for definition, name in records.NORM_ARRAYS.items():
            if name not in arrays:
                continue
            gatherer = importance.Gatherer([], layers)
            gatherer.gathered(definition).extend(torch.from_numpy(arrays[name]).double())
            ranked = ranking.Ranking(network, "", tuple(layer.name for layer in layers), **gatherer.metrics(definition))
            norms = np.add.reduceat(arrays[name].sum(0), np.cumsum([0, *sizes[:-1]]))
            config = record["config"]
            epochs = config["epochs"] + config["warmup_epochs"]
            rows.append(
                (
                    config["task"],
                    config["seed"],
                    epochs,
                    definition,
                    *_against_printed(ranked, layers, norms, published),
                )
            )
    known = rankings.load(network, ours.PUBLISHED)
    rows.append(("cifar10", None, None, "published", *_against_printed(known, layers, published, published)))
    columns = ["task", "seed", "epochs", "norm_gradient", "norms_rho", "pool_elements", "weights_percent"]
    return pd.DataFrame(rows, columns=columns).astype({"seed": "Int64", "epochs": "Int64"})


def _against_printed(
    ranked: ranking.Ranking, layers: Sequence[Layer], norms: np.ndarray, published: np.ndarray
) -> tuple[float, int, float]:
    from scipy.stats import spearmanr

    by_name = {layer.name: layer for layer in layers}
    pool = sum(by_name[name].search_elements for name in ranked.order("lara")[: paper.BEST_LAYERS])
    budget = schemes.PRINTED_BUDGETS[ranked.network][1]
    generator = torch.Generator().manual_seed(0)
    selector = selection.Selector(strategies.get("LaRa TraDy"), layers, budget, generator, ranking=ranked)
    drawn = [selector.select() for _ in range(20)]
    used = sum(one.used_elements(layers) for one in drawn)
    share = 100 * sum(one.weight_elements(layers) for one in drawn) / used
    return float(spearmanr(norms, published).statistic), pool, share
