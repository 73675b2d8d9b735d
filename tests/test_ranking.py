"""Orders of layers and where they are cut, against brute force and the paper's numbers."""

import csv
import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medyate import costs, networks, ranking, strategies
from medyate.errors import InputError
from medyate.ranking import Ranking
from medyate.runs import rankings
from medyate.selection import search_layers

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = sorted((ROOT / "results" / "rankings").glob("*.json"))
TRADY = list(csv.DictReader((ROOT / "results" / "paper" / "trady_layer_norms.csv").open()))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of one's own, and no shipped results."""
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path))
    monkeypatch.setattr(rankings.paths, "shipped", lambda: None)
    return tmp_path


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


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_shipped_rankings_are_whole(path):
    network = next(name for name in networks.NETWORKS if path.name.startswith(name + "."))
    found = rankings.load(network, path.name[len(network) + 1 : -len(".json")])
    try:
        layers = costs.layers(networks.skeleton(network, weights="random"), networks.get(network).input_shape())
    except InputError as error:
        pytest.skip(str(error))  # text networks, without their extra
    assert found.layers == tuple(layer.name for layer in layers)
    assert len(found.lara) == len(found.layer_rgn) == len(layers)
    assert all(value > 0 for value in (*found.lara, *found.layer_rgn))
    for order, values in (("lara", found.lara), ("rgn", found.layer_rgn)):
        ordered = found.order(order)
        by_name = dict(zip(found.layers, values))
        assert sorted(ordered) == sorted(found.layers)
        assert [by_name[name] for name in ordered] == sorted(values, reverse=True)


def some(name, task, **changes):
    given = {
        "network": "mbv2-w0.35",
        "name": name,
        "layers": ("a", "b", "c"),
        "lara": (1.0, 3.0, 3.0),
        "layer_rgn": (2.0, 1.0, 0.5),
    }
    return Ranking(**{**given, "task": task, **changes})


def test_equal_values_keep_the_order_of_execution():
    assert some("x", None).order("lara") == ("b", "c", "a")
    assert some("x", None).order("rgn") == ("a", "b", "c")
    with pytest.raises(InputError, match="unknown layer order 'LaRa'; allowed: lara, rgn"):
        some("x", None).order("LaRa")


def test_saved_and_loaded_is_the_same(own):
    kept = some("mine-s0", "digits", lara=(0.1, 1 / 3, 1e-300), source="a run")
    rankings.save(kept)
    assert rankings.load("mbv2-w0.35", "mine-s0") == kept
    assert rankings.names("mbv2-w0.35") == ["mine-s0"]
    assert rankings.names("mcunet-in1") == []


def test_automatic_takes_no_ranking_of_a_fine_tuning_that_collapsed(own):
    folder = rankings.paths.writable("runs")
    for name, top1, classes in (("a", 20.8, 10), ("b", 50.5, 2), ("c", 36.0, 10)):
        rankings.save(some(name, "food10", source=f"run rank-{name}, 5 of 5 epochs"))
        (folder / f"rank-{name}.json").write_text(json.dumps({"test_top1_percent": top1, "classes": classes}))
    # 20.8 % of ten classes is an eighth of the way from chance to all right; 36 % more than a quarter
    assert [rankings.collapsed("mbv2-w0.35", name) for name in "abc"] == [True, True, False]
    assert rankings.automatic("mbv2-w0.35", "digits") == "c"
    (folder / "rank-c.json").write_text(json.dumps({"test_top1_percent": 10.0, "classes": 10}))
    with pytest.raises(InputError, match="every ranking of 'mbv2-w0.35' is of a fine-tuning that collapsed: a, b, c"):
        rankings.automatic("mbv2-w0.35", "digits")
    (folder / "rank-a.json").unlink()  # no record says how it ended
    assert rankings.automatic("mbv2-w0.35", "digits") == "a"


def test_automatic_takes_another_tasks_ranking(own, monkeypatch):
    with pytest.raises(InputError, match="record one: medyate rank mbv2-w0.35 --task"):
        rankings.automatic("mbv2-w0.35", "digits")
    rankings.save(some("d", "digits"))
    assert rankings.automatic("mbv2-w0.35", "digits") == "d"  # with nothing else at hand
    rankings.save(some("z", "other"))
    assert rankings.automatic("mbv2-w0.35", "digits") == "z"
    rankings.save(some("food", "food10"))
    rankings.save(some("flowers", "flowers12"))
    assert rankings.automatic("mbv2-w0.35", "digits") == "flowers"
    assert rankings.automatic("mbv2-w0.35", "flowers12") == "food"
    # what ships comes before one's own
    shipped = own / "shipped"
    (shipped / "rankings").mkdir(parents=True)
    monkeypatch.setattr(rankings.paths, "shipped", lambda: shipped)
    some("old", "rare").save(shipped / "rankings" / "mbv2-w0.35.old.json")
    assert rankings.automatic("mbv2-w0.35", "digits") == "old"
    assert rankings.automatic("mbv2-w0.35", "rare") == "flowers"


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: text.replace('"lara"', '"larch"'),
        lambda text: text.replace("3.0", '"many"', 1),
        lambda text: text.replace('"c"', '"c", "d"'),
    ],
    ids=["cut", "empty", "list", "key", "number", "length"],
)
def test_damaged_ranking_is_named_and_left_alone(own, damage):
    path = Path(rankings.save(some("x", None)))
    text = damage(path.read_text())
    path.write_text(text)
    with pytest.raises(InputError, match=r"^[^\n]*mbv2-w0.35.x.json cannot be read \([^\n]*$"):
        rankings.load("mbv2-w0.35", "x")
    assert path.read_text() == text


def test_unknown_ranking_lists_what_there_is(own):
    rankings.save(some("x", None))
    rankings.save(some("y", None))
    with pytest.raises(InputError, match="unknown ranking 'z' of 'mbv2-w0.35'; allowed: x, y"):
        rankings.load("mbv2-w0.35", "z")


def test_a_ranking_of_other_layers_is_refused(mbv2):
    with pytest.raises(InputError, match="does not know layer 'b0.dw.conv'"):
        some("x", None).check(mbv2)
    found = rankings.load("mbv2-w0.35", "trady-fig9")
    found.check(mbv2)
    found.check(mbv2[:-1])  # the folded network has no feature mix


def test_a_ranking_of_ones_own_is_kept_where_one_says(tmp_path):
    kept = some("mine", None, network="my net", lara=(0.1, 1 / 3, 1e-300), source="by hand")
    assert kept.save(str(tmp_path / "mine.json")) == tmp_path / "mine.json"
    assert Ranking.load(tmp_path / "mine.json") == Ranking.load(str(tmp_path / "mine.json")) == kept
    with pytest.raises(InputError, match=r"^cannot write ranking '[^\n]*no/x.json' \([^\n]*$"):
        kept.save(tmp_path / "no" / "x.json")
    with pytest.raises(InputError, match=r"^cannot write ranking [^\n]*JSON[^\n]*$"):
        some("mine", None, lara=(float("nan"), 1.0, 1.0)).save(tmp_path / "nan.json")
    with pytest.raises(InputError, match=r"^ranking [^\n]*x.json cannot be read \([^\n]*No such file[^\n]*$"):
        Ranking.load(tmp_path / "x.json")
    assert list(tmp_path.iterdir()) == [tmp_path / "mine.json"]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_saving_changes_no_byte_of_a_shipped_ranking(path, tmp_path):
    Ranking.load(path).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
