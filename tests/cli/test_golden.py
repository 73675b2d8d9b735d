"""What a user's scripts lean on: every command's help as it was printed, and the shape of what ``--json`` prints.

``python tests/cli/test_golden.py`` writes both files anew, after a change that is meant.
"""

import json
import shutil
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from medyate import cli
from medyate.files import paths

HERE = Path(__file__).parent
HELP, SHAPES = HERE / "help.txt", HERE / "json_shapes.json"
RUN = "mbv2-w0.35-flowers12-baseline-train-s0-cc77044cbf"
RANK = "rank-mbv2-w0.35-cifar10-s0-56f1218398"
COMMANDS = [
    "networks",
    "strategies",
    "tasks",
    "data check",
    "memory mbv2",
    "memory mbv2 --measure --resolution 64",
    "memory mbv2 --measure --resolution 64 --strategy Baseline",
    "scheme mbv2 1",
    "select mbv2 --weights random --ranking trady-fig9",
    "select mbv2 --weights random --strategy Baseline",
    "results",
    "results --kind rank",
    "device plan mcunet --board rp2350",
    "sweep list",
    "sweep show fig8 --scale quick",
    "sweep status fig8 --scale quick",
]


def commands(group, path=("medyate",)):
    yield path, group
    if isinstance(group, click.Group):
        for name, command in sorted(group.commands.items()):
            yield from commands(command, (*path, name))


def all_help() -> str:
    """The help of every command, 100 columns wide, in the order of their names."""
    texts = []
    for path, _ in commands(cli.cli):
        shown = CliRunner().invoke(cli.cli, [*path[1:], "--help"], prog_name="medyate", terminal_width=100)
        assert shown.exit_code == 0, shown.output
        texts.append(shown.output)
    return "\n".join(texts)


def shape(value):
    """Plain data with the name of its type in place of each value; a list's entries are told once."""
    if isinstance(value, dict):
        if value and all(name.isdigit() for name in value):
            return {"NUMBER": shape(list(value.values()))[0]}
        return {name: shape(one) for name, one in value.items()}
    if isinstance(value, list):
        return [one for number, one in enumerate(map(shape, value)) if one not in list(map(shape, value[:number]))]
    return {type(None): "null", bool: "truth", str: "text", int: "integer", float: "number"}[type(value)]


def shape_of(command: str):
    shown = CliRunner().invoke(cli.cli, [*command.split(), "--json"], prog_name="medyate")
    assert shown.exit_code == 0, (shown.output, shown.exception)
    return shape(json.loads(shown.stdout))


@pytest.fixture
def two_records(tmp_path, monkeypatch):
    set_up(tmp_path, monkeypatch)


def set_up(folder, monkeypatch):
    """Two of the shipped records, every shipped ranking, nothing else that the numbers of runs here could change."""
    shipped = paths.CHECKOUT / "results"
    (folder / "runs").mkdir()
    for name in (RUN, RANK):
        shutil.copy(shipped / "runs" / f"{name}.json", folder / "runs")
    shutil.copytree(shipped / "rankings", folder / "rankings")
    monkeypatch.setenv("MEDYATE_RESULTS", str(folder))
    # data that lie on this machine would show as found
    monkeypatch.delenv("MEDYATE_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    monkeypatch.setattr(paths, "shipped", lambda: None)


def test_help_is_as_it_was():
    assert all_help() == HELP.read_text()


@pytest.mark.parametrize("command", COMMANDS)
def test_shape_of_json_is_as_it_was(two_records, command):
    assert shape_of(command) == json.loads(SHAPES.read_text())[command]


def test_shapes_tell_what_differs():
    assert shape({"a": [1, 2, 0.5], "b": None}) == {"a": ["integer", "number"], "b": "null"}
    assert shape([{"a": 1}, {"a": True}, {"a": 2}]) == [{"a": "integer"}, {"a": "truth"}]
    assert shape({"1": [5], "2": [7]}) == {"NUMBER": ["integer"]}


if __name__ == "__main__":
    import tempfile

    HELP.write_text(all_help())
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as folder:
        set_up(Path(folder), patch)
        SHAPES.write_text(json.dumps({command: shape_of(command) for command in COMMANDS}, indent=1) + "\n")
