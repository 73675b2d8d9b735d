"""Records of runs: one JSON file each, with arrays beside it as compressed npz; and tables of them.

Records are written atomically and never changed. ``results/runs`` is read without us: the schema
is ``results/runs.schema.json``.
"""

from __future__ import annotations

import copy
import functools
import importlib.metadata
import io
import json
import os
import platform
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import paths as storage
from .config import full

SCHEMA = 1
# the arrays beside a preliminary fine-tuning's record, epochs x channels, by definition of the norms
NORM_ARRAYS = {"last": "channel_norms_last", "mean_norm": "channel_norms_mean", "mean": "channel_norms_of_mean"}


ALSO: dict[str, str] = {}  # what the process that runs adds to every record's environment


def environment(device: str) -> dict[str, Any]:
    """What a number may depend on besides its config: versions, code, machine."""
    import torch

    from ..execution import compiled

    return {
        **{
            name: _version(name)
            for name in ("medyate", "torch", "torchvision", "transformers", "tokenizers", "numpy", "pillow")
        },
        "commit": _commit(),
        "python": platform.python_version(),
        "platform": f"{sys.platform}-{platform.machine()}",
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else _processor(),
        "threads": torch.get_num_threads(),
        **({"compiled": True} if device == "cpu" and compiled.library() is not None else {}),
        **ALSO,
    }


@functools.cache  # a checkpoint after each epoch asks
def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@functools.cache  # of the code that was loaded: a checkout may move on while a run goes on
def _commit() -> str | None:
    """The checkout's commit; "+" where the package's files differ from it. None outside a checkout."""
    given = os.environ.get("MEDYATE_COMMIT")  # a copy without .git, on a cluster, is told
    if given:
        return given
    git = ["git", "-C", str(storage.CHECKOUT)]
    try:
        top = subprocess.run([*git, "rev-parse", "--show-toplevel"], capture_output=True, text=True, timeout=10)
        if top.returncode or Path(top.stdout.strip()).resolve() != storage.CHECKOUT:
            return None
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "medyate"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    if head.returncode:
        return None
    return head.stdout.strip() + ("+" if changed.stdout.strip() else "")


@functools.cache
def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


# --- reading and writing -----------------------------------------------------------------------


def path(run_id: str) -> Path | None:
    """The record of that id, one's own before a shipped one; None where there is none."""
    for folder in storage.folders("runs"):
        file = folder / f"{run_id}.json"
        if file.is_file():
            return file
    return None


def read(file: Path) -> dict[str, Any]:
    """A record from its file. :class:`InputError` for one that is damaged; it stays where it is."""
    try:
        record = json.loads(file.read_text("utf-8"))
        if not isinstance(record, dict) or record.get("schema") != SCHEMA:
            raise ValueError(f"schema {record.get('schema') if isinstance(record, dict) else None!r}, not {SCHEMA}")
        for key in ("id", "kind", "status", "config"):
            if key not in record:
                raise ValueError(f"no {key!r}")
    except (ValueError, OSError) as error:
        raise InputError(f"record {str(file)!r} cannot be read ({error}); move it away and run it anew") from error
    return record


@functools.cache
def _parsed(file: Path, _modified_ns: int, _size: int) -> dict[str, Any]:
    """A file's record, parsed once per process for as long as the file stays what it is. Not to be changed."""
    return read(file)


def known(file: Path) -> dict[str, Any]:
    """A record from its file, read once per process. It is one copy for all: read it, change nothing."""
    try:
        now = file.stat()
    except OSError as error:
        raise InputError(f"record {str(file)!r} cannot be read ({error}); move it away and run it anew") from error
    return _parsed(file, now.st_mtime_ns, now.st_size)


def load(run_id: str) -> dict[str, Any] | None:
    """The record of that id, or None."""
    file = path(run_id)
    return None if file is None else copy.deepcopy(known(file))


def arrays(record: dict[str, Any]) -> dict[str, np.ndarray]:
    """The arrays beside a record, {} where it has none. Nothing is unpickled."""
    if not record.get("arrays"):
        return {}
    for folder in storage.folders("runs"):
        file = folder / record["arrays"]
        if file.is_file():
            try:
                with np.load(file, allow_pickle=False) as content:
                    return {name: content[name] for name in content.files}
            except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
                raise InputError(
                    f"arrays {str(file)!r} cannot be read ({error}); move their record away and run it anew"
                ) from error
    raise InputError(f"record {record['id']!r} names arrays {record['arrays']!r}, which are not beside it")


def write(record: dict[str, Any], with_arrays: dict[str, np.ndarray] | None = None) -> Path:
    """Write a record, its arrays first, so that a record that is there is whole."""
    folder = storage.writable("runs")
    if with_arrays:
        record = {**record, "arrays": f"{record['id']}.npz"}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **with_arrays)
        storage.write_bytes(folder / record["arrays"], buffer.getvalue())
    file = folder / f"{record['id']}.json"
    storage.write_json(file, record)
    return file


def every(kind: str | None = None) -> Iterator[dict[str, Any]]:
    """All records, one's own before shipped ones of the same id; damaged ones with a warning.

    They are one copy for the whole process: read them, change none.
    """
    for file in storage.records("runs").values():
        try:
            record = known(file)
        except InputError as error:
            warnings.warn(str(error), stacklevel=2)
            continue
        if kind is None or record["kind"] == kind:
            yield record


def table(kind: str = "run", status: str = "finished", outcomes: bool = False, **filters: Any):
    """A DataFrame, one row a record: config columns, id, final accuracy, seconds, memory.

    ``outcomes`` adds the final test loss, and the numbers of test images and of classes.

    ``filters`` keep rows whose config column equals a value, or is one of a list.
    """
    import pandas

    rows = []
    for record in every(kind):
        if record["status"] != status:
            continue
        config = full(record["kind"], record["config"])
        for name, wanted in filters.items():
            allowed = wanted if isinstance(wanted, (list, tuple, set)) else [wanted]
            if config.get(name) not in allowed:
                break
        else:
            space = record.get("search_space") or {}
            rows.append(
                {
                    **config,
                    "id": record["id"],
                    "test_top1_percent": record.get("test_top1_percent"),
                    "K": space.get("K"),
                    "alpha": space.get("alpha"),
                    "seconds": record.get("seconds"),
                    "peak_memory_bytes": record.get("peak_memory_bytes"),
                    "device": record.get("environment", {}).get("device"),
                    "commit": record.get("environment", {}).get("commit"),
                    **(_outcomes(record) if outcomes else {}),
                }
            )
    return pandas.DataFrame(rows)


def _outcomes(record: dict[str, Any]) -> dict[str, Any]:
    last = record["epochs"][-1] if record.get("epochs") else {}
    return {"test_loss": last.get("test_loss"), **{name: record.get(name) for name in ("test_images", "classes")}}


def epochs_table(kind: str = "run", **filters: Any):
    """A DataFrame, one row per epoch of each finished record, with the config's columns."""
    import pandas

    wanted = table(kind, **filters)
    ids = set(wanted["id"]) if len(wanted) else set()
    rows = []
    for record in (record for record in every(kind) if record["id"] in ids):
        rows += [{**full(record["kind"], record["config"]), "id": record["id"], **epoch} for epoch in record["epochs"]]
    return pandas.DataFrame(rows)
