"""ADM's npz as a set of images: the same as a folder of them, in bounded memory, and safe with hostile files."""

import io
import zipfile

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.image_sets.npz import ImageArray
from hdit_core.data.image_sets.open_images import open_images
from hdit_core.errors import DataError
from hdit_core.evaluate.features.measure import measure
from hdit_core.evaluate.statistics_file import load_statistics

IMAGES = np.random.default_rng(0).integers(0, 256, (9, 10, 12, 3)).astype(np.uint8)


@pytest.fixture
def saved(tmp_path):
    """Return a function that saves an array as ADM does."""

    def save(images=IMAGES, compressed=False, **others):
        (np.savez_compressed if compressed else np.savez)(tmp_path / "samples.npz", images, **others)
        return tmp_path / "samples.npz"

    return save


@pytest.mark.parametrize("compressed", [False, True])
def test_the_images_of_the_array_are_those_of_the_set(saved, tmp_path, toy_extractor, compressed):
    (tmp_path / "folder").mkdir()
    for index, image in enumerate(IMAGES):
        Image.fromarray(image).save(tmp_path / "folder" / f"{index}.png")
    path = saved(compressed=compressed, arr_1=np.arange(9))
    from_array = measure(open_images(str(path)), toy_extractor, 4)
    from_folder = measure(open_images(str(tmp_path / "folder")), toy_extractor, 4)
    assert from_array.statistics.fingerprint == from_folder.statistics.fingerprint
    assert (from_array.source["kind"], from_array.source["size"]) == ("npz", "10x12")


def test_any_images_can_be_picked_in_any_order(saved):
    images = open_images(str(saved()))
    picked = images.read_many([7, 2, 7])
    assert all(np.array_equal(found, IMAGES[place]) for found, place in zip(picked, (7, 2, 7), strict=True))


def test_a_subset_is_drawn_by_seed(saved):
    images = open_images(str(saved()), 4, seed=1)
    assert images.count == 4 and images.source["subset_seed"] == 1
    assert len(list(images.readers())) == 4


def test_the_identity_changes_with_the_pixels(saved):
    before = open_images(str(saved())).identity
    assert open_images(str(saved())).identity == before
    assert open_images(str(saved(255 - IMAGES))).identity != before


@pytest.mark.parametrize(
    "array, message",
    [
        (IMAGES.astype(np.float32), r"arr_0 is float32 \(9, 10, 12, 3\); expected uint8 \[N, H, W, 3\]"),
        (IMAGES[..., :2], r"arr_0 is uint8 \(9, 10, 12, 2\)"),
        (IMAGES[0], r"arr_0 is uint8 \(10, 12, 3\)"),
        (IMAGES[:0], r"arr_0 is uint8 \(0, 10, 12, 3\)"),
        (np.asfortranarray(IMAGES), "arr_0 is in Fortran order; save numpy.ascontiguousarray"),
        (np.array([{}]), "arr_0 is object"),
    ],
)
def test_an_array_that_is_not_of_images_is_refused(saved, array, message):
    with pytest.raises(DataError, match=rf"samples\.npz: cannot be read as an npz of images \({message}"):
        ImageArray(saved(array))


def written(path, header, content=b""):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("arr_0.npy", header + content)
    return path


def header_of(shape, version=(1, 0)):
    header = io.BytesIO()
    write = np.lib.format.write_array_header_1_0 if version == (1, 0) else np.lib.format.write_array_header_2_0
    write(header, {"descr": "|u1", "fortran_order": False, "shape": shape})
    return header.getvalue()


@pytest.mark.parametrize(
    "header, message",
    [
        (header_of((1 << 40, 10, 12, 3)), "bytes are not an array"),
        (header_of((1, 1 << 20, 1 << 20, 3)), "images of 1048576x1048576 are more than 100 million"),
        (header_of((1, 10, 12, 3), (2, 0)), r"an array of version \(2, 0\)"),
        (b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 65535, ""),
        (b"no array", ""),
        (b"", ""),
    ],
)
def test_a_hostile_header_is_refused_before_memory_is_allocated(tmp_path, header, message):
    with pytest.raises(DataError, match=rf"x\.npz: cannot be read as an npz of images \(.*{message}"):
        ImageArray(written(tmp_path / "x.npz", header))


def test_a_damaged_pixel_is_found_by_the_checksum(saved):
    path = saved(np.tile(IMAGES, (40, 1, 1, 1)))
    content = bytearray(path.read_bytes())
    content[100_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"damaged array of images.*write it again"):
        list(open_images(str(path)).readers())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_array_that_would_expand_at_once_is_refused(tmp_path, method):
    content = io.BytesIO()
    np.save(content, IMAGES)
    for name, read in (("arr_0", ImageArray), ("mu", load_statistics)):
        with zipfile.ZipFile(tmp_path / "x.npz", "w", method) as archive:
            archive.writestr(f"{name}.npy", content.getvalue())
        with pytest.raises(DataError, match=rf"{name}.npy is compressed by method {method}; expected Deflate or none"):
            read(tmp_path / "x.npz")


def test_an_npz_without_images_is_named(tmp_path):
    np.savez(tmp_path / "x.npz", other=IMAGES)
    with pytest.raises(DataError, match=r"x\.npz: no images in it: expected arr_0"):
        open_images(str(tmp_path / "x.npz"))
