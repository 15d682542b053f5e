"""Every GFLOP (a GMAC, as it turns out) that the HDiT and DiT papers print."""

from dataclasses import replace
from functools import partial

import pytest

from hdit_core.errors import UsageError
from hdit_core.flops.adm import ADM_NETWORKS
from hdit_core.flops.baselines import DIT_B4, HDIT_B4, baseline, dit, scale_to_size
from hdit_core.flops.count import count
from hdit_core.flops.uvit import UViT
from hdit_core.recipe.model import LevelRecipe
from hdit_core.recipe.read import read_recipe

SIZES = (128, 256, 512, 1024)

# Table 1; the last column is not printed there and was computed in closed form.
TABLE_1 = {
    "R1": (106, 657, 6_341, 84_736),
    "R2": (106, 657, 6_341, 84_736),
    "R3": (106, 657, 6_341, 84_736),
    "R4": (106, 657, 6_341, 84_736),
    "A": (32, 114, 1_060, 14_739),
    "B1": (29, 60, 185, 683),
    "B2": (29, 60, 184, 679),
    "C": (31, 65, 198, 732),
    "D": (31, 65, 198, 732),
    "E": (31, 65, 198, 732),
}

# The same without the conditioning, whose cost does not depend on the image size.
CLOSED_FORM = {
    "R3": (106.4, 657.4, 6340.6, 84735.9),
    "A": (32.1, 114.0, 1059.9, 14739.0),
    "B1": (29.1, 60.2, 184.7, 682.6),
    "B2": (29.1, 60.0, 183.7, 678.6),
    "E": (31.3, 64.7, 198.1, 731.6),
}


def hourglass(attention, feed_forward, image_size):
    ratio = {"geglu": 3, "gelu": 4}[feed_forward]
    outer = LevelRecipe(depth=2, width=384, attention=attention, d_ff=ratio * 384)
    inner = LevelRecipe(depth=11, width=768, attention="global", d_ff=ratio * 768)
    model = HDIT_B4.model_copy(update={"levels": (outer, inner), "feed_forward": feed_forward})
    return count(scale_to_size(model, image_size))


def flat(image_size):
    """DiT-B's shape in HDiT's blocks, with its mapping network and without a gate."""
    level = LevelRecipe(depth=12, width=768, attention="global", d_ff=4 * 768)
    return count(HDIT_B4.model_copy(update={"image_size": image_size, "levels": (level,), "feed_forward": "gelu"}))


ABLATIONS = {
    "R1": DIT_B4.count,  # DiT-B/4 as published, on pixels
    "R2": DIT_B4.count,  # + the HDiT paper's trainer
    "R3": flat,  # + its blocks and mapping network
    "R4": flat,  # + soft-min-SNR weighting
    "A": partial(hourglass, "global", "gelu"),
    "B1": partial(hourglass, "shifted-window", "gelu"),
    "B2": partial(hourglass, "neighborhood", "gelu"),
    "C": partial(hourglass, "neighborhood", "geglu"),
    "D": partial(hourglass, "neighborhood", "geglu"),  # + axial rotary positions
    "E": partial(hourglass, "neighborhood", "geglu"),  # + soft-min-SNR weighting
}


@pytest.mark.parametrize("row", TABLE_1)
def test_every_gflop_number_of_table_1_is_reproduced_to_the_printed_digit(row):
    assert tuple(round(ABLATIONS[row]((px, px)).macs / 1e9) for px in SIZES) == TABLE_1[row]


@pytest.mark.parametrize("row", CLOSED_FORM)
def test_without_conditioning_the_closed_form_agrees_to_one_decimal(row):
    counts = [ABLATIONS[row]((px, px)) for px in SIZES]

    assert tuple(round((c.macs - c.of("conditioning").macs) / 1e9, 1) for c in counts) == CLOSED_FORM[row]


def test_the_percentages_of_table_1_are_reproduced():
    saved = {
        (row, px): round(100 * (ABLATIONS[row]((px, px)).macs / ABLATIONS["R1"]((px, px)).macs - 1))
        for row in ("A", "B1", "B2", "E")
        for px in (256, 512)
    }

    assert saved == {
        ("A", 256): -83, ("A", 512): -83, ("B1", 256): -91, ("B1", 512): -97,
        ("B2", 256): -91, ("B2", 512): -97, ("E", 256): -90, ("E", 512): -97,
    }  # fmt: skip


def test_at_a_megapixel_hdit_needs_less_than_a_hundredth_of_dit():
    assert ABLATIONS["E"]((1024, 1024)).macs < 0.01 * ABLATIONS["R1"]((1024, 1024)).macs


def test_parameters_of_the_ablation_agree_with_the_paper():
    """Parameter counts of the paper's ablation: DiT about 130M, HDiT 105M to 120M."""
    assert round(ABLATIONS["R1"]((128, 128)).parameters / 1e6) == 130
    assert all(105e6 < ABLATIONS[row]((128, 128)).parameters < 120e6 for row in ("A", "B1", "B2", "C", "D", "E"))


def test_hdit_b4_is_the_network_of_the_recipe_imagenet128():
    assert count(HDIT_B4) == count(read_recipe("imagenet128").model)


GROWN = {(64, 64): 2, (128, 128): 2, (128, 256): 2, (256, 256): 3, (256, 512): 3, (512, 512): 4, (2048, 2048): 6}


@pytest.mark.parametrize(("image_size", "levels"), list(GROWN.items()))
def test_growing_copies_the_outermost_level_once_for_each_doubling(image_size, levels):
    model = scale_to_size(HDIT_B4, image_size)

    assert model.image_size == image_size
    assert model.levels == (HDIT_B4.levels[0],) * (levels - 1) + HDIT_B4.levels[-1:]
    assert not list(model.size_problems(image_size))


# The DiT paper's own counts, in latents of 4 channels with learned variance; its counter takes some norms in.
@pytest.mark.parametrize(("latents", "gflop"), [(32, 118.64), (64, 524.60)])
def test_dit_xl_2_counts_as_in_its_own_paper(latents, gflop):
    counted = replace(dit("XL/2"), channels=4, learned_variance=True).count((latents, latents))

    assert counted.macs / 1e9 == pytest.approx(gflop, rel=2e-4)
    assert round(counted.parameters / 1e6) == 675


def test_dit_is_quadratic_in_its_attention_and_linear_in_everything_that_sees_tokens():
    once, four_times = DIT_B4.count((64, 128)), DIT_B4.count((128, 256))

    assert 16 * once.of("attention").macs == four_times.of("attention").macs
    assert 4 * once.of("feed-forward").macs == four_times.of("feed-forward").macs
    assert once.of("conditioning").macs == four_times.of("conditioning").macs


# Parameters in millions from ADM's paper (arXiv 2105.05233), GMACs from DiT's (arXiv 2212.09748, section 5.1).
@pytest.mark.parametrize(
    ("px", "parameters_m", "gmac"), [(64, 296, None), (128, 422, None), (256, 554, 1120), (512, 559, 1983)]
)
def test_adm_is_the_published_network_of_each_size(px, parameters_m, gmac):
    adm = baseline("adm")
    counted = adm.count((px, px))

    assert round(counted.parameters / 1e6) == parameters_m
    assert gmac is None or counted.macs / 1e9 == pytest.approx(gmac, rel=1e-3)
    assert adm.is_published((px, px)) and adm.published_name((px, px)) == f"ADM-{px}"


def test_adm_at_256_has_the_parameters_of_the_released_checkpoint():
    assert ADM_NETWORKS[256].count((256, 256)).parameters == 553_838_086


@pytest.mark.parametrize(
    ("image_size", "name"),
    [
        ((32, 32), "ADM-64"),
        ((192, 192), "ADM-256"),
        ((160, 160), "ADM-128"),
        ((256, 512), "ADM-256"),
        ((1024, 1024), "ADM-512"),
    ],
)
def test_adm_at_another_size_is_the_nearest_network_and_not_marked_as_published(image_size, name):
    adm = baseline("adm")

    assert adm.published_name(image_size) == name
    assert adm.count(image_size).parameters == ADM_NETWORKS[int(name[4:])].count(image_size).parameters
    assert not adm.is_published(image_size)


@pytest.mark.parametrize(
    ("network", "image_size", "published"),
    [
        (baseline("dit-b/4"), (128, 128), True),
        (baseline("dit-b/4"), (256, 256), False),
        (baseline("dit-b/2"), (128, 128), False),
        (baseline("dit-xl/2"), (32, 32), False),
        (replace(dit("XL/2"), channels=4), (32, 32), True),
        (baseline("u-vit-m/4"), (64, 64), True),
        (baseline("u-vit-m/4"), (64, 128), False),
        (baseline("u-vit-h/4"), (64, 64), False),
        (UViT("H", 4, 4), (64, 64), True),
    ],
)
def test_dit_and_u_vit_are_published_for_the_sizes_of_the_papers_alone(network, image_size, published):
    assert network.is_published(image_size) == published


# U-ViT's own model sizes (arXiv 2209.12152, table 1), in latents of 32x32x4; S on 32x32 pixels without classes
@pytest.mark.parametrize(
    ("network", "parameters_m"),
    [(UViT("S", 2, 3, 0), 44), (UViT("M", 2, 4), 131), (UViT("L", 2, 4), 287), (UViT("H", 2, 4), 501)],
)
def test_u_vit_has_the_published_number_of_parameters(network, parameters_m):
    assert round(network.count((32, 32)).parameters / 1e6) == parameters_m


@pytest.mark.parametrize("name", ["dit-b/4", "dit-xl/2", "u-vit-m/4", "adm"])
def test_a_baseline_is_counted_at_sizes_that_are_not_square_and_at_their_transpose(name):
    network = baseline(name)

    assert network.accepts((256, 384))
    assert network.count((256, 384)).macs == network.count((384, 256)).macs > network.count((256, 256)).macs
    assert not network.accepts((250, 255))


def test_a_name_in_any_case_is_found_and_spelled_as_in_its_paper():
    assert [baseline(name).name for name in ("DiT-XL/2", "u-vit-h/16", " ADM")] == ["DiT-XL/2", "U-ViT-H/16", "ADM"]


@pytest.mark.parametrize(
    "name", ["", "dit", "dit-b", "dit-b/0", "dit-b/4/4", "dit-q/4", "u-vit-xl/2", "adm/4", "dit-b/9999999"]
)
def test_an_unknown_baseline_is_refused_with_the_known_ones(name):
    with pytest.raises(UsageError, match=r"--against .*: expected dit-\{s,b,l,xl\}/patch"):
        baseline(name)
