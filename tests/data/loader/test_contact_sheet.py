"""The contact sheet: unchanged images, evenly spread, each above the name of its class."""

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.loader.contact_sheet import GAP_PX, contact_sheet, spread, write_contact_sheet
from hdit_core.data.loader.image_reader import ImageReader
from tests.data.conditioned_set import RANGES, write_conditioned_set

CELL_PX = 128


def test_images_are_spread_evenly_and_none_is_shown_twice():
    assert spread(10, 4) == [0, 2, 5, 7]
    assert spread(3, 64) == [0, 1, 2]
    for num_images in (1, 7, 64, 65, 1000):
        numbers = spread(num_images, 64)
        assert numbers == sorted(set(numbers))
        assert len(numbers) == min(64, num_images)


def test_the_sheet_shows_the_pixels(data_set):
    """8x12 pixels, each ten times as large, in the middle of its cell."""
    sheet = np.asarray(contact_sheet(data_set, 23))
    pixels = ImageReader(data_set).read(1)[0]
    left, top = GAP_PX + CELL_PX + GAP_PX + (CELL_PX - 120) // 2, GAP_PX + (CELL_PX - 80) // 2
    shown = sheet[top : top + 80, left : left + 120]
    assert np.array_equal(shown[::10, ::10], pixels)
    assert np.array_equal(shown[9::10, 9::10], pixels)


def test_a_condition_image_is_shown_to_the_left_of_its_image_and_ranges_from_black_to_white(tmp_path):
    """6x10 pixels of four 16-bit channels, each twelve times as large; the first three are shown."""
    write_conditioned_set(tmp_path / "set", captions=False)
    sheet = np.asarray(contact_sheet(tmp_path / "set", 5))
    reader = ImageReader(tmp_path / "set")
    left, top = GAP_PX + 2 * CELL_PX + GAP_PX + (CELL_PX - 120) // 2, GAP_PX + (CELL_PX - 72) // 2
    condition = sheet[top : top + 72 : 12, left : left + 120 : 12]
    image = sheet[top : top + 72 : 12, left + CELL_PX : left + CELL_PX + 120 : 12]
    for shown, pixels, ranges in (
        (condition, reader.condition(1)[..., [0, 0, 0]], [(-4, 4)] * 3),
        (image, reader.read(1)[0][..., :3], RANGES[:3]),
    ):
        low, high = np.array(ranges).T
        levels = (pixels - low) / (high - low) * 255
        assert np.abs(shown - levels.clip(0, 255)).max() <= 0.51


def test_captions_are_written_under_the_images(tmp_path):
    write_conditioned_set(tmp_path / "set")
    write_conditioned_set(tmp_path / "without", captions=False)
    assert contact_sheet(tmp_path / "set", 5).height > contact_sheet(tmp_path / "without", 5).height


def test_class_names_are_written_under_the_images(data_set, pictures, prepare, tmp_path):
    prepare(pictures, labels="none")
    with_names, without = contact_sheet(data_set, 4), contact_sheet(tmp_path / "set", 4)
    assert with_names.height > without.height
    caption = np.asarray(with_names)[GAP_PX + CELL_PX + 2 :, GAP_PX : GAP_PX + CELL_PX]
    assert (caption < 100).any()


@pytest.mark.parametrize(("size", "channels"), [((300, 20), 1), ((20, 300), 3), ((128, 128), 3), ((129, 1), 1)])
def test_images_of_every_shape_fit_on_the_sheet(pictures, prepare, tmp_path, size, channels):
    prepare(pictures, size=size, channels=channels)
    sheet = contact_sheet(tmp_path / "set", 9)
    assert sheet.mode == "RGB"
    assert sheet.width == 8 * (CELL_PX + GAP_PX) + GAP_PX


def test_images_of_several_sizes_fit_on_one_sheet(pictures, prepare, tmp_path):
    with Image.open(pictures / "ant" / "000.png") as image:
        image.transpose(Image.Transpose.ROTATE_90).save(pictures / "ant" / "000.png")
    prepare(pictures, buckets=((8, 12), (12, 8)))
    assert contact_sheet(tmp_path / "set").size[0] > 0


def test_a_sheet_is_a_png_and_replaces_an_older_one(data_set, tmp_path):
    path = tmp_path / "sheet.png"
    path.write_text("old")
    write_contact_sheet(data_set, path, 5)
    with Image.open(path) as image:
        assert (image.format, image.size) == ("PNG", contact_sheet(data_set, 5).size)
    assert [found.name for found in tmp_path.iterdir()] == ["sheet.png"]
