"""The course's own code: every page runs from top to bottom, solutions of exercises included.

The pages are executed in this process, one namespace a page, which is much faster than a kernel each; the book's
build runs them in kernels.
"""

import html
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import pytest
import yaml

from medyate.course import checks
from medyate.runs import records as runs

ROOT = Path(__file__).resolve().parents[2]
SLIDES = sorted((ROOT / "book" / "slides").glob("*.md"))  # shown by `make slides`, no pages of the book
COURSE = sorted(set((ROOT / "book").rglob("*.md")) - set(SLIDES))
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


@pytest.mark.parametrize("page", WITH_CODE + SLIDES, ids=lambda page: page.stem)
def test_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    plt = pytest.importorskip("matplotlib.pyplot")
    plt.switch_backend("agg")
    if page.stem == "quickstart" and runs.table(network="efficientnet-lite0", task="digits").empty:
        pytest.skip("this page shows the runs of `make quickstart`, which are not here (MEDYATE_RESULTS)")
    monkeypatch.chdir(tmp_path)
    # pages that record runs set it to a folder of their own; this brings it back
    monkeypatch.setenv("MEDYATE_RESULTS", os.environ.get("MEDYATE_RESULTS", str(ROOT / "results")))
    namespace = {"__name__": "__main__"}
    for number, source in enumerate(cells(page), start=1):
        exec(compile(source, f"{page.name}, cell {number}", "exec"), namespace)
    plt.close("all")


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.stem)
def test_every_part_has_three_to_five_exercises_each_with_a_solution(page):
    text = page.read_text()
    exercises = re.findall(r"\{exercise-start\}.*\n:label: (\S+)", text)
    assert exercises == re.findall(r"\{solution-start\} (\S+)\n:class: dropdown", text)
    assert 3 <= len(exercises) <= 5
    assert all("{code-cell}" in solution for solution in SOLUTION.findall(text))  # so it is executed by the test above


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.stem)
def test_every_exercise_begins_with_its_level(page):
    text = page.read_text()
    levels = re.findall(
        r"^```\{exercise-start\} .*\n:label: \S+\n```\n\*\*(Warm-up|Core|Project)\.\*\* ", text, flags=re.M
    )
    assert len(levels) == text.count("{exercise-start}")


@pytest.mark.parametrize("page", [page for page in LESSONS if page.stem != "lab"], ids=lambda page: page.stem)
def test_every_part_has_a_quiz(page):
    assert page.read_text().count("```{quiz}") >= 2


SOLUTION = re.compile(r"^```\{solution-start\}.*?^```\{solution-end\}\n```$", re.M | re.S)
SELF_CHECK = re.compile(r'checks\.check\(\s*"([^"]+)"')


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.stem)
def test_every_part_has_a_self_check_that_is_open_for_readers_and_right_in_the_solution(page):
    text = page.read_text()
    solutions = "".join(SOLUTION.findall(text))
    asked = SELF_CHECK.findall(SOLUTION.sub("", text))
    assert asked and set(asked) == set(SELF_CHECK.findall(solutions))
    for label in asked:
        assert f":label: {label}\n" in text
        # whatever the solution gives is asserted to be right
        assert re.search(rf'(outcome = |assert )checks\.check\("{label}"', solutions)
    assert solutions.count("assert outcome.right") == len(re.findall("outcome = checks", solutions))


def test_every_self_check_is_used():
    used = {label for page in LESSONS for label in SELF_CHECK.findall(page.read_text())}
    assert used == set(checks.exercises())


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.stem)
def test_every_part_says_goals_prerequisites_and_has_a_place_for_its_run_time(page):
    (box,) = re.findall(r":::\{admonition\} (.*?)\n:class: note\n(.*?)^:::$", page.read_text(), flags=re.M | re.S)
    assert box[0] == extension("run_time").BOX
    assert [f"**{word}.**" in box[1] for word in ("Goals", "Prerequisites", "Time")] == [True] * 3


def extension(name: str):
    """A Sphinx extension of the book."""
    pytest.importorskip("sphinx")
    spec = importlib.util.spec_from_file_location(name, ROOT / "book" / "_ext" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (
            {"a": 3.21},
            "3.2 seconds for the code of this page, on one thread of the machine that built this book (CPU).",
        ),
        (
            {"a": 12.0, "n1": 50.0, "n2": 49.0},
            "12 seconds for the code of this page, 1.6 minutes for the 2 notebooks of this part, on",
        ),
        ({"n1": 8.0}, "8.0 seconds for the notebook of this part, on"),
        ({}, ""),
    ],
)
def test_run_times_come_from_the_execution(seconds, text, monkeypatch):
    found = extension("run_time")
    monkeypatch.setattr(found, "seconds_of", lambda env, page: seconds.get(page))
    env = type("Env", (), {"toctree_includes": {"a": ["n1", "n2", "plain"]}})
    assert found.sentence(env, "a", "CPU").startswith(text) and bool(found.sentence(env, "a", "CPU")) == bool(text)


def test_a_docstrings_bare_name_is_the_one_object_of_that_name():
    meant = extension("docstrings").meant
    documented = ["a.errors.InputError", "a.tasks.registry.get", "a.networks.registry.get", "a.tasks.loading.load"]
    assert meant("InputError", "a.costs", documented) == "a.errors.InputError"
    assert meant("get", "a.tasks.loading", documented) == "a.tasks.registry.get"  # of its own package
    assert meant("get", "a.costs", documented) is None  # which one?
    assert meant("a.tasks.load", "a.device", documented) == "a.tasks.loading.load"  # a name that a package hands on
    assert meant("registry.get", "a.networks.models", documented) == "a.networks.registry.get"
    assert meant("nowhere", "a.costs", documented) is None


def test_the_build_hides_no_broken_reference_to_what_the_library_describes():
    settings = yaml.safe_load((ROOT / "_config.yml").read_text())["sphinx"]["config"]
    assert "suppress_warnings" not in settings
    for name in ("medyate.costs.layers", "medyate.device.plan", "medyate.tasks.TextData", "InputError", "Subnet"):
        for kind in ("func", "class", "mod", "meth", "attr", "data"):
            hidden = [
                pair
                for pair in settings["nitpick_ignore_regex"]
                if re.fullmatch(pair[0], f"py:{kind}") and re.fullmatch(pair[1], name)
            ]
            assert not hidden, (kind, name, hidden)


def test_primes_keep_their_distance():
    from docutils.utils.math import latex2mathml

    found = extension("mathml").spaced(latex2mathml.tex2mathml("C' D^2 + A'_{c'}", as_block=False))
    assert "<mo>'</mo>" not in found and found.count("lspace") == 3


@pytest.fixture
def build(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "book")  # by its name, so that processes of its pool find it
    monkeypatch.delitem(sys.modules, "build", raising=False)
    yield importlib.import_module("build")
    del sys.modules["build"]


def test_student_version_has_every_exercise_and_no_solution(build, tmp_path):
    folder = build.student_source(tmp_path / "source")
    for page in LESSONS:
        ours, theirs = page.read_text(), (folder / "book" / "course" / page.name).read_text()
        assert theirs == SOLUTION.sub("<>", ours).replace("<>\n", "")
        assert not re.search(r"\bsolution", theirs, flags=re.I)
        assert theirs.count("{exercise-start}") == ours.count("{exercise-start}")
    assert not [page for page in build.LECTURERS if (folder / f"{page}.md").exists()]
    for page in folder.glob("book/**/*.md"):  # a link to what is not there fails the build
        assert not re.search(r"reference/(lecturer|submission)", page.read_text()), page
    cards = (folder / "book" / "index.md").read_text()
    assert cards.count("{grid-item-card}") == (ROOT / "book" / "index.md").read_text().count("{grid-item-card}") - 1
    assert build.pages(folder) == [page for page in build.pages(ROOT) if page not in build.LECTURERS]
    assert "launch_buttons" not in build.config(
        "student", tmp_path, "https://github.com/a/b"
    )  # the repository has them


def test_students_install_a_project_whose_self_checks_work_without_readable_answers(build, tmp_path):
    archive = build.student_project(build.student_source(tmp_path / "source"), tmp_path / "medyate-students.zip")
    shutil.unpack_archive(archive, tmp_path / "unpacked")
    folder = tmp_path / "unpacked" / "medyate-students"
    assert not (folder / "medyate" / "course" / "answers.py").exists() and not (folder / "tests").exists()
    words = re.compile(r"@exercise\(|a depthwise filter sees one channel only")  # of the answers' file
    readable = [path for path in folder.rglob("*") if path.suffix in (".py", ".md", ".ipynb", ".sealed")]
    assert readable and not [
        path for path in readable if words.search(path.read_text("utf-8")) if path.stem != "questions"
    ]
    code = (
        "from medyate.course import checks\n"
        "print(len(checks.exercises()), checks.check('ex-depthwise', **dict.fromkeys("
        "[one.name for one in checks.questions('ex-depthwise')], 432)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = checks.check("ex-depthwise", **{one.name: 432 for one in checks.questions("ex-depthwise")})
    assert done.stdout == f"{len(checks.exercises())} {expected}\n"


def test_digest_sees_names_and_contents_not_times(build, tmp_path):
    folder = tmp_path / "read"
    (folder / "__pycache__").mkdir(parents=True)
    (folder / "a.py").write_text("1")
    first = build.digest([folder])
    os.utime(folder / "a.py", (0, 0))
    (folder / "__pycache__" / "a.pyc").write_text("x")
    assert build.digest([folder]) == first
    (folder / "a.py").write_text("2")
    assert build.digest([folder]) != first
    (folder / "a.py").write_text("1")
    (folder / "a.py").rename(folder / "b.py")
    assert build.digest([folder]) != first


@pytest.mark.parametrize(
    "name", [".a.py.swp", ".#a.py", "#a.py#", "a.py~", "4913", "a.py.orig", ".ipynb_checkpoints/a.ipynb", ".DS_Store"]
)
def test_digest_does_not_see_what_editors_leave(name, build, tmp_path):
    (tmp_path / "a.py").write_text("1")
    first = build.digest([tmp_path])
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("x")
    assert build.digest([tmp_path]) == first


def test_executed_pages_are_kept_for_one_environment(build, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "READ_BY_PAGES", [])
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "results"))
    first = build.executed_pages()
    assert build.executed_pages() == first and first.is_dir()
    pins = [one for one in build.environment() if one.startswith("torch==")]
    assert len(pins) == 1 and build.environment()[0] == sys.version
    monkeypatch.setattr(build, "environment", lambda: ["torch==9.9.9"])
    assert build.executed_pages() != first and not first.exists()


MAKE = shutil.which("make")


@pytest.fixture
def checkout(tmp_path):
    """A checkout below a blank whose environment only tells how it is called."""
    place = tmp_path / "My Drive" / "a checkout"
    (place / ".venv" / "bin").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml"):
        shutil.copy2(ROOT / name, place / name)
    for name in ("python", "medyate"):
        program = place / ".venv" / "bin" / name
        program.write_text('#!/bin/sh\necho "$(basename "$0")|$1|$MEDYATE_RESULTS|$JUPYTER_PATH|$HOME" >> called\n')
        program.chmod(0o755)
    pins = subprocess.run("cat requirements.lock pyproject.toml | cksum", shell=True, cwd=place, capture_output=True)
    (place / ".venv" / f"pins-{pins.stdout.decode().split()[0]}").touch()
    return place


@pytest.mark.skipif(MAKE is None, reason="no make here")
@pytest.mark.parametrize("home", ["there", "not writable"])
def test_make_in_a_path_with_a_blank(home, checkout, tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "not writable").write_text("")
    environment = {**os.environ, "JUPYTER_PATH": "/elsewhere", "HOME": str(tmp_path / home)}
    for name in ("MEDYATE_RESULTS", "CI", "MAKEFLAGS"):
        environment.pop(name, None)
    subprocess.run([MAKE, "test"], cwd=checkout, check=True, capture_output=True, env=environment)
    called = [line.split("|") for line in (checkout / "called").read_text().splitlines()]
    assert [line[0] for line in called] == ["medyate", "medyate", "python", "python", "python"]
    assert called[2][1] == "book/build.py"
    expected = tmp_path / home if home == "there" else checkout / "build" / "home"
    assert {tuple(line[2:]) for line in called} == {(str(checkout / "build" / "results"), "", str(expected))}
    assert expected.is_dir() and not list(expected.iterdir())


@pytest.mark.skipif(MAKE is None, reason="no make here")
def test_make_clean_removes_executed_pages_and_keeps_runs(checkout):
    for name in ("build/executed-1", "build/executed-2", "build/results", "_build/html"):
        (checkout / name).mkdir(parents=True)
    subprocess.run([MAKE, "clean"], cwd=checkout, check=True, capture_output=True)
    assert [path.name for path in (checkout / "build").iterdir()] == ["results"] and not (checkout / "_build").exists()


def test_executed_side_by_side_and_only_once(build, tmp_path, monkeypatch):
    """Pages end up in the cache that Jupyter Book looks into; what fails there is left to it."""
    pytest.importorskip("jupyter_cache")
    from jupyter_cache import get_cache

    head = (ROOT / "book" / "quickstart.md").read_text().split("---\n")[1]
    text = f"---\n{head}---\n\n# A page\n\n```{{code-cell}} ipython3\n:tags: [hide-input]\n\n%s\n```\n"
    sources = {"good": "6 * 7", "other": "print(6 * 8)", "bad": "1 / 0"}
    for name, source in sources.items():
        (tmp_path / f"{name}.md").write_text(text % source)
    (tmp_path / "plain.md").write_text("# Only text\n")
    (tmp_path / "_toc.yml").write_text("root: plain\nchapters:\n- file: good\n- file: other\n- file: bad\n")
    build.execute(tmp_path, tmp_path / "cache", timeout=60)
    cache = get_cache(tmp_path / "cache")
    assert len(cache.list_cache_records()) == 2
    _, merged = cache.merge_match_into_notebook(build.notebook(tmp_path / "good.md"))
    assert merged.cells[-1].outputs[0].data["text/plain"] == "42"
    assert all(record.data["execution_seconds"] > 0 for record in cache.list_cache_records())
    (tmp_path / "_toc.yml").write_text("root: plain\nchapters:\n- file: good\n- file: other\n")
    monkeypatch.setattr(build, "ProcessPoolExecutor", lambda *_: pytest.fail("nothing was to be executed"))
    build.execute(tmp_path, tmp_path / "cache", timeout=60)


@pytest.mark.parametrize(
    "remote", ["https://github.com/a-b/c.d.git", "git@github.com:a-b/c.d.git", "https://github.com/a-b/c.d\n"]
)
def test_launch_buttons_need_a_github_remote(build, remote, tmp_path):
    assert build.github_address("https://example.org/a/b.git") is None
    repository = build.github_address(remote)
    assert repository == "https://github.com/a-b/c.d"
    settings = build.config("html", tmp_path, repository)
    assert settings["repository"] == {"url": repository, "branch": "main"}
    assert set(settings["launch_buttons"]) >= {"binderhub_url", "colab_url"}
    assert "launch_buttons" not in build.config("html", tmp_path, None)


def git(*arguments, cwd):
    return subprocess.run(["git", *map(str, arguments)], cwd=cwd, check=True, capture_output=True, text=True).stdout


def test_no_launch_buttons_without_git(build, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert build.github() is None


def test_no_launch_buttons_to_a_repository_that_the_checkout_lies_in(build, tmp_path, monkeypatch):
    if shutil.which("git") is None:
        pytest.skip("no git here")
    git("init", "--quiet", cwd=tmp_path)
    git("remote", "add", "origin", "git@github.com:a-stranger/thesis.git", cwd=tmp_path)
    inside = tmp_path / "downloads" / "medyate"
    inside.mkdir(parents=True)
    monkeypatch.setattr(build, "ROOT", inside)
    assert build.github() is None
    monkeypatch.setattr(build, "ROOT", tmp_path)
    assert build.github() == "https://github.com/a-stranger/thesis"


def test_launch_buttons_lead_to_files_of_the_repository(tmp_path):
    """A clone with a remote on GitHub, its pages built without executing them: every button's path is a tracked
    file."""
    pytest.importorskip("jupyter_book")
    clone = tmp_path / "clone"
    try:
        git("clone", "--quiet", ROOT, clone, cwd=tmp_path)
    except subprocess.CalledProcessError:
        pytest.skip("this is no git checkout")
    git("remote", "set-url", "origin", "git@github.com:some-one/some.book.git", cwd=clone)
    spec = importlib.util.spec_from_file_location("build_of_clone", clone / "book" / "build.py")
    build = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(build)
    settings = build.config("html", tmp_path / "cache", build.github())
    settings["execute"] = {"execute_notebooks": "off"}
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(settings))
    command = [
        Path(sys.executable).with_name("jupyter-book"),
        "build",
        clone,
        "--path-output",
        tmp_path,
        "--config",
        tmp_path / "_config.yml",
    ]
    subprocess.run([*command, "-q"], check=True, capture_output=True)

    tracked = set(git("ls-files", cwd=clone).splitlines())
    built, seen = tmp_path / "_build" / "html", {"binder": set(), "colab": set()}
    for page in build.pages(clone):
        text = (built / f"{page}.html").read_text()
        for address in map(html.unescape, re.findall(r'href="(https://(?:mybinder|colab)[^"]+)"', text)):
            parts = urlparse(address)
            if parts.netloc == "mybinder.org":
                assert parts.path == "/v2/gh/some-one/some.book/main"
                (path,) = parse_qs(parts.query)["urlpath"]
                assert path.removeprefix("lab/tree/") in tracked, address
                seen["binder"].add(page)
            else:
                where, path = parts.path.split("/blob/main/")
                assert where == "/github/some-one/some.book" and path in tracked and path.endswith(".ipynb"), address
                seen["colab"].add(page)
    notebooks = {page for page in build.pages(clone) if page.startswith("notebooks/")}
    assert seen["colab"] == notebooks
    with_code = {str(page.relative_to(ROOT).with_suffix("")) for page in WITH_CODE}
    assert seen["binder"] == notebooks | with_code
    assert "environment.yml" in tracked and not {"binder", ".binder"} & {path.split("/")[0] for path in tracked}


def test_contents_name_pages_that_are_there():
    """A launch button leads to the page's path in the repository, so the file must be tracked there."""
    pages = re.findall(r"(?:file|root): (\S+)", (ROOT / "_toc.yml").read_text())
    assert len(pages) == len(set(pages)) > 20
    for page in pages:
        assert [path for path in (ROOT / f"{page}.md", ROOT / f"{page}.ipynb") if path.is_file()], page
    in_contents = {f"{page}.md" for page in pages}
    assert {str(page.relative_to(ROOT)) for page in COURSE} <= in_contents


def test_the_reference_has_every_public_module():
    """All modules but those with an underscore; of ``medyate.tasks.fetch``, which a function of that name hides, the
    function. A room's own page is there where it has a face."""
    import pkgutil

    import medyate

    there = {module.name: module.ispkg for module in pkgutil.walk_packages(medyate.__path__, "medyate.")}
    public = {name for name in there if not any(part.startswith("_") for part in name.split("."))} - {
        "medyate.tasks.fetch"
    }
    text = (ROOT / "book" / "reference" / "api.md").read_text()
    listed = re.findall(r"^\.\. automodule:: (\S+)$", text, flags=re.M)
    modules = {name for name in public if not there[name]}
    assert modules <= set(listed) <= public and len(listed) == len(set(listed))
    assert re.findall(r"^### `(\S+)`$", text, flags=re.M) == re.findall(r"^\.\. automodule:: (\S+)$", text, flags=re.M)


def test_every_reference_is_cited_and_every_citation_has_a_reference():
    keys = set(re.findall(r"^@\w+\{(\S+),$", (ROOT / "book" / "references.bib").read_text(), flags=re.M))
    prose = [page.read_text() for page in COURSE] + [page.read_text() for page in (ROOT / "notebooks").glob("*.py")]
    cited = {
        key for text in prose for keys in re.findall(r"\{cite(?::\w+)?\}`([^`]+)`", text) for key in keys.split(",")
    }
    assert cited == keys
