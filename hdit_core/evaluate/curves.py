"""Curves of a score: its extrapolation to infinitely many images, and a distance over what a sweep has tried."""

import io
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hdit_core.evaluate.interval import NORMAL_QUANTILE, Spread
from hdit_core.evaluate.sweepgrid import Point
from hdit_core.evaluate.sweepjournal import Trial
from hdit_core.flops.plot import DOTS_PER_INCH, SETTINGS, STYLES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PlotFormat = Literal["png", "svg"]

HEIGHT_INCHES = 3.2
MOST_IN_LEGEND = 8
LOOK: dict[str, Any] = {"linewidth": 1.3, "markersize": 4, "elinewidth": 0.7, "capsize": 2}


def extrapolation_svg(spread: Spread, metric: str) -> str:
    """Return the line through the distances of parts of a set, over one through their size, as SVG.

    Args:
        spread: with its points.
        metric: what the distance is called.
    """
    inverse = np.array([1 / n for n, _ in spread.points])
    values = np.array([value for _, value in spread.points])

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        slope = float(np.polyfit(inverse, values, 1)[0])
        infinity = spread.infinity or 0.0
        ends = np.array([0.0, inverse.max() * 1.05])
        axes.plot(ends, infinity + slope * ends, linewidth=1.2, color=STYLES[0]["color"])
        axes.plot(inverse, values, "o", markersize=3.5, color=STYLES[0]["color"], alpha=0.7)
        axes.plot(0, infinity, "*", markersize=10, color=STYLES[1]["color"], clip_on=False, zorder=3)
        axes.annotate(f"{infinity:.4g}", (0, infinity), (9, 5), textcoords="offset points")
        sizes = sorted({max(n for n, _ in spread.points), min(n for n, _ in spread.points)})
        axes.set_xticks([0, *(1 / n for n in sizes)], ["infinitely many", *(f"{n:,}" for n in sizes)])
        axes.set_xlim(left=0)
        axes.set_xlabel("images (distance over one through their number)")
        _finish(axes, metric)

    return _drawn(draw, "svg", 5.5).decode()


def sweep_plot(trials: Sequence[Trial], metric: str, plot_format: PlotFormat, winner: Point | None = None) -> bytes:
    """Return the distances that a sweep has found, a panel for each number of images, with 95 % intervals.

    Distances at different numbers of images have different biases and are not comparable, so that each panel has an
    axis of its own.

    Args:
        trials: of all rounds.
        metric: what the distance is called.
        plot_format: of the bytes.
        winner: the point that is marked.
    """
    sizes = sorted({trial.n for trial in trials})
    by_guidance = len({trial.point.guidance for trial in trials}) > 1
    series = list(dict.fromkeys(_series(trial.point) for trial in trials))  # the same look in every panel

    def draw(figure: "Figure") -> None:
        for axes, n in zip(np.ravel(figure.subplots(1, len(sizes), squeeze=False)), sizes, strict=True):
            here = [trial for trial in trials if trial.n == n]
            if by_guidance:
                _over_guidance(axes, here, series)
            else:
                _side_by_side(axes, here, series)
            _circle(axes, [trial for trial in here if trial.point == winner], series, by_guidance)
            axes.set_title(f"{n:,} images", fontsize=9)
            _finish(axes, metric if n == sizes[0] else "")
        if by_guidance and len(series) > 1:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            shown = min(MOST_IN_LEGEND, len(labels))
            figure.legend(handles[:shown], labels[:shown], loc="outside lower center", ncols=2, frameon=False)

    return _drawn(draw, plot_format, max(5.5, 2.9 * len(sizes)))


def _over_guidance(axes: "Axes", trials: Sequence[Trial], series: Sequence[str]) -> None:
    """Draw a line for each of what else the points differ in."""
    for name, style in zip(series, cycle(STYLES), strict=False):
        line = sorted((trial for trial in trials if _series(trial.point) == name), key=_guidance)
        axes.errorbar(
            [_guidance(trial) for trial in line],
            [trial.value for trial in line],
            _margins(line),
            label=name,
            **LOOK | style,
        )
    axes.set_xlabel("guidance")


def _side_by_side(axes: "Axes", trials: Sequence[Trial], series: Sequence[str]) -> None:
    """Draw points that differ in something that is no number."""
    places = [series.index(_series(trial.point)) for trial in trials]
    look = LOOK | STYLES[0] | {"linestyle": ""}
    axes.errorbar(places, [trial.value for trial in trials], _margins(trials), **look)
    axes.set_xlim(-0.5, len(series) - 0.5)
    axes.set_xticks(range(len(series)), series, rotation=20, ha="right")


def _circle(axes: "Axes", trials: Sequence[Trial], series: Sequence[str], by_guidance: bool) -> None:
    for trial in trials:
        place = _guidance(trial) if by_guidance else series.index(_series(trial.point))
        axes.plot(place, trial.value, "o", markersize=11, mfc="none", mec="#1a1a1a", mew=1)


def _guidance(trial: Trial) -> float:
    return trial.point.guidance or 0.0


def _margins(trials: Sequence[Trial]) -> list[float]:
    return [NORMAL_QUANTILE * (trial.standard_error or 0.0) for trial in trials]


def _series(point: Point) -> str:
    """Return what a point is besides its guidance."""
    interval = f", {point.interval[0]:g} < σ ≤ {point.interval[1]:g}" if point.interval else ""
    return f"weights {point.weights}{interval}"


def _finish(axes: "Axes", metric: str) -> None:
    axes.set_ylabel(metric)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _drawn(draw: Any, plot_format: PlotFormat, width_inches: float) -> bytes:
    """Return what a function draws into a figure; an SVG as it stands inside a page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(width_inches, HEIGHT_INCHES), layout="constrained")
        draw(figure)
        content = io.BytesIO()
        no_date = {"Date": None} if plot_format == "svg" else None
        figure.savefig(content, format=plot_format, dpi=DOTS_PER_INCH, metadata=no_date)
    found = content.getvalue()
    return found if plot_format == "png" else found[found.index(b"<svg") :]
