"""A study's charts, drawn by matplotlib from their data: as PNG files, and as SVG that takes the page's text colour."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.patches import Rectangle
from matplotlib.ticker import LogLocator, NullFormatter

from esd_core import digest
from esd_core.studies.figures import Figure, Unit
from esd_core.studies.study import Bars, Chart, Curve, HeatMap, Lines

INK = "#1c2026"
COLOURS = ("#a4abb3", "#c2410c", "#2f6fb7", "#8a63b8", "#2c8a57", "#c99a1d", "#5b6770", "#d0709b", "#3aa3b5", "#7c5c3a")
CELLS = mpl.colors.LinearSegmentedColormap.from_list("seen", ("#fbf3ec", "#8fb4dc", "#1d4f8c"))
BAR_SPACE = 0.8  # of the distance between two labels
STYLE = {
    "font.family": "sans-serif",
    "font.size": 10,
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "study",
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@contextmanager
def _styled(**own: object) -> Iterator[None]:
    """Letters that the font lacks are boxes in a PNG; in the page the reader's own fonts have them."""
    with mpl.rc_context(STYLE | own), warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        yield


def draw(chart: Chart | Lines) -> Drawing:
    with _styled():
        match chart:
            case Bars():
                return _bars(chart)
            case HeatMap():
                return _heat_map(chart)
            case Curve():
                return _curve(chart)
            case Lines():
                return _lines(chart)


def write_png(path: Path, chart: Chart | Lines) -> None:
    """The chart on white paper, whole or not at all."""
    with _styled(), digest.whole_file(path) as partial:
        draw(chart).savefig(partial, format="png", dpi=140, facecolor="white", bbox_inches="tight")


def svg(chart: Chart | Lines) -> str:
    """An <svg> element without background, to stand inside a page; ids are the chart's own."""
    buffer = StringIO()
    with _styled(**{"svg.hashsalt": chart.name}):
        draw(chart).savefig(buffer, format="svg", transparent=True, bbox_inches="tight", metadata={"Date": None})
    text = buffer.getvalue()
    element = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)


def _errors(figures: Sequence[Figure], scale: float = 1.0) -> np.ndarray:
    """(2, N): how far the intervals reach below and above; 0 where there is none."""
    below = [f.value - f.lower if f.lower is not None else 0.0 for f in figures]
    above = [f.upper - f.value if f.upper is not None else 0.0 for f in figures]
    return np.clip(scale * np.array([below, above]), 0, None)


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_axisbelow(True)


def _bars(chart: Bars) -> Drawing:
    """Bars lie on their side: labels can be long."""
    groups, each = len(chart.labels), len(chart.series)
    drawing = Drawing(figsize=(7.2, 1.1 + groups * max(0.34, 0.2 * each)), layout="constrained")
    axes = drawing.add_subplot()
    height = BAR_SPACE / each
    for i, series in enumerate(chart.series):
        places = np.arange(groups) - BAR_SPACE / 2 + height * (i + 0.5)
        axes.barh(
            places,
            [100 * figure.value for figure in series.figures],
            height,
            xerr=_errors(series.figures, 100),
            color=COLOURS[(i + (each == 1)) % len(COLOURS)],
            error_kw={"ecolor": INK, "elinewidth": 0.9, "capsize": 0},
            label=series.name,
        )
    axes.set_yticks(range(groups), chart.labels)
    axes.set_ylim(groups - 0.5, -0.5)
    axes.set_xlim(0, 103)
    axes.set_xlabel("% of images")
    axes.set_title(chart.title, loc="left", fontsize=11)
    axes.grid(axis="x", alpha=0.25)
    _plain(axes)
    if each > 1:
        drawing.legend(loc="outside lower left", ncols=min(each, 3), frameon=False, fontsize=9)
    return drawing


def _heat_map(chart: HeatMap) -> Drawing:
    values = np.array([[figure.value for figure in row] for row in chart.figures])
    rows, columns = values.shape
    shares = chart.figures[0][0].unit is Unit.SHARE
    drawing = Drawing(figsize=(2.2 + 0.72 * columns, 1.3 + 0.42 * rows), layout="constrained")
    axes = drawing.add_subplot()
    axes.pcolormesh(values, cmap=CELLS, vmin=0, vmax=1, edgecolors="white", linewidth=1.5)
    for (row, column), value in np.ndenumerate(values):
        colour = "#ffffff" if value > 0.6 else "#14171a"
        text = f"{100 * value:.0f}" if shares else f"{value:.2f}"
        axes.text(column + 0.5, row + 0.5, text, ha="center", va="center", color=colour, fontsize=9.5)
    for row, column in chart.outlined:
        axes.add_patch(Rectangle((column, row), 1, 1, fill=False, edgecolor=COLOURS[1], linewidth=2.2))
    axes.set_xticks(np.arange(columns) + 0.5, chart.columns, rotation=30 if columns > 4 else 0, ha="left")
    axes.set_yticks(np.arange(rows) + 0.5, chart.rows)
    axes.xaxis.tick_top()
    axes.invert_yaxis()
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(_with_unit(chart.title, chart.figures[0][0]), loc="left", fontsize=11)
    return drawing


def _curve(chart: Curve) -> Drawing:
    drawing = Drawing(figsize=(6.2, 4.2), layout="constrained")
    axes = drawing.add_subplot()
    x, y = ([getattr(point, of) for point in chart.points] for of in ("x", "y"))
    axes.errorbar(
        [100 * figure.value for figure in x],
        [100 * figure.value for figure in y],
        xerr=_errors(x, 100),
        yerr=_errors(y, 100),
        color=COLOURS[2],
        ecolor=COLOURS[0],
        elinewidth=1,
        marker="o",
    )
    places: dict[tuple[float, float], list[str]] = {}
    for point in chart.points:
        places.setdefault((100 * point.x.value, 100 * point.y.value), []).append(point.label)
    for place, labels in places.items():
        axes.annotate(", ".join(labels), place, xytext=(7, -13), textcoords="offset points")
    axes.set_xlabel(_with_unit(chart.x_axis, x[0]))
    axes.set_ylabel(_with_unit(chart.y_axis, y[0]))
    axes.set_title(chart.title, loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    _plain(axes)
    return drawing


def _lines(chart: Lines) -> Drawing:
    drawing = Drawing(figsize=(7.2, 3.0 + 0.12 * len(chart.lines)), layout="constrained")
    axes = drawing.add_subplot()
    for i, line in enumerate(chart.lines):
        axes.plot(line.x, line.y, color=COLOURS[(i + 1) % len(COLOURS)], linewidth=1.4, label=line.name)
    if chart.logarithmic:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel(chart.x_axis)
    axes.set_ylabel(chart.y_axis)
    axes.set_title(chart.title, loc="left", fontsize=11)
    axes.grid(alpha=0.25)
    _plain(axes)
    drawing.legend(loc="outside lower left", ncols=2, frameon=False, fontsize=9)
    return drawing


def _with_unit(words: str, figure: Figure) -> str:
    return f"{words}, %" if figure.unit is Unit.SHARE else words
