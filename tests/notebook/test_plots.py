"""Figures: what is drawn is what was given, in the book's colours; nothing empty is drawn."""

import re

import numpy as np
import pandas as pd
import pytest

from medyate.errors import InputError
from medyate.notebook import plots
from medyate.paper import values as paper


def curve(name, top=60.0, seeds=(0,)):
    rows = [(name, k, top + k / 10 + seed, seed) for k in (5, 10, 20) for seed in seeds]
    return pd.DataFrame(rows, columns=["series", "layers", "top1_percent", "seed"])


def lines(ax):
    return {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}


def test_ours_is_solid_the_paper_dashed_in_the_same_colour():
    ours, theirs = curve("LaRa MeDyate", seeds=(0, 2)), curve("LaRa MeDyate", 50)
    figure = plots.accuracy_over_layers(ours, theirs)
    top, bottom = figure.axes
    mine, printed = lines(top)["LaRa MeDyate"], lines(bottom)["LaRa MeDyate"]
    assert (mine.get_linestyle(), printed.get_linestyle()) == ("-", "--")
    assert mine.get_color() == printed.get_color() == plots.STRATEGIES["LaRa MeDyate"][0]
    assert list(mine.get_ydata()) == [61.5, 62.0, 63.0]  # means over seeds
    assert len(top.collections) == 1 and not bottom.collections  # a band only where there are seeds
    assert "%" in top.get_ylabel() and "K" in bottom.get_xlabel()


def test_a_run_at_chance_is_marked_and_flattens_nothing():
    ours = curve("LaRa MeDyate").assign(flag="")
    lost = pd.DataFrame(
        {"series": ["LaRa MeDyate"], "layers": [15], "top1_percent": [10.0], "seed": [0], "flag": ["at chance"]}
    )
    below = lost.assign(layers=10, top1_percent=61.0, seed=1, flag="below Head only")
    [ax] = plots.accuracy_over_layers(pd.concat([ours, lost, below]), None).axes
    assert ax.get_ylim()[0] > 59 and list(lines(ax)["LaRa MeDyate"].get_xdata()) == [5, 10, 20]
    marks = lines(ax)
    assert list(marks["at chance"].get_xdata()) == [15] and [text.get_text() for text in ax.texts] == ["10 %"]
    assert list(marks["below Head only"].get_ydata()) == [61.0]


def test_a_strategy_has_one_colour_everywhere_and_others_never_take_it():
    names = [*paper.MAIN_STRATEGIES, "Baseline", "Head only"]
    assert set(names) == set(plots.STRATEGIES) and len({colour for colour, _ in plots.STRATEGIES.values()}) == len(
        names
    )
    for figure in ("fig7", "fig11"):
        palette = plots.colours(list(dict.fromkeys(paper.curves(figure).series)))
        assert len({colour for colour, _ in palette.values()}) == 4
        own = [name for name in palette if name in plots.SAME]
        assert own and all(palette[name] == plots.STRATEGIES[plots.SAME[name]] for name in own)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plots.accuracy_over_layers(None, None),
        lambda: plots.accuracy_over_layers(curve("x").iloc[:0], None),
        lambda: plots.alpha_scatter(pd.DataFrame(columns=["budget_percent", "alpha_percent", "printed_percent"])),
        lambda: plots.correlation(pd.DataFrame(), "x"),
        lambda: plots.p_matrix(pd.DataFrame(), "x"),
        lambda: plots.over_epochs(pd.DataFrame(columns=["series", "epoch", "v"]), {"v": "v"}, "x"),
        lambda: plots.beside_paper(None, pd.DataFrame(columns=["v"]), {"v": "v"}, "x"),
        lambda: plots.stability(
            pd.DataFrame(columns=["series", "epoch", "p_paired", "p_unpaired", "rho", "overlap"]), "x"
        ),
        lambda: plots.bars(pd.DataFrame(columns=["series", "source", "value"]), "v", "x"),
        lambda: plots.overview(pd.DataFrame(columns=["layer", "lara", "inside"]), pd.DataFrame(), "a", "b"),
        lambda: plots.beams(np.ones((1, 4)), "x"),
    ],
)
def test_nothing_empty_is_drawn(draw):
    with pytest.raises(InputError):
        draw()


def test_columns_that_lack_are_named():
    with pytest.raises(InputError, match="lacks the columns top1_percent; it has series, layers"):
        plots.accuracy_over_layers(curve("x")[["series", "layers"]], None)


def test_correlation_and_p_matrix_show_the_numbers():
    names = ["a", "b", "c"]
    p = pd.DataFrame([[np.nan, 0.0001, 0.5], [0.9999, np.nan, 0.012], [0.5, 0.988, np.nan]], names, names)
    texts = [text.get_text() for text in plots.p_matrix(p, "t").axes[0].texts]
    assert [text for text in texts if text] == ["<.001", ".500", ">.999", ".012", ".500", ".988"]
    rho = pd.DataFrame(np.eye(3), names, names)
    assert "1.00" in [text.get_text() for text in plots.correlation(rho, "t").axes[0].texts]


def test_beams_are_normalised_per_epoch():
    norms = np.array([[1.0, 2.0, 4.0], [3.0, 6.0, 3.0]])
    drawn = np.array([line.get_ydata() for line in plots.beams(norms, "x").axes[0].lines])
    assert sorted(map(tuple, drawn)) == sorted([(0.25, 0.5), (0.5, 1.0), (1.0, 0.5)])


def test_save_writes_three_files_that_repeat_byte_for_byte(tmp_path):
    data = curve("LaRa MeDyate")
    files = []
    for place in ("one", "two"):
        figure = plots.accuracy_over_layers(data, None)
        paths = plots.save(figure, "name", data, "A rising line.", tmp_path / place)
        files.append({end: path.read_bytes() for end, path in paths.items()})
    assert (
        set(files[0]) == {"svg", "pdf", "csv"}
        and files[0]["svg"] == files[1]["svg"]
        and files[0]["csv"] == files[1]["csv"]
    )
    assert b"A rising line." in files[0]["svg"] and files[0]["pdf"].startswith(b"%PDF")
    assert pd.read_csv(tmp_path / "one" / "name.csv").equals(data)


def test_save_needs_an_alt_text_and_a_folder(tmp_path, monkeypatch):
    figure = plots.accuracy_over_layers(curve("x"), None)
    with pytest.raises(InputError, match="figure 'x' needs an alt text"):
        plots.save(figure, "x", curve("x"), " ", tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write figure 'x'"):
        plots.save(figure, "x", curve("x"), "alt", tmp_path / "file")
    monkeypatch.setenv("MEDYATE_FIGURES", str(tmp_path / "named"))
    assert plots.folder() == tmp_path / "named"


def test_a_run_below_the_axis_is_marked_and_stretches_nothing():
    rows = [("a", k, 76.0 + k / 10, 0) for k in range(5, 50, 5)] + [("a", 52, 12.0, 0)]
    frame = pd.DataFrame(rows, columns=["series", "layers", "top1_percent", "seed"])
    (ax,) = plots.accuracy_over_layers(frame, None).axes
    assert ax.get_ylim()[0] > 70
    assert [text.get_text() for text in ax.texts] == ["12 % ↓"]
    assert 52 not in lines(ax)["a"].get_xdata()


def test_ours_is_filled_and_the_paper_hollow_at_its_value():
    theirs = pd.DataFrame({"v": [95.0, 93.0]}, ["TraDy", "SU"])
    ours = pd.DataFrame({"v": [96.0]}, ["TraDy"])
    (ax,) = plots.beside_paper(ours, theirs, {"v": "saved"}, "t").axes
    dots = {
        (float(line.get_xdata()[0]), line.get_markerfacecolor()) for line in ax.lines if line.get_marker() != "None"
    }
    assert dots == {(95.0, "white"), (96.0, plots.STRATEGIES["TraDy"][0]), (93.0, "white")}
    assert [label.get_text() for label in ax.get_yticklabels()] == ["TraDy", "SU"]


def test_figures_and_tables_are_numbered_by_their_page(monkeypatch):
    from medyate.notebook import display

    monkeypatch.setattr(display, "_numbered", {})
    names = ["fig6a", "fig6b", "fig6a", "table1-ours", "memory-frozen", "part3-tail"]
    labels = ["Figure 6.1", "Figure 6.2", "Figure 6.1", "Figure T1.1", "Figure M.1", "Figure P3.1"]
    assert [display.label("Figure", name) for name in names] == labels
    assert display.label("Table", "fig6a") == "Table 6.1"
    assert display.label("Figure", "fig10-swint") == "Figure 10.1" and display.label("Figure", "fig1") == "Figure 1.1"


def test_a_table_has_its_best_bold_and_repeated_names_left_out(monkeypatch):
    import re

    from medyate.notebook import display

    shown = []
    monkeypatch.setattr(display, "_display", shown.append)
    frame = pd.DataFrame(
        [
            ("n", 1, "x", "70.1 ± 0.2"),
            ("n", 1, "y", "71.0 ± 0.1"),
            ("n", 2, "x", "9.5 ± 0.1"),
            ("m", 2, "x", "60.0 ± 0"),
        ],
        columns=["network", "budget", "strategy", "value"],
    )
    display.show_table(frame, "table1-x", "c", names=3, best=["value"], within=["network", "budget"])
    cells = re.findall(r"<td([^>]*)>([^<]*)</td>", shown[0])
    assert [text for look, text in cells if "bold" in look] == ["71.0 ± 0.1"]  # groups of one row have no best
    assert [text for look, text in cells if "again" in look] == ["n", "1", "n"]
    assert [text for _, text in cells][::4] == ["n", "n", "n", "m"]  # still there to be copied and sorted


def test_a_p_value_is_never_zero_nor_a_number_minus_zero(monkeypatch):
    """Gaps of a column of numbers stand where its numbers do."""
    from medyate.notebook import display

    shown = []
    monkeypatch.setattr(display, "_display", shown.append)
    frame = pd.DataFrame({"row": ["a", "b"], "p, Holm": [0.0004, 0.25], "loss": [-0.0001, float("nan")]})
    display.show_table(frame, "table1-p", "c", decimals=3)
    cells = re.findall(r"<td[^>]*text-align:(\w+)[^>]*>([^<]*)</td>", shown[0])
    assert cells == [
        ("left", "a"),
        ("right", "&lt;0.001"),
        ("right", "0.000"),
        ("left", "b"),
        ("right", "0.250"),
        ("right", "–"),
    ]


def test_data_to_fetch_has_a_size_that_is_not_zero():
    from medyate.notebook import again

    assert [again._size(size) for size in (5 * 10**9, 10**8, 12_300_000)] == ["5.0 GB", "0.1 GB", "12 MB"]
