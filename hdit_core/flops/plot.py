"""The scaling curves as a figure one would print: log-log, told apart by marker and dashes as well as by colour."""

import io
from collections.abc import Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any, Literal

from hdit_core.figures import DOTS_PER_INCH, HEIGHT_INCHES, SETTINGS, STYLES, WIDTH_INCHES
from hdit_core.flops.scaling import Curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes


PlotFormat = Literal["png", "svg"]


def scaling_plot(curves: Sequence[Curve], plot_format: PlotFormat) -> bytes:
    """Draw GMACs over the number of pixels, both logarithmic, with each curve's name and exponents.

    Args:
        curves: each with at least two sizes of different area.
        plot_format: what kind of file the bytes are.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(WIDTH_INCHES, HEIGHT_INCHES), layout="constrained")
        axes = figure.add_subplot()
        for curve, style in zip(curves, cycle(STYLES), strict=False):
            _draw(axes, curve, style)
        _frame(axes, curves)

        content = io.BytesIO()
        no_date = {"Date": None} if plot_format == "svg" else None
        figure.savefig(content, format=plot_format, dpi=DOTS_PER_INCH, metadata=no_date)
    return content.getvalue()


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


def _frame(axes: "Axes", curves: Sequence[Curve]) -> None:
    sizes = sorted({size for curve in curves for size in curve.image_sizes}, key=lambda size: size[0] * size[1])
    axes.set_xticks([height * width for height, width in sizes], [f"{height}×{width}" for height, width in sizes])
    axes.minorticks_off()
    axes.set_xlabel("image of $n$ = height × width pixels")
    axes.set_ylabel("GMAC, one forward pass on one image")
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, handlelength=3)
