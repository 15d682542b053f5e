"""A score as one self-contained HTML page: metrics with intervals, figures, image sheets, provenance.

Names in it come from files: they are escaped, and the page may run no script and load nothing.
"""

import base64
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import numpy as np
from jaxtyping import UInt8
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.evaluate.metrics.confidence_intervals import DistanceInterval, Estimate
from hdit_core.evaluate.report.result import Score
from hdit_core.evaluate.report.sheets import sample_sheet
from hdit_core.evaluate.settings import ScoreSettings
from hdit_core.figures import STYLES, finish, inline_svg, render
from hdit_core.files import STDIN, write_atomic
from hdit_core.images import png_bytes
from hdit_core.recipe.diff import flatten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "report.html.jinja"

NO_NEIGHBORS_OF_STREAM = "Not shown: a stream can be read only once; score a file or folder to see them."
NO_NEIGHBORS_OF_STATISTICS = "Not shown: saved statistics contain no images; pass images as --ref to see them."


def write_report(
    settings: ScoreSettings,
    score: Score,
    images: ImageSet,
    samples: UInt8[np.ndarray, "H W 3"] | None = None,
    neighbors: UInt8[np.ndarray, "H2 W2 3"] | None = None,
) -> None:
    """Write the report of a score atomically.

    Args:
        settings: with the path of the report, further figures and the command line.
        score: the result.
        images: the scored set, for a sheet of the first images.
        samples: that sheet, if the set is a stream.
        neighbors: the sheet of samples and their nearest neighbors in the reference.
    """
    assert settings.report is not None
    is_stream = not images.identity or settings.reference == STDIN
    content = page(
        score,
        samples if samples is not None or not images.identity else sample_sheet(images),
        neighbors,
        figures=settings.figures,
        origin=_origin(settings, score, settings.report.parent),
        no_neighbors=NO_NEIGHBORS_OF_STREAM if is_stream else NO_NEIGHBORS_OF_STATISTICS,
    )
    write_atomic(settings.report, content)


def page(
    score: Score,
    samples: UInt8[np.ndarray, "H W 3"] | None,
    neighbors: UInt8[np.ndarray, "H2 W2 3"] | None,
    *,
    figures: Sequence[tuple[str, str]] = (),
    origin: Sequence[tuple[str, str, str]] = (),
    no_neighbors: str = "",
) -> str:
    """Return the report as text; arguments as for `write_report`.

    Args:
        origin, no_neighbors: key, text and a link or "" each; and why there is no sheet of neighbors.
    """
    estimates = list(score.estimates().items())
    if score.spread.infinity is not None:
        estimates.insert(1, (f"{score.metric}-infinity", Estimate(score.spread.infinity)))
    sheets = [
        ("Samples", "The first scored images", _base64(samples), ""),
        (
            "Nearest neighbors",
            "Samples and their nearest neighbors in the reference",
            _base64(neighbors),
            no_neighbors,
        ),
    ]
    return (
        _environment()
        .get_template(TEMPLATE)
        .render(
            title=f"{score.name} {score.frechet.value:.4f}",
            score=score,
            estimates=estimates,
            copies=score.neighbors.to_json() if score.neighbors else None,
            figures=[(title, Markup(svg)) for title, svg in [*_own_figures(score), *figures]],  # noqa: S704  our own SVG
            sheets=sheets,
            origin=origin,
            provenance=[(key, str(value)) for key, value in flatten(score.provenance()).items()],
        )
    )


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=_printable,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _printable(value: Any) -> Any:
    """Return text with unprintable characters, such as those that turn the writing direction, as escape sequences."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in value)


def _base64(sheet: UInt8[np.ndarray, "H W 3"] | None) -> str:
    return "" if sheet is None else base64.b64encode(png_bytes(sheet)).decode()


def _origin(settings: ScoreSettings, score: Score, folder: Path) -> list[tuple[str, str, str]]:
    """Return time, command and inputs of a score, with links to those that exist on this machine."""
    rows = [("date", datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "")]
    if settings.command:
        rows.append(("command", settings.command, ""))
    for key, side in (("run" if settings.checkpoint else "images", score.images), ("reference", score.reference)):
        path = str(side.source["path"])
        link = quote(os.fsencode(os.path.relpath(path, folder))) if path != "-" and Path(path).exists() else ""
        rows.append((key, path, link))
    return rows


def _own_figures(score: Score) -> list[tuple[str, str]]:
    if not score.spread.points:
        return []
    return [("Extrapolation to infinitely many images", extrapolation_svg(score.spread, score.metric))]


def extrapolation_svg(spread: DistanceInterval, metric: str) -> str:
    """Return the line through the distances of parts of a set, over 1/n, as SVG.

    Args:
        spread: with its points.
        metric: the name of the distance.
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
        finish(axes, "number of images n (axis: 1/n)", metric)

    return inline_svg(render(draw, "svg", height_inches=3.2))
