"""Help texts: commands in groups and in an order that people expect, whole sentences, a notebook's parameters."""

from __future__ import annotations

import json
import re

import click

from ..files import paths

NOTEBOOKS = [*(f"fig{n}" for n in range(1, 12)), "table1", "table2", "table3"]
GROUPS = {
    "Use": ("networks", "strategies", "tasks", "memory", "scheme", "select", "rank", "variant", "device", "compile"),
    "Figures and tables": (*NOTEBOOKS, "notebook"),
    "Runs": ("run", "results", "sweep"),
    "Data": ("data",),
}
# a line of a notebook's cell of parameters: NAME: TYPE = DEFAULT  # HELP
_PARAMETER = re.compile(r"""^(\w+): ["']?([\w ]+?)["']? = ["']?(.*?)["']?  # (.+)$""", re.M)


class Grouped(click.Group):
    """The commands under the headings of :data:`GROUPS`, each with its first sentence in full."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        named = [name for names in GROUPS.values() for name in names if name in self.commands]
        return named + sorted(set(self.commands) - set(named))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        others = set(self.commands) - {name for names in GROUPS.values() for name in names}
        for title, names in {**GROUPS, "Others": sorted(others)}.items():
            rows = [(name, sentence(self.commands[name])) for name in names if name in self.commands]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


def sentence(command: click.Command) -> str:
    """A notebook's title, else the first paragraph of a command's help in one line; click's own cuts it short."""
    if isinstance(command, NotebookCommand) and command.cells():
        return command.cells()[0].split("\n")[0].removeprefix("# ")
    return " ".join((command.help or "").split("\n\n")[0].split())


class NotebookCommand(click.Command):
    """A command that executes a notebook; its help lists the notebook's parameters. Nothing heavy is imported."""

    def cells(self) -> list[str]:
        """The sources of the notebook's cells; none where the notebooks are not installed."""
        folder = paths.shipped("notebooks")
        if folder is None:
            return []
        cells = json.loads((folder / f"{self.name}.ipynb").read_text(encoding="utf-8"))["cells"]
        return ["".join(cell["source"]) for cell in cells]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        super().format_options(ctx, formatter)
        cell = next((cell for cell in self.cells() if _PARAMETER.match(cell)), "")
        rows = [
            (f"{name} {kind}", f"{says}  [default: {default}]")
            for name, kind, default, says in (match.groups() for match in _PARAMETER.finditer(cell))
        ]
        if rows:
            with formatter.section("Parameters (-p NAME VALUE)"):
                formatter.write_dl(rows)
