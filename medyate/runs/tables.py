"""Records as flat tables: a row a record, or a row an epoch, for a spreadsheet or R.

Columns are named by their path in the record (``config.network``, ``search_space.K``,
``environment.device``); what the last epoch measured is ``last.*``. Lists stay in the JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from . import records as runs
from .config import full

if TYPE_CHECKING:
    import pandas


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dictionaries as one, keys joined by dots; lists are left out."""
    columns = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            columns |= flat(value, f"{prefix}{name}.")
        elif not isinstance(value, (list, tuple)):
            columns[prefix + name] = value
    return columns


def row(record: Mapping[str, Any]) -> dict[str, Any]:
    """One record as one row; which channels were selected is left out."""
    kept = {name: value for name, value in record.items() if name != "selection"}
    plain = flat({**kept, "config": full(record["kind"], record["config"])})
    last = record["epochs"][-1] if record.get("epochs") else {}
    return plain | flat({name: value for name, value in last.items() if name != "test_top1_percent"}, "last.")


def table(kind: str = "run", epochs: bool = False) -> pandas.DataFrame:
    """All finished records of ``kind`` ("run" or "rank"), a row each; or a row an epoch (``epoch.*``)."""
    import pandas

    rows = []
    for record in runs.every(kind):
        if record["status"] != "finished":
            continue
        if epochs:
            shared = {"id": record["id"], **flat(full(kind, record["config"]), "config.")}
            rows += [shared | flat(one, "epoch.") for one in record["epochs"]]
        else:
            rows.append(row(record))
    # a column that some records lack stays empty there, and whole numbers stay whole
    return pandas.DataFrame(rows).convert_dtypes() if rows else pandas.DataFrame()
