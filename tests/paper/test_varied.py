"""The tables beyond the paper against values worked out by hand."""

import pandas as pd
import pytest

from medyate.notebook import beyond
from medyate.paper import parameters, varied


def test_saturation_counts_only_seeds_that_both_ends_have():
    rows = [
        ("Head only", None, 0, 60),
        ("Head only", None, 1, 62),
        ("Baseline", None, 0, 80),
        ("Baseline", None, 1, 82),
    ]
    rows += [("LaRa MeDyate", 10, 0, 70), ("LaRa MeDyate", 10, 1, 74), ("LaRa MeDyate", 10, 2, 0)]
    rows += [("LaRa MeDyate", 40, 0, 79), ("LaRa MeDyate", 20, 1, 82), ("SU", 40, 0, 99)]
    runs = pd.DataFrame(rows, columns=["strategy", "budget", "seed", "test_top1_percent"])
    table = varied.saturation(runs, 200)
    assert table.budget.tolist() == [10, 20, 40] and table.share_percent.tolist() == [5, 10, 20]
    assert table.seeds.tolist() == [2, 1, 1] and table.top1_percent.tolist() == [72, 82, 79]
    assert table.gain.tolist() == [11, 20, 19] and table.part_percent.tolist() == pytest.approx([55, 100, 95])
    assert varied.saturation_in_words(table) == (
        "5.0 % of the memory give 55 % of what training everything gains; "
        "from 10.0 % on it is 90 % or more (1 to 2 seeds)."
    )
    # one that falls back later has not reached it for good
    table.loc[2, "part_percent"] = 80
    assert "no budget keeps to 90 % or more" in varied.saturation_in_words(table)
    assert varied.saturation(runs[runs.strategy != "Baseline"], 200).empty
    assert varied.saturation_in_words(varied.saturation(runs.iloc[:0], 200)) == ""


def test_alphas_are_compared_by_seed():
    rows = [("food10", seed, 0.2, 18, 0.19, 70 + seed) for seed in (0, 1, 2)]
    rows += [("food10", seed, 0.8, 7, 0.75, 65 + seed + (seed == 1)) for seed in (0, 1)]
    rows += [("food10", seed, 0.1, 28, 0.1, top1) for seed, top1 in ((0, 60), (1, 80))]
    runs = pd.DataFrame(rows, columns=["task", "seed", "wanted", "K", "alpha", "test_top1_percent"]).astype(
        {"test_top1_percent": float}
    )
    table = varied.by_alpha(runs).set_index("wanted")
    assert table.seeds.to_dict() == {0.1: 2, 0.2: 3, 0.8: 2} and table.K.to_dict() == {0.1: 28, 0.2: 18, 0.8: 7}
    assert table.difference[0.8] == pytest.approx(-4.5) and pd.isna(table.difference[0.2])
    # two pairs: the half width is 12.7062 standard deviations over the root of 2
    assert table.high[0.8] - table.difference[0.8] == pytest.approx(12.7062 * 0.5**0.5 / 2**0.5, rel=1e-4)
    said = varied.by_alpha_in_words(varied.by_alpha(runs))
    assert said == "Best mean at α: food10 0.2. No α differs from 0.2 by more than the uncertainty of its seeds."
    runs.loc[runs.wanted == 0.8, "test_top1_percent"] = [65.0, 66.01]
    assert "0.8 on food10 (-5.0 points)" in varied.by_alpha_in_words(varied.by_alpha(runs))
    alone = runs[runs.wanted == 0.2].assign(task="cub50")
    said = varied.by_alpha_in_words(varied.by_alpha(pd.concat([runs, alone])))
    assert "food10 0.2" in said and "cub50" not in said  # of one α none is the best
    assert varied.by_alpha_in_words(varied.by_alpha(alone)) == "No task was run with more than one α."
    assert "With one seed" in varied.by_alpha_in_words(varied.by_alpha(runs[runs.seed == 0]))
    assert varied.by_alpha_in_words(varied.by_alpha(runs.iloc[:0])) == ""


def test_first_draws_are_compared_with_uniform_ones_by_seed():
    rows = [("food10", seed, "uniform", 70.0 + seed, 0.9) for seed in (0, 1, 2)]
    rows += [("food10", seed, "value", 71.0 + seed + (seed == 1), 0.8) for seed in (0, 1)]
    rows += [("food10", 0, "rank", 75.0, 0.7)]
    runs = pd.DataFrame(rows, columns=["task", "seed", "first", "test_top1_percent", "test_loss"])
    table = varied.by_boost(runs).set_index("first")
    assert table.seeds.to_dict() == {"uniform": 3, "value": 2, "rank": 1}
    assert table.difference["value"] == pytest.approx(1.5) and table.loss["value"] == pytest.approx(-0.1)
    assert pd.isna(table.difference["uniform"]) and pd.isna(table.difference["rank"])
    said = varied.by_boost_in_words(varied.by_boost(runs))
    assert said.startswith("Largest gain over uniform first draws: value on food10, +1.5 points. No weighting differs")
    runs.loc[runs["first"] == "value", "test_top1_percent"] = [71.0, 72.01]
    assert "value on food10 (+1.0 points)" in varied.by_boost_in_words(varied.by_boost(runs))
    assert "With fewer than two seeds" in varied.by_boost_in_words(varied.by_boost(runs[runs.seed == 0]))
    assert varied.by_boost_in_words(varied.by_boost(runs.iloc[:0])) == ""


def test_orders_within_and_between_kinds_of_task():
    table = pd.DataFrame(
        {"digits, 0": [4, 3, 2, 1], "digits, 1": [4, 3, 1, 2], "cub50, 0": [1, 2, 3, 4], "food10, 0": [1, 2, 3, 4]}
    )
    rows = varied.within_and_between({"lara": table}, "digits").set_index("between")
    assert rows.rho["digits and digits, two seeds"] == pytest.approx(0.8)
    assert rows.rho["digits and photographs"] == pytest.approx(-0.9)
    assert rows.lowest["digits and photographs"] == pytest.approx(-1) and rows.pairs["digits and photographs"] == 4
    assert rows.rho["two tasks of photographs"] == pytest.approx(1)
    said = varied.within_and_between_in_words(rows.reset_index(), "digits")
    assert said == "LaRa agrees at ρ = -0.900 with photographs, which agree at 1.000 among themselves."
    assert varied.within_and_between({"lara": table[["cub50, 0", "food10, 0"]]}, "digits").empty


def test_runs_by_the_task_of_their_ranking():
    rows = [("flowers12-s0-e5", 0, 70), ("digits-s0-e5", 0, 69), ("flowers12-s0-e5", 1, 72), ("digits-s0-e5", 1, 71)]
    runs = pd.DataFrame([*rows, ("digits-s0-e5", 2, 50)], columns=["ranking", "seed", "test_top1_percent"])
    pairs = varied.by_origin(runs, "digits")
    assert pairs.seed.tolist() == [0, 1] and pairs.difference.tolist() == [-1, -1]
    assert varied.by_origin_in_words(pairs, "digits") == (
        "Layers ranked on digits give -1.00 points [-1.00, -1.00] (2 seeds)."
    )
    assert "One seed" in varied.by_origin_in_words(pairs[:1], "digits")
    assert varied.by_origin(runs.iloc[:0], "digits").empty


def test_budgets_double_up_to_sixty_percent():
    sizes = beyond.spread("mbv2-w0.35")
    assert sizes == (27_946, 66_592, 93_696, 187_392, 374_784) or sizes[-1] <= 0.6 * 1_252_320
    assert all(b == 2 * a for a, b in zip(sizes[2:], sizes[3:]))


def test_a_page_beyond_the_paper_names_a_command_that_there_is():
    config = parameters.Parameters("budgets", network="mbv2-w0.35", task="food10", mode="recorded")
    assert (
        config.command().startswith("medyate notebook budgets -p ")
        and config.bare_command == "medyate notebook budgets"
    )
    assert parameters.Parameters("fig6").command() == "medyate fig6"


def test_the_grid_of_alphas_is_that_of_its_sweep(monkeypatch):
    from medyate.runs.config import RunConfig
    from medyate.sweeps import grids

    monkeypatch.setattr(RunConfig, "check", RunConfig.complete)  # the pack need not be here
    config = parameters.Parameters(
        "alphas",
        network="mbv2-w0.35",
        tasks="food10",
        budget=27_946,
        epochs=9,
        seeds=0,
        protocol="short",
        mode="recorded",
    )
    object.__setattr__(config, "mode", "missing")
    wanted = {one.id for one in grids.get("alphas", "pack").configs() if one.task == "food10" and one.seed == 0}
    assert {one.id for one in beyond.grid_of_alphas(config)} == wanted
    boosted = {one.id for one in grids.get("boosts", "pack").configs() if one.task == "food10" and one.seed == 0}
    grid = beyond.grid_of_boosts(config)
    assert {one.id for one in grid if one.boosted} == boosted
    assert [one.id for one in grid if not one.boosted] == [
        one.id for one in beyond.grid_of_alphas(config) if one.layers is None
    ]
