"""hdit's resize equals clean-fid's bit for bit."""

import warnings

import numpy as np
import pytest
from cleanfid.resize import build_resizer, make_resizer

from hdit_core.evaluate.extractors.extractor import resize


@pytest.mark.parametrize("height, width", [(32, 48), (299, 299), (700, 333), (1, 5)])
def test_the_resize_equals_clean_fids_clean_mode(height, width):
    image = np.random.default_rng(height).integers(0, 256, (height, width, 3)).astype(np.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of Pillow, about clean-fid
        expected = build_resizer("clean")(image)
        smaller = make_resizer("PIL", False, "bicubic", (224, 224))(image)
    assert np.array_equal(resize(image, 299), expected)
    assert np.array_equal(resize(image, 224), smaller)


def test_nothing_is_rounded_and_overshoot_is_clipped():
    image = np.zeros((9, 14, 3), np.uint8)
    image[:, 7:] = 255
    resized = resize(image, 299)
    assert resized.min() == 0 and resized.max() == 255
    assert (resized != resized.round()).any()


def test_a_grey_image_is_the_color_image_with_three_equal_channels():
    grey = np.random.default_rng(0).integers(0, 256, (20, 31, 1)).astype(np.uint8)
    assert np.array_equal(resize(grey, 64), resize(grey.repeat(3, axis=-1), 64))
