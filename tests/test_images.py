"""Conversion between images in bytes and in numbers: rounding and clipping."""

import math
import warnings

import numpy as np
import torch

from hdit_core.images import caption, from_uint8, thumbnail, to_uint8


def test_every_level_is_read_back(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(2, 8, 16, 1)
    images = from_uint8(levels)
    assert images.shape == (2, 1, 8, 16) and (images.min(), images.max()) == (-1, 1)
    assert np.array_equal(to_uint8(images), levels)


def test_pixels_that_cannot_be_written_are_read_without_a_warning():
    levels = np.zeros((1, 2, 3, 1), np.uint8)
    levels.flags.writeable = False
    torch.set_warn_always(True)  # else torch warns only once in a process
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert from_uint8(levels).shape == (1, 1, 2, 3)
    finally:
        torch.set_warn_always(False)


def test_values_are_rounded_to_the_nearest_level_and_clipped_and_nan_is_black():
    values = [-1.0, 1.0, 0.0, -7.0, 7.0, math.nan, math.inf, -math.inf, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1]
    image = torch.tensor(values).reshape(1, 1, 2, 5)
    assert to_uint8(image).reshape(-1).tolist() == [0, 255, 128, 0, 255, 0, 255, 0, 100, 101]


def test_a_caption_is_truncated_to_its_width_and_shows_hostile_characters_as_question_marks():
    assert np.array_equal(caption("a\x1b[31m\nb\u202e", 128, 1), caption("a?[31m?b?", 128, 1))
    long, cut = caption("n02123045 tabby, tabby cat " * 100, 128, 3), caption("n02123045 tabby, tabb...", 128, 3)
    assert long.shape == (14, 128, 3) and np.array_equal(long, cut)
    assert not np.array_equal(caption("cat", 128, 1), caption("dog", 128, 1))


def test_a_thumbnail_enlarges_small_images_by_a_whole_factor_and_shrinks_large_ones():
    small = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(8, 12, 3)
    shown = thumbnail(small, 128)[24:104, 4:124]
    assert np.array_equal(shown[::10, ::10], small) and np.array_equal(shown[9::10, 9::10], small)
    assert thumbnail(np.zeros((300, 40, 1), np.uint8)).shape == (128, 128, 3)
