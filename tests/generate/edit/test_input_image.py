"""Masks of every common kind: white is inpainted, black and transparent are not; ambiguous ones are refused."""

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.errors import DataError
from hdit_core.generate.edit.input_image import read_image, read_mask
from hdit_core.randomness import stream

SHAPE = (16, 24, 3)


def region():
    painted = np.zeros(SHAPE[:2], bool)
    painted[3:9, 5:20] = True
    return painted


def saved(path, pixels, mode=None):
    Image.fromarray(pixels, mode).save(path)
    return path


@pytest.fixture
def picture(tmp_path):
    return saved(tmp_path / "picture.png", stream(0, "picture", 0).integers(0, 256, SHAPE).astype(np.uint8))


def with_alpha(color, alpha):
    return np.concatenate([np.broadcast_to(np.uint8(color), (*SHAPE[:2], 3)), alpha[..., None]], axis=-1)


def palette_mask(path):
    image = Image.fromarray(region().astype(np.uint8), "P")
    image.putpalette([0, 0, 0, 255, 255, 255])
    image.save(path)


def transparent_palette_mask(path):
    image = Image.fromarray(region().astype(np.uint8), "P")
    image.putpalette([255, 255, 255, 255, 255, 255])
    image.save(path, transparency=0)


LEVELS = np.where(region(), 255, 0).astype(np.uint8)
GREY_RGB = np.repeat(LEVELS[..., None], 3, axis=-1)
OPAQUE = np.full((*SHAPE[:2], 1), 255, np.uint8)
KINDS = {
    "grey": lambda path: saved(path, LEVELS),
    "bits": lambda path: Image.fromarray(LEVELS).convert("1").save(path),
    "rgb": lambda path: saved(path, GREY_RGB),
    "soft grey": lambda path: saved(path, np.where(region(), 160, 90).astype(np.uint8)),
    "16 bits": lambda path: saved(path, LEVELS.astype(np.uint16) * 257),
    "palette": palette_mask,
    "clear palette": transparent_palette_mask,
    "white on clear": lambda path: saved(path, with_alpha(255, LEVELS)),
    "white on clear black": lambda path: saved(path, np.concatenate([GREY_RGB, LEVELS[..., None]], -1)),
    "grey and alpha": lambda path: saved(path, np.stack([np.full_like(LEVELS, 255), LEVELS], axis=-1), "LA"),
    "opaque alpha": lambda path: saved(path, np.concatenate([GREY_RGB, OPAQUE], -1)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_white_is_inpainted_and_black_or_transparent_is_not(picture, tmp_path, kind):
    KINDS[kind](tmp_path / "mask.png")
    mask = read_mask(tmp_path / "mask.png", picture, PixelFormat(3), SHAPE[:2])
    assert np.array_equal(mask.painted, region()) and mask.remarks == ()


def test_a_mask_that_is_white_everywhere_is_logged(picture, tmp_path):
    saved(tmp_path / "mask.png", np.full(SHAPE[:2], 255, np.uint8))
    mask = read_mask(tmp_path / "mask.png", picture, PixelFormat(3), SHAPE[:2])
    assert mask.painted.all() and "white everywhere" in mask.remarks[0]


@pytest.mark.parametrize(
    ("pixels", "largest"),
    [(LEVELS * 0, 0), (region().astype(np.uint8), 1), (with_alpha(0, LEVELS), 0), (with_alpha(255, LEVELS * 0), 0)],
    ids=["black", "ones", "black on clear", "all clear"],
)
def test_a_mask_without_white_is_refused_with_its_brightest_level(picture, tmp_path, pixels, largest):
    saved(tmp_path / "mask.png", pixels)
    with pytest.raises(DataError, match=rf"nothing in the mask is white .*brightest grey level is {largest} of 255"):
        read_mask(tmp_path / "mask.png", picture, PixelFormat(3), SHAPE[:2])


def test_an_image_with_a_transparent_hole_is_not_taken_for_a_mask(picture, tmp_path):
    photo = stream(1, "photo", 0).integers(0, 256, SHAPE).astype(np.uint8)
    saved(tmp_path / "mask.png", np.concatenate([photo, 255 - LEVELS[..., None]], axis=-1))
    with pytest.raises(DataError, match="looks like a picture with a transparent cut-out, not like a mask"):
        read_mask(tmp_path / "mask.png", picture, PixelFormat(3), SHAPE[:2])


def test_a_mask_of_another_size_is_refused(picture, tmp_path):
    saved(tmp_path / "mask.png", np.full((8, 8), 255, np.uint8))
    with pytest.raises(DataError, match=r"the mask has 8x8 pixels, .* has 16x24; use a mask of the same size"):
        read_mask(tmp_path / "mask.png", picture, PixelFormat(3), SHAPE[:2])


def test_an_image_that_is_too_large_is_refused_with_the_limit(tmp_path):
    Image.new("1", (20_000, 10_000)).save(tmp_path / "large.png")
    expected = "large.png: .*more than 100 million.*; expected an intact image, .* of at most 100 million pixels"
    with pytest.raises(DataError, match=expected):
        read_image(tmp_path / "large.png", PixelFormat(3), (16, 24))
