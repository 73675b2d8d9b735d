"""The ledger: every claim is judged, by a check that exists, and the page agrees with the data."""

import dataclasses
import re

import pandas as pd
import pytest

from medyate import ledger, paper, stats, storage, verdicts

ROOT = storage.CHECKOUT


@pytest.fixture(scope="module")
def found():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MEDYATE_RESULTS", raising=False)
        yield ledger.lines()


def test_claims_are_many_unique_and_placed():
    claims = paper.claims()
    assert len(claims) >= 40 and len({claim.id for claim in claims}) == len(claims)
    for claim in claims:
        assert claim.place and claim.paper_value and (claim.paper or claim.runs), claim.id
        assert re.match(r"(Abstract|Sec\.|App\.|Fig|Table|Eq)", claim.place), claim.id
        assert (ROOT / "notebooks" / f"{claim.notebook}.ipynb").is_file(), claim.id
        assert claim.paper is None or claim.paper[0] in verdicts.PAPER, claim.id
        assert claim.runs is None or claim.runs[0] in verdicts.RUNS, claim.id


def test_every_claim_has_a_verdict_and_the_known_errors_are_on_it(found):
    assert {line.verdict for line in found} <= set(verdicts.VERDICTS)
    by_id = {line.claim.id: line.verdict for line in found}
    errors = {"share-97", "cifar-twice", "t-test-ranks", "axis", "baseline-std", "collapsed", "swin-lowest", "algorithm-lines"}
    assert {name for name in errors if by_id[name] == verdicts.WRONG} == errors
    assert by_id["eight-epochs"] == by_id["kilobytes"] == by_id["totals"] == verdicts.HOLDS
    significant = [line for line in found if line.claim.id in ("exceeds-prob", "over-prev")]
    assert [line.from_paper.verdict for line in significant] == [verdicts.PART] * 2


def test_page_is_made_from_the_data(found):
    page = ledger.markdown(found)
    committed = (ROOT / "book" / "ledger.md").read_text(encoding="utf-8")
    assert page == committed, "results changed: python -m medyate.ledger"
    for link in set(re.findall(r"\]\(\.\./([^)]+)\)", page)):
        assert (ROOT / link).is_file(), link
    for line in found:
        assert page.count(f"({line.claim.id})=") == page.count(f"](#{line.claim.id})") == 1


@pytest.mark.parametrize(
    ("from_paper", "from_runs", "verdict"),
    [
        (None, None, "not yet run"),
        ("holds", None, "holds"),
        ("does not hold here", None, "wrong in the paper"),
        ("holds", "does not hold here", "does not hold here"),
        ("wrong in the paper", "holds", "wrong in the paper"),
        (None, "holds in part", "holds in part"),
        ("does not hold here", "undecided here", "undecided here"),
    ],
)
def test_how_two_findings_make_a_verdict(from_paper, from_runs, verdict):
    claim = dataclasses.replace(paper.claims()[0], paper=("ranked", {}))
    findings = [None if given is None else verdicts.Finding(given, "text", ("id",)) for given in (from_paper, from_runs)]
    assert ledger.Line(claim, *findings).verdict == verdict


@pytest.mark.parametrize(
    ("differences", "verdict"),
    [
        ([[1.0, 1.1, 0.9]], "holds"),
        ([[-1.0, -1.1, -0.9]], "does not hold here"),
        ([[0.0, 0.0, 0.0]], "does not hold here"),  # the same, run for run
        ([[1.0, -1.0, 0.5]], "undecided here"),
        ([[0.4, 1.2, 0.9, 0.1]], "undecided here"),  # p is below 0.05 on one side, not on two
        ([[-1.0, 1.0, -0.5]], "undecided here"),
        ([[1.0, 1.1, 0.9], [-1.0, -1.1, -0.9]], "holds in part"),
        ([[1.0, -1.0, 0.5], [-1.0, -1.1, -0.9]], "undecided here"),
    ],
)
def test_a_comparison_is_undecided_where_its_interval_holds_zero(differences, verdict):
    tests = [stats.paired(each, [0.0] * len(each)) for each in differences]
    assert verdicts._compared(*tests) == verdict


def test_not_the_best_is_undecided_until_another_is_clearly_better(monkeypatch):
    def cells(third):
        frame = pd.DataFrame({"A": [1.0, 2.0, 3.0], "B": [1.1, 2.2, third], "C": [0.0, 0.1, 0.2]})
        monkeypatch.setattr(verdicts, "_every", lambda: {"runs": pd.DataFrame({"strategy": ["A"], "id": ["x"]})})
        monkeypatch.setattr(verdicts.notebook, "cells", lambda _frame: frame)
        return verdicts.best_of("A").verdict

    assert cells(2.0) == "holds"
    assert cells(3.9) == "undecided here"  # B - A: 0.1, 0.2, 0.9
    assert cells(3.15) == "does not hold here"  # 0.1, 0.2, 0.15
