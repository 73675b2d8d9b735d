"""Executes a notebook of the project with parameters, where a terminal's papermill would ask for more."""

from __future__ import annotations

import contextlib
import os
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError, choose
from ..files import paths as storage
from . import plots


def folder() -> Path:
    """The notebooks that came with the project."""
    notebooks = storage.shipped("notebooks")
    if notebooks is None:
        raise InputError(
            f"no notebooks at {str(storage.CHECKOUT / 'notebooks')!r} or {str(storage.INSTALLED / 'notebooks')!r}: "
            "install the project from its wheel or from a checkout"
        )
    return notebooks


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
    _check_output(output)
    begun = time.time()
    try:
        with own_kernel():
            papermill.execute_notebook(
                str(source),
                str(output),
                {key: _value(value) for key, value in parameters.items()},
                kernel_name="python3",
                progress_bar=True,
                log_output=False,
            )
    except PapermillExecutionError as error:
        if error.ename == "InputError":
            raise InputError(error.evalue) from error
        raise
    figures = sorted(path for path in plots.folder().glob("*.svg") if path.stat().st_mtime >= begun - 1)
    return output, figures


def _check_output(output: Path) -> None:
    """Refuse a path that cannot be written, or where something else than an executed notebook would be lost."""
    allowed = "allowed: the path of a new file, or of a notebook that was executed before"
    if str(output) == "-":
        raise InputError(f"output {str(output)!r} is not a file; {allowed}")
    if output.resolve().is_relative_to(folder().resolve()):
        raise InputError(f"output {str(output)!r} lies among the notebooks of the project; {allowed}")
    if output.exists() and output.suffix != ".ipynb":
        raise InputError(f"output {str(output)!r} is there and no notebook; {allowed}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.touch()
    except OSError as error:
        raise InputError(
            f"cannot write notebook {str(output)!r}: {error.strerror}; give another path with -o"
        ) from error


@contextlib.contextmanager
def own_kernel():
    """Within it Jupyter's kernel "python3" is this interpreter, whatever kernels are installed elsewhere."""
    from ipykernel.kernelspec import write_kernel_spec

    names = ("JUPYTER_PATH", "JUPYTER_RUNTIME_DIR")
    before = {name: os.environ.get(name) for name in names}
    with tempfile.TemporaryDirectory() as place:
        write_kernel_spec(str(Path(place, "kernels", "python3")))
        os.environ["JUPYTER_PATH"] = os.pathsep.join(filter(None, [place, before["JUPYTER_PATH"]]))
        os.environ["JUPYTER_RUNTIME_DIR"] = str(Path(place, "runtime"))  # below HOME it may not be writable
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value


def _value(text: str):
    from papermill.cli import _resolve_type

    return _resolve_type(text)
