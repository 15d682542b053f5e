"""Sets of 16-bit and float images of several channels: values, geometry and statistics per channel."""

import json

import numpy as np
import pytest
import tifffile
from PIL import Image

from hdit_core.data.format.manifest import read_manifest, sigma_data
from hdit_core.data.format.verify import verify
from hdit_core.data.image.arrays.picture import frame
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.resize import Geometry, crop_and_resize
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.errors import DataError
from hdit_core.images import to_float

HEIGHT, WIDTH, COUNT = 12, 18, 6
RANGES = ((0.0, 65535.0), (0.0, 4095.0), (100.0, 200.0), (0.0, 1.0))


def depth(number, channels=4):
    """Return smooth 16-bit values that reach both ends of each range."""
    shares = np.linspace(0, 1, HEIGHT * WIDTH * channels).reshape(HEIGHT, WIDTH, channels) ** (1 + number / 3)
    low, high = np.array(RANGES[:channels]).T
    return np.rint(low + shares * (high - low)).astype(np.uint16)


def write_arrays(folder, channels=4):
    for number in range(COUNT):
        path = folder / f"{number % 2}" / f"{number}.npy"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, depth(number, channels))
    return folder


def rejects_of(folder):
    return {one["name"]: one["reason"] for one in map(json.loads, (folder / "rejects.jsonl").read_text().splitlines())}


def test_a_set_of_four_16_bit_channels_keeps_every_value(prepare, tmp_path):
    arrays = write_arrays(tmp_path / "arrays")
    options = {"size": (HEIGHT, WIDTH), "channels": 4, "dtype": "uint16", "value_range": RANGES}
    summary = prepare(arrays, **options)
    assert (summary.images, summary.rejects, summary.classes) == (COUNT, 0, 2)
    reader = ImageReader(tmp_path / "set")
    order = [0, 2, 4, 1, 3, 5]
    for index, number in enumerate(order):
        image, label = reader.read(index)
        assert label == number % 2 and image.dtype == np.uint16
        np.testing.assert_array_equal(image, depth(number))
    contents = reader.manifest.contents
    assert (contents.format_version, contents.codec, contents.pixels.ranges) == (3, "npy", RANGES)
    assert verify(tmp_path / "set", "deep").defects == ()
    prepare(arrays, "two", workers=2, **options)
    assert read_manifest(tmp_path / "two").root == reader.manifest.root


def test_statistics_are_those_of_the_values_in_their_range(prepare, tmp_path):
    prepare(write_arrays(tmp_path / "arrays"), size=(HEIGHT, WIDTH), channels=4, dtype="uint16", value_range=RANGES)
    images = to_float(np.stack([depth(number) for number in range(COUNT)]), RANGES).numpy()
    manifest = read_manifest(tmp_path / "set")
    np.testing.assert_allclose(manifest.pixel_mean, images.mean((0, 2, 3)), atol=2e-5)
    np.testing.assert_allclose(manifest.pixel_std, images.std((0, 2, 3)), atol=2e-5)
    assert sigma_data(manifest) == pytest.approx(images.std(), abs=2e-5)


@pytest.mark.parametrize("crop", ["center", "fit"])
def test_each_channel_is_resized_as_a_float_image_and_then_rounded(prepare, tmp_path, crop):
    prepare(write_arrays(tmp_path / "arrays", 2), size=(7, 7), channels=2, dtype="uint16", crop=crop, labels="none")
    image, _ = ImageReader(tmp_path / "set").read(0)
    for channel in range(2):
        plane = Image.fromarray(depth(0, 2)[..., channel].astype(np.float32))
        if crop == "center":
            expected = np.asarray(crop_and_resize(plane, 7, 7))
            np.testing.assert_array_equal(image[..., channel], np.rint(expected).clip(0, 65535))
        else:
            inner = plane.resize((7, 5), Image.Resampling.LANCZOS)
            np.testing.assert_array_equal(image[1:6, :, channel], np.rint(np.asarray(inner)).clip(0, 65535))
            assert (image[[0, 6]][..., channel] == 65535).all()  # white, the default background


def test_8_bit_values_are_resized_as_pillow_resizes_them():
    """The two paths differ in rounding only: Pillow rounds bytes after each of its two passes."""
    values = np.random.Generator(np.random.Philox(5)).integers(0, 256, (20, 30, 3)).astype(np.uint8)
    geometry = Geometry((20, 30), (9, 9), (0.5, 0.5))
    floats = frame(values, geometry, "bicubic", PixelFormat(3), (0, 0, 0))
    image = frame(Image.fromarray(values), geometry, "bicubic", PixelFormat(3), (0, 0, 0))
    assert np.abs(floats.astype(int) - np.asarray(image)).max() <= 1


def test_float_tiffs_keep_every_value_and_a_nan_is_a_reject_of_one_line(prepare, tmp_path):
    folder = tmp_path / "floats"
    folder.mkdir()
    numbers = np.random.Generator(np.random.Philox(6)).uniform(-1000, 3000, (3, HEIGHT, WIDTH, 2)).astype(np.float32)
    for number, array in enumerate(numbers):
        tifffile.imwrite(folder / f"{number}.tif", array, planarconfig="contig", metadata=None)
    broken = numbers[0].copy()
    broken[2, 5, 1] = np.inf
    np.save(folder / "broken.npy", broken)
    np.save(folder / "three.npy", numbers[0][..., [0, 0, 1]])
    options = {"size": (HEIGHT, WIDTH), "channels": 2, "dtype": "float32", "value_range": ((-1000.0, 3000.0),)}
    summary = prepare(folder, **options)
    assert (summary.images, summary.rejects) == (3, 2)
    reader = ImageReader(tmp_path / "set")
    for number, array in enumerate(numbers):
        np.testing.assert_array_equal(reader.read(number)[0], array)
    assert rejects_of(tmp_path / "set") == {
        "broken.npy": "inf at row 2, column 5, channel 1; expected finite values",
        "three.npy": "3 channels, expected 2 (--channels)",
    }


def test_values_beyond_the_range_are_clipped_and_counted(prepare, tmp_path):
    arrays = write_arrays(tmp_path / "arrays", 2)
    prepare(arrays, size=(HEIGHT, WIDTH), channels=2, dtype="uint16", value_range=((0.0, 2000.0),))
    assert read_manifest(tmp_path / "set").remarks["values outside the range clipped"] == COUNT
    assert ImageReader(tmp_path / "set").read(1)[0].max() == 2000


def test_duplicates_are_found_by_values_and_dropped_with_their_statistics(prepare, tmp_path):
    arrays = write_arrays(tmp_path / "arrays")
    tifffile.imwrite(arrays / "1" / "again.tif", depth(0), planarconfig="contig", metadata=None)
    options = {"size": (HEIGHT, WIDTH), "channels": 4, "dtype": "uint16", "labels": "none"}
    prepare(arrays, drop_duplicates=True, **options)
    assert rejects_of(tmp_path / "set") == {"1/again.tif": "the same pixels as 0/0.npy"}
    (arrays / "1" / "again.tif").unlink()
    prepare(arrays, "without", drop_duplicates=True, **options)
    ours, theirs = (read_manifest(tmp_path / name) for name in ("set", "without"))
    assert (ours.contents.shards, ours.pixel_mean) == (theirs.contents.shards, theirs.pixel_mean)


def test_condition_images_may_be_arrays_of_other_channels_and_type_than_the_images(prepare, tmp_path):
    arrays = write_arrays(tmp_path / "arrays")
    for number in range(COUNT):
        path = tmp_path / "photos" / f"{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((depth(number, 3) >> 8).astype(np.uint8)).save(path)
    ranges = {"condition_range": RANGES}
    prepare(tmp_path / "photos", size=(HEIGHT, WIDTH), condition=str(arrays), labels="none", **ranges)
    reader = ImageReader(tmp_path / "set")
    condition = reader.manifest.contents.condition
    assert (condition.channels, condition.dtype, condition.codec, condition.pixels.ranges) == (
        4,
        "uint16",
        "npy",
        RANGES,
    )
    np.testing.assert_array_equal(reader.condition(1), depth(2))
    assert verify(tmp_path / "set", "deep").defects == ()


def test_a_damaged_value_of_an_array_is_found_by_deep_verification(prepare, tmp_path):
    prepare(write_arrays(tmp_path / "arrays"), size=(HEIGHT, WIDTH), channels=4, dtype="uint16", value_range=RANGES)
    reader = ImageReader(tmp_path / "set")
    path = tmp_path / "set" / "shard-000000.tar"
    content = bytearray(path.read_bytes())
    content[int(reader._index["offset"][2]) + 300] ^= 1
    path.write_bytes(content)
    problems = [defect.problem for defect in verify(tmp_path / "set", "deep").defects]
    assert any("image 2 " in problem and "does not have the checksum of the index" in problem for problem in problems)


def test_without_any_array_of_the_expected_channels_the_first_reason_is_reported(prepare, tmp_path):
    arrays = write_arrays(tmp_path / "arrays")
    with pytest.raises(DataError, match=r"none of its 6 files is a usable image; the first is 0/0.npy: 4 chan"):
        prepare(arrays, dtype="uint16")


def test_stacks_of_pages_become_images_and_condition_images_of_as_many_channels(prepare, tmp_path):
    for name, channels in (("images", 5), ("conditions", 2)):
        (tmp_path / name).mkdir()
        for number in range(3):
            with tifffile.TiffWriter(tmp_path / name / f"{number}.tif") as file:
                for channel in np.moveaxis(stack_of(number, channels), -1, 0):
                    file.write(channel, metadata=None)
    options = {"size": (HEIGHT, WIDTH), "channels": 5, "dtype": "uint16", "condition": str(tmp_path / "conditions")}
    with pytest.raises(DataError, match="has a readable condition image in it: TIFF with 2 pages; if they are the"):
        prepare(tmp_path / "images", **options)
    summary = prepare(tmp_path / "images", "stacks", pages_as_channels=True, **options)
    manifest, reader = read_manifest(tmp_path / "stacks"), ImageReader(tmp_path / "stacks")
    assert (summary.images, summary.rejects, manifest.settings["tiff_pages"]) == (3, 0, "channels")
    assert manifest.remarks["TIFF pages as channels"] == 3
    for number in range(3):
        np.testing.assert_array_equal(reader.read(number)[0], stack_of(number, 5))
        np.testing.assert_array_equal(reader.condition(number), stack_of(number, 2))


def stack_of(number, channels):
    numbers = np.random.Generator(np.random.Philox(number))
    return numbers.integers(0, 65536, (HEIGHT, WIDTH, channels)).astype(np.uint16)
