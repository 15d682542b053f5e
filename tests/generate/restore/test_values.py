"""Inputs of 16 bits and floats are read in their full depth, and restored images are files of the same kind."""

import io
import logging

import numpy as np
import pytest
import tifffile

from hdit_core.data.image.arrays.npy import npy_bytes, read_npy
from hdit_core.data.image.arrays.png_array import png16_bytes, read_png_array
from hdit_core.data.image.arrays.tiff_array import read_tiff_array, tiff_bytes
from hdit_core.generate.condition.condition_images import ConditionMaker
from hdit_core.generate.restore.job import RestoreJob, open_masks
from hdit_core.images import png_bytes
from hdit_core.recipe.read import check_recipe
from tests.generate.conditional import tables
from tests.generate.restore.restoring import MASK, job_of, restore

HOUNSFIELD = [[-1024.0, 3071.0]]
BANDS = [[0.0, 65535.0], [0.0, 4095.0], [100.0, 200.0], [0.0, 10.0]]
READERS = {".png": read_png_array, ".tif": read_tiff_array, ".npy": read_npy}


def values(channels, dtype="uint16", ranges=((0.0, 65535.0),), size=(18, 24)):
    low, high = np.array(ranges).T
    shares = np.random.default_rng(0).uniform(0, 1, (*size, channels))
    return (low + shares * (high - low)).round(0 if dtype == "uint16" else 6).astype(dtype)


def stack(array):
    """A TIFF with a page for each channel."""
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for channel in np.moveaxis(array, -1, 0):
            writer.write(channel, photometric="minisblack", contiguous=False)
    return buffer.getvalue()


def network_of(network, channels, dtype, ranges=()):
    of_set = {"dtype": dtype, "value_range": ranges}
    return network(channels=channels, condition_channels=channels, data=of_set, condition=of_set)


KINDS = {
    "grey.png": (png16_bytes, 1, "uint16", (), ".png"),
    "color.png": (png16_bytes, 3, "uint16", (), ".png"),
    "grey.tif": (tiff_bytes, 1, "uint16", (), ".tif"),
    "color.TIFF": (tiff_bytes, 3, "uint16", (), ".tif"),
    "float.tif": (tiff_bytes, 1, "float32", HOUNSFIELD, ".tif"),
    "bands.npy": (npy_bytes, 4, "uint16", BANDS, ".npy"),
    "bands.tif": (tiff_bytes, 4, "uint16", BANDS, ".tif"),
    "stack.tif": (stack, 4, "uint16", BANDS, ".tif"),
    "float.npy": (npy_bytes, 2, "float32", HOUNSFIELD, ".npy"),
}


@pytest.mark.parametrize("name", KINDS)
def test_with_an_identity_network_values_are_kept_within_one_16_bit_level(network, tmp_path, monkeypatch, name):
    encode, channels, dtype, ranges, ending = KINDS[name]
    array = values(channels, dtype, ranges or ((0.0, 65535.0),))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / name).write_bytes(encode(array))
    monkeypatch.setattr(RestoreJob, "restore", lambda job, batch: [each.conditioned.condition for each in batch])
    record = restore(job_of(network_of(network, channels, dtype, ranges)), tmp_path / "in", tmp_path / "out")
    assert record["unusable"] == {} and record["origin"]["pixels"]["dtype"] == dtype
    (path,) = (path for path in (tmp_path / "out").iterdir() if path.stem == name.partition(".")[0])
    found = READERS[ending](path.read_bytes())
    assert path.suffix == ending and found.dtype == dtype and found.shape == array.shape
    low, high = np.array(ranges or ((0.0, 65535.0),)).T
    assert (np.abs(found.astype(float) - array) <= (high - low) / 65535).all()
    assert dtype != "uint16" or np.array_equal(found, array)


def test_the_known_pixels_of_an_inpainted_image_keep_their_16_bits(network, tmp_path):
    array = values(1, size=(16, 24))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png16_bytes(array))
    mask = np.zeros((16, 24, 1), np.uint8)
    mask[4:10, 6:] = 255
    (tmp_path / "mask.png").write_bytes(png_bytes(mask))
    path = network([MASK], channels=1, condition_channels=2, data={"dtype": "uint16"})
    restore(job_of(path, masks=open_masks(str(tmp_path / "mask.png"))), tmp_path / "in", tmp_path / "out")
    found = read_png_array((tmp_path / "out" / "a.png").read_bytes())
    assert np.array_equal(found[mask == 0], array[mask == 0]) and not np.array_equal(found, array)


def test_an_input_of_8_bits_is_scaled_for_a_network_of_16(network, tmp_path, monkeypatch):
    array = values(3, ranges=((0.0, 255.0),)).astype(np.uint8)
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.png").write_bytes(png_bytes(array))
    monkeypatch.setattr(RestoreJob, "restore", lambda job, batch: [each.conditioned.condition for each in batch])
    restore(job_of(network_of(network, 3, "uint16")), tmp_path / "in", tmp_path / "out")
    found = read_png_array((tmp_path / "out" / "a.png").read_bytes())
    assert np.array_equal(found, array.astype(np.uint16) * 257)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (tiff_bytes(values(1, "float32")), "values of float32; the network takes 1 channels of uint16"),
        (png16_bytes(values(3)), "3 channels; the network takes 1 channels of uint16"),
        (npy_bytes(np.full((18, 24, 1), 70_000, np.int32)), "numbers of type int32; expected uint8, uint16 or floats"),
        (stack(values(3)), "3 channels; the network takes 1 channels of uint16"),
    ],
)
def test_an_input_with_other_values_or_channels_than_the_data_set_is_unusable(network, tmp_path, content, reason):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(content)
    record = restore(job_of(network_of(network, 1, "uint16")), tmp_path / "in", tmp_path / "out")
    assert record["num_images"] == 0 and record["unusable"]["a"].startswith(reason)


def test_values_outside_the_range_are_clipped_with_a_warning(network, tmp_path, caplog):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.npy").write_bytes(npy_bytes(np.full((18, 24, 1), 5000, np.uint16)))
    job = job_of(network_of(network, 1, "uint16", [[0.0, 4095.0]]))
    with caplog.at_level(logging.WARNING, "hdit"):
        restore(job, tmp_path / "in", tmp_path / "out")
    assert "a.npy: values outside the range clipped" in caplog.text


@pytest.mark.parametrize(
    ("degrade", "ranges", "expected"),
    [
        ([{"kind": "grey"}], [[0.0, 100.0], [0.0, 50.0], [0.0, 10.0]], ("float32", ((-1.0, 1.0),))),
        ([{"kind": "grey"}], [[0.0, 100.0]] * 3, ("uint16", ((0.0, 100.0),))),
        ([{"kind": "noise", "std": 0.1}], [[0.0, 100.0], [0.0, 50.0], [0.0, 10.0]], ("uint16", None)),
    ],
)
def test_degraded_inputs_have_the_values_of_the_images(degrade, ranges, expected):
    channels = 1 if degrade[0]["kind"] == "grey" else 3
    recipe = check_recipe(tables(degrade, channels, data={"dtype": "uint16", "value_range": ranges}), "test")
    found = ConditionMaker(recipe).input_pixels
    assert (found.dtype, found.value_range) == (expected[0], expected[1] or tuple(map(tuple, ranges)))
    assert found.channels == channels
