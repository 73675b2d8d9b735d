"""The ledger: every claim is judged, by a check that exists, and the page agrees with the data."""

import dataclasses
import re

import numpy as np
import pandas as pd
import pytest
from scipy import stats as tests

from medyate import notebook
from medyate.files import paths as storage
from medyate.paper import ledger, ours, stats, verdicts
from medyate.paper import values as paper

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
    errors = {
        "share-97",
        "cifar-twice",
        "t-test-ranks",
        "axis",
        "baseline-std",
        "collapsed",
        "swin-lowest",
        "algorithm-lines",
    }
    assert {name for name in errors if by_id[name] == verdicts.WRONG} == errors
    assert by_id["eight-epochs"] == by_id["kilobytes"] == by_id["totals"] == verdicts.HOLDS
    significant = [line for line in found if line.claim.id in ("exceeds-prob", "over-prev")]
    assert [line.from_paper.verdict for line in significant] == [verdicts.PART] * 2


def test_page_is_made_from_the_data(found):
    page = ledger.markdown(found)
    committed = (ROOT / "book" / "ledger.md").read_text(encoding="utf-8")
    assert page == committed, "results changed: python -m medyate.paper.ledger"
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
    findings = [
        None if given is None else verdicts.Finding(given, "text", ("id",)) for given in (from_paper, from_runs)
    ]
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
    pairs = [stats.paired(each, [0.0] * len(each)) for each in differences]
    assert verdicts._compared(*pairs) == verdict


def runs_of(accuracies, losses=None, seeds=(0, 1), task="food10"):
    """Runs of one protocol: a cell for each budget, accuracies by strategy and cell, equal over the seeds."""
    rows = []
    for strategy, values in accuracies.items():
        for cell, value in enumerate(values):
            rows += [
                {
                    **dict.fromkeys(notebook.CELL, "x"),
                    "task": task,
                    "network": "mbv2-w0.35",
                    "budget": 1000 + cell,
                    "seed": seed,
                    "strategy": strategy,
                    "test_top1_percent": value + seed,
                    "test_loss": (losses or accuracies)[strategy][cell],
                    "id": f"{task}-{strategy}-{cell}-{seed}",
                }
                for seed in seeds
            ]
    return pd.DataFrame(rows)


def judged(monkeypatch, check, by_protocol, *arguments):
    monkeypatch.setattr(verdicts.ours, "runs", lambda name: by_protocol.get(name, runs_of({})))
    return check(*arguments)


def test_not_the_best_is_undecided_until_another_is_clearly_better(monkeypatch):
    monkeypatch.setattr(verdicts.paper, "MAIN_STRATEGIES", ("SU", "TraDy", "Det RGN"))

    def verdict(third):
        frame = runs_of({"SU": [1.0, 2.0, 3.0], "TraDy": [1.1, 2.2, third], "Det RGN": [0.0, 0.1, 0.2]})
        return judged(monkeypatch, verdicts.best_of, {"short": frame}, "SU").verdict

    assert verdict(2.0) == "undecided here"  # SU - TraDy: -0.1, -0.2, 1.0: ahead, but not clearly
    assert verdict(3.9) == "undecided here"  # TraDy - SU: 0.1, 0.2, 0.9
    assert verdict(3.15) == "does not hold here"  # 0.1, 0.2, 0.15
    frame = runs_of({"SU": [1.0, 2.0, 3.0], "TraDy": [0.1, 1.2, 2.1], "Det RGN": [0.0, 0.1, 0.2]})
    assert judged(monkeypatch, verdicts.best_of, {"short": frame}, "SU").verdict == "holds"


def test_a_comparison_is_over_complete_cells_and_cites_what_it_used(monkeypatch):
    frame = runs_of({"SU": [70.0, 71.0, 72.0], "TraDy": [69.0, 69.9, 71.1]}, {"SU": [0.5] * 3, "TraDy": [0.5] * 3})
    alone = frame[frame.seed == 0].assign(budget=5, id=lambda one: one["id"] + "-alone")  # a cell of one seed
    half = frame[(frame.strategy == "SU") & (frame.budget == 1000)].assign(seed=lambda one: one.seed + 7)
    half = half.assign(id=lambda one: one["id"] + "-half")  # seeds that the other strategy lacks
    found = judged(monkeypatch, verdicts.compare, {"short": pd.concat([frame, alone, half])}, "SU", "TraDy")
    assert found.verdict == "holds" and set(found.ids) == set(frame["id"])
    assert "+1.00 points" in found.text and "n = 3 cells" in found.text
    assert found.rests_on == "our runs: `short`, 3 cells, 2 seeds: food10"


def test_the_claims_own_regime_decides_and_the_loss_decides_in_part(monkeypatch):
    clear = runs_of({"SU": [70.0, 71.0, 72.0], "TraDy": [69.0, 69.9, 71.1]}, {"SU": [0.5] * 3, "TraDy": [0.5] * 3})
    one = runs_of({"SU": [70.0], "TraDy": [75.0]})
    found = judged(monkeypatch, verdicts.compare, {"short": clear, "authors": one}, "SU", "TraDy")
    assert found.verdict == "undecided here" and "`authors`, undecided here: -5.00 points in 1 cell" in found.text
    assert "`short`, holds" in found.text and "authors" in found.rests_on
    losses = {"SU": [0.50, 0.51, 0.50], "TraDy": [0.60, 0.62, 0.61]}
    unclear = runs_of({"SU": [70.0, 71.0, 72.0], "TraDy": [69.0, 72.0, 71.9]}, losses)
    assert judged(monkeypatch, verdicts.compare, {"short": unclear}, "SU", "TraDy").verdict == "holds in part"
    losses = {"SU": losses["TraDy"], "TraDy": losses["SU"]}
    unclear = runs_of({"SU": [70.0, 71.0, 72.0], "TraDy": [69.0, 72.0, 71.9]}, losses)
    assert judged(monkeypatch, verdicts.compare, {"short": unclear}, "SU", "TraDy").verdict == "undecided here"
    assert judged(monkeypatch, verdicts.compare, {}, "SU", "TraDy") is None


def curve(budget, accuracies, seed):
    return pd.DataFrame(
        {
            "series": "MeDyate",
            "budget": budget,
            "layers": list(accuracies),
            "seed": seed,
            "top1_percent": list(accuracies.values()),
            "id": [f"{budget}-{k}-{seed}" for k in accuracies],
        }
    )


def test_curves_over_k_are_undecided_from_one_seed_and_noise_is_no_peak(monkeypatch):
    monkeypatch.setattr(verdicts, "_noise", lambda frame: "noise")
    generator = np.random.default_rng(0)

    def given(*frames):
        monkeypatch.setattr(verdicts, "_curves", lambda _names: pd.concat(frames, ignore_index=True))

    peaked = {5: 60.0, 15: 70.0, 25: 71.0, 40: 69.0, 52: 62.0}
    budgets = (100, 200, 300)
    given(*(curve(budget, peaked, 0) for budget in budgets))
    assert verdicts.our_ends_fall().verdict == verdicts.our_best_layers_rise().verdict == "undecided here"
    given(
        *(
            curve(budget, {k: v + generator.normal(0, 0.5) for k, v in peaked.items()}, seed)
            for budget in budgets
            for seed in range(4)
        )
    )
    assert verdicts.our_ends_fall().verdict == "holds"
    flat = [
        curve(budget, {k: 70 + generator.normal(0, 2) for k in peaked}, seed) for budget in budgets for seed in range(8)
    ]
    given(*flat)  # the best of five is above the ends by noise, and still it is no peak
    assert verdicts.our_ends_fall().verdict == "undecided here"
    rising = [
        curve(budget, {k: 70 - abs(k - best) + 0.01 * seed for k in peaked}, seed)
        for budget, best in zip(budgets, (5, 25, 52))
        for seed in range(3)
    ]
    given(*rising)
    assert verdicts.our_best_layers_rise().verdict == "holds"


def test_ours_stand_beside_the_papers_same_task():
    frame = runs_of({"LaRa MeDyate": [70.0, 71.0], "SU": [71.0, 72.5]}, task="flowers12")
    table = ours.by_task("LaRa MeDyate", "SU", frame).set_index("paper_task")
    ours_of = table.loc["Flowers (ours: Flowers-17)"]  # never without saying that it is another data set
    assert ours_of[["task", "cells", "ahead", "difference"]].tolist() == ["flowers12", 2, 0, -1.25]
    assert ours_of[["paper_cells", "paper_ahead"]].tolist() == [9, 0]
    assert table.loc["Food", ["paper_cells", "paper_ahead"]].tolist() == [9, 9]


def test_power_is_that_of_simulated_tests():
    generator = np.random.default_rng(0)
    draws = generator.normal(0.5, 1.0, size=(4000, 20))
    t = draws.mean(1) / (draws.std(1, ddof=1) / 20**0.5)
    rejected = (t > tests.t.isf(0.05, 19)).mean()
    assert stats.paired_power(0.5, 1.0, 20) == pytest.approx(rejected, abs=0.02)
    needed = stats.pairs_needed(0.5, 1.0)
    assert stats.paired_power(0.5, 1.0, needed) >= 0.8 > stats.paired_power(0.5, 1.0, needed - 1)


def test_hill_finds_the_index_of_a_pareto_tail():
    generator = np.random.default_rng(0)
    for index in (1.5, 3.0):
        assert stats.hill(generator.pareto(index, 200_000) + 1) == pytest.approx(index, rel=0.05)
