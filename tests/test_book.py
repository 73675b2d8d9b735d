"""The course's own code: every page runs from top to bottom, solutions of exercises included.

The pages are executed in this process, one namespace a page, which is much faster than a kernel each; the book's
build runs them in kernels.
"""

import importlib.util
import re
from pathlib import Path

import pytest

from medyate import runs

ROOT = Path(__file__).resolve().parent.parent
COURSE = sorted((ROOT / "book").rglob("*.md"))
WITH_CODE = [page for page in COURSE if "{code-cell}" in page.read_text()]
LESSONS = sorted((ROOT / "book" / "course").glob("*.md"))

pytest.importorskip("myst_nb", reason="the book's pages need the extra `book`")


def cells(page: Path) -> list[str]:
    """The code of a page, cell by cell, without options."""
    found = []
    for block in re.findall(r"^```\{code-cell\}[^\n]*\n(.*?)^```$", page.read_text(), flags=re.M | re.S):
        block = re.sub(r"\A---\n.*?^---\n", "", block, flags=re.M | re.S)
        found.append(re.sub(r"\A(:[^\n]*\n)+", "", block))
    return found


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    if page.stem == "quickstart" and runs.table(network="efficientnet-lite0", task="digits").empty:
        pytest.skip("this page shows the runs of `make quickstart`, which are not here (MEDYATE_RESULTS)")
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": "__main__"}
    for number, source in enumerate(cells(page), start=1):
        exec(compile(source, f"{page.name}, cell {number}", "exec"), namespace)
    plt.close("all")


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.stem)
def test_every_exercise_has_a_solution(page):
    text = page.read_text()
    exercises = re.findall(r"\{exercise-start\}.*\n:label: (\S+)", text)
    assert exercises == re.findall(r"\{solution-start\} (\S+)", text)
    assert len(exercises) >= 3 or "{exercise-start}" not in text


@pytest.fixture
def build():
    spec = importlib.util.spec_from_file_location("build", ROOT / "book" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_student_version_has_every_exercise_and_no_solution(build, tmp_path):
    folder = build.student_source(tmp_path / "source")
    for page in LESSONS:
        ours, theirs = page.read_text(), (folder / "book" / "course" / page.name).read_text()
        assert "solution-" not in theirs
        assert theirs.count("{exercise-start}") == ours.count("{exercise-start}")
        assert theirs.count("```") % 2 == 0


@pytest.mark.parametrize("remote", ["https://github.com/a-b/c.d.git", "git@github.com:a-b/c.d.git", "https://github.com/a-b/c.d\n"])
def test_launch_buttons_need_a_github_remote(build, remote, tmp_path):
    assert build.github_address("https://example.org/a/b.git") is None
    repository = build.github_address(remote)
    assert repository == "https://github.com/a-b/c.d"
    settings = build.config("html", tmp_path, repository)
    assert settings["repository"] == {"url": repository, "branch": "main"}
    assert set(settings["launch_buttons"]) >= {"binderhub_url", "colab_url"}
    assert "launch_buttons" not in build.config("html", tmp_path, None)


def test_contents_name_pages_that_are_there():
    """A launch button leads to the page's path in the repository, so the file must be tracked there."""
    pages = re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text())
    assert len(pages) == len(set(pages)) > 20
    for page in pages:
        assert [path for path in (ROOT / f"{page}.md", ROOT / f"{page}.ipynb") if path.is_file()], page
    in_contents = {f"{page}.md" for page in pages}
    assert {str(page.relative_to(ROOT)) for page in COURSE} <= in_contents
