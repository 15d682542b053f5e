"""Plots the distances of a sweep."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from hdit_core.evaluate.sweep.journal import Trial
from hdit_core.evaluate.sweep.search_space import Point
from hdit_core.figures import STYLES, WIDTH_INCHES, PlotFormat, finish, render

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_IN_LEGEND = 8
SCALES = ("autoguidance", "guidance")  # the first that varies is the horizontal axis
PANEL_WIDTH_INCHES, PANEL_HEIGHT_INCHES = 2.9, 3.2
LOOK: dict[str, Any] = {"linewidth": 1.3, "markersize": 4, "elinewidth": 0.7, "capsize": 2}


def sweep_plot(trials: Sequence[Trial], metric: str, plot_format: PlotFormat, winner: Point | None = None) -> bytes:
    """Return the distances of a sweep with 95 % intervals, in a panel for each number of images.

    Distances at different numbers of images have different biases and are not comparable, so each panel has its own
    axis.

    Args:
        trials: the trials of all rounds.
        metric: the name of the distance.
        plot_format: the format of the bytes.
        winner: the candidate to circle.
    """
    sizes = sorted({trial.n for trial in trials})
    axis = next((name for name in SCALES if len({getattr(trial.point, name) for trial in trials}) > 1), "")
    series = list(dict.fromkeys(_series(trial.point, axis) for trial in trials))  # the same look in every panel

    def draw(figure: "Figure") -> None:
        for axes, n in zip(np.ravel(figure.subplots(1, len(sizes), squeeze=False)), sizes, strict=True):
            panel = [trial for trial in trials if trial.n == n]
            if axis:
                _over_scale(axes, panel, series, axis)
            else:
                _side_by_side(axes, panel, series)
            _circle(axes, [trial for trial in panel if trial.point == winner], series, axis)
            axes.set_title(f"{n:,} images", fontsize=9)
            finish(axes, axis, metric if n == sizes[0] else "")
        if axis and len(series) > 1:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            shown = min(MOST_IN_LEGEND, len(labels))
            figure.legend(handles[:shown], labels[:shown], loc="outside lower center", ncols=2, frameon=False)

    return render(draw, plot_format, max(WIDTH_INCHES, PANEL_WIDTH_INCHES * len(sizes)), PANEL_HEIGHT_INCHES)


def _over_scale(axes: "Axes", trials: Sequence[Trial], series: Sequence[str], axis: str) -> None:
    """Plot the distance over a guidance scale, with a line for each combination of the other settings."""
    for name, style in zip(series, cycle(STYLES), strict=False):
        of_series = (trial for trial in trials if _series(trial.point, axis) == name)
        line = sorted(of_series, key=lambda trial: _scale(trial, axis))
        axes.errorbar(
            [_scale(trial, axis) for trial in line],
            [trial.value for trial in line],
            _margins(line),
            label=name,
            **LOOK | style,
        )


def _side_by_side(axes: "Axes", trials: Sequence[Trial], series: Sequence[str]) -> None:
    """Plot candidates that differ only in their weights or interval."""
    positions = [series.index(_series(trial.point, "")) for trial in trials]
    look = LOOK | STYLES[0] | {"linestyle": ""}
    axes.errorbar(positions, [trial.value for trial in trials], _margins(trials), **look)
    axes.set_xlim(-0.5, len(series) - 0.5)
    axes.set_xticks(range(len(series)), series, rotation=20, ha="right")


def _circle(axes: "Axes", trials: Sequence[Trial], series: Sequence[str], axis: str) -> None:
    for trial in trials:
        position = _scale(trial, axis) if axis else series.index(_series(trial.point, axis))
        axes.plot(position, trial.value, "o", markersize=11, mfc="none", mec="#1a1a1a", mew=1)


def _scale(trial: Trial, axis: str) -> float:
    return getattr(trial.point, axis) or 0.0


def _margins(trials: Sequence[Trial]) -> list[float]:
    return [trial.margin if trial.standard_error is not None else 0.0 for trial in trials]


def _series(point: Point, axis: str) -> str:
    """Return the settings of a candidate other than the scale on the axis."""
    scale = f", guidance {point.guidance:g}" if axis == "autoguidance" and point.guidance is not None else ""
    interval = f", {point.interval[0]:g} < σ ≤ {point.interval[1]:g}" if point.interval else ""
    return f"weights {point.weights}{scale}{interval}"
