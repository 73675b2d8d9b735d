"""``medyate compile``: the library that makes a step on a CPU faster."""

from __future__ import annotations

import click

from .terminal import json_option, print_json


@click.command("compile")
@click.option("--remove", is_flag=True, help="Delete the library; steps run in Python again.")
@json_option
def compile_library(remove, as_json):
    """Compile the layers of convolutional networks for this CPU: the same numbers, sooner.

    Needs a C++ compiler and ninja (pip install ninja), takes a minute or two and is done once for a version of torch
    and of medyate. From then on all runs on the CPU use the library, and their records say so; with
    MEDYATE_COMPILED=0 they do not.
    """
    from ..execution import compiled, compiling

    file = compiled.path()
    was_there = file.is_file()
    if remove:
        compiling.remove()
    else:
        if not was_there and not as_json:
            click.echo("compiling, a minute or two ..", err=True)
        compiling.build()
    done = ("removed" if was_there else "was not there") if remove else ("was there" if was_there else "compiled")
    if as_json:
        print_json({"library": str(file), "state": done})
    else:
        click.echo(f"{done}: {file}")
