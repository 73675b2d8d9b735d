"""Orders of layers and where they are cut, against brute force and the paper's numbers."""

import csv
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_task import some_ranking

from medyate import costs, networks, ranking, strategies
from medyate.errors import InputError
from medyate.ranking import Ranking
from medyate.runs import rankings
from medyate.selection import search_layers

ROOT = Path(__file__).resolve().parent.parent
TRADY = list(csv.DictReader((ROOT / "results" / "paper" / "trady_layer_norms.csv").open()))


@pytest.fixture(scope="module")
def mbv2():
    return costs.layers(networks.build("mbv2-w0.35", weights="random"))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 10_000), min_size=1, max_size=30), st.integers(1, 60_000), st.fractions("1/50", 1))
def test_alpha_rule_is_the_smallest_k(search_costs, budget, alpha):
    holds = [
        k for k in range(1, len(search_costs) + 1) if Fraction(budget, sum(search_costs[:k])) <= Fraction(float(alpha))
    ]
    assert ranking.smallest_k(search_costs, budget, float(alpha)) == (holds[0] if holds else len(search_costs))


def test_alpha_rule_takes_equality():
    assert ranking.smallest_k([100, 100, 300], 100) == 3  # 100 / 500 is 0.2 exactly
    assert ranking.smallest_k([500, 500], 100) == 1
    assert ranking.smallest_k([500, 500], 101) == 2


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(1, 1000), min_size=1, max_size=30), st.randoms(use_true_random=False))
def test_share_rule_is_the_largest_k_below_the_share(values, shuffler):
    ranked = sorted(values, reverse=True)
    below = [k for k in range(1, len(values) + 1) if 100 * sum(ranked[:k]) < 98 * sum(values)]
    shuffler.shuffle(values)
    assert ranking.share_k(values) == (below[-1] if below else 1)


def test_trady_k_of_mbv2_is_35(mbv2):
    """TraDy's K for MbV2, from what its Fig. 9 prints of each layer."""
    assert ranking.share_k([float(row["rgn_fig9c"]) for row in TRADY]) == 35
    found = rankings.load("mbv2-w0.35", "trady-fig9")
    inside = search_layers(strategies.get("TraDy"), mbv2, found, 27_946)
    assert len(inside) == 35
    by_rgn = sorted(range(52), key=lambda index: -float(TRADY[index]["rgn_fig9c"]))
    assert list(inside) == [mbv2[index].name for index in by_rgn[:35]]


def test_ranking_recovered_from_trady_follows_from_its_figure(mbv2):
    found = rankings.load("mbv2-w0.35", "trady-fig9")
    assert found.layers == tuple(layer.name for layer in mbv2)
    assert len(TRADY) == 52
    for row, layer, lara, rgn in zip(TRADY, mbv2, found.lara, found.layer_rgn, strict=True):
        channels = int(row["cin"])
        assert channels == layer.channels
        assert int(row["channel_bytes_eq4"]) == 4 * layer.channel_elements
        assert rgn == pytest.approx(float(row["rgn_fig9c"]), rel=1e-12)
        # as if its channels had equal norms: sum = C n, and the whole gradient's norm sqrt(C) n
        per_elements = channels * int(row["channel_bytes_eq4"]) / 4
        assert lara == pytest.approx(float(row["norm_fig9a"]) / channels**0.5 / per_elements, rel=1e-9)


def test_equal_values_keep_the_order_of_execution():
    assert some_ranking("x", None).order("lara") == ("b", "c", "a")
    assert some_ranking("x", None).order("rgn") == ("a", "b", "c")
    with pytest.raises(InputError, match="unknown layer order 'LaRa'; allowed: lara, rgn"):
        some_ranking("x", None).order("LaRa")


def test_a_ranking_of_other_layers_is_refused(mbv2):
    with pytest.raises(InputError, match="does not know layer 'b0.dw.conv'"):
        some_ranking("x", None).check(mbv2)
    found = rankings.load("mbv2-w0.35", "trady-fig9")
    found.check(mbv2)
    found.check(mbv2[:-1])  # the folded network has no feature mix


def test_a_ranking_of_ones_own_is_kept_where_one_says(tmp_path):
    kept = some_ranking("mine", None, network="my net", lara=(0.1, 1 / 3, 1e-300), source="by hand")
    assert kept.save(str(tmp_path / "mine.json")) == tmp_path / "mine.json"
    assert Ranking.load(tmp_path / "mine.json") == Ranking.load(str(tmp_path / "mine.json")) == kept
    with pytest.raises(InputError, match=r"^cannot write ranking '[^\n]*no/x.json' \([^\n]*$"):
        kept.save(tmp_path / "no" / "x.json")
    with pytest.raises(InputError, match=r"^cannot write ranking [^\n]*JSON[^\n]*$"):
        some_ranking("mine", None, lara=(float("nan"), 1.0, 1.0)).save(tmp_path / "nan.json")
    with pytest.raises(InputError, match=r"^ranking [^\n]*x.json cannot be read \([^\n]*No such file[^\n]*$"):
        Ranking.load(tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.json"]


@pytest.mark.parametrize("values", [("1.0", 1.0, 1.0), (-0.5, 1.0, 1.0), (float("nan"), 1.0, 1.0)])
def test_values_that_rank_nothing_are_refused(values, mbv2):
    with pytest.raises(InputError, match=f"has {values[0]!r} as LaRa of layer .a.; allowed: finite values"):
        some_ranking("x", None, lara=values).check(mbv2)
