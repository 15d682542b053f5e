"""A folder of samples is whole, says how it was made, and does not mix with another."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.errors import UsageError
from hdit_core.generate import writer
from hdit_core.generate.generate import Generated
from hdit_core.generate.writer import ImageFolder, sheet


def batch(indices, height=8, width=12, channels=3):
    ramp = torch.linspace(-1.5, 1.5, len(indices) * channels * height * width)
    return Generated(indices, [index % 3 for index in indices], ramp.reshape(len(indices), channels, height, width))


def test_each_image_is_a_png_named_by_its_index(tmp_path):
    folder = ImageFolder(tmp_path / "out")
    folder.write(batch([4, 5]))
    folder.write(batch([6]))
    record = folder.finish({"seed": 3})
    names = ["00000004.png", "00000005.png", "00000006.png", "grid.png", "samples.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == names
    assert record == {"num_images": 3, "seed": 3}
    assert json.loads((tmp_path / "out" / "samples.json").read_text())["class_ids"] == [1, 2, 0]
    pixels = np.asarray(Image.open(tmp_path / "out" / "00000004.png"))
    assert pixels.shape == (8, 12, 3) and pixels[0, 0, 0] == 0


def test_the_grid_shows_the_first_images_only_and_no_more_pixels_than_a_screen_bears(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "MOST_GRID_IMAGES", 4)
    monkeypatch.setattr(writer, "MOST_GRID_PIXELS", 3 * 8 * 12)
    folder = ImageFolder(tmp_path / "out")
    folder.write(batch([0, 1]))
    folder.write(batch([2, 3]))
    folder.finish({})
    columns, rows = 2, 2  # three images
    grid_size = (columns * (12 + 2) + 2, rows * (8 + writer.CAPTION_PX + 2) + 2)
    assert len(folder._first) == 3 and Image.open(folder.grid_file).size == grid_size


def test_a_folder_with_something_in_it_is_refused(tmp_path):
    (tmp_path / "old.png").touch()
    with pytest.raises(UsageError, match="exists and is not an empty folder"):
        ImageFolder(tmp_path)


def test_a_sheet_shows_every_image_in_its_place_with_its_caption():
    images = np.stack([np.full((8, 12, 1), value, np.uint8) for value in (10, 20, 30)])
    plain = sheet(images, columns=2)
    assert plain.shape == (2 * 10 + 2, 2 * 14 + 2, 1)
    assert (plain[2, 2, 0], plain[2, 16, 0], plain[12, 2, 0], plain[12, 16, 0]) == (10, 20, 30, 255)
    captioned = sheet(images, ["0", "7", "\x1b[31mlong name"], columns=3)
    strips = [captioned[10:24, left : left + 12, 0] for left in (2, 16, 30)]
    assert all(strip.min() < 128 for strip in strips)
    assert not np.array_equal(strips[0], strips[1])
