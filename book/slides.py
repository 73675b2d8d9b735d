"""Slides from MyST pages: ``python book/slides.py`` writes ``_build/slides/NAME.html`` for ``book/slides/NAME.md``.

One self-contained file a session: reveal.js (book/slides/reveal), figures and fonts are inside, so that it opens
without a network. A heading of the second level begins a slide, ``<aside class="notes">`` holds what only the lecturer
sees (key S), code cells are executed, and ``?print-pdf`` after the address prints one slide a page.
"""

import base64
import sys
from html import escape
from pathlib import Path

import build
from docutils.utils.math import latex2mathml
from markdown_it import MarkdownIt
from mdit_py_plugins.dollarmath import dollarmath_plugin

sys.path.append(str(build.ROOT / "book" / "_ext"))
import mathml  # noqa: E402 (the book's own extension)

SOURCE = build.ROOT / "book" / "slides"
TARGET = build.ROOT / "_build" / "slides"
FONT = build.ROOT / "book" / "_static" / "fonts" / "STIXMath-Regular.woff2"
STYLE = """
@font-face { font-family: "STIX Math"; src: url("data:font/woff2;base64,%s") format("woff2"); }
math { font-family: "STIX Math", math; }
body { background: white; }
.reveal { font: 30px/1.35 system-ui, sans-serif; color: #222; }
.reveal .slides { text-align: left; }
.reveal h1, .reveal h2 { line-height: 1.15; margin: 0 0 0.5em; color: #0173b2; }
.reveal h1 { font-size: 1.9em; } .reveal h2 { font-size: 1.35em; }
.reveal :is(p, ul, ol, table, pre) { margin: 0 0 0.6em; } .reveal li { margin: 0.2em 0; }
.reveal pre { font-size: 0.62em; line-height: 1.35; background: #f4f4f4; padding: 0.6em; white-space: pre-wrap; }
.reveal table { border-collapse: collapse; font-size: 0.75em; }
.reveal :is(th, td) { padding: 0.15em 0.7em; border-bottom: 1px solid #ccc; }
.reveal img { width: 100%%; max-height: 400px; object-fit: contain; object-position: left; }
.reveal blockquote { border-left: 4px solid #de8f05; margin: 0 0 0.6em; padding: 0 0.8em; }
"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"/><meta name="viewport" content="width=device-width, initial-scale=1"/>
<title>{title}</title><style>{css}</style><style>{style}</style></head>
<body><div class="reveal"><div class="slides">
{slides}
</div></div>
<script>{reveal}</script><script>{notes}</script>
<script>Reveal.initialize({{ hash: true, center: false, slideNumber: "c/t", plugins: [RevealNotes] }});</script>
</body></html>
"""


def markdown() -> MarkdownIt:
    """CommonMark with tables, raw HTML and formulas as MathML, as the book's pages have them."""

    def formula(text: str, options: dict) -> str:
        return mathml.spaced(latex2mathml.tex2mathml(text.strip(), options["display_mode"]))

    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    return reader.use(dollarmath_plugin, renderer=formula)


def inlined(text: str, folder: Path) -> str:
    """Images that the Markdown names as data, so that the file needs no other."""
    kinds = {".svg": "image/svg+xml", ".png": "image/png"}
    for path in {*folder.glob("*.svg"), *(build.ROOT / "book" / "_static").glob("*.svg")}:
        data = base64.b64encode(path.read_bytes()).decode()
        for name in (path.name, f"../_static/{path.name}"):
            text = text.replace(f'src="{name}"', f'src="data:{kinds[path.suffix]};base64,{data}"')
    return text


def output(found: dict, reader: MarkdownIt) -> str:
    """One output of a cell as HTML: the richest form that it has."""
    data = found.get("data", {})
    if "text/html" in data:
        return data["text/html"]
    if "image/png" in data:
        return f'<img alt="figure" src="data:image/png;base64,{data["image/png"].strip()}"/>'
    if "text/markdown" in data:
        return reader.render(data["text/markdown"])
    return f"<pre>{escape(found.get('text') or data.get('text/plain', ''))}</pre>"


def slides(path: Path) -> str:
    """The slides of a page, as HTML. A page whose code fails ends with its error."""
    done = build.executed(path, timeout=300)
    if done is None:
        raise SystemExit(f"{path}: a cell failed; run it as a notebook to see where")
    reader, parts = markdown(), [""]
    for cell in done[0].cells:
        if cell.cell_type == "markdown":
            for index, part in enumerate(f"\n{cell.source}".split("\n## ")):
                if index:
                    parts.append("")
                parts[-1] += reader.render(f"## {part}" if index else part)
        elif cell.cell_type == "code":
            tags = cell.metadata.get("tags", [])
            if not {"remove-input", "hide-input"} & set(tags):
                parts[-1] += f"<pre>{escape(cell.source)}</pre>"
            parts[-1] += "".join(output(found, reader) for found in cell.outputs)
    return "\n".join(f"<section>{inlined(part, path.parent)}</section>" for part in parts)


def main() -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    reveal = {name: (SOURCE / "reveal" / name).read_text() for name in ("reveal.js", "reveal.css", "notes.js")}
    style = STYLE % base64.b64encode(FONT.read_bytes()).decode()
    for path in sorted(SOURCE.glob("*.md")):
        title = next(line[2:] for line in path.read_text().splitlines() if line.startswith("# "))
        made = PAGE.format(
            title=escape(title),
            css=reveal["reveal.css"],
            style=style,
            slides=slides(path),
            reveal=reveal["reveal.js"],
            notes=reveal["notes.js"],
        )
        (TARGET / f"{path.stem}.html").write_text(made, encoding="utf-8")
        print(TARGET / f"{path.stem}.html")


if __name__ == "__main__":
    sys.exit(main())
