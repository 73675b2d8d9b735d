"""Options of runs and rankings, made from the fields of their configs: help, kind and default stand there alone."""

from __future__ import annotations

import dataclasses

import click

from ..runs.config import RunConfig


def options(*names, of=RunConfig):
    """Options of runs and rankings, by name: help and defaults are those of the config's fields."""
    fields = {field.name: field for field in dataclasses.fields(of)}

    def decorate(command):
        for name in reversed(names):
            command = _option(fields[name])(command)
        return command

    return decorate


def _option(field: dataclasses.Field):
    """The option of a config's field. What is not given stays None, so that the config's own default holds."""
    says, kind = field.metadata, str(field.type).partition(" ")[0]
    default = says["stands_for"] if field.default is None else field.default
    shown = "" if default is None or kind == "bool" else f"[default: {default if kind == 'str' else _plain(default)}]"
    return click.option(
        says["flags"] or f"--{field.name.replace('_', '-')}",
        type=None if kind == "bool" else {"int": int, "float": float, "str": str}[kind],
        default=None,
        help=f"{says['help']} {shown}".strip(),
    )


def _plain(default) -> str:
    return f"{default:g}" if isinstance(default, float) else str(default)


def given(values: dict) -> dict:
    return {name: value for name, value in values.items() if value is not None}


TRAINING = (
    "epochs",
    "warmup_epochs",
    "seed",
    "weights",
    "resolution",
    "batch_size",
    "learning_rate",
    "batch_norm",
    "depthwise",
)
