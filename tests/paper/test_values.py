"""The paper's own numbers, from what it prints: each assertion is also a line on a page."""

import statistics

import numpy as np
import pandas as pd
import pytest
from scipy import stats as scipy_stats

from medyate.errors import InputError
from medyate.networks import schemes
from medyate.paper import reproduce, stats
from medyate.paper import values as paper


def test_every_average_is_the_mean_of_its_row_and_its_deviation_follows_a_convention():
    frame = reproduce.averages()
    assert len(frame) == 48 + 21 + 42 + 48 + 13 + 26 + 39 + 24
    assert frame.mean_agrees.all()
    odd = frame[frame.std_is != "root of the sum of squares"]
    assert set(odd.std_is) == {"root mean square"}
    found = set(zip(odd.file, odd.model, odd.method))
    assert found == {
        ("table2", "SwinT", "Baseline"),
        ("trady_table2", "SwinT", "Baseline"),
        ("trady_table3", "BERT", "TraDy"),
        ("trady_table3", "RoBERTa", "TraDy"),
    }
    baseline = odd[odd.file == "table2"].iloc[0]
    assert (baseline.std_printed, round(baseline["std"], 2)) == (0.31, 0.82)


def test_figure_8_is_bracketed_by_the_single_runs_behind_the_table():
    frame = reproduce.p_values("CNNs")
    assert len(frame) == 8 * 7 and (frame.n == 63).all()
    outside = frame[~frame.bracketed]
    # its mirror image is 0.996, so the printed 0.000 cannot be right to three digits
    assert list(zip(outside.row, outside.column)) == [("TraDy", "LaRa Det Raw")]
    assert (frame.p_runs_low.where(frame.p < 0.5, frame.p) <= frame.p).all()
    pairs = set(zip(reproduce.mirrored().row, reproduce.mirrored().column))
    assert pairs == {("TraDy", "LaRa Det Raw"), ("Prev MeDyate", "LaRa Prob Raw")}


def test_figure_8s_leader_is_not_significantly_ahead_of_the_next_two():
    frame = reproduce.p_values("CNNs").set_index(["row", "column"])
    for other, printed, from_means in (("LaRa Prob Raw", 0.141, 0.191), ("Prev MeDyate", 0.059, 0.107)):
        cell = frame.loc[("LaRa MeDyate", other)]
        assert cell.printed == printed
        assert cell.p == pytest.approx(from_means, abs=5e-4)
        assert cell.printed > 0.05 and cell.p > 0.05 and cell.p_holm > 0.05
        assert cell.low < 0 < cell.high


def test_figure_8_agrees_with_scipy():
    cells = paper.cells(1)
    frame = reproduce.p_values("CNNs")
    for row, column, p in zip(frame.row, frame.column, frame.p):
        expected = scipy_stats.ttest_rel(cells[row], cells[column], alternative="greater").pvalue
        assert p == pytest.approx(expected, rel=1e-9)


def test_figure_10_text_against_the_tables():
    swin = paper.cells(2).mean()
    assert swin.idxmin() == "LaRa MeDyate" and swin.idxmax() == "Det RGN"
    # one collapsed run of three does it: without that cell LaRa MeDyate is not the worst
    without = paper.cells(2).drop(index=[paper.COLLAPSED]).mean()
    assert without.idxmin() != "LaRa MeDyate"
    berts = paper.cells(3).mean()
    assert berts.idxmax() == "Det RGN"
    for group, cells in (("SwinT", 28), ("BERTs", 24)):
        assert (reproduce.p_values(group).n == cells).all()


def test_kilobyte_labels():
    frame = reproduce.kilobyte_labels()
    assert frame.agrees.all() and list(frame.kb) == [110, 181, 261, 328, 366]


def test_tiers_of_figure_6_are_the_schemes_costs():
    from medyate.notebook import backbone

    layers = backbone("mbv2-w0.35")
    found = reproduce.kilobyte_labels().budget_elements
    assert list(found) == [schemes.budget("mbv2-w0.35", tier, layers) for tier in range(1, 6)]


def test_figure_6b_divides_by_the_wrong_network_and_its_alphas_are_four_pools():
    frame = reproduce.alphas()
    assert len(frame) == 15 and frame.axis_agrees.all() and frame.alpha_agrees.all()
    assert list(frame.groupby("pool_elements").size()) == [7, 1, 1, 6]
    assert abs(frame.pool_elements.min() - 192_384) <= 20
    assert np.allclose(frame.budget_percent / frame.mcunet_percent, 1_309_808 / 1_252_320)


def test_k_by_the_share_of_rgn():
    frame = reproduce.layers_by_share().set_index("share")
    assert frame.loc[0.98, "largest_below"] == 35 == paper.PREV_LAYERS["mbv2-w0.35"]
    assert (frame.loc[0.97, "largest_below"], frame.loc[0.97, "first_above"]) == (32, 33)


def test_the_authors_count_depthwise_channels_without_the_kernel():
    frame = reproduce.channel_costs()
    depthwise = frame[frame.kind == "depthwise"]
    assert (depthwise.closer == "1 + HW").sum() == 16 and len(depthwise) == 17
    others = frame[frame.kind != "depthwise"]
    assert (others.channel_elements - others.eq4).abs().max() < 2


def test_figure_9s_sparsities_are_the_budget():
    frame = reproduce.sparsities()
    assert frame.within_budget.all()
    assert frame.fill_percent.between(99.3, 100.2).all()


def test_tables_are_whole():
    for table, networks, rows in ((1, 3, 9 * 7), (2, 1, 4 * 7), (3, 2, 8 * 3)):
        cells = paper.cells(table)
        assert len(cells) == rows and not cells.isna().any(axis=None)
        assert cells.index.get_level_values("network").nunique() == networks
    assert paper.total_elements("mbv2-w0.35") == 1_252_320
    assert paper.budgets("mcunet-in1") == (15_936, 64_832, 112_640)
    assert [schemes.PRINTED_BUDGETS[name][1] for name in schemes.PRINTED_BUDGETS] == [
        paper.budgets(name)[0] for name in schemes.PRINTED_BUDGETS
    ]


def test_rows_that_trady_repeats_are_marked():
    frame = paper.accuracies(2)
    marked = frame[frame.repeated]
    assert set(marked.strategy) == {"TraDy"} and set(marked.budget_elements) == {633_859, 2_767_686}
    wide = frame[frame.budget_elements.isin([633_859, 2_767_686]) & (frame.task != "Average")]
    wide = wide.pivot(index=["budget_elements", "task"], columns="strategy", values="mean_percent")
    assert (wide["TraDy"] == wide["D-Full Random"]).sum() == 2 * 6


def test_values_have_places_and_unknown_ones_are_refused():
    assert set(paper.accuracies(1).place) == {"Table 1", "TraDy, Table 1"}
    with pytest.raises(InputError, match=r"unknown table '4'; allowed: 1, 2, 3"):
        paper.accuracies(4)
    with pytest.raises(InputError, match="'resnet'"):
        paper.budgets("resnet")
    with pytest.raises(InputError, match="'fig3'"):
        paper.curves("fig3")


# --- the tests themselves, against scipy and closed forms ---


def test_holm_against_its_definition():
    p = np.array([0.01, 0.04, 0.03, 0.005])
    assert stats.holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert stats.holm([0.9, 0.8]).max() == 1


def test_paired_from_summaries_is_the_paired_test_when_the_correlation_is_known():
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(2, 20, 3))
    # make the within-cell correlation exactly 0.5 by construction
    x -= x.mean(axis=1, keepdims=True)
    y -= y.mean(axis=1, keepdims=True)
    x /= x.std(axis=1, ddof=1, keepdims=True)
    y -= (x * y).sum(axis=1, keepdims=True) / 2 * x
    y /= y.std(axis=1, ddof=1, keepdims=True)
    y = 0.5 * x + 0.75**0.5 * y
    means = generator.normal(size=(2, 20, 1))
    x, y = x + means[0], y + means[1]
    p = stats.paired_from_summaries(
        (x.mean(axis=1), y.mean(axis=1)), (x.std(axis=1, ddof=1), y.std(axis=1, ddof=1)), 3, 0.5
    )
    assert p == pytest.approx(scipy_stats.ttest_rel(x.ravel(), y.ravel(), alternative="greater").pvalue)


def test_paired_and_estimate_against_scipy():
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(2, 12))
    mine = stats.paired(x, y)
    theirs = scipy_stats.ttest_rel(x, y)
    interval = theirs.confidence_interval(0.95)
    assert (mine.t, mine.low, mine.high) == pytest.approx((theirs.statistic, interval.low, interval.high))
    one = stats.estimate([71.5])
    assert one.low is None and "n = 1" in str(one)
    assert stats.paired([1, 2], [0, 1]).p == 0
    with pytest.raises(InputError, match="at least two pairs; got 1"):
        stats.paired([1], [0])


def test_consecutive_epochs_are_scipys_tests_one_by_one():
    norms = np.random.default_rng(3).lognormal(size=(4, 60)).round(1)  # rounded: with ties
    table = stats.consecutive(norms)
    assert table.epoch.tolist() == [2, 3, 4]
    for row, (before, now) in zip(table.itertuples(), zip(norms[:-1], norms[1:])):
        expected = (
            scipy_stats.ttest_rel(before, now).pvalue,
            scipy_stats.ttest_ind(before, now, equal_var=False).pvalue,
            scipy_stats.spearmanr(before, now).statistic,
            stats.overlap(before, now),
        )
        assert (row.p_paired, row.p_unpaired, row.rho, row.overlap) == pytest.approx(expected, rel=1e-12)
    assert np.isnan(stats.consecutive_ranks(np.ones((2, 5)))).all()


def test_consecutive_tells_equal_means_from_equal_ranks():
    generator = np.random.default_rng(2)
    base = generator.lognormal(size=200)
    halved = stats.consecutive(np.stack([base, base / 2]))
    assert halved.p_unpaired[0] < 0.01 and halved.rho[0] == pytest.approx(1) and halved.overlap[0] == 1
    shuffled = stats.consecutive(np.stack([base, generator.permutation(base)]))
    assert shuffled.p_paired[0] > 0.99 and abs(shuffled.rho[0]) < 0.3
    with pytest.raises(InputError, match="epochs x channels"):
        stats.consecutive(base)


def test_cluster_keeps_groups_together():
    generator = np.random.default_rng(3)
    a, b = generator.normal(size=(2, 30))
    names = ["a1", "b1", "a2", "b2"]
    table = pd.DataFrame({name: (a if name[0] == "a" else b) + 0.1 * generator.normal(size=30) for name in names})
    order = [name[0] for name in stats.cluster(stats.spearman(table))]
    assert order in (["a", "a", "b", "b"], ["b", "b", "a", "a"])


def test_the_collapsed_cell_taken_apart():
    """Two runs at a and one at b have the printed mean and standard deviation; only that cell's row changes."""
    cell, table = reproduce.collapsed()
    runs = [cell["others_percent"], cell["others_percent"], cell["collapsed_percent"]]
    assert statistics.mean(runs) == pytest.approx(79.9) and statistics.stdev(runs) == pytest.approx(23.43)
    changed = table[table["as printed (%)"] != table["without the collapsed run (%)"]]
    assert list(changed.strategy) == ["LaRa MeDyate"]
    row = changed.iloc[0]
    assert row["without the collapsed run (%)"] - row["as printed (%)"] == pytest.approx(
        (cell["others_percent"] - 79.9) / 28
    )
    assert row["rank as printed"] == 7 and row["rank without"] < 7
