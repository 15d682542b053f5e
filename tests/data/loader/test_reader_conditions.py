"""The reader returns condition images, vectors and captions, and images of other data types than 8 bits."""

import pickle

import numpy as np
import pytest

from hdit_core.data.loader.image_reader import DamagedImage, ImageReader
from hdit_core.errors import DataError
from hdit_core.images import from_float, from_uint8, to_float, to_uint8
from tests.data.conditioned_set import (
    CHANNELS,
    DIM,
    HEIGHT,
    RANGES,
    SAMPLES,
    WIDTH,
    caption,
    conditions,
    images,
    vectors,
    write_conditioned_set,
)


@pytest.fixture
def folder(tmp_path):
    write_conditioned_set(tmp_path / "set")
    return tmp_path / "set"


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20])
def test_every_part_of_a_sample_is_read_as_it_was_written(folder, cache_bytes):
    reader = ImageReader(folder, cache_bytes)
    assert (reader.condition_channels, reader.vector_dim) == (2, DIM)
    for _ in range(2):
        for number in (3, 0, 4, 1, 2):
            image, label = reader.read(number)
            assert label == -1 and image.dtype == np.uint16
            np.testing.assert_array_equal(image, images()[number])
            np.testing.assert_array_equal(reader.condition(number), conditions()[number])
            np.testing.assert_array_equal(reader.vector(number), vectors()[number])
            assert reader.caption(number) == caption(number)
    assert pickle.loads(pickle.dumps(reader)).caption(1) == caption(1)


def test_the_manifest_describes_the_parts(folder):
    contents = ImageReader(folder).manifest.contents
    assert contents.pixels.ranges == RANGES
    assert contents.condition.pixels.ranges == ((-4.0, 4.0),)
    assert (contents.condition.channels, contents.vectors.dim, contents.captions) == (2, DIM, True)


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


def test_a_damaged_condition_image_is_named_and_the_image_is_still_read(folder):
    reader = ImageReader(folder)
    offset = int(reader._condition_index["offset"][2])
    flip(folder / "shard-000000.tar", offset + 200)
    reader = ImageReader(folder)
    with pytest.raises(DamagedImage, match=r"image 2 at byte .* do not match the checksum") as problem:
        reader.condition(2)
    assert problem.value.index == 2
    np.testing.assert_array_equal(reader.read(2)[0], images()[2])


def test_a_damaged_tar_header_of_a_caption_is_named(folder):
    reader = ImageReader(folder)
    offset, length = (int(reader._condition_index[name][1]) for name in ("offset", "length"))
    flip(folder / "shard-000000.tar", offset + -(-length // 512) * 512)
    with pytest.raises(DamagedImage, match=r"image 1 .*its caption: no intact tar header"):
        ImageReader(folder).caption(1)


@pytest.mark.parametrize("name", ["condition.npy", "vectors.npy"])
def test_a_damaged_file_of_rows_is_found_when_the_set_is_opened(folder, name):
    flip(folder / name, -1)
    with pytest.raises(DataError, match=f"{name}: its checksum does not match"):
        ImageReader(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"value_range": ((0.0, 0.0),)}, "images of a range from 0 to 0"),
        ({"value_range": RANGES[:2]}, "images of 2 ranges for 4 channels"),
        ({"dtype": "float32", "value_range": ()}, "images of float32 values without a range"),
        ({"channels": 3, "dtype": "uint8", "value_range": ()}, "are not stored as npy"),
        ({"format_version": 1}, "format version 1 does not fit its parts, which need 3"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(tmp_path, changes, problem):
    write_conditioned_set(tmp_path / "set", **changes)
    with pytest.raises(DataError, match=problem):
        ImageReader(tmp_path / "set")


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_pixels_of_each_type_survive_conversion_to_the_networks_range_and_back(dtype):
    ranges = {"uint8": ((0.0, 255.0),), "uint16": RANGES, "float32": ((-1024.0, 3071.0),)}[dtype]
    low, high = np.array(ranges).T
    numbers = np.random.Generator(np.random.Philox(4)).uniform(low, high, (2, HEIGHT, WIDTH, CHANNELS))
    pixels = np.rint(numbers).astype(dtype) if dtype != "float32" else numbers.astype(dtype)
    floats = to_float(pixels, ranges)
    assert floats.shape == (2, CHANNELS, HEIGHT, WIDTH) and floats.abs().max() <= 1
    back = from_float(floats, dtype, ranges)
    assert back.dtype == dtype
    np.testing.assert_allclose(back, pixels, rtol=0, atol=0 if dtype != "float32" else 4095 / 65535)


def test_8_bit_values_are_mapped_as_in_earlier_versions():
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert (to_float(pixels, ((0.0, 255.0),)) == from_uint8(pixels)).all()
    images = 1.5 - 3 * from_uint8(pixels)
    np.testing.assert_array_equal(from_float(images, "uint8", ((0.0, 255.0),)), to_uint8(images))


def test_values_outside_the_range_are_clipped_and_nan_is_the_lowest():
    values = to_float(np.array([[[[-0.5, 2.0]]]], np.float32), ((0.0, 1.0),))
    values[0, 0, 0, 0] = float("nan")
    assert from_float(values, "uint16", ((0.0, 1000.0),)).tolist() == [[[[0, 1000]]]]


def test_the_number_of_images_is_that_of_the_set(folder):
    assert len(ImageReader(folder)) == SAMPLES
