"""The ledger: every claim of ``results/paper/claims.json`` with its verdict, as a page of the book.

``python -m medyate.paper.ledger`` writes ``book/ledger.md`` from the records that ship in ``results/runs``
(not from one's own in ``MEDYATE_RESULTS``). Nothing in it is typed by hand.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from ..files import paths as storage
from ..sweeps import protocols
from . import ours, recorded, verdicts
from . import values as paper
from .verdicts import Finding

SHOWN_RECORDS = 3  # links a line; their number is always given


@dataclass(frozen=True)
class Line:
    """A claim, what the paper's own numbers say of it, what our runs say, and the verdict.

    ``basis``: "our runs", "measurement", "the paper's numbers" or "reading". An error of the paper stays one
    whatever our runs say; else our runs decide, where there are any.
    """

    claim: paper.Claim
    from_paper: Finding | None
    from_runs: Finding | None

    @property
    def verdict(self) -> str:
        if self.from_paper is not None and self.from_paper.verdict == verdicts.WRONG:
            return verdicts.WRONG
        finding = self.from_runs or self.from_paper
        if finding is None:
            return verdicts.OPEN
        if self.from_runs is None and finding.verdict == verdicts.FAILS:
            return verdicts.WRONG  # the paper's own numbers do not bear it out
        return finding.verdict

    @property
    def said(self) -> str:
        """The verdict in words; of an error, whether the paper contradicts the claim or it is a slip."""
        if self.verdict != verdicts.WRONG:
            return self.verdict
        return f"{self.verdict}: {'a slip' if self.claim.slip else 'contradicted'}"

    @property
    def _our_runs_decide(self) -> bool:
        wrong = self.from_paper is not None and self.from_paper.verdict == verdicts.WRONG
        return self.from_runs is not None and not wrong

    @property
    def basis(self) -> str:
        if self.verdict == verdicts.OPEN:
            return "–"
        if self._our_runs_decide:
            return "our runs" if self.from_runs.ids else "measurement"
        return "reading" if self.claim.paper[0] == "stated" else "the paper's numbers"

    @property
    def rests_on(self) -> str:
        """What the verdict rests on: the paper's numbers, reading, a measurement, or our runs with their scope."""
        if self.basis == "our runs":
            return self.from_runs.rests_on or ours.scope_of(self.from_runs.ids)
        return self.basis


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
    shipped = [name for name in sorted(set(ids)) if (root / "results" / "runs" / f"{name}.json").is_file()]
    links = [f"[{index}](../results/runs/{name}.json)" for index, name in enumerate(shipped[:SHOWN_RECORDS], start=1)]
    count = len(set(ids))
    return f"Records: {count}" + (f" (such as {', '.join(links)})" if links else "") + "."


def _ours(finding: Finding, root: Path) -> list[str]:
    """What our runs say: a sentence, or a list of what each protocol, network or task says."""
    records = _records(finding.ids, root) if finding.ids else ""
    if len(finding.parts) < 2:
        return [f"* Ours, at our scale: {finding.text}. {records}".rstrip()]
    lead = finding.text.removesuffix("; ".join(finding.parts)).rstrip("; :")
    said = [f"  * {part}." for part in finding.parts]
    return [f"* Ours, at our scale{', ' if lead else ''}{lead}:", *said, *([f"  * {records}"] if records else [])]


def summary(claims: tuple[Line, ...]) -> list[tuple[str, int, str]]:
    """(verdict in words, number of claims, on what they rest in words), for the verdicts that there are."""
    rows = []
    said = {line.said: verdicts.VERDICTS.index(line.verdict) for line in claims}
    for verdict in sorted(said, key=lambda words: (said[words], words)):
        own = Counter(line.basis for line in claims if line.said == verdict)
        if own:
            rests = ", ".join(f"{count} on {basis}" for basis, count in own.most_common() if basis != "–")
            rows.append((verdict, own.total(), rests))
    return rows


_PREFACE = """\
A claim is first held against the paper's own tables and figures, then against our runs. Our runs are at a smaller \
scale (small cuts of the data sets, most with few epochs), so "does not hold here" is said of this scale and of the \
protocol named, not of the paper's experiments.

Our runs follow one of {count} protocols:

{protocols}

How a verdict is reached:

* The unit is a cell: one network, budget and task, with the mean over the seeds that all compared strategies have \
({seeds} or more). Differences come with a 95 % interval.
* Where the interval includes zero, or where there is only one seed, the comparison is "undecided here". Where the \
test loss decides and the accuracy does not, the claim "holds in part".
* "Wrong in the paper" means that its own numbers or text contradict it. A slip is an error on which nothing else in \
the paper depends.

The packs are small cuts: food10 of Food-101, cub50 of CUB, cifar10 of CIFAR-10, but flowers12 of Flowers-17, which \
is not the paper's Flowers (Flowers-102)."""


def markdown(claims: tuple[Line, ...], root: Path = storage.CHECKOUT) -> str:
    """The page, for ``book/``."""
    kinds = "\n".join(f"* `{one.name}`: {one.says}." for one in protocols.PROTOCOLS.values())
    text = [
        "# Ledger of claims",
        "",
        f"Each of {len(claims)} checkable claims of the paper: where it is made, what evidence the paper gives, and "
        "what our check found. This page is made by `python -m medyate.paper.ledger` from `results/`; run more, and it "
        "changes.",
        "",
        _PREFACE.format(protocols=kinds, count=len(protocols.PROTOCOLS), seeds=recorded.LEAST_SEEDS),
        "",
        "| verdict | claims | rest on |",
        "| --- | --- | --- |",
        *(f"| {verdict} | {count} | {rests} |" for verdict, count, rests in summary(claims)),
        "",
        "| # | claim | place | verdict | rests on | page |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for number, line in enumerate(claims, start=1):
        claim = line.claim
        page = f"[{claim.notebook}](../notebooks/{claim.notebook}.ipynb)"
        cells = (f"[{number}](#{claim.id})", claim.claim, claim.place, f"**{line.said}**", line.rests_on, page)
        text.append(f"| {' | '.join(cells)} |")
    for number, line in enumerate(claims, start=1):
        claim = line.claim
        text += [
            "",
            f"({claim.id})=",
            f"## {number}. {claim.claim}",
            "",
            f"{claim.place}. The paper: {claim.paper_value}.",
            "",
        ]
        text.append(
            f"* **Verdict: {line.said}** ({line.rests_on})." if line.basis != "–" else f"* **Verdict: {line.verdict}**."
        )
        if line.from_paper is not None:
            what = "Read" if claim.paper[0] == "stated" else "From the paper's numbers"
            text.append(f"* {what}: {line.from_paper.text}.")
        if line.from_runs is not None:
            text += _ours(line.from_runs, root)
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
