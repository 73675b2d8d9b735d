"""The house: what was promised not to change, which room may look into which, one form of text everywhere."""

import graphlib
import importlib
import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import grimp
import pytest
from small_task import config, digits, numbers, one_thread, results  # noqa: F401 (fixtures)

from medyate.runs import finetune

ROOT = Path(__file__).resolve().parents[2]
ALGORITHM = ["__init__", "errors", "costs", "importance", "ranking", "sampling", "strategies", "selection", "subnet"]
ROOMS = {"execution", "files", "networks", "tasks", "runs", "sweeps", "paper", "notebook", "course", "cli", "device"}


def checked(*command):
    """What a command says that must find nothing to say."""
    command = [sys.executable, *command]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


# --- what must not change ----------------------------------------------------------------------


def test_the_face_has_these_names():
    code = "import sys, medyate; print(*dir(medyate)); print(*sys.modules)"
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    names, loaded = (line.split() for line in told.stdout.splitlines())
    face = {"InputError", "Ranking", "Selection", "Strategy", "Subnet", "layers", "measure", "rank"}
    assert face <= set(names) and {name for name in names if name[0].isupper()} <= {*face, "TYPE_CHECKING"}
    assert "torch" not in loaded  # the names are lazy
    import medyate

    assert set(medyate.__all__) == face
    assert all(callable(getattr(medyate, name)) for name in face)


@pytest.mark.parametrize("name", ["costs", "importance", "ranking", "sampling", "strategies", "errors"])
def test_public_modules_keep_their_paths(name):
    module = importlib.import_module(f"medyate.{name}")
    assert Path(module.__file__) == ROOT / "medyate" / f"{name}.py"


def test_a_run_gives_the_numbers_that_it_gave(results, one_thread):  # noqa: F811 (fixtures)
    """Recorded before the modules moved. Bit for bit on the same processor; elsewhere, as far as rounding lets it."""
    expected = json.loads((ROOT / "tests" / "project" / "run.json").read_text())
    record, _ = finetune.run(config(strategy="LaRa MeDyate", norm_gradient="mean_norm", seed=3), device="cpu")
    got = json.loads(json.dumps(numbers(record)))
    machine = expected.pop("environment")
    if {key: got["environment"][key] for key in machine} == machine:
        assert {key: got[key] for key in expected} == expected
    epochs, first = expected.pop("epochs"), got["epochs"][0]
    assert first["selected_channels"] == epochs[0]["selected_channels"]
    assert first == pytest.approx(epochs[0], rel=1e-3)
    assert [got[key] for key in ("id", "config", "network", "search_space")] == [
        expected[key] for key in ("id", "config", "network", "search_space")
    ]


# --- the rooms -----------------------------------------------------------------------------------


def test_the_algorithm_lies_at_the_top_and_nothing_else():
    top = ROOT / "medyate"
    assert {file.stem for file in top.glob("*.py")} == {*ALGORITHM, "__main__"}
    assert len((top / "__main__.py").read_text().splitlines()) == 3
    assert sum(len((top / f"{name}.py").read_text().splitlines()) for name in ALGORITHM) <= 1500
    assert {folder.name for folder in top.iterdir() if (folder / "__init__.py").is_file()} >= ROOMS


def test_imports_go_downwards_only():
    """The contracts in pyproject.toml, which also say which room may look into which."""
    checked("-c", "from importlinter.cli import lint_imports_command; lint_imports_command()", "--no-cache")


def test_no_module_imports_itself_by_a_detour():
    """Imports inside functions count. A package's own file is a module like any other."""
    graph = grimp.build_graph("medyate", exclude_type_checking_imports=True, cache_dir=None)
    imports = {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}
    graphlib.TopologicalSorter(imports).prepare()  # CycleError names the circle


# --- one form ------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["check", "--output-format=concise"], ["format", "--check"]], ids=lambda a: a[0])
def test_ruff_finds_nothing(arguments):
    checked("-m", "ruff", *arguments, ".")


def test_the_algorithm_passes_the_type_checker():
    """The top files, `execution/` and `probing/`, as pyproject.toml lists them."""
    checked("-m", "mypy")


def test_users_type_checkers_are_told_of_the_types():
    assert (ROOT / "medyate" / "py.typed").is_file()
