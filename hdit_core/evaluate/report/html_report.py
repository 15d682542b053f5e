"""A score as one page of HTML that needs nothing else: numbers with intervals, passport, pictures.

Names in it come from files and are only ever text; the page may run no script and fetch nothing, whatever is in it.
"""

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.evaluate.metrics.jackknife import DistanceInterval, Estimate
from hdit_core.evaluate.report.result import Score
from hdit_core.evaluate.report.sheets import sample_sheet
from hdit_core.figures import STYLES, _drawn, _finish
from hdit_core.files import write_atomic
from hdit_core.images import png_bytes
from hdit_core.recipe.diff import flatten

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def extrapolation_svg(spread: DistanceInterval, metric: str) -> str:
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


POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1a1a1a; background: #fff; max-width: 60rem; margin: 2rem auto;
       padding: 0 1rem }
h1 { font-size: 1.6rem } h2 { font-size: 1.1rem; margin-top: 2rem }
table { border-collapse: collapse } td, th { text-align: left; padding: .2rem 1.2rem .2rem 0; vertical-align: top;
       border-bottom: 1px solid #ddd; overflow-wrap: anywhere }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap } .key { white-space: nowrap; color: #555 }
tr > :first-child { min-width: 8rem }
@media (max-width: 40rem) { table { font-size: .9rem } td, th { padding-right: .6rem }
       tr > :first-child { min-width: 6.5rem }
       td.number, .key { white-space: normal } td.number, tr:first-child > th { overflow-wrap: normal } }
img { max-width: 100%; border: 1px solid #ddd } svg { max-width: 100%; height: auto } .remark { color: #8a4b00 }
"""

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""


def write_report(
    path: Path,
    score: Score,
    images: ImageSet,
    neighbours: UInt8[np.ndarray, "H W 3"] | None = None,
    figures: Sequence[tuple[str, str]] = (),
) -> None:
    """Write the page of a score, whole or not at all.

    Args:
        path: of the page.
        score: the numbers.
        images: the scored set, for a sheet of some of them; a stream has none to show.
        neighbours: the sheet of images beside their nearest in the reference.
        figures: further curves, as title and SVG that this library has drawn.
    """
    samples = sample_sheet(images) if images.identity else None
    write_atomic(path, page(score, samples, neighbours, figures))


def page(
    score: Score,
    samples: UInt8[np.ndarray, "H W 3"] | None,
    neighbours: UInt8[np.ndarray, "H2 W2 3"] | None,
    figures: Sequence[tuple[str, str]] = (),
) -> str:
    """Return the page as text."""
    title = f"{score.name} {score.frechet.value:.4f}"
    body = [
        f"<h1>{_text(title)}</h1>",
        *(f'<p class="remark">{_text(remark)}</p>' for remark in score.remarks),
        _section("Numbers", _numbers(score)),
        *(_section(title, svg) for title, svg in [*_own_figures(score), *figures]),
        _section("Some of the images", _picture(samples, "Some of the scored images")),
        _section("Nearest in the reference", _picture(neighbours, "Images beside their nearest in the reference")),
        _section("Passport", _table((key, str(value)) for key, value in flatten(score.provenance()).items())),
    ]
    return PAGE.format(policy=POLICY, title=_text(title), style=STYLE, body="\n".join(body))


def _numbers(score: Score) -> str:
    rows = [_estimate_row(name, estimate) for name, estimate in score.estimates().items()]
    if score.spread.infinity is not None:
        rows.insert(1, _estimate_row(f"{score.metric}-infinity", Estimate(score.spread.infinity)))
    head = "<tr><th></th><th>value</th><th>95 % interval</th><th>standard error</th></tr>"
    copies = ""
    if score.neighbours:
        numbers = score.neighbours.to_json()
        copies = f"<p>{numbers['copies']} of {numbers['queries']} images are in the reference, pixel for pixel.</p>"
    return f"<table>{head}{''.join(rows)}</table>{copies}"


def _own_figures(score: Score) -> list[tuple[str, str]]:
    if not score.spread.points:
        return []
    return [("Extrapolation to infinitely many images", extrapolation_svg(score.spread, score.metric))]


def _estimate_row(name: str, found: Estimate) -> str:
    interval = "" if found.low is None or found.high is None else f"{found.low:.6g} to {found.high:.6g}"
    error = "" if found.standard_error is None else f"{found.standard_error:.3g}"
    cells = "".join(f'<td class="number">{_text(cell)}</td>' for cell in (f"{found.value:.6g}", interval, error))
    return f"<tr><th>{_text(name)}</th>{cells}</tr>"


def _section(title: str, content: str) -> str:
    return f"<h2>{_text(title)}</h2>\n{content}" if content else ""


def _table(rows: Iterable[tuple[str, str]]) -> str:
    cells = "".join(f'<tr><td class="key">{_text(key)}</td><td>{_text(value)}</td></tr>' for key, value in rows)
    return f"<table>{cells}</table>"


def _picture(sheet: UInt8[np.ndarray, "H W 3"] | None, what: str) -> str:
    if sheet is None:
        return ""
    data = base64.b64encode(png_bytes(sheet)).decode()
    return f'<img alt="{_text(what)}" src="data:image/png;base64,{data}">'


def _text(text: str) -> str:
    """Return text as HTML shows it: marks that turn the writing direction and bytes that are no UTF-8 written out."""
    shown = "".join(letter if letter.isprintable() else letter.encode("unicode_escape").decode() for letter in text)
    return html.escape(shown)
