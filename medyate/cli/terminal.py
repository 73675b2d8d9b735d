"""What all commands print with: plain data as JSON, tables, and the option that chooses."""

from __future__ import annotations

import json
import sys

import click


def json_option(command):
    return click.option("--json", "as_json", is_flag=True, help="Print plain data as JSON.")(command)


def print_json(data) -> None:
    click.echo(json.dumps(data, indent=1))


def table(title: str, columns: list[str], rows: list[list], right: tuple[int, ...] = ()) -> None:
    from rich.console import Console
    from rich.table import Table

    shown = Table(title=title or None, title_justify="left")
    for index, column in enumerate(columns):
        shown.add_column(column, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        shown.add_row(*("" if cell is None else f"{cell:,}" if type(cell) is int else str(cell) for cell in row))
    # a pipe has no width: do not fold a table to 80 columns there
    Console(width=None if sys.stdout.isatty() else 160).print(shown)
