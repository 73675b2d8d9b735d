"""One function a kind of figure: tidy tables in, a matplotlib figure out.

One style for the whole book. A strategy has the same colour and marker everywhere (seaborn's
colour-blind palette); the paper is dashed and hollow, ours solid and filled; bands run from the
lowest to the highest seed. Panels are stacked, and letters are large, so that a phone shows them.
A function refuses an empty table: what was not measured is not drawn.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..errors import InputError
from ..files import paths

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# name -> (colour, marker)
STRATEGIES: Mapping[str, tuple[str, str]] = {
    "LaRa MeDyate": ("#D55E00", "o"),
    "Prev MeDyate": ("#CC78BC", "s"),
    "LaRa Prob Raw": ("#DE8F05", "^"),
    "LaRa Det Raw": ("#029E73", "v"),
    "LaRa TraDy": ("#0173B2", "D"),
    "TraDy": ("#56B4E9", "d"),
    "Det RGN": ("#CA9161", "P"),
    "SU": ("#949494", "X"),
    "Baseline": ("#000000", "*"),
    "Head only": ("#606060", "."),
}
# series of Figs. 7 and 11 that are a strategy as its name says
SAME = {
    "LaRa order + raw norm": "LaRa MeDyate",
    "Prev order + raw norm": "Prev MeDyate",
    "MeDyate uniform": "LaRa MeDyate",
    "TraDy uniform": "LaRa TraDy",
}
OTHERS = ("#0173B2", "#DE8F05", "#029E73", "#D55E00", "#CC78BC", "#CA9161", "#56B4E9", "#949494")
MARKERS = "osD^vPXd*"
WIDTH = 6.0  # inches; at a phone's 360 px an 11 pt letter is then about 9 px high
RC = {
    # what seaborn's whitegrid says today beside matplotlib's copy of it
    "axes.linewidth": 0.8,
    "font.sans-serif": ["Arial", "DejaVu Sans", "Liberation Sans", "Bitstream Vera Sans", "sans-serif"],
    "patch.edgecolor": "w",
    "patch.force_edgecolor": True,
    **{f"{axis}tick.{key}": size for axis in "xy" for key, size in (("major.size", 3.5), ("minor.size", 2.0))},
    "xtick.bottom": False,
    "ytick.left": False,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "savefig.bbox": "tight",
    "savefig.pad_inches": 0.06,
    "font.size": 11,
    "axes.labelsize": 12,
    "axes.titlesize": 12,
    "xtick.labelsize": 11,
    "ytick.labelsize": 11,
    "legend.fontsize": 10,
    "legend.frameon": False,
    "axes.titlelocation": "left",
    "grid.color": "#e4e4e4",
    "svg.hashsalt": "medyate",  # same figure, same bytes
}


@contextmanager
def style():
    """The book's style, for the duration of a ``with``."""
    from matplotlib import style as styles

    with styles.context(["seaborn-v0_8-whitegrid", RC]):
        yield


def colours(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colour and marker of each name: a strategy's own, else the next of the palette that is free."""
    known = {name: STRATEGIES[SAME.get(name, name)] for name in names if SAME.get(name, name) in STRATEGIES}
    taken = {colour for colour, _ in known.values()}
    free = iter([(c, m) for c, m in zip(OTHERS * 3, MARKERS * 3) if c not in taken])
    return {name: known[name] if name in known else next(free) for name in names}


def ordered_colours(names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Colours of names that have an order (budgets, alphas): dark to light on one scale."""
    import matplotlib as mpl

    shades = mpl.colormaps["viridis"](np.linspace(0, 1, len(names) + 3)[1:-1])  # neither of the scale's ends
    palette = [mpl.colors.to_hex(shade) for shade in shades]
    return {name: (palette[index], MARKERS[index % len(MARKERS)]) for index, name in enumerate(names)}


def _figure(height: float, rows: int = 1, **options) -> tuple[Figure, np.ndarray]:
    """A figure of the book's width with ``rows`` stacked axes; not known to pyplot, so it shows once."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.subplots(rows, 1, squeeze=False, **options)[:, 0]
    return figure, axes


def _need(frame: pd.DataFrame, columns: Sequence[str], what: str) -> None:
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        raise InputError(f"{what} lacks the columns {', '.join(missing)}; it has {', '.join(map(str, frame.columns))}")
    if frame.empty:
        raise InputError(f"{what} is empty: there is nothing to draw")


def _despine(axes: Sequence[Axes]) -> None:
    for ax in axes:
        ax.spines[["left", "right", "top"]].set_visible(False)


def _legend_below(figure: Figure, ax: Axes, columns: int = 2, **options) -> None:
    handles, labels = ax.get_legend_handles_labels()
    unique = dict(zip(labels, handles))
    figure.legend(unique.values(), unique.keys(), loc="outside lower center", ncols=columns, **options)


def collapsed(frame: pd.DataFrame, value: str) -> pd.Series:
    """Which rows ended so low that they would flatten the rest of a figure.

    A row is collapsed that lies below the lower quartile by more than three times the distance of the quartiles and by
    more than ten points.
    """
    low, high = frame[value].quantile([0.25, 0.75])
    return frame[value] < low - max(3 * (high - low), 10)


def _lines(ax: Axes, frame: pd.DataFrame, x: str, y: str, palette: Mapping[str, tuple[str, str]], paper: bool) -> None:
    """Mean over seeds with a band from lowest to highest; the paper's lines dashed and hollow.

    Collapsed runs are not part of a line: a cross at the lower edge marks each, with its value.
    """
    lost = collapsed(frame, y)
    for name, (colour, marker) in palette.items():
        series = frame[(frame.series == name) & ~lost]
        if series.empty:
            continue
        seeds = series.groupby(x)[y].agg(["mean", "min", "max"])
        ax.plot(
            seeds.index,
            seeds["mean"],
            color=colour,
            marker=marker,
            markersize=6,
            linewidth=1.8,
            label=name,
            linestyle="--" if paper else "-",
            markerfacecolor="white" if paper else colour,
        )
        if (seeds["max"] > seeds["min"]).any():
            ax.fill_between(seeds.index, seeds["min"], seeds["max"], color=colour, alpha=0.18, linewidth=0)
    for row in frame[lost].itertuples():
        place, colour = getattr(row, x), palette[row.series][0]
        ax.plot(place, 0.04, "X", transform=ax.get_xaxis_transform(), color=colour, markersize=9, clip_on=False)
        ax.annotate(
            f"{getattr(row, y):.0f} % ↓",
            (place, 0.04),
            (-8, 0),
            xycoords=ax.get_xaxis_transform(),
            textcoords="offset points",
            ha="right",
            va="center",
            fontsize=9,
            color=colour,
        )


def accuracy_over_layers(
    ours: pd.DataFrame | None,
    paper: pd.DataFrame | None,
    ours_title: str = "ours",
    paper_title: str = "the paper",
    ordered: bool = False,
) -> Figure:
    """Test accuracy over the number K of selected layers (Figs. 6a, 7, 11).

    Both tables have ``series``, ``layers``, ``top1_percent`` (ours one row a seed). Ours stands
    above the paper, on its own axis: another task's accuracy is another scale. None leaves a
    panel out. A column ``flag`` (:func:`medyate.paper.recorded.flagged`) marks runs: one at
    chance stands at the lower edge with its accuracy, on no line, so that it flattens nothing.
    ``ordered`` colours series that have an order (budgets) on one scale.
    """
    panels = [
        (frame, title, is_paper)
        for frame, title, is_paper in ((ours, ours_title, False), (paper, paper_title, True))
        if frame is not None
    ]
    if not panels:
        raise InputError("neither ours nor the paper's curves were given: there is nothing to draw")
    for frame, title, _ in panels:
        _need(frame, ["series", "layers", "top1_percent"], f"the table of {title}")
    names = list(dict.fromkeys(name for frame, *_ in reversed(panels) for name in frame.series))
    palette = (ordered_colours if ordered else colours)(names)
    with style():
        figure, axes = _figure(0.9 + 2.9 * len(panels), len(panels), sharex=True)
        for ax, (frame, title, is_paper) in zip(axes, panels):
            drawn = frame[frame.flag != "at chance"] if "flag" in frame else frame
            _lines(ax, drawn, "layers", "top1_percent", palette, is_paper)
            ax.set_title(title)
            ax.set_ylabel("test top-1 (%)")
            _mark_best(ax, drawn, palette)
            _mark_flagged(ax, frame, palette)
        axes[-1].set_xlabel("number K of selected layers")
        _despine(axes)
        most = max(axes, key=lambda ax: len(ax.get_legend_handles_labels()[1]))
        _legend_below(figure, most)
    return figure


def _mark_best(ax: Axes, frame: pd.DataFrame, palette: Mapping[str, tuple[str, str]]) -> None:
    """A ring round the best K of each series that has more than one."""
    for name, series in frame[~collapsed(frame, "top1_percent")].groupby("series"):
        mean = series.groupby("layers").top1_percent.mean()
        if len(mean) > 1:
            ax.plot(mean.idxmax(), mean.max(), "o", markersize=13, color=palette[name][0], fillstyle="none")


def _mark_flagged(ax: Axes, frame: pd.DataFrame, palette: Mapping[str, tuple[str, str]]) -> None:
    """A cross on each flagged run; at the lower edge on one at chance, with its accuracy beside it."""
    flags = frame[frame.flag != ""] if "flag" in frame else frame.iloc[:0]
    if len(flags):  # those below the axis have their mark already
        marked = collapsed(frame[frame.flag != "at chance"], "top1_percent")
        flags = flags.drop(index=marked.index[marked], errors="ignore")
    for row in flags.itertuples():
        lost = row.flag == "at chance"
        options = {"transform": ax.get_xaxis_transform()} if lost else {}
        height = 0.03 if lost else row.top1_percent
        color = palette[row.series][0]
        ax.plot(row.layers, height, "x", color=color, markersize=9, label=row.flag, clip_on=False, **options)
        if lost:
            ax.annotate(
                f"{row.top1_percent:.0f} %",
                (row.layers, height),
                xycoords=ax.get_xaxis_transform(),
                xytext=(7, 0),
                textcoords="offset points",
                va="center",
                color=color,
            )


def alpha_scatter(
    paper: pd.DataFrame, ours: pd.DataFrame | None = None, alpha_opt_percent: float = 20, ours_label: str = "ours"
) -> Figure:
    """alpha_K of the best K of each budget and seed over the budget (Fig. 6b), with regressions.

    Both tables: ``budget_percent`` (of the network's total), ``alpha_percent``; the paper's also
    ``printed_percent``, where the figure wrongly puts the point. Sizes count equal points.
    """
    _need(paper, ["budget_percent", "alpha_percent", "printed_percent"], "the paper's scatter")
    with style():
        figure, (ax,) = _figure(4.6)
        wrong = paper.drop_duplicates(["printed_percent", "alpha_percent"])
        ax.scatter(
            wrong.printed_percent,
            wrong.alpha_percent,
            marker="x",
            s=30,
            color="#949494",
            label="paper, x as printed (wrong total)",
        )
        _points(ax, paper, "#0173B2", True, "paper, x corrected")
        if ours is not None:
            _need(ours, ["budget_percent", "alpha_percent"], "our scatter")
            _points(ax, ours, STRATEGIES["LaRa MeDyate"][0], False, ours_label)
        ax.axhline(
            alpha_opt_percent,
            color="black",
            linewidth=1,
            linestyle=":",
            label=rf"$\alpha_{{opt}}$ = {alpha_opt_percent:g} %",
        )
        ax.set_xlabel("memory budget (% of the network's total)")
        ax.set_ylabel(r"$\alpha_K$ of the best K (%)")
        ax.set_xlim(left=0)
        ax.set_ylim(bottom=0)
        _despine([ax])
        _legend_below(figure, ax)
    return figure


def _points(ax: Axes, frame: pd.DataFrame, colour: str, paper: bool, label: str) -> None:
    from ..paper.stats import regression

    counts = frame.groupby(["budget_percent", "alpha_percent"]).size().reset_index(name="count")
    ax.scatter(
        counts.budget_percent,
        counts.alpha_percent,
        s=60 * counts["count"],
        edgecolor=colour,
        label=label,
        facecolor="none" if paper else colour,
        linewidth=1.6,
        alpha=1 if paper else 0.75,
    )
    if frame.budget_percent.nunique() > 2:  # two points make no trend
        line = regression(frame.budget_percent, frame.alpha_percent)
        x = np.array([frame.budget_percent.min(), frame.budget_percent.max()])
        ax.plot(
            x,
            line.slope * x + line.intercept,
            color=colour,
            linestyle="--" if paper else "-",
            linewidth=1.6,
            label=f"{'paper' if paper else 'ours'}: slope {line.slope:.2f}, R² {line.r_squared:.2f}",
        )


def overview(ranked: pd.DataFrame, drawn: pd.DataFrame, title: str, online: str) -> Figure:
    """The method at a glance (Fig. 1), with the numbers of a real selection.

    ``ranked``: ``layer``, ``lara``, ``inside`` (in the search space), in ranked order. ``drawn``:
    layers of the search space (rows, in ranked order) x epochs, the share of a layer's channels
    that is selected, in percent. ``title``, ``online``: the two phases' headings.
    """
    import seaborn as sns
    from matplotlib.patches import FancyBboxPatch

    _need(ranked, ["layer", "lara", "inside"], "the ranking")
    if drawn.empty:
        raise InputError("no selection was given: there is nothing to draw")
    own, other = STRATEGIES["LaRa MeDyate"][0], "#c8c8c8"
    with style():
        figure, (top, middle, bottom) = _figure(10.6, 3, height_ratios=(2.6, 1.9, 0.9 + 0.23 * len(drawn)))
        places = np.arange(1, len(ranked) + 1)
        top.bar(places, ranked.lara, color=[own if inside else other for inside in ranked.inside], width=0.85)
        top.set_yscale("log")
        top.set_xlabel("layers, ranked")
        top.set_ylabel("LaRa (paper eq. 9)")
        top.set_title(title)
        cut = int(ranked.inside.sum())
        top.axvline(cut + 0.5, color="black", linewidth=1, linestyle=":")
        top.annotate(f"K = {cut}", (cut + 0.5, top.get_ylim()[1]), (4, -14), textcoords="offset points")
        _despine([top])

        middle.set_axis_off()
        middle.set(xlim=(0, 100), ylim=(0, 100))
        boxes = (
            (0, "epoch 1:\nall channels\nalike"),
            (26, "train what\nwas drawn,\nno more"),
            (52, "keep its\ngradient\nnorms"),
            (78, "draw anew,\nlarge norms\nmore often"),
        )
        for x, text in boxes:
            box = FancyBboxPatch(
                (x + 1, 42), 20, 46, boxstyle="round,pad=0.8", facecolor="#f3f3f3", edgecolor="#606060"
            )
            middle.add_patch(box)
            middle.text(x + 11, 65, text, ha="center", va="center", fontsize=9.5)
        arrow = {"arrowstyle": "-|>", "color": "#606060", "linewidth": 1.4}
        for x, _ in boxes[:-1]:
            middle.annotate("", (x + 26.5, 65), (x + 22.2, 65), arrowprops=arrow)
        middle.annotate("", (37, 39), (89, 39), arrowprops=arrow | {"connectionstyle": "bar,fraction=-0.09"})
        middle.text(
            50, 6, "every epoch; in epoch 2, what was never seen gets the largest norm", ha="center", fontsize=9
        )
        middle.set_title(online)

        sns.heatmap(
            drawn,
            ax=bottom,
            cmap="viridis",
            vmin=0,
            linewidths=0.5,
            yticklabels=True,
            cbar_kws={"label": "channels of the layer that were drawn (%)", "location": "bottom", "aspect": 40},
        )
        bottom.set(xlabel="epoch", ylabel="")
        bottom.tick_params(axis="y", labelsize=9, rotation=0)
        bottom.tick_params(axis="x", rotation=0)
    return figure


def unexplored(
    alphas: Sequence[float], epochs: int, marks: Mapping[int, float], observed: pd.DataFrame | None = None
) -> Figure:
    """The unexplored fraction u_e = (1 - alpha)^e over epochs (Fig. 2).

    ``marks``: epoch -> explored fraction, marked on the curve of alpha = 0.2. ``observed``:
    ``series``, ``epoch``, ``unexplored_percent`` of real runs, drawn solid.
    """
    e = np.arange(epochs + 1)
    palette = ordered_colours([str(alpha) for alpha in alphas])
    with style():
        figure, (ax,) = _figure(4.6)
        for alpha in alphas:
            colour = palette[str(alpha)][0]
            ax.plot(
                e, 100 * (1 - alpha) ** e, color=colour, linestyle="--", linewidth=1.8, label=rf"$\alpha$ = {alpha:g}"
            )
        for epoch, share in marks.items():
            if epoch <= epochs:
                height = 100 * 0.8**epoch
                ax.plot(epoch, height, "o", color="black", markersize=5, zorder=5)
                ax.annotate(
                    f"{share:.0%}\nepoch {epoch}",
                    (epoch, height),
                    (5, 8),
                    textcoords="offset points",
                    fontsize=9,
                    linespacing=0.95,
                    arrowprops={"arrowstyle": "-", "linewidth": 0.7},
                )
        if observed is not None:
            _need(observed, ["series", "epoch", "unexplored_percent"], "the observed exploration")
            _lines(ax, observed, "epoch", "unexplored_percent", colours(list(dict.fromkeys(observed.series))), False)
        ax.set_xlabel("epoch")
        ax.set_ylabel("unexplored search space (%)")
        ax.set_ylim(0, 100)
        _epoch_ticks(ax)
        _despine([ax])
        _legend_below(figure, ax, 3 if observed is None else 2)
    return figure


def correlation(matrix: pd.DataFrame, title: str, low: float = 0.95, control: pd.Series | None = None) -> Figure:
    """A matrix of rank correlations (Fig. 3), numbers in the cells where they fit.

    ``low`` is where the colours begin, so that high correlations differ in more than a shade; lower ones have the first
    colour. ``control``: beside the matrix, the correlation of each row with an order that saw no gradient.
    """
    import seaborn as sns

    if matrix.empty:
        raise InputError("the correlation matrix is empty: there is nothing to draw")
    n = len(matrix)
    size = 6 if n > 12 else 7 if n > 9 else 10
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, min(6.4, 2.4 + 0.4 * n)), layout="constrained")
        if control is None:
            ax, beside = figure.subplots(1, 1), None
        else:
            ax, beside = figure.subplots(1, 2, width_ratios=(n, 2.2))
        sns.heatmap(
            matrix,
            ax=ax,
            vmin=low,
            vmax=1,
            cmap="viridis",
            annot=matrix.map(lambda rho: f"{rho:.3f}".removeprefix("0") if rho < 0.9995 else "1") if n > 9 else True,
            fmt="" if n > 9 else ".2f",
            annot_kws={"size": size},
            linewidths=0.5,
            cbar=False,
            xticklabels=True,
            yticklabels=True,
        )
        ax.set(xlabel="", ylabel="")
        ax.tick_params(axis="y", rotation=0, labelsize=9 if n > 9 else 11)
        turned = max(map(len, map(str, matrix))) > 3
        ax.tick_params(axis="x", rotation=60 if turned else 0, labelsize=9 if n > 9 else 11)
        for label in ax.get_xticklabels():
            label.set_ha("right" if turned else "center")
        ax.set_title(title)
        if beside is not None:
            sns.heatmap(
                control.reindex(matrix.index).to_frame(),
                ax=beside,
                vmin=0,
                vmax=3,  # light greys, on which the numbers stay black
                cmap="Greys",
                annot=True,
                fmt=".2f",
                annot_kws={"size": size + 1},
                linewidths=0.5,
                cbar=False,
                yticklabels=False,
                xticklabels=False,
            )
            beside.set(xlabel="with\n1 / memory\nalone", ylabel="")
        figure.colorbar(
            ax.collections[0],
            ax=[ax] if beside is None else [ax, beside],
            location="bottom",
            aspect=40,
            label=f"Spearman's ρ, colours from {low:g}",
        )
    return figure


def stability(table: pd.DataFrame, title: str) -> Figure:
    """The tests between consecutive epochs (Fig. 4) above the rank stability that they do not show.

    ``table``: ``series``, ``epoch``, ``p_paired``, ``p_unpaired``, ``rho``, ``overlap``.
    """
    _need(table, ["series", "epoch", "p_paired", "p_unpaired", "rho", "overlap"], "the stability table")
    palette = colours(list(dict.fromkeys(table.series)))
    floor = 1e-12  # smaller values of p are drawn here: they all say the same
    with style():
        figure, (top, middle, bottom) = _figure(8.2, 3, sharex=True, height_ratios=(1.2, 1, 1))
        for name, (colour, marker) in palette.items():
            series = table[table.series == name]
            line = {"color": colour, "marker": marker, "markersize": 5, "linewidth": 1.6}
            top.plot(series.epoch, series.p_paired.clip(lower=floor), label=name, **line)
            unpaired = line | {"markerfacecolor": "white", "linestyle": ":"}
            top.plot(series.epoch, series.p_unpaired.clip(lower=floor), **unpaired)
            middle.plot(series.epoch, series.rho, **line)
            bottom.plot(series.epoch, series.overlap, **line)
        top.axhline(0.05, color="black", linewidth=1, linestyle="--")
        top.annotate(
            "0.05", (1, 0.05), (-2, 3), xycoords=("axes fraction", "data"), textcoords="offset points", ha="right"
        )
        top.set_yscale("log")
        top.set_ylim(floor / 3, 3)
        top.set_title(f"{title}\nt-test of equal means with the epoch before")
        top.set_ylabel("p, paired (solid),\nunpaired (dotted)")
        middle.set_title("the same epochs: do ranks stay?")
        middle.set_ylabel("Spearman's ρ")
        middle.set_ylim(min(0.85, float(table.rho.min()) - 0.01), 1.003)
        bottom.set_ylabel("top tenth kept")
        bottom.set_ylim(min(0.5, float(table.overlap.min()) - 0.05), 1.01)
        bottom.set_xlabel("epoch")
        _epoch_ticks(bottom)
        _despine([top, middle, bottom])
        _legend_below(figure, top, 3)
    return figure


def _epoch_ticks(ax: Axes) -> None:
    from matplotlib.ticker import MaxNLocator

    ax.xaxis.set_major_locator(MaxNLocator(integer=True))


def beams(norms: np.ndarray, title: str, label: str = "norm / largest of the epoch") -> Figure:
    """Each channel's norm over epochs, normalised per epoch (Fig. 5), coloured by its mean rank.

    ``norms``: epochs x channels of one layer.
    """
    import matplotlib as mpl

    norms = np.asarray(norms, dtype=float)
    if norms.ndim != 2 or norms.shape[0] < 2 or norms.shape[1] < 1:
        raise InputError(
            f"channel norms of shape {norms.shape} make no beams; allowed: epochs x channels, 2 epochs or more"
        )
    largest = norms.max(axis=1, keepdims=True)
    scaled = norms / np.where(largest > 0, largest, 1)
    ranks = scaled.mean(axis=0).argsort().argsort() / max(1, scaled.shape[1] - 1)
    cmap = mpl.colormaps["viridis"]
    epochs = np.arange(1, len(norms) + 1)
    with style():
        figure, (ax,) = _figure(4.4)
        for channel in np.argsort(ranks):
            ax.plot(epochs, scaled[:, channel], color=cmap(0.95 * ranks[channel]), linewidth=1.1, alpha=0.85)
        ax.set_title(title)
        ax.set_xlabel("epoch")
        ax.set_ylabel(label)
        ax.set_ylim(0, 1.03)
        _epoch_ticks(ax)
        scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, 100), cmap)
        figure.colorbar(scale, ax=ax, label="mean rank of the channel (percentile)")
        _despine([ax])
    return figure


def p_matrix(p: pd.DataFrame, title: str) -> Figure:
    """One-sided p-values, row better than column (Figs. 8 and 10); rows and columns in one order."""
    if p.empty or p.isna().all(axis=None):
        raise InputError("the matrix of p-values is empty: there is nothing to draw")
    text = p.map(
        lambda value: ""
        if value != value
        else "<.001"
        if value < 0.0005
        else ">.999"
        if value > 0.9995
        else f"{value:.3f}".lstrip("0")
    )
    with style():
        figure, (ax,) = _figure(1.9 + 0.5 * len(p))
        # as seaborn's heatmap, without the seconds that its import takes
        values = np.ma.masked_invalid(p.to_numpy(float))
        mesh = ax.pcolormesh(values, vmin=0, vmax=1, cmap="RdBu_r", edgecolor="white", linewidth=0.8)
        for (row, column), value in np.ndenumerate(values):
            if value is not np.ma.masked:
                colour = ".15" if 0.2 < value < 0.8 else "w"
                ax.text(column + 0.5, row + 0.5, text.iat[row, column], ha="center", va="center", color=colour, size=9)
        ax.set(xlim=(0, p.shape[1]), ylim=(p.shape[0], 0))
        ax.set_xticks(np.arange(p.shape[1]) + 0.5, p.columns)
        ax.set_yticks(np.arange(p.shape[0]) + 0.5, p.index)
        ax.grid(False)
        ax.spines[:].set_visible(False)
        figure.colorbar(mesh, ax=ax, label="p, row > column").outline.set_visible(False)
        ax.set(xlabel="", ylabel="")
        ax.set_title(title)
        ax.tick_params(axis="x", rotation=40)
        ax.tick_params(axis="y", rotation=0)
        for label in ax.get_xticklabels():
            label.set_ha("right")
        ax.set_facecolor("#f4f4f4")
    return figure


def over_epochs(table: pd.DataFrame, values: Mapping[str, str], title: str) -> Figure:
    """Values over epochs in small multiples, one a strategy (Fig. 9): all on one scale, so that shapes can be compared.

    ``table``: ``series``, ``epoch`` and the columns ``values``, one row a seed and epoch; ``values`` maps columns to
    names.
    """
    _need(table, ["series", "epoch", *values], "the table over epochs")
    names = [name for name in STRATEGIES if name in set(table.series)]
    names += [name for name in dict.fromkeys(table.series) if name not in names]
    rows = -(-len(names) // 2)
    palette = dict(zip(values, zip(OTHERS, MARKERS)))
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, 1.3 + 1.35 * rows), layout="constrained")
        axes = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
        for ax, name in zip(axes.flat, names):
            seeds = table[table.series == name].groupby("epoch")
            for value, (colour, marker) in palette.items():
                drawn = seeds[value].agg(["mean", "min", "max"])
                ax.plot(drawn.index, drawn["mean"], color=colour, marker=marker, markersize=4, label=values[value])
                ax.fill_between(drawn.index, drawn["min"], drawn["max"], color=colour, alpha=0.18, linewidth=0)
            ax.set_title(name, fontsize=11)
            _epoch_ticks(ax)
        for ax in axes.flat[len(names) :]:
            ax.set_axis_off()
        for ax in axes[-1]:
            ax.set_xlabel("epoch")
        figure.supylabel("%")
        figure.suptitle(title, x=0.02, ha="left", fontsize=12)
        _despine(list(axes.flat))
        _legend_below(figure, axes[0, 0], 3)
    return figure


def beside_paper(ours: pd.DataFrame | None, paper: pd.DataFrame, values: Mapping[str, str], title: str) -> Figure:
    """Ours (filled) and the paper's (hollow) mean of each strategy, a panel a value (Fig. 9).

    Both tables: strategies as index, the columns ``values``, which maps them to labels. None draws the paper alone.
    """
    if paper.empty:
        raise InputError("the paper's means are empty: there is nothing to draw")
    names = [name for name in STRATEGIES if name in paper.index]
    with style():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(WIDTH, 1.7 + 0.3 * len(names)), layout="constrained")
        axes = figure.subplots(1, len(values), sharey=True, squeeze=False)[0]
        for ax, (value, label) in zip(axes, values.items()):
            for row, name in enumerate(names):
                colour, marker = STRATEGIES[name]
                theirs = float(paper.loc[name, value])
                look = {"markersize": 8, "markeredgecolor": colour, "markeredgewidth": 1.6, "linestyle": ""}
                if ours is not None and name in ours.index:
                    mean = float(ours.loc[name, value])
                    ax.plot([theirs, mean], [row, row], color=colour, linewidth=1.2)
                    ax.plot(mean, row, marker, markerfacecolor=colour, **look)
                ax.plot(theirs, row, marker, markerfacecolor="white", **look)
            ax.set_xlabel(label)
            ax.margins(x=0.15)
        axes[0].set_yticks(range(len(names)), names)
        axes[0].invert_yaxis()
        figure.suptitle(
            title + ("\nfilled: ours; hollow: the paper" if ours is not None else ""), x=0.02, ha="left", fontsize=12
        )
        _despine(list(axes))
    return figure


def bars(table: pd.DataFrame, label: str, title: str, start: float = 0) -> Figure:
    """Horizontal bars, a group a strategy: ``series`` (strategy), ``source``, ``value``.

    Sources that start with "paper" are hollow. ``start`` is where the axis begins; other than 0 it
    makes dots of the bars, whose lengths would mislead.
    """
    _need(table, ["series", "source", "value"], "the table of bars")
    names = list(dict.fromkeys(table.series))
    sources = list(dict.fromkeys(table.source))
    palette = colours(names)
    height = 0.8 / len(sources)
    with style():
        figure, (ax,) = _figure(1.4 + 0.5 * len(names))
        for row, name in enumerate(names):
            for index, source in enumerate(sources):
                own = table[(table.series == name) & (table.source == source)]
                if own.empty:
                    continue
                y = row + (index - (len(sources) - 1) / 2) * height
                hollow = source.startswith("paper")
                mean = float(own.value.mean())
                colour, marker = palette[name]
                face = "white" if hollow else colour
                if start:
                    ax.plot(
                        mean, y, marker, markersize=8, markerfacecolor=face, markeredgecolor=colour, markeredgewidth=1.6
                    )
                else:
                    ax.barh(y, mean, height * 0.9, facecolor=face, edgecolor=colour, linewidth=1.2)
                ax.annotate(f"{mean:,.2f}", (mean, y), (8, 0), textcoords="offset points", va="center", fontsize=10)
        ax.set_yticks(range(len(names)), names)
        ax.invert_yaxis()
        ax.set_xlabel(label)
        ax.set_title(title)
        ax.set_xlim(start, start + 1.3 * (table.value.max() - start))
        ax.grid(axis="y", visible=False)
        _despine([ax])
    return figure


def stacked(table: pd.DataFrame, label: str, title: str, line: str) -> Figure:
    """Horizontal bars of parts: ``series`` (a bar), ``part``, ``value``; ``line`` names the line at 1, if any."""
    _need(table, ["series", "part", "value"], "the table of parts")
    names, parts = list(dict.fromkeys(table.series)), list(dict.fromkeys(table.part))
    palette = colours(parts)
    values = table.pivot_table(index="series", columns="part", values="value", aggfunc="sum").fillna(0.0)
    with style():
        figure, (ax,) = _figure(2.0 + 0.36 * len(names))
        left = np.zeros(len(names))
        for part in parts:
            widths = values.loc[names, part].to_numpy()
            if widths.any():
                ax.barh(names, widths, 0.7, left=left, color=palette[part][0], label=part)
            left = left + widths
        for row, total in enumerate(left):
            ax.annotate(f"{total:,.2f}", (total, row), (6, 0), textcoords="offset points", va="center", fontsize=10)
        if line:
            ax.axvline(1, color="black", linestyle="--", linewidth=1.2, label=line)
        ax.invert_yaxis()
        ax.set_xlabel(label)
        ax.set_title(title)
        ax.set_xlim(0, 1.15 * max(1.0, left.max()))
        ax.grid(axis="y", visible=False)
        _despine([ax])
        _legend_below(figure, ax, 3)
    return figure


def over_step(table: pd.DataFrame, label: str, title: str, limits: Mapping[str, float]) -> Figure:
    """Stacked steps over the moments of one training step: ``moment`` (in order), ``part``, ``value``; ``limits`` are
    horizontal lines by name. The moment of the peak is named."""
    _need(table, ["moment", "part", "value"], "the table of moments")
    moments, parts = list(dict.fromkeys(table.moment)), list(dict.fromkeys(table.part))
    values = table.pivot_table(index="moment", columns="part", values="value", aggfunc="sum", sort=False).fillna(0.0)
    values = values.loc[moments, parts]
    parts = [part for part in parts if values[part].any()]
    palette = colours(parts)
    with style():
        figure, (ax,) = _figure(5.0)
        edges, below = np.arange(len(moments) + 1), np.zeros(len(moments))
        for part in parts:
            above = below + values[part].to_numpy()
            colour = palette[part][0]
            ax.stairs(above, edges, baseline=below, fill=True, color=colour, alpha=0.85, label=part)
            below = above
        peak = int(below.argmax())
        ax.annotate(
            f"{moments[peak]}: {below[peak]:,.0f}", (peak + 0.5, below[peak]), (0, 8), textcoords="offset points",
            ha="left" if peak < len(moments) / 2 else "right", fontsize=10,
        )  # fmt: skip
        for name, limit in limits.items():
            ax.axhline(limit, color="black", linestyle="--", linewidth=1.2)
            ax.annotate(name, (len(moments), limit), (0, 3), textcoords="offset points", ha="right", fontsize=10)
        ax.set_xticks(edges[:-1] + 0.5, moments, rotation=90, fontsize=8)
        ax.set_xlim(0, len(moments))
        ax.set_ylim(0, 1.15 * max(below.max(), *limits.values()) if limits else 1.15 * below.max())
        ax.set_ylabel(label)
        ax.set_title(title)
        ax.grid(axis="x", visible=False)
        _despine([ax])
        _legend_below(figure, ax, 4)
    return figure


def accuracy_over(
    table: pd.DataFrame,
    label: str,
    title: str,
    levels: Mapping[str, float] | None = None,
    ticks: Mapping[float, str] | None = None,
    joined: bool = True,
) -> Figure:
    """Test accuracy over a quantity that is varied: the mean over seeds, and a bar from the lowest to the highest.

    ``table``: ``series``, ``x`` (above 0, drawn on a logarithmic axis) and ``top1_percent``, one row a seed.
    ``levels``: horizontal lines by name, in percent. ``ticks``: the axis's labels; None takes the values of ``x``.
    ``joined``: whether a line joins the means, as those of one quantity; not where ``ticks`` name kinds.
    """
    _need(table, ["series", "x", "top1_percent"], "the table of accuracies")
    palette = colours(list(dict.fromkeys(table.series)) + list(levels or ()))
    with style():
        figure, (ax,) = _figure(4.2)
        for name, rows in table.groupby("series", sort=False):
            colour, marker = palette[name]
            seeds = rows.groupby("x").top1_percent.agg(["mean", "min", "max"])
            error = [seeds["mean"] - seeds["min"], seeds["max"] - seeds["mean"]]
            line = "-" if joined else "none"
            ax.errorbar(
                seeds.index, seeds["mean"], error, color=colour, marker=marker, linestyle=line, capsize=3, label=name
            )
        for name, height in (levels or {}).items():
            ax.axhline(height, color=palette[name][0], linestyle="--", linewidth=1.4, label=name)
        ax.set_xscale("log")
        shown = ticks or {value: f"{value:g}" for value in sorted(set(table.x))}
        ax.set_xticks(list(shown), list(shown.values()))
        ax.set_xticks([], minor=True)
        ax.set_xlabel(label)
        ax.set_ylabel("test top-1 (%)")
        ax.set_title(title)
        _despine([ax])
        _legend_below(figure, ax, 3)
    return figure


def folder() -> Path:
    """Where figures are written: ``MEDYATE_FIGURES``, else ``build/figures`` of the checkout, else ``./figures``."""
    named = os.environ.get("MEDYATE_FIGURES")
    if named:
        return Path(named)
    return paths.CHECKOUT / "build" / "figures" if paths.in_checkout() else Path.cwd() / "figures"


def save(figure: Figure, name: str, data: pd.DataFrame, alt: str, to: Path | None = None) -> dict[str, Path]:
    """Write ``NAME.svg``, ``NAME.pdf`` and ``NAME.csv``; returns the paths by ending.

    ``alt`` describes the figure for those who cannot see it; it goes into the SVG's description. The
    files of equal figures are equal byte for byte. An unwritable folder is an InputError.
    """
    to = folder() if to is None else Path(to)
    if not alt.strip():
        raise InputError(f"figure {name!r} needs an alt text")
    files = {ending: to / f"{name}.{ending}" for ending in ("svg", "pdf", "csv")}
    try:
        to.mkdir(parents=True, exist_ok=True)
        with style():
            figure.savefig(files["svg"], metadata={"Date": None, "Description": alt, "Creator": "medyate"})
            figure.savefig(files["pdf"], metadata={"CreationDate": None, "Subject": alt, "Creator": "medyate"})
        data.to_csv(files["csv"], index=False, lineterminator="\n")
    except OSError as error:
        raise InputError(
            f"cannot write figure {name!r} to {str(to)!r}: {error.strerror}; set MEDYATE_FIGURES"
        ) from error
    return files
