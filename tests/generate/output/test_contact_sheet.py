"""A sheet of images is laid out in rows, with escaped captions."""

import numpy as np

from hdit_core.images import sheet


def test_a_sheet_shows_every_image_in_its_place_with_its_caption():
    images = np.stack([np.full((8, 12, 1), value, np.uint8) for value in (10, 20, 30)])
    plain = sheet(images, columns=2)
    assert plain.shape == (2 * 10 + 2, 2 * 14 + 2, 1)
    assert (plain[2, 2, 0], plain[2, 16, 0], plain[12, 2, 0], plain[12, 16, 0]) == (10, 20, 30, 255)
    captioned = sheet(images, ["0", "7", "\x1b[31mlong name"], columns=3)
    strips = [captioned[10:24, left : left + 12, 0] for left in (2, 16, 30)]
    assert all(strip.min() < 128 for strip in strips)
    assert not np.array_equal(strips[0], strips[1])
