"""Tables of the data sets: what each holds, what it takes to fetch it, and what may be done with it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd

# What each pack was cut from. `flowers12` is from Oxford Flowers-17, not from the paper's Flowers-102.
CUT_FROM = {
    "cifar10": "CIFAR-10",
    "cub50": "CUB-200-2011",
    "flowers12": "Oxford Flowers-17",
    "food10": "Food-101",
    "rte": "GLUE's RTE",
    "sst2": "GLUE's SST-2",
}


def data_sets() -> pd.DataFrame:
    """Every registered task: classes, sizes of its splits, what to fetch, its licence."""
    import pandas as pd

    from .. import tasks

    rows = []
    for task in tasks.TASKS.values():
        size_bytes = sum(file.size_bytes or 0 for file in task.source.downloads)
        rows.append(
            {
                "name": task.name,
                "in the paper": task.label or "–",
                "classes": task.classes,
                "train": task.train_size,
                "test": task.test_size,
                "to fetch": f"{size_bytes / 10**6:,.0f} MB" if size_bytes else "nothing",
                "licence": task.licence,
            }
        )
    return pd.DataFrame(rows).astype({"classes": "Int64", "train": "Int64", "test": "Int64"})


def packs() -> pd.DataFrame:
    """The packs that recorded runs used, with the sizes that their records give."""
    import pandas as pd

    from ..runs import records as runs

    table = runs.table()
    rows = []
    for name, origin in CUT_FROM.items():
        own = table[table.task == name] if len(table) else table
        if own.empty:
            continue
        record = runs.load(own["id"].iloc[0])
        rows.append(
            {
                "pack": name,
                "cut from": origin,
                "classes": record["classes"],
                "train": record["train_images"],
                "test": record["test_images"],
                "recorded runs": len(own),
            }
        )
    return pd.DataFrame(rows)
