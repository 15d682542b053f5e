"""Exponents, and which sizes are refused."""

import json

import pytest

from hdit_core.errors import UsageError
from hdit_core.flops.report import as_dict
from hdit_core.flops.scaling import Curve, compare, compare_recipe, fitted_exponent
from hdit_core.recipe.model import LevelRecipe, ModelRecipe
from hdit_core.recipe.read import read_recipe

PIXELS = [32 * 48, 64 * 96, 128 * 96, 256 * 384]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_a_power_law_gives_back_its_exponent(exponent):
    assert fitted_exponent(PIXELS, [round(1e9 * n**exponent) for n in PIXELS]) == pytest.approx(exponent, abs=1e-9)


def test_the_fit_is_that_of_least_squares():
    """Worked by hand: ln pixels = 0, 1, 3 and ln macs = 1, 1, 2 (in units of ln 2) have the slope 5/14."""
    assert fitted_exponent([1, 2, 8], [2, 2, 4]) == pytest.approx(5 / 14)


def test_sizes_with_equal_pixels_have_no_exponent():
    curve = Curve("x", ((64, 128), (128, 64)), (5, 5))

    assert curve.exponent is None
    assert curve.final_exponent is None


def test_hdit_tends_to_linear_and_dit_to_quadratic():
    hdit, dit = compare([(px, px) for px in (4096, 8192, 16384)]).curves

    assert hdit.exponent == pytest.approx(1, abs=0.01)
    assert dit.exponent == pytest.approx(2, abs=0.01)


def test_the_order_of_the_sizes_does_not_change_an_exponent():
    up = compare([(128, 128), (256, 512), (1024, 1024)]).curves[0]
    down = compare([(1024, 1024), (256, 512), (128, 128)]).curves[0]

    assert (up.exponent, up.final_exponent) == pytest.approx((down.exponent, down.final_exponent))


def test_a_recipe_is_counted_at_its_own_size_and_does_not_grow():
    model = read_recipe("imagenet256").model

    assert compare_recipe("x", model).counts[0].image_size == (256, 256)
    assert compare_recipe("x", model, [(512, 512), (256, 384)]).models == (model, model)


def test_grids_are_those_of_the_size_that_is_counted():
    levels = as_dict(compare_recipe("x", read_recipe("imagenet256").model, [(256, 384)]))["sizes"][0]["levels"]

    assert [level["grid"] for level in levels] == [[64, 96], [32, 48], [16, 24]]


def test_where_dit_s_patches_do_not_tile_the_image_the_network_stands_alone():
    level = LevelRecipe(depth=1, width=64, attention="global")
    comparison = compare_recipe("x", ModelRecipe(image_size=(36, 34), patch_size=2, levels=(level,)))

    assert comparison.dit_counts == (None,)
    assert [curve.name for curve in comparison.curves] == ["x"]
    assert as_dict(comparison)["sizes"][0]["dit_b4"] is None


def test_a_size_that_the_network_does_not_take_is_refused_with_the_nearest_that_it_takes():
    with pytest.raises(UsageError, match=r"mine does not take images of 256x250.*width 250.*use 240 or 256"):
        compare_recipe("mine", read_recipe("imagenet256").model, [(256, 250)])
    with pytest.raises(UsageError, match=r"HDiT-B/4 does not take images of 16x128.*larger than the level's 4x32 grid"):
        compare([(16, 128)])


def test_the_numbers_for_json_add_up():
    result = json.loads(json.dumps(as_dict(compare([(256, 512), (1024, 1024)]))))
    for size in result["sizes"]:
        parts = size["parts"]

        assert size["macs"] == sum(part["macs"] for part in parts)
        assert size["flops"] == 2 * size["macs"]
        assert size["parameters"] == sum(part["parameters"] for part in parts)
        assert [level["macs"] for level in size["levels"]] == [
            sum(part["macs"] for part in parts if part["level"] == level["level"]) for level in size["levels"]
        ]
        assert size["macs_over_dit_b4"] == size["macs"] / size["dit_b4"]["macs"]
