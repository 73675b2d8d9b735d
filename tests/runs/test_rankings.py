"""Recorded rankings: whole, saved and loaded, chosen for a task."""

import json
from pathlib import Path

import pytest
from small_task import some_ranking

from medyate import costs, networks
from medyate.errors import InputError
from medyate.ranking import Ranking
from medyate.runs import rankings

SHIPPED = sorted((Path(__file__).resolve().parents[2] / "results" / "rankings").glob("*.json"))


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A folder of one's own, and no shipped results."""
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path))
    monkeypatch.setattr(rankings.paths, "shipped", lambda: None)
    return tmp_path


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


def test_saved_and_loaded_is_the_same(own):
    kept = some_ranking("mine-s0", "digits", lara=(0.1, 1 / 3, 1e-300), source="a run")
    rankings.save(kept)
    assert rankings.load("mbv2-w0.35", "mine-s0") == kept
    assert rankings.names("mbv2-w0.35") == ["mine-s0"]
    assert rankings.names("mcunet-in1") == []


def test_automatic_takes_no_ranking_of_a_fine_tuning_that_collapsed(own):
    folder = rankings.paths.writable("runs")
    for name, top1, classes in (("a", 20.8, 10), ("b", 50.5, 2), ("c", 36.0, 10)):
        rankings.save(some_ranking(name, "food10", source=f"run rank-{name}, 5 of 5 epochs"))
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
    rankings.save(some_ranking("d", "digits"))
    assert rankings.automatic("mbv2-w0.35", "digits") == "d"  # with nothing else at hand
    rankings.save(some_ranking("z", "other"))
    assert rankings.automatic("mbv2-w0.35", "digits") == "z"
    rankings.save(some_ranking("food", "food10"))
    rankings.save(some_ranking("flowers", "flowers12"))
    assert rankings.automatic("mbv2-w0.35", "digits") == "flowers"
    assert rankings.automatic("mbv2-w0.35", "flowers12") == "food"
    # what ships comes before one's own
    shipped = own / "shipped"
    (shipped / "rankings").mkdir(parents=True)
    monkeypatch.setattr(rankings.paths, "shipped", lambda: shipped)
    some_ranking("old", "rare").save(shipped / "rankings" / "mbv2-w0.35.old.json")
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
    path = Path(rankings.save(some_ranking("x", None)))
    text = damage(path.read_text())
    path.write_text(text)
    with pytest.raises(InputError, match=r"^[^\n]*mbv2-w0.35.x.json cannot be read \([^\n]*$"):
        rankings.load("mbv2-w0.35", "x")
    assert path.read_text() == text


def test_unknown_ranking_lists_what_there_is(own):
    rankings.save(some_ranking("x", None))
    rankings.save(some_ranking("y", None))
    with pytest.raises(InputError, match="unknown ranking 'z' of 'mbv2-w0.35'; allowed: x, y"):
        rankings.load("mbv2-w0.35", "z")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_saving_changes_no_byte_of_a_shipped_ranking(path, tmp_path):
    Ranking.load(path).save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
