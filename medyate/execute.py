"""Executes a notebook of the project with parameters, where a terminal's papermill would ask for more."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

from . import plots, storage
from .errors import InputError, choose


def folder() -> Path:
    """The notebooks of the checkout."""
    found = storage.CHECKOUT / "notebooks"
    if not found.is_dir():
        raise InputError(f"no folder {str(found)!r}: notebooks are part of a checkout; clone the project and install it with pip install -e .")
    return found


def execute(name: str, parameters: Mapping[str, str], output: Path | None = None) -> tuple[Path, list[Path]]:
    """Run ``name`` with papermill; returns the executed notebook and the figures that it wrote.

    Values are read as papermill's ``-p`` reads them: numbers, True, False and None, else text. A
    name that the notebook does not have is refused (papermill itself would only warn). An error
    that the notebook raised for bad input is raised here as the same :class:`InputError`.
    """
    import papermill
    from papermill.exceptions import PapermillExecutionError

    available = sorted(path.stem for path in folder().glob("*.ipynb"))
    source = folder() / f"{choose(name, available, 'notebook')}.ipynb"
    known = papermill.inspect_notebook(str(source))
    for parameter in parameters:
        choose(parameter, known, f"parameter of {name}")
    output = plots.folder() / f"{name}.ipynb" if output is None else output
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
    except OSError as error:
        raise InputError(f"cannot write notebook {str(output)!r}: {error.strerror}; give another path with -o") from error
    begun = time.time()
    try:
        papermill.execute_notebook(
            str(source), str(output), {key: _value(value) for key, value in parameters.items()},
            kernel_name="python3", progress_bar=True, log_output=False,
        )  # fmt: skip
    except PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(error.evalue) from error
        raise
    figures = sorted(path for path in plots.folder().glob("*.svg") if path.stat().st_mtime >= begun - 1)
    return output, figures


def _value(text: str):
    from papermill.cli import _resolve_type

    return _resolve_type(text)
