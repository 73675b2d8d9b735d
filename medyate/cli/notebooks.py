"""The figures and tables of the paper, each a notebook that a command executes."""

from __future__ import annotations

from pathlib import Path

import click

from .help import NOTEBOOKS, NotebookCommand


def _notebook_options(command):
    command = click.option(
        "-o",
        "output",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Where the executed notebook is written. [default: NAME.ipynb beside the figures]",
    )(command)
    return click.option(
        "-p",
        "parameters",
        type=(str, str),
        multiple=True,
        metavar="NAME VALUE",
        help="A parameter of the notebook, as papermill's -p.",
    )(command)


def _execute(name: str, parameters, output: Path | None) -> None:
    from ..notebook.execute import execute

    notebook, figures = execute(name, dict(parameters), output)
    for figure in figures:
        click.echo(f"figure {figure}")
    click.echo(f"notebook {notebook}")


@click.command("notebook")
@click.argument("name")
@_notebook_options
def notebook_command(name, parameters, output):
    """Execute any notebook of the project by NAME (fig6, table1, memory, ..)."""
    _execute(name, parameters, output)


def _drawn(name: str) -> click.Command:
    """A notebook of :data:`NOTEBOOKS` as a command of its own; `medyate notebook NAME` runs these and any other."""
    what = name.replace("fig", "Figure ").replace("table", "Table ")
    text = f"Redraw {what} of the paper from recorded runs; -p mode missing runs what is not recorded."

    @click.command(name, cls=NotebookCommand, help=text if name not in _NO_RUNS else text.split(";")[0] + ".")
    @_notebook_options
    def command(parameters, output):
        _execute(name, parameters, output)

    return command


_NO_RUNS = ("fig1", "fig2", "fig10")  # notebooks without the parameter `mode`
commands = [notebook_command, *map(_drawn, NOTEBOOKS)]
