"""Resizing from any size to the size of the data set."""

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.image.resize import Geometry, crop_and_resize, padding_of, random_crop_position


def crop_at(position, image, height, width):
    return Geometry((image.height, image.width), (height, width), position).apply(image, "lanczos", 0)


def pad(image, height, width, background, resize="lanczos"):
    geometry = Geometry((image.height, image.width), (height, width), None)
    return geometry.apply(image, resize, padding_of(background, image.mode))


def ramp(height, width):
    """Return an image whose red grows to the right and whose green grows downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[..., 0] = np.linspace(0, 255, width).round()[None]
    pixels[..., 1] = np.linspace(0, 255, height).round()[:, None]
    return Image.fromarray(pixels)


@pytest.mark.parametrize(("size", "target"), [((55, 62), (50, 13)), ((15, 11), (82, 87)), ((29, 69), (70, 83))])
def test_a_crop_whose_edge_rounds_outside_the_image_works(size, target):
    image = Image.new("L", (size[1], size[0]), 9)
    assert crop_and_resize(image, *target).size == (target[1], target[0])


def test_an_image_of_the_right_size_keeps_every_pixel():
    image = ramp(8, 12)
    assert np.array_equal(np.asarray(crop_and_resize(image, 8, 12)), np.asarray(image))
    assert np.array_equal(np.asarray(pad(image, 8, 12, (1, 2, 3))), np.asarray(image))


def test_a_center_crop_of_the_right_scale_is_not_resampled():
    image = ramp(8, 20)
    assert np.array_equal(np.asarray(crop_and_resize(image, 8, 12)), np.asarray(image)[:, 4:16])
    tall = ramp(20, 8)
    assert np.array_equal(np.asarray(crop_and_resize(tall, 12, 8)), np.asarray(tall)[4:16])


def test_the_position_moves_the_crop_from_edge_to_edge():
    image = ramp(8, 20)
    assert np.array_equal(np.asarray(crop_at((0.0, 0.0), image, 8, 12)), np.asarray(image)[:, :12])
    assert np.array_equal(np.asarray(crop_at((0.0, 1.0), image, 8, 12)), np.asarray(image)[:, 8:])
    tall = ramp(20, 8)
    assert np.array_equal(np.asarray(crop_at((1.0, 0.0), tall, 12, 8)), np.asarray(tall)[8:])


def test_a_scaled_crop_equals_pillows_lanczos_of_the_center():
    image = ramp(100, 61)
    expected = image.resize(
        (30, 20), Image.Resampling.LANCZOS, box=(0, (100 - 61 * 2 / 3) / 2, 61, (100 + 61 * 2 / 3) / 2)
    )
    assert np.array_equal(np.asarray(crop_and_resize(image, 20, 30)), np.asarray(expected))


def test_area_resizing_averages_the_covered_pixels():
    random = np.random.default_rng(0).integers(0, 256, (24, 30, 3), np.uint8)
    means = random.reshape(8, 3, 10, 3, 3).mean((1, 3))
    # Pillow rounds after each of its two passes, along rows and along columns
    assert np.abs(np.asarray(crop_and_resize(Image.fromarray(random), 8, 10, resize="area")) - means).max() <= 1


@pytest.mark.parametrize(("resize", "theirs"), [("bicubic", Image.Resampling.BICUBIC), ("area", Image.Resampling.BOX)])
def test_the_chosen_filter_equals_pillows_without_approximation(resize, theirs):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 40, 3), np.uint8))
    assert np.array_equal(
        np.asarray(crop_and_resize(image, 15, 10, resize=resize)), np.asarray(image.resize((10, 15), theirs))
    )
    fitted = np.asarray(pad(image, 15, 20, (0, 0, 0), resize))
    assert np.array_equal(fitted[:, 5:15], np.asarray(image.resize((10, 15), theirs)))
    assert not fitted[:, :5].any()


def test_fit_keeps_the_whole_image_and_pads_it_with_the_background():
    fitted = np.asarray(pad(ramp(10, 40), 20, 20, (9, 8, 7)))
    assert fitted.shape == (20, 20, 3)
    assert (fitted[:7] == (9, 8, 7)).all()
    assert (fitted[12:] == (9, 8, 7)).all()
    inner = fitted[7:12].astype(int)
    assert inner[2, 0, 0] < 12
    assert inner[2, -1, 0] > 243


@pytest.mark.parametrize("size", [(1, 10_000), (10_000, 1), (1, 1), (3, 2)])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_extreme_aspect_ratios_are_resized(size, mode):
    image = Image.new(mode, size, 200 if mode == "L" else (200, 200, 200))
    for framed in (
        crop_and_resize(image, 16, 24),
        crop_at((1.0, 0.0), image, 16, 24),
        pad(image, 16, 24, (200, 200, 200)),
    ):
        assert framed.size == (24, 16)
        assert framed.mode == mode
        assert (np.asarray(framed) == 200).all()


def test_a_random_crop_depends_on_seed_and_name_alone():
    places = {
        (seed, name): random_crop_position(seed, name)
        for seed in (0, 1)
        for name in ("a.png", "b.png", "caf\udce9.png")
    }
    assert len(set(places.values())) == 6
    assert random_crop_position(0, "a.png") == places[0, "a.png"]
    many = np.array([random_crop_position(0, str(number)) for number in range(2000)])
    assert np.abs(many.mean(0) - 0.5).max() < 0.03
    assert (many >= 0).all()
    assert (many < 1).all()
