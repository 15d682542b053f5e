"""Samples are saved in the values of the training data, and read back within one 16-bit level."""

import numpy as np
import pytest
import torch
from PIL import Image

from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.errors import UsageError
from hdit_core.generate.output.archives import SampleNpz
from hdit_core.generate.output.sample_folder import SampleFolder
from hdit_core.generate.output.sample_format import SampleFormat
from hdit_core.generate.pipeline import Samples
from hdit_core.images import png_bytes, to_float, to_uint8

SIZE = (5, 8)
FORMATS = {
    "8-bit RGB": (PixelFormat(3), "png"),
    "8-bit mask": (PixelFormat(1, "uint8", ((0.0, 1.0),)), "png"),
    "8-bit, 4 channels": (PixelFormat(4), "npy"),
    "16-bit grey": (PixelFormat(1, "uint16"), "png"),
    "16-bit RGB": (PixelFormat(3, "uint16"), "png"),
    "16-bit, 2 channels": (PixelFormat(2, "uint16", ((0.0, 65535.0), (0.0, 4095.0))), "npy"),
    "float grey": (PixelFormat(1, "float32", ((-1024.0, 3071.0),)), "npy"),
    "float, 5 channels": (PixelFormat(5, "float32", ((0.0, 1e-3),)), "npy"),
}


def images(channels, count=3):
    return torch.from_numpy(
        np.random.Generator(np.random.Philox(1)).uniform(-1.1, 1.1, (count, channels, *SIZE))
    ).float()


@pytest.mark.parametrize("name", FORMATS)
def test_a_file_holds_the_image_to_one_level_of_its_type(name):
    pixels, suffix = FORMATS[name]
    samples = SampleFormat(pixels)
    assert samples.suffix == suffix
    low, high = pixels.ranges[0]
    step = {"uint8": 2 / (high - low), "uint16": 2 / 4095, "float32": 1 / 65535}[pixels.dtype]
    if name in ("16-bit grey", "16-bit RGB"):
        step = 1 / 65535 + 1e-7
    for image, content in zip(images(pixels.channels), samples.encode(images(pixels.channels)), strict=True):
        back = samples.to_float(samples.decode(content, SIZE))
        assert (back - image.clamp(-1, 1)).abs().max() <= step


def test_8_bit_images_have_unchanged_bytes():
    for channels in (1, 3):
        contents = list(SampleFormat(PixelFormat(channels)).encode(images(channels)))
        assert contents == [png_bytes(image) for image in to_uint8(images(channels))]


@pytest.mark.parametrize("name", FORMATS)
def test_a_folder_keeps_intact_samples_and_finds_damaged_ones(name, tmp_path):
    pixels, suffix = FORMATS[name]
    folder = SampleFolder(tmp_path / "samples", {"seed": 1}, (*SIZE, pixels.channels), pixels)
    folder.begin()
    folder.write(Samples([0, 1, 7], None, images(pixels.channels)))
    assert folder.path(7).suffix == f".{suffix}"
    content = folder.path(1).read_bytes()
    folder.path(1).write_bytes(content[: len(content) // 2])
    assert folder.missing([0, 1, 7]) == [1]
    assert folder.image(1) is None and folder.image(7).shape == (pixels.channels, *SIZE)
    record = folder.finish([0, 7], lambda index: None)
    assert ("pixels" in record["origin"]) == (name != "8-bit RGB" and name != "8-bit, 4 channels")
    with Image.open(tmp_path / "samples-grid.png") as grid:
        assert grid.mode == ("RGB" if pixels.channels >= 3 else "L")


def test_an_npz_has_the_type_of_the_training_data(tmp_path):
    pixels = PixelFormat(2, "uint16")
    with SampleNpz(tmp_path / "x.npz", 3, (*SIZE, 2), pixels) as stream:
        stream.write(Samples([0, 1, 2], None, images(2)))
    array = np.load(tmp_path / "x.npz")["arr_0"]
    assert array.dtype == np.uint16
    assert (to_float(array, pixels.ranges) - images(2).clamp(-1, 1)).abs().max() <= 1 / 65535 + 1e-7


def test_without_the_package_for_16_bit_rgb_the_job_is_refused_at_its_start(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "imagecodecs", None)
    folder = SampleFolder(tmp_path / "samples", {}, (*SIZE, 3), PixelFormat(3, "uint16"))
    with pytest.raises(UsageError, match="--out: 16-bit color PNG needs imagecodecs, which is not installed"):
        folder.begin()
    assert not (tmp_path / "samples").exists()
