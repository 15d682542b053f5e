"""The plot is readable: names, exponents and sizes are in the figure."""

import io
import xml.etree.ElementTree as ElementTree

from PIL import Image

from hdit_core.figures import DOTS_PER_INCH, HEIGHT_INCHES, WIDTH_INCHES
from hdit_core.flops.plot import scaling_plot
from hdit_core.flops.scaling import compare

CURVES = compare([(128, 128), (256, 512), (1024, 1024)]).curves


def test_a_png_has_the_size_of_the_figure_in_print():
    image = Image.open(io.BytesIO(scaling_plot(CURVES, "png")))

    assert image.format == "PNG"
    assert image.size == (round(WIDTH_INCHES * DOTS_PER_INCH), round(HEIGHT_INCHES * DOTS_PER_INCH))


def test_an_svg_names_the_networks_their_exponents_and_the_sizes():
    svg = scaling_plot(CURVES, "svg").decode()  # letters are outlines, with the words in a comment before them

    ElementTree.fromstring(svg)
    assert all(f"<!-- {size} -->" in svg for size in ("128×128", "256×512", "1024×1024"))
    for curve in CURVES:
        overall, at_the_end = f"{curve.exponent:.2f}", f"{curve.final_exponent:.2f}"
        assert f"<!-- {curve.name}: $n^{{{overall}}}$, at the end $n^{{{at_the_end}}}$ -->" in svg


def test_the_curves_differ_in_marker_and_dashes_and_not_in_color_alone():
    from hdit_core.figures import STYLES

    assert STYLES[0]["marker"] != STYLES[1]["marker"]
    assert STYLES[0]["linestyle"] != STYLES[1]["linestyle"]


def test_the_same_curves_give_the_same_file():
    assert scaling_plot(CURVES, "svg") == scaling_plot(CURVES, "svg")
