"""Build the book: ``python book/build.py html | student | pdf``, as the Makefile calls it.

Executed pages are kept between builds. The cache of Jupyter Book looks only at a page's own text, so it is
kept under a digest of all that the pages read: the library, the notebooks, the recorded runs. Pages that are not in it
are executed side by side before Jupyter Book starts, which would take them one by one.
"""

import hashlib
import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
READ_BY_PAGES = ["medyate", "notebooks", "results/paper", "results/rankings", "results/runs"]
WORKERS = 2  # pages executed at a time, one thread each
ALONE = (
    "book/course/left-out",
    "notebooks/memory",
)  # they measure times, so Jupyter Book executes them when all is quiet
LECTURERS = ("book/reference/lecturer", "book/reference/submission")  # not in the student version
PLACES = {"html": ROOT, "student": ROOT / "build" / "student", "pdf": ROOT / "build" / "pdf"}


def is_dropping(name: str) -> bool:
    """Whether a file or folder is what editors, file managers and Python leave beside the others."""
    endings = ("~", ".swp", ".swo", ".swx", ".tmp", ".bak", ".orig", ".rej", ".pyc")
    return name.startswith((".", "#")) or name.endswith(endings) or name in ("__pycache__", "4913", "Thumbs.db")


def digest(folders: list[Path], *others: str) -> str:
    """Of every file in folders: their names and contents, not their times; and of ``others``."""
    found = hashlib.sha256("\0".join(others).encode())
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            inside = path.relative_to(folder)
            if path.is_file() and not any(map(is_dropping, inside.parts)):
                found.update(f"{inside}\0".encode() + path.read_bytes())
    return found.hexdigest()[:16]


def environment() -> list[str]:
    """The interpreter and every installed package with its version."""
    installed = {f"{one.name}=={one.version}" for one in importlib.metadata.distributions()}
    return [sys.version, *sorted(installed)]


def executed_pages() -> Path:
    """The folder of pages executed with just the files and packages that they use now. Older ones are removed."""
    own = Path(os.environ.get("MEDYATE_RESULTS") or ROOT / "results").expanduser()
    folders = [*(ROOT / name for name in READ_BY_PAGES), own / "rankings", own / "runs"]
    folder = ROOT / "build" / f"executed-{digest(folders, *environment())}"
    for old in folder.parent.glob("executed-*"):
        if old != folder:
            shutil.rmtree(old)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def github() -> str | None:
    """``https://github.com/owner/name`` where the checkout comes from GitHub.

    None without git, and where the checkout only lies in another repository, whose address is a stranger's.
    """

    def git(*words: str) -> str:
        try:
            done = subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, timeout=10)
        except (OSError, subprocess.TimeoutExpired):
            return ""
        return done.stdout.strip()

    top = git("rev-parse", "--show-toplevel")
    if not top or Path(top).resolve() != ROOT:
        return None
    return github_address(git("remote", "get-url", "origin"))


def github_address(remote: str) -> str | None:
    match = re.search(r"github\.com[:/]([\w.-]+/[\w.-]+?)(\.git)?\s*$", remote)
    return f"https://github.com/{match[1]}" if match else None


def pages(source: Path) -> list[str]:
    """The pages in the contents, in their order, without ending."""
    return re.findall(r"(?:file|root): (\S+)", (source / "_toc.yml").read_text("utf-8"))


def notebook(path: Path):
    """A page as Jupyter Book reads it for execution; None where it is plain Markdown."""
    from myst_nb.core import read

    text = path.read_text(encoding="utf-8")
    if path.suffix == ".ipynb":
        return read.standard_nb_read(text)
    if not read.is_myst_markdown_notebook(text):
        return None
    return read.read_myst_markdown_notebook(text, add_source_map=True, path=path)


def executed(path: Path, timeout: int):
    """The page with its outputs and the seconds it took; None where it fails, which Jupyter Book will tell."""
    from jupyter_cache.executors.utils import single_nb_execution

    result = single_nb_execution(notebook(path), cwd=str(path.parent), timeout=timeout, allow_errors=False)
    return None if result.err else (result.nb, result.time)


def execute(source: Path, folder: Path, timeout: int) -> None:
    """Execute the pages that the cache in ``folder`` lacks, :data:`WORKERS` at a time, and put them there."""
    from jupyter_cache import get_cache
    from jupyter_cache.base import CacheBundleIn

    cache, missing = get_cache(folder), []
    for page in pages(source):
        path = next(path for path in (source / f"{page}.md", source / f"{page}.ipynb") if path.is_file())
        found = None if page in ALONE else notebook(path)
        if found is not None and any(cell.cell_type == "code" for cell in found.cells):
            try:
                cache.match_cache_notebook(found)
            except KeyError:
                missing.append(path)
    if not missing:
        return
    with ProcessPoolExecutor(WORKERS) as pool:
        jobs = [(path, pool.submit(executed, path, timeout)) for path in missing]
        for path, job in jobs:
            if (result := job.result()) is not None:
                bundle = CacheBundleIn(result[0], str(path), data={"execution_seconds": result[1]})
                cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def without_solutions(text: str) -> str:
    """A page without its solutions, code cells and all."""
    return re.sub(r"^```\{solution-start\}.*?^```\{solution-end\}\n```\n", "", text, flags=re.M | re.S)


def without_lecturers(text: str) -> str:
    """A page without the cards that lead to the lecturers' pages."""
    places = "|".join(page.removeprefix("book/") for page in LECTURERS)
    return re.sub(rf"^:::\{{grid-item-card\}} [^\n]*\n:link: ({places})\n.*?^:::\n\n?", "", text, flags=re.M | re.S)


def student_source(folder: Path) -> Path:
    """The book's source for students, made anew: the same pages without solutions, and without the lecturers' page."""
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("book", "notebooks"):
        shutil.copytree(ROOT / name, folder / name, ignore=lambda _, names: set(filter(is_dropping, names)))
    for name in ("_toc.yml", "CHANGELOG.md", "CITATION.cff"):
        shutil.copy2(ROOT / name, folder / name)
    for name in ("results", "tests"):  # pages link to records and show a test's reference
        (folder / name).symlink_to(ROOT / name)
    for page in folder.glob("book/**/*.md"):
        page.write_text(without_lecturers(without_solutions(page.read_text("utf-8"))), "utf-8")
    for page in LECTURERS:
        (folder / f"{page}.md").unlink()
    contents = folder / "_toc.yml"
    left_out = rf"^ *- file: ({'|'.join(LECTURERS)})\n"
    contents.write_text(re.sub(left_out, "", contents.read_text("utf-8"), flags=re.M), "utf-8")
    return folder


def student_project(source: Path, archive: Path) -> Path:
    """What students install and work in, as a zip: the project without solutions, its self-checks' answers sealed.

    ``source``: the pages of :func:`student_source`. Tests and lecturers' pages are left out.
    """
    from medyate.course import sealing

    folder = archive.with_suffix("")
    shutil.rmtree(folder, ignore_errors=True)
    for name in ("medyate", "results"):
        shutil.copytree(ROOT / name, folder / name, ignore=lambda _, names: set(filter(is_dropping, names)))
    shutil.rmtree(folder / "results" / "checkpoints", ignore_errors=True)
    for name in ("book", "notebooks"):
        shutil.copytree(source / name, folder / name, ignore=lambda _, names: set(filter(is_dropping, names)))
    for name in ("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md"):
        shutil.copy2(ROOT / name, folder / name)
    answers = folder / "medyate" / "course" / sealing.READABLE.name
    answers.with_name(sealing.SEALED.name).write_text(sealing.seal(answers.read_text("utf-8")), "ascii")
    answers.unlink()
    return Path(shutil.make_archive(str(folder), "zip", folder.parent, folder.name))


def config(kind: str, cache: Path, repository: str | None) -> dict:
    """The book's configuration with what only this machine knows.

    Launch buttons need a public repository. It has the solutions, so the student version has no buttons.
    """
    settings = yaml.safe_load((ROOT / "_config.yml").read_text("utf-8"))
    settings["execute"]["cache"] = str(cache)
    extensions = settings["sphinx"]["local_extensions"]  # Jupyter Book looks for them beside the written file
    settings["sphinx"]["local_extensions"] = {name: str(ROOT / path) for name, path in extensions.items()}
    if kind == "student":
        settings["title"] += " (student version)"
    if repository and kind != "student":
        settings["repository"] = {"url": repository, "branch": "main"}
        settings["launch_buttons"] = {
            "notebook_interface": "jupyterlab",
            "binderhub_url": "https://mybinder.org",
            "colab_url": "https://colab.research.google.com",
        }
    return settings


def build(kind: str) -> Path:
    """Build with warnings as errors; the HTML's first page."""
    cache = executed_pages()
    place = PLACES[kind]
    output = place / "_build"
    # Sphinx would not look again at pages whose own text is the same, though what they show or how has changed
    made_from, now = output / "made-from", f"{cache.name} {digest([ROOT / 'book' / '_ext'])}"
    if not made_from.exists() or made_from.read_text() != now:
        shutil.rmtree(output / ".doctrees", ignore_errors=True)
    place.mkdir(parents=True, exist_ok=True)
    settings = place / "_config.yml" if place != ROOT else ROOT / "build" / "_config.yml"
    chosen = config(kind, cache, github())
    settings.write_text(yaml.safe_dump(chosen, sort_keys=False, allow_unicode=True), "utf-8")
    source = student_source(place / "source") if kind == "student" else ROOT
    builder = "singlehtml" if kind == "pdf" else "html"
    command = [Path(sys.executable).with_name("jupyter-book"), "build", source, "--path-output", place]
    command += [
        "--config",
        settings,
        "--toc",
        source / "_toc.yml",
        "--builder",
        builder,
        "-n",
        "-W",
        "--keep-going",
        "-q",
    ]
    os.environ["OMP_NUM_THREADS"] = "1"  # the pages' numbers do not depend on the number of cores
    os.environ["PYTHONWARNINGS"] = (
        "ignore:IProgress not found"  # tqdm misses ipywidgets on every page that imports torch
    )
    execute(source, cache, chosen["execute"]["timeout"])
    done = subprocess.run(command, cwd=ROOT)
    if done.returncode:
        sys.exit(done.returncode)
    made_from.write_text(now)
    if kind == "pdf":  # the one page's links count from the top, where Jupyter Book writes only a way to it
        shutil.copy2(output / builder / "book" / "index.html", output / builder / "index.html")
    return output / builder / "index.html"


def print_pdf(page: Path) -> Path:
    """The one long page as a PDF, by headless Chromium."""
    names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable"]
    browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
    if browser is None:
        sys.exit(f"make pdf prints with Chromium, and none of {', '.join(names)} was found; set CHROMIUM to its path")
    target = ROOT / "_build" / "medyate.pdf"
    target.parent.mkdir(exist_ok=True)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-pdf-header-footer", "--virtual-time-budget=20000"]
    subprocess.run([browser, *flags, f"--print-to-pdf={target}", page.as_uri()], check=True, capture_output=True)
    return target


def main(kind: str) -> None:
    page = build(kind)
    print(f"the book: {print_pdf(page) if kind == 'pdf' else page}")
    if kind == "student":
        place = PLACES[kind]
        print(f"what students install: {student_project(place / 'source', place / 'medyate-students.zip')}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in PLACES:
        sys.exit(f"usage: python book/build.py {' | '.join(PLACES)}")
    main(sys.argv[1])
