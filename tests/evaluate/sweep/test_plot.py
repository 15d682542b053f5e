"""Plots of scores show the values."""

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from hdit_core.evaluate.metrics.confidence_intervals import DistanceInterval, Estimate, extrapolate
from hdit_core.evaluate.report.html_report import extrapolation_svg
from hdit_core.evaluate.sweep import plot as curves
from hdit_core.evaluate.sweep.journal import Trial
from hdit_core.evaluate.sweep.plot import sweep_plot
from hdit_core.evaluate.sweep.search_space import Point
from hdit_core.figures import inline_svg

POINTS = [Point(weights, guidance) for weights in ("0.05", "0.1") for guidance in (1.0, 2.0, 3.0)]


def trials(n, points):
    return [Trial(point, n, 5.0 - place + 1000 / n, 0.1) for place, point in enumerate(points)]


def test_a_line_has_the_same_style_in_every_panel():
    """Halving keeps points in another order."""
    series = ["weights 0.05", "weights 0.1"]
    looks = []
    for kept in (POINTS, [POINTS[5], POINTS[0], POINTS[3]]):
        axes = Figure().add_subplot()
        curves._over_scale(axes, trials(100, kept), series, "guidance")
        lines = zip(*axes.get_legend_handles_labels(), strict=True)
        looks.append({name: (handle[0].get_color(), handle[0].get_marker()) for handle, name in lines})
    assert looks[0] == looks[1] and looks[0][series[0]] != looks[0][series[1]]


AUTO = [Point("ema", 1.5, None, scale) for scale in (1.0, 2.0)]


@pytest.mark.parametrize("points", [POINTS, AUTO, [Point("ema"), Point("model"), Point("0.1", None, (0.2, 5.0))]])
def test_a_sweep_is_plotted_as_png_and_svg_with_a_panel_for_each_round(points):
    found = [*trials(100, points), *trials(200, points[1:3])]
    picture = Image.open(io.BytesIO(sweep_plot(found, "fid", "png", points[1])))
    assert picture.size[0] > 1000 and np.asarray(picture.convert("L")).std() > 10
    svg = sweep_plot(found, "fid", "svg", points[1]).decode()
    assert inline_svg(svg.encode()).startswith("<svg") and svg.rstrip().endswith("</svg>") and "script" not in svg
    assert svg == sweep_plot(found, "fid", "svg", points[1]).decode()
    assert svg.count('<g id="axes_') == 2


def test_the_extrapolation_is_plotted_with_its_points():
    points = tuple((n, 3.0 + 200 / n) for n in (1000, 900, 900, 500, 500))
    spread = DistanceInterval(Estimate(3.2), extrapolate(points), points)
    assert spread.infinity == pytest.approx(3.0)
    svg = extrapolation_svg(spread, "fid")
    assert svg.startswith("<svg") and "http-equiv" not in svg
