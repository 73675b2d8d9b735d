"""The ledger: every claim of ``results/paper/claims.json`` with its verdict, as a page of the book.

``python -m medyate.ledger`` writes ``book/ledger.md`` from the records that ship in ``results/runs``
(not from one's own in ``MEDYATE_RESULTS``). Nothing in it is typed by hand.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from . import paper, storage, verdicts
from .verdicts import Finding

SHOWN_RECORDS = 3  # links a line; their number is always given


@dataclass(frozen=True)
class Line:
    """A claim, what the paper's own numbers say of it, what our runs say, and the verdict.

    ``basis``: "our runs", "the paper's numbers" or "the text". An error of the paper stays one
    whatever our runs say; else our runs decide, where there are any.
    """

    claim: paper.Claim
    from_paper: Finding | None
    from_runs: Finding | None

    @property
    def verdict(self) -> str:
        if self.from_paper is not None and self.from_paper.verdict == verdicts.WRONG:
            return verdicts.WRONG
        found = self.from_runs or self.from_paper
        if found is None:
            return verdicts.OPEN
        if self.from_runs is None and found.verdict == verdicts.FAILS:
            return verdicts.WRONG  # the paper's own numbers do not bear it out
        return found.verdict

    @property
    def basis(self) -> str:
        if self.verdict == verdicts.OPEN:
            return "–"
        if self.from_paper is not None and self.from_paper.verdict == verdicts.WRONG or self.from_runs is None:
            return "the text" if self.claim.paper[0] == "stated" else "the paper's numbers"
        return "our runs" if self.from_runs.ids else "measured here"


def lines() -> tuple[Line, ...]:
    """Judge every claim, in the order of the paper."""
    verdicts.forget()
    return tuple(
        Line(
            claim,
            verdicts.PAPER[claim.paper[0]](**claim.paper[1]) if claim.paper else None,
            verdicts.RUNS[claim.runs[0]](**claim.runs[1]) if claim.runs else None,
        )
        for claim in paper.claims()
    )


def _records(ids: tuple[str, ...], root: Path) -> str:
    if not ids:
        return ""
    shipped = [name for name in sorted(set(ids)) if (root / "results" / "runs" / f"{name}.json").is_file()]
    links = [f"[{index}](../results/runs/{name}.json)" for index, name in enumerate(shipped[:SHOWN_RECORDS], start=1)]
    count = len(set(ids))
    return f" Records: {count}" + (f" (such as {', '.join(links)})" if links else "") + "."


def markdown(found: tuple[Line, ...], root: Path = storage.CHECKOUT) -> str:
    """The page, for ``book/``."""
    counts = Counter(line.verdict for line in found)
    text = [
        "# Ledger of claims",
        "",
        f"Each of {len(found)} checkable claims of the paper, where it stands, what the paper gives for it, and what came of checking it. "
        "This page is made by `python -m medyate.ledger` from `results/`; run more, and it changes.",
        "",
        "A claim is first held against the paper's own tables and figures, then against our runs. Our runs are at a "
        "smaller scale (small cuts of the data sets, few epochs), so \"does not hold here\" is said of this scale, with the number of "
        "cases and a 95 % interval, not of the paper's experiments. Where an interval holds zero, the comparison is \"undecided here\". \"Wrong in the paper\" means that its own numbers or text contradict it.",
        "",
        ", ".join(f"**{counts[verdict]}** {verdict}" for verdict in verdicts.VERDICTS if counts[verdict]) + ".",
        "",
        "| # | claim | place | verdict | page |",
        "| --- | --- | --- | --- | --- |",
    ]
    for number, line in enumerate(found, start=1):
        claim = line.claim
        text.append(
            f"| [{number}](#{claim.id}) | {claim.claim} | {claim.place} | **{line.verdict}** | [{claim.notebook}](../notebooks/{claim.notebook}.ipynb) |"
        )
    for number, line in enumerate(found, start=1):
        claim = line.claim
        text += ["", f"({claim.id})=", f"## {number}. {claim.claim}", "", f"{claim.place}. The paper: {claim.paper_value}.", ""]
        text.append(f"* **Verdict: {line.verdict}** ({line.basis})." if line.basis != "–" else f"* **Verdict: {line.verdict}**.")
        if line.from_paper is not None:
            what = "Read" if claim.paper[0] == "stated" else "From the paper's numbers"
            text.append(f"* {what}: {line.from_paper.text}.")
        if line.from_runs is not None:
            text.append(f"* Ours, at our scale: {line.from_runs.text}.{_records(line.from_runs.ids, root)}")
        elif claim.runs is not None:
            text.append("* Ours: not yet run.")
        if claim.note:
            text.append(f"* {claim.note}")
        text.append(f"* Page: [{claim.notebook}](../notebooks/{claim.notebook}.ipynb).")
    return "\n".join(text) + "\n"


def write(path: Path | None = None) -> Path:
    """Write the page to ``path``, by default ``book/ledger.md`` of the checkout."""
    path = storage.CHECKOUT / "book" / "ledger.md" if path is None else path
    storage.write_bytes(path, markdown(lines()).encode())
    return path


if __name__ == "__main__":
    import os

    os.environ.pop("MEDYATE_RESULTS", None)
    print(write())
