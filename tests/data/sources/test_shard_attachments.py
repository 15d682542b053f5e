"""Shards with condition images and captions, arrays in shards, and prepared sets prepared again."""

import gzip
import io
import json

import numpy as np
import pytest
import webdataset
from PIL import Image

from hdit_core.data.format.manifest import read_manifest
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.sources.resolve import open_source
from tests.data.pairs import pixels, write_pairs

COUNT = 7


def encoded(array, kind="PNG"):
    buffer = io.BytesIO()
    np.save(buffer, array) if kind == "npy" else Image.fromarray(array).save(buffer, kind)
    return buffer.getvalue()


def write_shard(path, samples):
    with webdataset.TarWriter(str(path), encoder=False) as tar:
        for sample in samples:
            tar.write(sample)
    return path


def pair(number, **changes):
    sample = {
        "__key__": f"{number:05}",
        "png": encoded(pixels(number)),
        "cond.png": encoded(pixels(number)[..., 0]),
        "txt": f"caption {number}".encode(),
        "cls": str(number % 2).encode(),
    }
    return {key: value for key, value in (sample | changes).items() if value is not None}


def compress(path):
    packed = path.with_suffix(".tar.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


def rejects_of(folder):
    return {one["name"]: one["reason"] for one in map(json.loads, (folder / "rejects.jsonl").read_text().splitlines())}


@pytest.mark.parametrize("packing", ["plain", "compressed"])
def test_condition_images_and_captions_of_shards_stay_with_their_images(prepare, tmp_path, packing, monkeypatch):
    (tmp_path / "shards").mkdir()
    path = write_shard(tmp_path / "shards" / "0.tar", map(pair, range(COUNT)))
    if packing == "compressed":
        compress(path)
        seeks = []
        real = gzip.GzipFile.rewind
        monkeypatch.setattr(gzip.GzipFile, "rewind", lambda self: seeks.append(1) or real(self))
    summary = prepare(tmp_path / "shards", size=(16, 24), captions=True)
    assert (summary.images, summary.rejects, summary.condition_channels, summary.captions) == (COUNT, 0, 1, True)
    reader = ImageReader(tmp_path / "set")
    for number in range(COUNT):
        image, label = reader.read(number)
        assert label == number % 2 and reader.caption(number) == f"caption {number}"
        np.testing.assert_array_equal(image, pixels(number))
        np.testing.assert_array_equal(reader.condition(number)[..., 0], pixels(number)[..., 0])
    if packing == "compressed":
        assert len(seeks) <= 4  # none for each sample: a condition image lies before its image


def test_captions_of_shards_are_left_out_unless_requested(prepare, tmp_path):
    write_shard(tmp_path / "0.tar", (pair(number, **{"cond.png": None}) for number in range(COUNT)))
    assert not prepare(tmp_path / "0.tar", size=(16, 24)).captions
    assert read_manifest(tmp_path / "set").contents.format_version == 1


IN_JSON = {
    "one, as in GPIC": ({"caption_type": "short", "caption": "a cat"}, "a cat"),
    "four": ({"caption": {"tag": "cat", "short": "a cat"}}, '{"tag": "cat", "short": "a cat"}'),
    "none": ({"license": "CC0"}, None),
}


@pytest.mark.parametrize("name", IN_JSON)
def test_captions_in_the_json_files_of_shards_are_kept(prepare, tmp_path, name):
    about, expected = IN_JSON[name]
    samples = [pair(number, **{"cond.png": None, "cls": None}) for number in range(COUNT)]
    samples[1] |= {"json": json.dumps(about).encode()}
    del samples[1]["txt"]
    samples[2] |= {"json": b'{"caption": "not this one"}'}  # its .txt comes first
    write_shard(tmp_path / "0.tar", samples)
    assert prepare(tmp_path / "0.tar", size=(16, 24), captions=True).images == COUNT
    reader = ImageReader(tmp_path / "set")
    assert (reader.caption(1), reader.caption(2)) == (expected, "caption 2")


BAD = {
    "none": ({"cond.png": None}, "no condition image, which other images of the source have"),
    "two": ({"cond.jpg": encoded(pixels(3), "JPEG")}, "2 condition images of one sample"),
    "empty": ({"cond.png": b""}, "no condition image, which other images of the source have"),
    "damaged": ({"cond.png": encoded(pixels(3))[:60]}, "its condition image: truncated PNG: cut in a chunk"),
    "not text": ({"txt": b"\xff\xff\xff"}, "its caption: byte 0 is not UTF-8; save it as UTF-8"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_part_of_a_sample_is_a_reject_with_its_reason(prepare, tmp_path, name):
    changes, reason = BAD[name]
    write_shard(tmp_path / "0.tar", (pair(number, **(changes if number == 3 else {})) for number in range(COUNT)))
    assert prepare(tmp_path / "0.tar", size=(16, 24), captions=True).images == COUNT - 1
    assert rejects_of(tmp_path / "set") == {"0/00003.png": reason}


def test_a_condition_image_without_an_image_is_a_reject(prepare, tmp_path):
    samples = [pair(number) for number in range(COUNT)]
    del samples[3]["png"]
    write_shard(tmp_path / "0.tar", samples)
    prepare(tmp_path / "0.tar", size=(16, 24))
    assert rejects_of(tmp_path / "set") == {"0/00003": "a sample without an image"}


def test_arrays_are_opened_only_for_samples_without_another_image(prepare, tmp_path):
    arrays = [pixels(number).astype(np.uint16) * 200 for number in range(3)]
    samples = [
        {"__key__": f"{number}", "npy": encoded(array, "npy"), "cls": b"0"} for number, array in enumerate(arrays)
    ]
    write_shard(tmp_path / "0.tar", [*samples, {"__key__": "9", "png": encoded(pixels(9)), "npy": b"x", "cls": b"0"}])
    prepare(tmp_path / "0.tar", size=(16, 24), dtype="uint16")
    reader = ImageReader(tmp_path / "set")
    for number, array in enumerate(arrays):
        np.testing.assert_array_equal(reader.read(number)[0], array)
    assert len(reader) == 4
    assert rejects_of(tmp_path / "set") == {"0/9.npy": "a .npy file of a shard, which is never opened"}


def test_a_prepared_set_prepared_again_keeps_everything(prepare, tmp_path):
    pairs = write_pairs(tmp_path / "pairs")
    options = {"condition": str(pairs / "masks"), "vectors": str(pairs / "vectors.csv"), "captions": True}
    prepare(pairs / "images", size=(16, 24), **options)
    prepare(tmp_path / "set", "again", size=(16, 24))
    first, again = (ImageReader(tmp_path / name) for name in ("set", "again"))
    assert again.manifest.contents.class_counts == first.manifest.contents.class_counts
    for index in range(len(first)):
        np.testing.assert_array_equal(again.read(index)[0], first.read(index)[0])
        np.testing.assert_array_equal(again.condition(index), first.condition(index))
        np.testing.assert_array_equal(again.vector(index), first.vector(index))
        assert again.caption(index) == first.caption(index)


def test_a_set_of_arrays_can_be_made_smaller(prepare, tmp_path):
    (tmp_path / "arrays").mkdir()
    for number in range(3):
        np.save(tmp_path / "arrays" / f"{number}.npy", pixels(number).astype(np.uint16) * 200)
    prepare(tmp_path / "arrays", size=(16, 24), dtype="uint16")
    assert open_source(str(tmp_path / "set")).channels == 3
    prepare(tmp_path / "set", "small", size=(8, 12), dtype="uint16")
    assert ImageReader(tmp_path / "small").read(2)[0].shape == (8, 12, 3)
