"""Reading: every damage is an error that names the file, never fewer or other images."""

import json
import pickle
import shutil
import zlib

import numpy as np
import pytest

from hdit_core.data.format.manifest import read_manifest
from hdit_core.data.format.shard import INDEX_DTYPE
from hdit_core.data.image.codec import decode
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.errors import DataError
from tests.data.class_folders import SIZE


@pytest.fixture
def copy(data_set, tmp_path):
    return shutil.copytree(data_set, tmp_path / "copy")


def read_all(folder):
    reader = ImageReader(folder)
    return [reader.read(index) for index in range(len(reader))]


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def forge(folder, change):
    """Change the manifest as somebody would who also knows how its checksums are made."""
    from hdit_core.data.format.manifest import Manifest, root_of, write_manifest

    path = folder / "manifest.json"
    document = json.loads(path.read_text())
    del document["checksum"]
    change(document)
    manifest = Manifest.model_validate(document)
    manifest = manifest.model_copy(update={"root": root_of(manifest.contents)})
    write_manifest(path.parent, manifest)


def test_reading_gives_images_and_classes_in_order(data_set):
    read = read_all(data_set)
    assert len(read) == 23
    assert all(image.shape == (*SIZE, 3) and image.dtype == np.uint8 for image, _ in read)
    assert [label for _, label in read] == [0] * 8 + [1] * 8 + [2] * 7


def test_cached_images_equal_those_on_disk(data_set):
    kept, fresh = ImageReader(data_set), ImageReader(data_set, cache_bytes=0)
    for _ in range(2):
        for index in range(len(kept)):
            assert np.array_equal(kept.read(index)[0], fresh.read(index)[0])
    assert not fresh._cached


def test_a_pickled_reader_reopens_its_folder(data_set):
    reader = ImageReader(data_set)
    reader.read(0)
    again = pickle.loads(pickle.dumps(reader))
    assert np.array_equal(again.read(7)[0], reader.read(7)[0])


def test_few_shards_are_open_at_once(data_set, monkeypatch):
    monkeypatch.setattr("hdit_core.data.loader.open_files.MOST_OPEN_SHARDS", 2)
    reader = ImageReader(data_set, cache_bytes=0)
    expected = read_all(data_set)
    for index in (0, 22, 8, 15, 0, 22):
        assert np.array_equal(reader.read(index)[0], expected[index][0])
        assert reader._open.cache_info().currsize <= 2
    reader.close()
    assert np.array_equal(reader.read(3)[0], expected[3][0])


def test_the_index_is_a_plain_numpy_file(data_set):
    index = np.load(data_set / "index.npy", mmap_mode="r", allow_pickle=False)
    assert index.dtype == INDEX_DTYPE
    for row in index:
        shard = (data_set / f"shard-{row['shard']:06}.tar").read_bytes()
        assert zlib.crc32(shard[row["offset"] : row["offset"] + row["length"]]) == row["crc32"]


def test_a_shard_cut_anywhere_is_named(copy):
    path = copy / "shard-000001.tar"
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"shard-000001.tar: has [\d,]+ bytes, the manifest says .*: truncated"):
            ImageReader(copy)


def test_a_shard_cut_while_it_is_open_is_named(copy):
    reader = ImageReader(copy)
    path = copy / "shard-000000.tar"
    path.write_bytes(path.read_bytes()[:600])
    with pytest.raises(DataError, match=r"shard-000000.tar: image 0 at byte 512: .* damaged"):
        reader.read(0)


def test_a_flipped_bit_in_any_image_is_named(copy):
    random = np.random.default_rng(0)
    index = np.load(copy / "index.npy")
    for _ in range(60):
        which = int(random.integers(len(index)))
        row = index[which]
        path = copy / f"shard-{row['shard']:06}.tar"
        place, bit = int(row["offset"] + random.integers(row["length"])), int(random.integers(8))
        flip(path, place, bit)
        with pytest.raises(
            DataError, match=f"{path.name}: image {which} at byte .* do not match the checksum in the index: damaged"
        ):
            ImageReader(copy).read(which)
        flip(path, place, bit)


def test_a_missing_shard_is_named(copy):
    (copy / "shard-000002.tar").unlink()
    with pytest.raises(DataError, match=r"shard-000002.tar: cannot be read .No such file or directory."):
        ImageReader(copy)


def test_a_shard_that_vanishes_is_named(copy):
    reader = ImageReader(copy)
    (copy / "shard-000000.tar").unlink()
    with pytest.raises(DataError, match=r"shard-000000.tar: cannot be read .No such file or directory."):
        reader.read(0)


def test_a_missing_manifest_is_reported_with_the_expected_command(copy):
    (copy / "manifest.json").unlink()
    with pytest.raises(DataError, match=r"manifest.json: not found; expected a finished data set of .hdit prep"):
        ImageReader(copy)


def test_every_flipped_bit_of_the_manifest_is_found(copy):
    path = copy / "manifest.json"
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        flip(path, place, place % 8)
        if json_of(path) != json.loads(whole):  # white space may change
            with pytest.raises(DataError, match=r"manifest.json: (damaged|changed since|has format version)"):
                read_manifest(copy)
        path.write_bytes(whole)


def json_of(path):
    try:
        return json.loads(path.read_bytes())
    except ValueError:
        return None


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "[" * 100_000, '{"contents": 3}', "9" * 5000, '{"contents": {"format_version": "x"}}'],
)
def test_an_invalid_manifest_is_reported_as_damaged(copy, text):
    (copy / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest.json: damaged"):
        ImageReader(copy)


@pytest.mark.parametrize(
    "name", ["../shard-000000.tar", "/etc/passwd", "pipe:id", "shard-000000.tar/../x", "shard-0.tar"]
)
def test_a_manifest_cannot_lead_out_of_its_folder(copy, name):
    path = copy / "manifest.json"
    document = json.loads(path.read_text())
    document["contents"]["shards"][0]["name"] = name
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"manifest.json: damaged at contents.shards.0.name"):
        ImageReader(copy)


def test_a_newer_format_asks_for_a_newer_hdit(copy):
    path = copy / "manifest.json"
    document = json.loads(path.read_text())
    document["contents"]["format_version"] = 4
    path.write_text(json.dumps(document))
    with pytest.raises(DataError, match=r"has format version 4, this hdit reads up to 3; update hdit"):
        ImageReader(copy)


def test_a_manifest_edited_by_hand_is_refused(copy):
    path = copy / "manifest.json"
    path.write_text(path.read_text().replace('"ant"', '"bat"'))
    with pytest.raises(DataError, match=r"manifest.json: changed since it was written"):
        ImageReader(copy)


def test_an_oversized_manifest_is_not_read(copy):
    with (copy / "manifest.json").open("wb") as file:
        file.truncate((1 << 28) + 1)
    with pytest.raises(DataError, match=r"manifest.json: damaged: larger than 268,435,456 bytes"):
        ImageReader(copy)


def test_a_forged_number_of_samples_is_refused(copy):
    forge(copy, lambda document: document["contents"].update(samples=24))
    with pytest.raises(DataError, match=r"its shards do not add up to 24 samples"):
        ImageReader(copy)


def test_a_forged_list_of_classes_is_refused(copy):
    forge(copy, lambda document: document["contents"].update(classes=["ant"]))
    with pytest.raises(DataError, match=r"the number of classes differs from the number of class counts"):
        ImageReader(copy)


def test_images_of_another_size_than_in_the_manifest_are_refused(copy):
    forge(copy, lambda document: document["contents"].update(height=9))
    with pytest.raises(DataError, match=r"shard-000000.tar: image 0 .*: 8x12 pixels where the manifest says 9x12"):
        ImageReader(copy).read(0)


def test_images_of_another_format_than_in_the_manifest_are_refused(copy):
    forge(copy, lambda document: document["contents"].update(codec="jpeg"))
    with pytest.raises(DataError, match=r"shard-000000.tar: image 0 .*: not a JPEG image"):
        ImageReader(copy).read(0)


def write_index(folder, index):
    """Replace the index and forge the manifest to fit it."""
    np.save(folder / "index.npy", index)
    data = (folder / "index.npy").read_bytes()
    forge(folder, lambda document: document["contents"]["index"].update(bytes=len(data), crc32=zlib.crc32(data)))


def test_a_damaged_index_is_named(copy):
    flip(copy / "index.npy", 300)
    with pytest.raises(DataError, match=r"index.npy: its checksum does not match the manifest"):
        ImageReader(copy)


def test_a_cut_index_is_named(copy):
    path = copy / "index.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"index.npy: has 743 bytes, the manifest says 744"):
        ImageReader(copy)


def test_an_index_of_another_shape_is_refused(copy):
    write_index(copy, np.zeros(22, INDEX_DTYPE))
    with pytest.raises(DataError, match=r"index.npy: does not have the rows of 23 images"):
        ImageReader(copy)


def test_an_index_with_a_pickle_in_it_is_not_loaded(copy, tmp_path):
    class Payload:
        def __reduce__(self):
            return (open, (str(tmp_path / "executed"), "w"))

    write_index(copy, np.array([Payload()] * 23, object))
    with pytest.raises(DataError, match=r"index.npy: cannot be read"):
        ImageReader(copy)
    assert not (tmp_path / "executed").exists()


def test_an_index_that_points_to_no_shard_is_named(copy):
    index = np.load(copy / "index.npy")
    index["shard"][3] = 9
    write_index(copy, index)
    with pytest.raises(DataError, match=r"index.npy: image 3 is in shard 9, expected 0 to 3"):
        ImageReader(copy).read(3)


@pytest.mark.parametrize(("place", "length"), [(2**40, 100), (0, 0), (0, 2**32 - 1)])
def test_an_index_that_points_outside_its_shard_is_named(copy, place, length):
    index = np.load(copy / "index.npy")
    index["offset"][3], index["length"][3] = place, length
    write_index(copy, index)
    with pytest.raises(DataError, match=r"shard-000000.tar: image 3 at byte .*damaged"):
        ImageReader(copy).read(3)


def test_only_the_image_format_of_the_manifest_is_decoded(data_set):
    for codec in ("webp", "jpeg"):
        with pytest.raises(ValueError, match=f"not a {codec.upper()} image"):
            decode(ImageReader(data_set).encoded(0), codec, (*SIZE, 3))
