"""New."""

import io
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes


WIDTH_INCHES, HEIGHT_INCHES, DOTS_PER_INCH = 5.5, 3.8, 200
STYLES: tuple[dict[str, Any], ...] = (
    {"color": "#0b3c5d", "marker": "o", "linestyle": "-"},
    {"color": "#c8551b", "marker": "s", "linestyle": "--"},
    {"color": "#3a7d44", "marker": "^", "linestyle": "-."},
    {"color": "#7b4b94", "marker": "D", "linestyle": ":"},
    {"color": "#8a6d1d", "marker": "v", "linestyle": (0, (5, 1, 1, 1))},
    {"color": "#4a4a4a", "marker": "x", "linestyle": (0, (1, 1))},
)
SETTINGS: Any = {"font.size": 9, "axes.linewidth": 0.7, "svg.hashsalt": "hdit"}

PlotFormat = Literal["png", "svg"]

PANEL_HEIGHT_INCHES = 3.2


def _finish(axes: "Axes", metric: str) -> None:
    axes.set_ylabel(metric)
    axes.grid(linewidth=0.4, alpha=0.5)
    axes.spines[["top", "right"]].set_visible(False)


def _drawn(draw: Any, plot_format: PlotFormat, width_inches: float) -> bytes:
    """Return what a function draws into a figure; an SVG as it stands inside a page."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(width_inches, PANEL_HEIGHT_INCHES), layout="constrained")
        draw(figure)
        content = io.BytesIO()
        no_date = {"Date": None} if plot_format == "svg" else None
        figure.savefig(content, format=plot_format, dpi=DOTS_PER_INCH, metadata=no_date)
    found = content.getvalue()
    return found if plot_format == "png" else found[found.index(b"<svg") :]
