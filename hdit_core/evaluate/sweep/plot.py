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
    by_guidance = len({trial.point.guidance for trial in trials}) > 1
    series = list(dict.fromkeys(_series(trial.point) for trial in trials))  # the same look in every panel

    def draw(figure: "Figure") -> None:
        for axes, n in zip(np.ravel(figure.subplots(1, len(sizes), squeeze=False)), sizes, strict=True):
            panel = [trial for trial in trials if trial.n == n]
            if by_guidance:
                _over_guidance(axes, panel, series)
            else:
                _side_by_side(axes, panel, series)
            _circle(axes, [trial for trial in panel if trial.point == winner], series, by_guidance)
            axes.set_title(f"{n:,} images", fontsize=9)
            finish(axes, "guidance" if by_guidance else "", metric if n == sizes[0] else "")
        if by_guidance and len(series) > 1:
            handles, labels = figure.axes[0].get_legend_handles_labels()
            shown = min(MOST_IN_LEGEND, len(labels))
            figure.legend(handles[:shown], labels[:shown], loc="outside lower center", ncols=2, frameon=False)

    return render(draw, plot_format, max(WIDTH_INCHES, PANEL_WIDTH_INCHES * len(sizes)), PANEL_HEIGHT_INCHES)


def _over_guidance(axes: "Axes", trials: Sequence[Trial], series: Sequence[str]) -> None:
    """Plot the distance over guidance, with a line for each combination of the other settings."""
    for name, style in zip(series, cycle(STYLES), strict=False):
        line = sorted((trial for trial in trials if _series(trial.point) == name), key=_guidance)
        axes.errorbar(
            [_guidance(trial) for trial in line],
            [trial.value for trial in line],
            _margins(line),
            label=name,
            **LOOK | style,
        )


def _side_by_side(axes: "Axes", trials: Sequence[Trial], series: Sequence[str]) -> None:
    """Plot candidates that differ only in their weights or interval."""
    positions = [series.index(_series(trial.point)) for trial in trials]
    look = LOOK | STYLES[0] | {"linestyle": ""}
    axes.errorbar(positions, [trial.value for trial in trials], _margins(trials), **look)
    axes.set_xlim(-0.5, len(series) - 0.5)
    axes.set_xticks(range(len(series)), series, rotation=20, ha="right")


def _circle(axes: "Axes", trials: Sequence[Trial], series: Sequence[str], by_guidance: bool) -> None:
    for trial in trials:
        position = _guidance(trial) if by_guidance else series.index(_series(trial.point))
        axes.plot(position, trial.value, "o", markersize=11, mfc="none", mec="#1a1a1a", mew=1)


def _guidance(trial: Trial) -> float:
    return trial.point.guidance or 0.0


def _margins(trials: Sequence[Trial]) -> list[float]:
    return [trial.margin if trial.standard_error is not None else 0.0 for trial in trials]


def _series(point: Point) -> str:
    """Return the settings of a candidate other than its guidance."""
    interval = f", {point.interval[0]:g} < σ ≤ {point.interval[1]:g}" if point.interval else ""
    return f"weights {point.weights}{interval}"
