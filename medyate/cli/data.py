"""``medyate data``: data sets and weights, fetched and checked."""

from __future__ import annotations

import sys

import click

from .terminal import json_option, print_json, table


@click.group()
def data():
    """Fetch and check data sets and weights."""


@data.command("fetch")
@click.argument("task")
def data_fetch(task):
    """Download TASK, resuming what was begun, and check its checksums."""
    from .. import tasks as registry

    for path in registry.fetch(task, progress=sys.stderr.isatty()):
        click.echo(path)


@data.command("check")
@json_option
def data_check(as_json):
    """For all tasks and weights: present, missing or damaged."""
    from .. import tasks as registry

    rows = registry.check()
    if as_json:
        print_json(rows)
    else:
        table("", ["of", "file", "state", "where"], [[r["of"], r["file"], r["state"], r["path"]] for r in rows])
    if any(row["state"] == "damaged" for row in rows):
        sys.exit(1)
