"""Where an executed notebook goes, which kernel it runs in, and what papermill's values become."""

import dataclasses
import json
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from jupyter_client.kernelspec import KernelSpecManager

from medyate import notebook
from medyate.cli import cli
from medyate.errors import InputError
from medyate.notebook import execute
from medyate.paper.parameters import Parameters

SHIPPED = sorted(execute.folder().iterdir())


@pytest.fixture
def never(monkeypatch):
    """Nothing may be executed."""
    import papermill

    def fail(*_arguments, **_options):
        raise AssertionError("executed")

    monkeypatch.setattr(papermill, "execute_notebook", fail)


@pytest.mark.parametrize("output", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_notebook_is_not_overwritten(output, never, tmp_path, monkeypatch):
    before = output.read_bytes() if output.is_file() else None
    (tmp_path / "link").symlink_to(output)
    monkeypatch.chdir(tmp_path)
    for way in (output, Path("link"), output.parent / ".." / output.parent.name / output.name):
        with pytest.raises(InputError, match="lies among the notebooks of the project; allowed: "):
            execute.execute("fig1", {}, way)
    assert before is None or output.read_bytes() == before


@pytest.mark.parametrize(
    "output, words",
    [
        ("-", "output '-' is not a file"),
        ("notes.txt", "is there and no notebook"),
        ("notes.txt/x.ipynb", "cannot write"),
    ],
)
def test_other_outputs_that_are_refused(output, words, never, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notes.txt").write_text("mine")
    with pytest.raises(InputError, match=words):
        execute.execute("fig1", {}, Path(output))
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"] and Path("notes.txt").read_text() == "mine"


def test_the_command_refuses_them_too(never, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(cli, ["fig1", "-o", "-"])
    assert isinstance(result.exception, InputError) and not list(tmp_path.iterdir())


def test_the_kernel_is_this_interpreter_whatever_is_installed(tmp_path, monkeypatch):
    place = tmp_path / "kernels" / "python3"
    place.mkdir(parents=True)
    (place / "kernel.json").write_text(
        json.dumps({"argv": ["/no/such/python"], "display_name": "x", "language": "python"})
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))

    def program():
        return KernelSpecManager().get_kernel_spec("python3").argv[0]

    assert program() == "/no/such/python"
    with execute.own_kernel():
        assert program() == sys.executable
    assert program() == "/no/such/python"


PARAMETERS = [field.name for field in dataclasses.fields(Parameters) if field.name not in ("notebook", "absent")]


@pytest.mark.parametrize("name", PARAMETERS)
def test_papermills_none_is_refused(name):
    assert execute._value("None") is None  # what -p gives
    with pytest.raises(InputError, match=rf"{name} None .*; allowed: ") as caught:
        notebook.Parameters("fig6", **{name: None})
    assert "\n" not in str(caught.value)


def test_parameters_that_a_notebook_does_not_have_are_none():
    config = notebook.Parameters("fig6", budget=27946, mode="recorded")
    assert config.network is None and config.layer is None
    again = dataclasses.replace(config, mode="missing")
    assert (again.network, again.mode, again.budget) == (None, "missing", 27946)
    assert config.command() == "medyate fig6 -p budget 27946 -p mode missing"
    with pytest.raises(InputError, match="budget None"):
        dataclasses.replace(config, budget=None)
