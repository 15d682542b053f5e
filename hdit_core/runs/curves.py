"""The curves of runs: losses and scores over images, as numbers side by side and as a figure."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hdit_core.checkpoint.log import read_log, read_scores
from hdit_core.figures import DOTS_PER_INCH, HEIGHT_INCHES, SETTINGS, STYLES, WIDTH_INCHES
from hdit_core.runs.summary import PLACES

if TYPE_CHECKING:
    from matplotlib.axes import Axes


ROWS = 12
WIDE = 5.0  # ratio of the largest to the smallest value from which on the axis is logarithmic
MARKED = 30  # points up to which each gets its marker


@dataclass(frozen=True)
class Curve:
    """One number of one run, at each of several numbers of images."""

    run: str
    name: str
    num_images: tuple[int, ...]
    values: tuple[float, ...]

    def at(self, num_images: int) -> float | None:
        """Return the value there, on the line between its neighbours; None outside of the curve."""
        if not self.num_images or not self.num_images[0] <= num_images <= self.num_images[-1]:
            return None
        return float(np.interp(num_images, self.num_images, self.values))


def loss_curve(run: Path) -> Curve:
    """Return the losses of a run's log."""
    return _curve(run, "loss", read_log(run))


def score_curves(run: Path) -> list[Curve]:
    """Return a curve of each score that the run was given."""
    lines = read_scores(run)
    names = dict.fromkeys(key for line in lines for key, value in line.items() if _is_number(value))
    return [_curve(run, name, lines) for name in names if name not in PLACES]


def _curve(run: Path, name: str, lines: Sequence[dict[str, Any]]) -> Curve:
    points = {line["num_images"]: line[name] for line in lines if _is_number(line.get(name))}
    return Curve(str(run), name, tuple(sorted(points)), tuple(float(points[key]) for key in sorted(points)))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def side_by_side(curves: Sequence[Curve]) -> list[dict[str, Any]]:
    """Return at most twelve rows: a number of images, evenly spread over all curves, and each curve's value there."""
    ends = [end for curve in curves for end in (curve.num_images[:1] + curve.num_images[-1:])]
    if not ends:
        return []
    places = dict.fromkeys(np.linspace(min(ends), max(ends), ROWS).round().astype(int).tolist())
    return [{"num_images": place} | {curve.run: curve.at(place) for curve in curves} for place in places]


def curves_plot(losses: Sequence[Curve], scores: Sequence[Curve] = ()) -> bytes:
    """Draw losses over images, and scores under them where there are some, as a PNG."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    drawn = [list(group) for group in (losses, scores) if any(curve.num_images for curve in group)]
    with rc_context(SETTINGS):
        height = HEIGHT_INCHES * max(1, len(drawn))
        figure = Figure(figsize=(WIDTH_INCHES, height), layout="constrained")
        for place, group in enumerate(drawn, 1):
            axes = figure.add_subplot(len(drawn), 1, place)
            several = len({curve.run for curve in group}) > 1
            for curve, style in zip(group, cycle(STYLES), strict=False):
                _draw(axes, curve, style, several)
            _frame(axes, group)
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=DOTS_PER_INCH)
    return content.getvalue()


def _draw(axes: "Axes", curve: Curve, style: dict[str, Any], several: bool) -> None:
    marker = style["marker"] if len(curve.num_images) <= MARKED else ""
    label = f"{Path(curve.run).name}: {curve.name}" if several else curve.name
    axes.plot(curve.num_images, curve.values, label=label, linewidth=1.4, markersize=4.5, **style | {"marker": marker})


def _frame(axes: "Axes", group: Sequence[Curve]) -> None:
    values = [value for curve in group for value in curve.values]
    if min(values) > 0 and max(values) > WIDE * min(values):
        axes.set_yscale("log")
    axes.set_xlabel("images")
    axes.set_ylabel(" / ".join(dict.fromkeys(curve.name for curve in group)))
    axes.grid(linewidth=0.4, alpha=0.5, which="both")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, handlelength=3)
