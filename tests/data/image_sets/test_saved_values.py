"""Sets and samples of other values than 8 bits are scored by their range."""

import json

import numpy as np
import pytest
import torch

from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image_sets.open_images import open_images
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import DataError
from hdit_core.generate.output.sample_folder import SampleFolder
from hdit_core.generate.pipeline import Samples
from hdit_core.images import to_uint8

FORMATS = [
    PixelFormat(3, "uint16"),
    PixelFormat(1, "uint16", ((0.0, 4095.0),)),
    PixelFormat(1, "float32", ((-5.0, 5.0),)),
    PixelFormat(3, "float32", ((0.0, 1.0), (0.0, 2.0), (0.0, 3.0))),
]


def write_samples(folder, pixels, channels=None):
    images = torch.from_numpy(
        np.random.Generator(np.random.Philox(1)).uniform(-1, 1, (3, pixels.channels, 5, 8))
    ).float()
    samples = SampleFolder(folder, {"seed": 1}, (5, 8, pixels.channels), pixels)
    samples.begin()
    samples.write(Samples([0, 1, 2], None, images))
    samples.finish([0, 1, 2], lambda index: None)
    return images


def read_all(location, channels):
    opened = open_images(str(location), channels=channels)
    return np.stack([read() for read in opened.open(range(3))])


@pytest.mark.parametrize("pixels", FORMATS)
def test_samples_and_a_set_of_them_equal_the_8_bit_images_of_the_network(tmp_path, pixels):
    images = write_samples(tmp_path / "samples", pixels)
    expected = to_uint8(images).astype(int)
    assert np.abs(read_all(tmp_path / "samples", pixels.channels) - expected).max() <= 1
    settings = {"channels": pixels.channels, "dtype": pixels.dtype, "value_range": pixels.value_range}
    prepare_data(PrepareSettings(str(tmp_path / "samples"), tmp_path / "set", (5, 8), labels="none", **settings))
    assert np.abs(read_all(tmp_path / "set", pixels.channels) - expected).max() <= 1


def test_other_channels_are_refused_in_one_line(tmp_path):
    write_samples(tmp_path / "samples", PixelFormat(2, "uint16"))
    with pytest.raises(DataError, match=r"00000000\.npy: cannot be scored \(2 channels; expected grayscale or RGB\)"):
        read_all(tmp_path / "samples", 3)


def test_an_invalid_record_is_refused(tmp_path):
    write_samples(tmp_path / "samples", PixelFormat(1, "uint16"))
    record = json.loads((tmp_path / "samples" / "samples.json").read_text())
    for about in (
        {"dtype": "object", "range": [[0, 1]]},
        {"dtype": "uint16", "range": [[1, 0]]},
        {"dtype": "uint16"},
        3,
    ):
        record["origin"]["pixels"] = about
        (tmp_path / "samples" / "samples.json").write_text(json.dumps(record))
        with pytest.raises(DataError, match=r"samples\.json: cannot be read"):
            open_images(str(tmp_path / "samples"))
