"""Curves of one or more runs over images, as a table and as a figure: loss, gradient norm, speed, scores."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hdit_core.checkpoint.log import read_log, read_scores
from hdit_core.figures import HEIGHT_INCHES, STYLES, WIDTH_INCHES, finish, plain, render
from hdit_core.runs.summary import COUNTS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


ROWS = 12
LOGARITHMIC = 5.0  # ratio of the largest to the smallest value above which the axis is logarithmic
MOST_LABELS_INSIDE = 5  # curves of a panel with labels next to it, not inside
MAX_MARKERS = 30  # points of a curve with markers
PANELS = {"loss": "loss", "grad_norm": "gradient norm", "lr": "learning rate", "images_per_s": "images/s"}


@dataclass(frozen=True)
class Curve:
    """One quantity of one run over the number of images."""

    run: str
    name: str
    num_images: tuple[int, ...]
    values: tuple[float, ...]

    def at(self, num_images: int) -> float | None:
        """Return the linearly interpolated value; None outside of the curve."""
        if not self.num_images or not self.num_images[0] <= num_images <= self.num_images[-1]:
            return None
        return float(np.interp(num_images, self.num_images, self.values))


def loss_curve(run: Path) -> Curve:
    """Return the losses of a run's log."""
    return _curve(run, "loss", read_log(run))


def log_curves(run: Path) -> list[list[Curve]]:
    """Return the panels of a run's log: loss, loss by noise level, gradient norm, learning rate and speed."""
    log = read_log(run)
    panels = [[_curve(run, name, log)] for name in PANELS]
    return [panels[0], _loss_by_sigma(run, log), *panels[1:]]


def _loss_by_sigma(run: Path, log: Sequence[dict[str, Any]]) -> list[Curve]:
    """Return a curve for each noise level of the last line."""
    levels = [tuple(row["sigma"]) for row in log[-1].get("loss_by_sigma", ())] if log else []
    rows = [
        {"num_images": line["num_images"]} | {tuple(row["sigma"]): row["loss"] for row in line.get("loss_by_sigma", ())}
        for line in log
        if "num_images" in line
    ]
    return [_curve(run, f"sigma {_rounded(low)}-{_rounded(high)}", rows, key=(low, high)) for low, high in levels]


def _rounded(level: float) -> str:
    """Return a noise level with two digits, without an exponent: 0.0032, 10, 320."""
    return f"{float(f'{level:.2g}'):g}"


def score_curves(run: Path) -> list[Curve]:
    """Return a curve for each metric of a run's scores."""
    lines = read_scores(run)
    names = dict.fromkeys(key for line in lines for key, value in line.items() if _is_number(value))
    return [_curve(run, name, lines) for name in names if name not in COUNTS]


def _curve(run: Path, name: str, lines: Sequence[dict[Any, Any]], key: Any = None) -> Curve:
    key = name if key is None else key
    points = {line["num_images"]: line[key] for line in lines if _is_number(line.get(key))}
    return Curve(str(run), name, tuple(sorted(points)), tuple(float(points[at]) for at in sorted(points)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def side_by_side(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Return at most twelve rows: numbers of images, evenly spaced over all curves, and each curve's value there."""
    ends = [end for curve in curves for end in (curve.num_images[:1] + curve.num_images[-1:])]
    if not ends:
        return []
    counts = dict.fromkeys(np.linspace(min(ends), max(ends), ROWS).round().astype(int).tolist())
    return [{"num_images": count} | {curve.run: curve.at(count) for curve in curves} for count in counts]


def run_plot(runs: Sequence[Path]) -> bytes:
    """Plot the log and the scores of runs over images, as a PNG with one panel per quantity.

    The loss by noise level is only plotted for a single run.
    """
    panels = [[curve for panel in group for curve in panel] for group in zip(*map(log_curves, runs), strict=True)]
    if len(runs) > 1:
        panels[1] = []
    scores = [curve for run in runs for curve in score_curves(run)]
    panels += [[curve for curve in scores if curve.name == name] for name in dict.fromkeys(c.name for c in scores)]
    return curves_plot(panels, " and ".join(run.absolute().name for run in runs))


def curves_plot(panels: Iterable[Sequence[Curve]], title: str = "") -> bytes:
    """Plot panels of curves over images in two columns, as a PNG; panels without points are left out."""
    plotted = [list(panel) for panel in panels if any(curve.num_images for curve in panel)]
    columns = min(2, max(1, len(plotted)))
    rows = max(1, math.ceil(len(plotted) / columns))

    def draw(figure: "Figure") -> None:
        figure.suptitle(plain(title))
        for index, panel in enumerate(plotted, 1):
            axes = figure.add_subplot(rows, columns, index)
            several = len({curve.run for curve in panel}) > 1
            for curve, style in zip(panel, _styles(len(panel)), strict=True):
                _draw(axes, curve, style, several)
            _label_axes(axes, panel)

    return render(draw, "png", WIDTH_INCHES * columns, HEIGHT_INCHES * rows)


def _styles(count: int) -> list[dict[str, Any]]:
    """Return a style for each curve of a panel; of many curves the colors follow their order."""
    if count <= len(STYLES):
        return list(STYLES[:count])
    from matplotlib import colormaps

    colors = colormaps["viridis"](np.linspace(0, 0.9, count))
    return [style | {"color": color} for style, color in zip(cycle(STYLES), colors, strict=False)]


def _draw(axes: "Axes", curve: Curve, style: dict[str, Any], several: bool) -> None:
    marker = style["marker"] if len(curve.num_images) <= MAX_MARKERS else ""
    label = f"{Path(curve.run).name}: {curve.name}" if several else curve.name
    look = style | {"marker": marker, "linewidth": 1.4, "markersize": 4.5}
    axes.plot(curve.num_images, curve.values, label=plain(label), **look)


def _label_axes(axes: "Axes", panel: Sequence[Curve]) -> None:
    values = [value for curve in panel for value in curve.values]
    if min(values) > 0 and max(values) > LOGARITHMIC * min(values):
        axes.set_yscale("log")
    from matplotlib.ticker import EngFormatter

    names = list(dict.fromkeys(curve.name for curve in panel))
    y_label = PANELS.get(names[0], names[0]) if len(names) == 1 else "loss by noise level"
    finish(axes, "images", plain(y_label), minor_grid=True)
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    if len(panel) == 1:
        return  # the axis names the curve
    beside: dict[str, Any] = (
        {"loc": "center left", "bbox_to_anchor": (1, 0.5)} if len(names) > MOST_LABELS_INSIDE else {}
    )
    axes.legend(frameon=False, handlelength=3, **beside)
