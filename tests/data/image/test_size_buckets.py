"""Several sizes in one data set: each image in the bucket of the nearest aspect ratio, a range of the index."""

import json
import math

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.format.manifest import Manifest, read_manifest, root_of, write_manifest
from hdit_core.data.image.codec import decode
from hdit_core.data.image.resize import bucket_sizes, crop_and_resize, nearest_size
from hdit_core.errors import DataError, UsageError
from tests.data.class_folders import bytes_of

SIZES = ((8, 12), (8, 8), (12, 6))
SHAPES = [(9, 14), (20, 20), (30, 10), (10, 31), (16, 17), (40, 21), (9, 14)]


@pytest.fixture
def shapes(tmp_path):
    """Return a folder of 21 pictures of seven shapes, in two classes, and a file that is none."""
    random = np.random.default_rng(0)
    for number in range(21):
        path = tmp_path / "shapes" / ("ant", "bee")[number % 2] / f"{number:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 256, (*SHAPES[number % 7], 3), np.uint8)).save(path)
    (tmp_path / "shapes" / "ant" / "notes.bin").write_text("not an image")
    return tmp_path / "shapes"


def images_of(folder):
    """Return size, label and pixels of each image in the order of the index."""
    contents = read_manifest(folder).contents
    rows = iter(np.load(folder / "index.npy"))
    found = []
    for bucket in contents.sizes:
        for _ in range(bucket.samples):
            row = next(rows)
            data = (folder / contents.shards[row["shard"]].name).read_bytes()
            content = data[int(row["offset"]) : int(row["offset"]) + int(row["length"])]
            pixels = decode(content, contents.codec, (bucket.height, bucket.width, contents.channels))
            found.append(((bucket.height, bucket.width), int(row["label"]), pixels))
    return found


@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_size_has_the_smallest_log_ratio(seed):
    random = np.random.default_rng(seed)
    sizes = [(1024, 1024), (832, 1216), (1216, 832), (640, 1536)]
    for height, width in random.integers(1, 5000, (200, 2)).tolist():
        distances = [abs(math.log(height / width) - math.log(size[0] / size[1])) for size in sizes]
        assert nearest_size(sizes, height, width) == sizes[int(np.argmin(distances))]


def test_between_two_equally_near_sizes_the_first_is_taken():
    assert nearest_size(((4, 8), (8, 4)), 10, 10) == (4, 8)
    assert nearest_size(((8, 4), (4, 8)), 10, 10) == (8, 4)


def test_the_order_of_buckets_does_not_depend_on_the_order_in_the_command():
    assert bucket_sizes(((9, 4), (4, 9), (4, 5))) == ((4, 5), (4, 9), (9, 4))


@pytest.mark.parametrize("sizes", [((512, 512), (1024, 1024)), ((4, 6), (6, 9), (5, 5)), ((8, 8), (8, 8))])
def test_two_sizes_of_one_shape_are_refused(sizes):
    with pytest.raises(UsageError, match=r"--size: .* have the same shape, so that an image could become either"):
        bucket_sizes(sizes)


def test_every_image_is_in_the_bucket_of_its_shape(shapes, prepare, tmp_path):
    summary = prepare(shapes, buckets=SIZES)
    assert (summary.images, summary.rejects) == (21, 1)
    assert summary.buckets == {"8x8": 6, "8x12": 9, "12x6": 6}
    names = sorted(path.relative_to(shapes).as_posix() for path in shapes.rglob("*.png"))
    expected = []
    for size in sorted(SIZES):
        for name in names:
            with Image.open(shapes / name) as image:
                if nearest_size(sorted(SIZES), image.height, image.width) == size:
                    expected.append(
                        (size, ("ant", "bee").index(name[:3]), np.asarray(crop_and_resize(image.convert("RGB"), *size)))
                    )
    for found, wanted in zip(images_of(tmp_path / "set"), expected, strict=True):
        assert found[:2] == wanted[:2]
        assert np.array_equal(found[2], wanted[2])


def test_a_shard_has_images_of_one_size_and_its_name_contains_it(shapes, prepare, tmp_path):
    prepare(shapes, buckets=SIZES)
    contents = read_manifest(tmp_path / "set").contents
    assert contents.format_version == 2
    assert (contents.height, contents.width) == (12, 12)
    assert sorted(name for name in bytes_of(tmp_path / "set") if name.endswith(".tar")) == sorted(
        shard.name for shard in contents.shards
    )
    sizes = [shard.name.removesuffix(".tar").split("-")[2] for shard in contents.shards]
    assert sizes == sorted(sizes, key=["8x8", "8x12", "12x6"].index)
    index = np.load(tmp_path / "set" / "index.npy")
    assert (np.diff(index["shard"].astype(int)) >= 0).all()
    assert np.bincount(index["shard"]).tolist() == [shard.samples for shard in contents.shards]


def test_the_order_of_the_sizes_and_the_number_of_processes_change_no_byte(shapes, prepare, tmp_path):
    prepare(shapes, name="one", buckets=SIZES)
    prepare(shapes, name="two", buckets=SIZES[::-1], workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_a_bucket_without_images_is_omitted(shapes, prepare, tmp_path):
    assert prepare(shapes, buckets=((8, 8), (1, 100), (100, 1))).buckets == {"8x8": 21}
    assert read_manifest(tmp_path / "set").contents.format_version == 2


def test_a_set_of_one_size_has_no_buckets_in_its_manifest(shapes, prepare, tmp_path):
    prepare(shapes)
    document = json.loads((tmp_path / "set" / "manifest.json").read_text())
    assert document["contents"]["format_version"] == 1
    assert "buckets" not in document["contents"]
    manifest = read_manifest(tmp_path / "set")
    assert [(size.height, size.width, size.samples) for size in manifest.contents.sizes] == [(8, 12, 21)]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda contents: contents["buckets"].reverse(),
            "its buckets are out of order, or do not have the stated largest size",
        ),
        (lambda contents: contents["buckets"].append(contents["buckets"][-1]), "its buckets do not add up to 21"),
        (lambda contents: contents["buckets"][0].update(samples=7), "its buckets do not add up to 21 samples"),
        (
            lambda contents: contents.update(height=13),
            "its buckets are out of order, or do not have the stated largest size",
        ),
        (lambda contents: contents.update(format_version=1), "format version 1 does not fit its parts, which need 2"),
        (lambda contents: contents.update(buckets=[]), "format version 2 does not fit its parts, which need 1"),
    ],
)
def test_forged_buckets_are_refused(shapes, prepare, tmp_path, change, message):
    prepare(shapes, buckets=SIZES)
    document = json.loads((tmp_path / "set" / "manifest.json").read_text())
    del document["checksum"]
    change(document["contents"])
    manifest = Manifest.model_validate(document)
    write_manifest(tmp_path / "set", manifest.model_copy(update={"root": root_of(manifest.contents)}))
    with pytest.raises(DataError, match=message):
        read_manifest(tmp_path / "set")
