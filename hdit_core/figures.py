"""The common style of matplotlib figures, and rendering to PNG or SVG bytes."""

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def render(
    draw: Callable[["Figure"], None],
    plot_format: PlotFormat,
    width_inches: float = WIDTH_INCHES,
    height_inches: float = HEIGHT_INCHES,
) -> bytes:
    """Return a figure as PNG or SVG bytes, the same bytes each time.

    Args:
        draw: draws into the empty figure.
        plot_format: "png" or "svg".
        width_inches, height_inches: size of the figure.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(SETTINGS):
        figure = Figure(figsize=(width_inches, height_inches), layout="constrained")
        draw(figure)
        content = io.BytesIO()
        no_date = {"Date": None} if plot_format == "svg" else None
        figure.savefig(content, format=plot_format, dpi=DOTS_PER_INCH, metadata=no_date)
    return content.getvalue()


def inline_svg(svg: bytes) -> str:
    """Return an SVG file as an element of an HTML page, without its XML header."""
    return svg[svg.index(b"<svg") :].decode()


def plain(text: str) -> str:
    """Return a text from elsewhere as a figure shows it letter by letter.

    Matplotlib reads what is between two dollar signs as a formula, cannot draw bytes that are not UTF-8, and leaves
    labels that begin with an underscore out of a legend.
    """
    shown = "".join(letter if letter.isprintable() else "?" for letter in text).replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def finish(axes: "Axes", x_label: str = "", y_label: str = "", *, minor_grid: bool = False) -> None:
    """Label axes, draw a thin grid and hide the upper and right spines."""
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(linewidth=0.4, alpha=0.5, which="both" if minor_grid else "major")
    axes.spines[["top", "right"]].set_visible(False)
