"""Exponents, and which sizes are refused."""

import csv
import io
import json

import pytest

from hdit_core.errors import UsageError
from hdit_core.flops.baselines import baseline
from hdit_core.flops.report import as_csv, as_dict
from hdit_core.flops.scaling import Curve, compare, compare_recipe, fitted_exponent
from hdit_core.recipe.model import LevelRecipe, ModelRecipe
from hdit_core.recipe.read import read_recipe

PIXELS = [32 * 48, 64 * 96, 128 * 96, 256 * 384]


@pytest.mark.parametrize("exponent", [0.5, 1.0, 2.0])
def test_the_exponent_of_a_power_law_is_recovered(exponent):
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

    assert compare_recipe("x", model).image_sizes == ((256, 256),)
    assert compare_recipe("x", model, [(512, 512), (256, 384)]).networks[0].models == (model, model)


def test_grids_are_those_of_the_size_that_is_counted():
    levels = as_dict(compare_recipe("x", read_recipe("imagenet256").model, [(256, 384)]))["networks"][0]["sizes"][0][
        "levels"
    ]

    assert [level["grid"] for level in levels] == [[64, 96], [32, 48], [16, 24]]


def test_where_dits_patches_do_not_tile_the_image_only_the_network_is_counted():
    level = LevelRecipe(depth=1, width=64, attention="global")
    comparison = compare_recipe("x", ModelRecipe(image_size=(36, 34), patch_size=2, levels=(level,)))

    assert comparison.baselines[0].counts == (None,)
    assert [curve.name for curve in comparison.curves] == ["x"]
    assert as_dict(comparison)["baselines"] == [
        {"name": "DiT-B/4", "sizes": [{"image_size": [36, 34], "network": "DiT-B/4 (scaled)", "macs": None}]}
    ]


def test_a_sweep_counts_every_combination_under_a_name_that_says_what_differs():
    networks = compare([(256, 384)], [], kernels=[5, 9], patches=[2, 4]).networks

    assert [series.name for series in networks] == [
        "HDiT-B/4 5x5 patch 2", "HDiT-B/4 5x5 patch 4", "HDiT-B/4 9x9 patch 2", "HDiT-B/4 9x9 patch 4",
    ]  # fmt: skip
    assert (
        networks[1].counts[0].of("attention").at(0).macs * 81 == networks[3].counts[0].of("attention").at(0).macs * 25
    )
    assert networks[0].counts[0].of("feed-forward").macs == 4 * networks[1].counts[0].of("feed-forward").macs


def test_a_sweep_does_not_change_levels_of_global_attention():
    wide, narrow = compare_recipe("x", read_recipe("imagenet256").model, kernels=[5, 7]).networks

    assert wide.models[0].levels[2] == narrow.models[0].levels[2]
    assert wide.counts[0].at(2) == narrow.counts[0].at(2)
    assert wide.counts[0].at(0) != narrow.counts[0].at(0)


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"kernels": [4]}, "--kernel-sizes 4: expected odd numbers of at least 3"),
        ({"patches": [0]}, "--patch-sizes 0: expected numbers of at least 1"),
    ],
)
def test_a_sweep_of_invalid_values_is_refused(sweep, message):
    with pytest.raises(UsageError, match=message):
        compare([(256, 256)], **sweep)


def test_a_sweep_of_windows_is_refused_where_there_are_none():
    level = LevelRecipe(depth=1, width=64, attention="global")
    with pytest.raises(UsageError, match="x has no neighborhood attention"):
        compare_recipe("x", ModelRecipe(image_size=32, levels=(level,)), kernels=[5])


def test_each_line_of_the_csv_is_a_part_and_they_add_up():
    comparison = compare([(256, 512), (1024, 1024)], [baseline("dit-b/4"), baseline("adm")])
    rows = list(csv.DictReader(io.StringIO(as_csv(comparison))))
    for series in (*comparison.networks, *comparison.baselines):
        for index, counted in enumerate(series.counts):
            mine = [
                row
                for row in rows
                if (row["network"], int(row["height"]), int(row["width"]))
                == (series.name_at(index), *counted.image_size)
            ]

            assert sum(int(row["macs"]) for row in mine) == counted.macs
            assert sum(int(row["parameters"]) for row in mine) == counted.parameters


def test_a_size_that_the_network_does_not_take_is_refused_with_the_nearest_that_it_takes():
    with pytest.raises(UsageError, match=r"mine does not accept images of 256x250.*width 250.*use 240 or 256"):
        compare_recipe("mine", read_recipe("imagenet256").model, [(256, 250)])
    with pytest.raises(
        UsageError, match=r"HDiT-B/4 does not accept images of 16x128.*larger than the level's 4x32 grid"
    ):
        compare([(16, 128)])


def test_the_numbers_for_json_add_up():
    result = json.loads(json.dumps(as_dict(compare([(256, 512), (1024, 1024)]))))
    for size in result["networks"][0]["sizes"]:
        parts = size["parts"]

        assert size["macs"] == sum(part["macs"] for part in parts)
        assert size["flops"] == 2 * size["macs"]
        assert size["parameters"] == sum(part["parameters"] for part in parts)
        assert [level["macs"] for level in size["levels"]] == [
            sum(part["macs"] for part in parts if part["level"] == level["level"]) for level in size["levels"]
        ]
