"""Plots the scaling curves on log-log axes, with markers and dashes that differ as well as colors."""

from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

from hdit_core.figures import STYLES, PlotFormat, finish, render
from hdit_core.flops.scaling import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def scaling_plot(curves: Sequence[Curve], plot_format: PlotFormat) -> bytes:
    """Return a log-log plot of GMACs over pixels as image bytes; the legend has each curve's name and exponents.

    Args:
        curves: each with at least two sizes of different area.
        plot_format: "png" or "svg".
    """

    def draw(figure: "Figure") -> None:
        axes = figure.add_subplot()
        for curve, style in zip(curves, cycle(STYLES), strict=False):
            _draw(axes, curve, style)
        _label_axes(axes, curves)

    return render(draw, plot_format)


def _draw(axes: "Axes", curve: Curve, style: dict[str, Any]) -> None:
    points = sorted(zip(curve.pixels, curve.macs, strict=True))
    axes.loglog(
        [pixels for pixels, _ in points],
        [macs / 1e9 for _, macs in points],
        linewidth=1.4,
        markersize=4.5,
        label=_label(curve),
        **style,
    )


def _label(curve: Curve) -> str:
    overall = f"{curve.name}: $n^{{{curve.exponent:.2f}}}$"
    return overall if len(curve.pixels) == 2 else f"{overall}, at the end $n^{{{curve.final_exponent:.2f}}}$"


def _label_axes(axes: "Axes", curves: Sequence[Curve]) -> None:
    sizes = sorted({size for curve in curves for size in curve.image_sizes}, key=lambda size: size[0] * size[1])
    axes.set_xticks([height * width for height, width in sizes], [f"{height}×{width}" for height, width in sizes])
    axes.minorticks_off()
    finish(axes, "image of $n$ = height × width pixels", "GMAC, one forward pass on one image")
    axes.legend(frameon=False, handlelength=3)
