"""The pins stand in three files; they must be the same in all."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lines: list[str]) -> dict[str, str]:
    """``name==version ; marker`` lines -> versions by normalised name; anything else is an error."""
    found = {}
    for line in lines:
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!]+)( ; .+)?", line)
        assert match, f"not an exact pin: {line!r}"
        found[re.sub(r"[-_.]+", "-", match[1]).lower()] = match[2]
    return found


def lock() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    return pins([line for line in lines if not line.startswith("#")])


@pytest.mark.parametrize("part", ["core", "book", "test", "text"])
def test_direct_dependencies_are_pinned_as_in_the_lock(part):
    direct = PROJECT["dependencies"] if part == "core" else PROJECT["optional-dependencies"][part]
    locked = lock()
    assert {name: locked.get(name) for name in pins(direct)} == pins(direct)


def test_every_extra_is_pinned_exactly():
    for lines in PROJECT["optional-dependencies"].values():
        pins(lines)


def test_conda_environment_holds_the_lock_and_the_project():
    *packages, last = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    assert packages == ["python=3.11", "pip"]
    index, *pinned, project = last["pip"]
    assert index.startswith("--extra-index-url ") and index.endswith("/cpu")  # Binder needs no CUDA
    assert project == "-e ."
    assert pins(pinned) == lock()


def test_what_colab_is_to_install_is_pinned_as_in_the_lock():
    """Colab's own kernel, pandas and torch stay as they are, so the cell names only what Colab lacks."""
    page = (ROOT / "book" / "quickstart.md").read_text()
    (line,) = re.findall(r"^!pip install -q (\S+==.*)$", page, flags=re.M)
    named = pins(line.split())
    assert named.items() <= lock().items() and "papermill" in named
    assert not {"ipykernel", "ipython", "tornado", "pandas", "numpy", "torch"} & set(named)


def test_lock_names_no_local_build_and_no_cuda_package():
    assert not [name for name in lock() if name.startswith(("nvidia", "cuda", "triton"))]
    assert "+" not in "".join(lock().values())


def test_citation_names_the_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == PROJECT["version"]
    assert citation["license"] == PROJECT["license"] == "MIT"
