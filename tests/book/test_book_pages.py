"""The built book in headless Chromium: every page, at two widths, light and dark.

`make book` builds it; without it, or without Chromium, these tests are skipped and say so.
"""

import re
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlparse

import pytest
from browser import Browser, Site, find_chromium

ROOT = Path(__file__).resolve().parents[2]
HTML = ROOT / "_build" / "html"
STUDENT = ROOT / "build" / "student" / "_build" / "html"
PAGES = sorted(
    str(path.relative_to(HTML)) for folder in ("book", "notebooks") for path in (HTML / folder).rglob("*.html")
)
LOOKS = {
    "desktop": (1280, 900, False),
    "desktop-dark": (1280, 900, True),
    "phone": (390, 844, False),
    "phone-dark": (390, 844, True),
}

needs_book = pytest.mark.skipif(not PAGES, reason="the book is not built: run `make book` first")
needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no Chromium here; set CHROMIUM to its path")
pytestmark = [needs_book, pytest.mark.xdist_group("browser")]


@pytest.fixture(scope="module")
def site():
    served = Site(HTML)
    yield served
    served.close()


@pytest.fixture(scope="module")
def browser():
    started = Browser(find_chromium())
    yield started
    started.close()


class Links(HTMLParser):
    """What a page links to, what can be linked to in it, and its images."""

    def __init__(self, page: str):
        super().__init__()
        self.targets, self.names, self.images = [], set(), []
        self.feed((HTML / page).read_text())

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.names |= {attributes[key] for key in ("id", "name") if attributes.get(key)}
        if tag == "a" and attributes.get("href"):
            self.targets.append(attributes["href"])
        if tag == "img":
            self.images.append(attributes)


def test_links_inside_the_book_lead_somewhere():
    parsed = {page: Links(page) for page in PAGES}
    broken = []
    for page, links in parsed.items():
        for target in links.targets:
            where = urlparse(urljoin(f"http://book/{page}", target))
            if where.netloc != "book" or target.startswith(("data:", "mailto:", "javascript:")):
                continue
            path = unquote(where.path).lstrip("/")
            if not (HTML / path).is_file():
                broken.append(f"{page}: {target}")
            elif where.fragment and path in parsed and unquote(where.fragment) not in parsed[path].names:
                broken.append(f"{page}: {target}")
    assert not broken


@pytest.mark.parametrize("page", PAGES)
def test_images_have_a_text(page):
    missing = [image.get("src", "")[:80] for image in Links(page).images if not image.get("alt", "").strip()]
    unspoken = [image["src"][:80] for image in Links(page).images if image.get("alt", "").endswith((".png", ".svg"))]
    assert not missing + unspoken


LESSONS = sorted((ROOT / "book" / "course").glob("*.md"))


@pytest.mark.parametrize("page", LESSONS, ids=lambda page: page.stem)
def test_a_part_tells_its_measured_run_time(page):
    text = (HTML / "book" / "course" / f"{page.stem}.html").read_text()
    (line,) = re.findall(r"<p><strong>Run time, measured\.</strong>(.*?)</p>", text, flags=re.S)
    assert re.match(r" [\d.]+ (seconds|minutes) for the code of this page", line)


class Text(HTMLParser):
    """The text of a page, tags left out."""

    def __init__(self, html: str):
        super().__init__()
        self.parts = []
        self.feed(html)

    def handle_data(self, data):
        self.parts.append(data)


SOLUTION = re.compile(r"^```\{solution-start\}.*?^```\{solution-end\}\n```$", re.M | re.S)


@pytest.mark.skipif(not STUDENT.is_dir(), reason="the student version is not built: run `make student` first")
def test_student_version_gives_no_solution_away():
    """No line of a solution in any file that is handed out: pages, sources beside them, notebooks, the search's
    index."""
    pages = {page: page.read_text() for page in (ROOT / "book").rglob("*.md")}
    elsewhere = "".join(SOLUTION.sub("", text) for text in pages.values())
    lines = {
        line.strip()
        for text in pages.values()
        for solution in SOLUTION.findall(text)
        for line in solution.splitlines()
        if len(line.strip()) >= 25 and line.strip() not in elsewhere and not line.startswith("```")
    }
    assert len(lines) > 200
    handed_out = [
        path for path in STUDENT.rglob("*") if path.suffix in (".html", ".md", ".txt", ".ipynb", ".js", ".json", ".inv")
    ]
    assert len([path for path in handed_out if path.suffix == ".html"]) > 30
    for path in handed_out:
        text = path.read_bytes().decode(errors="replace")
        read = "".join(Text(text).parts) if path.suffix == ".html" else text.replace('\\"', '"')
        found = [line for line in lines if line in read]
        assert not found, path
    index = (STUDENT / "searchindex.js").read_text()
    assert "Solution to" not in index and "lecturer" not in index
    assert (
        "Solution to" in (HTML / "searchindex.js").read_text()
        or "Solution to" in (HTML / "book" / "course" / "costs.html").read_text()
    )
    assert not (STUDENT / "book" / "reference" / "lecturer.html").exists()
    assert not list(STUDENT.rglob("*lecturer*"))


@needs_chromium
@pytest.mark.parametrize("look", LOOKS)
def test_pages_render_without_errors(site, browser, look):
    browser.look(*LOOKS[look])
    complaints = {}
    for page in PAGES:
        browser.open(f"{site.address}/{page}")
        found = list(browser.errors)
        if not browser.run("!!document.querySelector('h1') && document.querySelector('main').innerText.length > 100"):
            found.append("hardly any text")
        if browser.run("[...document.images].some(i => i.complete && !i.naturalWidth && i.offsetParent)"):
            found.append("an image that does not load")
        overhang = browser.run("document.documentElement.scrollWidth - window.innerWidth")
        if overhang > 1:
            found.append(f"{overhang} px wider than the window")
        dark = browser.run("document.documentElement.dataset.theme")
        if dark != ("dark" if "dark" in look else "light"):
            found.append(f"theme {dark!r}")
        if found:
            complaints[page] = found
    assert not complaints


@needs_chromium
def test_search_finds_a_page(site, browser):
    browser.look(*LOOKS["desktop"])
    browser.open(f"{site.address}/search.html?q=depthwise")
    assert browser.wait("document.querySelectorAll('#search-results li a').length > 0")
    assert not browser.errors


@needs_chromium
def test_budget_explorer_follows_the_choice(site, browser):
    browser.look(*LOOKS["phone"])
    browser.open(f"{site.address}/book/course/costs.html")
    assert browser.wait("!!document.querySelector('#explorer-summary')")
    summary = "document.querySelector('#explorer-summary').innerText"
    first = browser.run(summary)
    browser.run(
        "for (const [id, value] of [['network', 'mcunet-in1'], ['tier', '5'], ['strategy', 'SU']]) {"
        "  const s = document.getElementById('explorer-' + id); s.value = value;"
        "  s.dispatchEvent(new Event('change', {bubbles: true})); }"
    )
    chosen = browser.run(summary)
    assert chosen != first
    assert "112,640 of 112,640 elements (100.0 %)" in chosen  # the scheme is where the budget comes from
