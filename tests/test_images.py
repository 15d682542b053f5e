"""Images between bytes and numbers: one rounding, and nothing out of range."""

import math

import numpy as np
import torch

from hdit_core.images import from_uint8, to_uint8


def test_every_level_comes_back(tmp_path):
    levels = np.arange(256, dtype=np.uint8).reshape(2, 8, 16, 1)
    images = from_uint8(levels)
    assert images.shape == (2, 1, 8, 16) and (images.min(), images.max()) == (-1, 1)
    assert np.array_equal(to_uint8(images), levels)


def test_numbers_are_rounded_to_the_nearest_level_and_clipped_and_nan_is_black():
    values = [-1.0, 1.0, 0.0, -7.0, 7.0, math.nan, math.inf, -math.inf, 100.4 / 127.5 - 1, 100.6 / 127.5 - 1]
    image = torch.tensor(values).reshape(1, 1, 2, 5)
    assert to_uint8(image).reshape(-1).tolist() == [0, 255, 128, 0, 255, 0, 255, 0, 100, 101]
