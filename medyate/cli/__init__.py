"""The front door: ``medyate COMMAND``. Thin: each command checks, calls the library, prints.

Modules that take seconds to import are imported by the command that needs them.
"""

from __future__ import annotations

import os
import sys
import warnings

import click

from .. import __version__
from ..errors import InputError
from . import data, inspect, notebooks, run
from .compile import compile_library
from .device import device_group
from .help import Grouped
from .sweep import sweep_group


@click.group(cls=Grouped, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="medyate")
def cli():
    """Fine-tune a pretrained network under a memory budget; redo the figures of the MeDyate paper."""


for command in (
    *(inspect.networks, inspect.strategies, inspect.tasks, inspect.memory, inspect.scheme, inspect.select),
    *(inspect.variant, run.rank, run.run, run.results),
    *(data.data, device_group, sweep_group, compile_library),
    *notebooks.commands,
):
    cli.add_command(command)


def main() -> None:
    """Entry point: errors in one line, exit 2 for bad input, 1 for a run that failed, 130 for Ctrl-C."""
    warnings.showwarning = lambda message, *_rest: click.echo(f"medyate: warning: {message}", err=True)
    try:
        cli(standalone_mode=False, prog_name="medyate")
    except InputError as error:
        _leave(str(error), 2)
    except click.UsageError as error:
        _leave(error.format_message().replace("\n", " "), 2)
    except click.ClickException as error:
        _leave(error.format_message().replace("\n", " "), 1)
    except (click.Abort, KeyboardInterrupt):
        _leave("interrupted; finished epochs are kept, the same command goes on from there", 130)
    except BrokenPipeError:  # `medyate results | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def _leave(message: str, status: int) -> None:
    click.echo(f"medyate: error: {message}", err=True)
    sys.exit(status)
