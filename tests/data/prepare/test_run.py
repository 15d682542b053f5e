"""Preparation: inputs = samples + rejects, and the same bytes in all cases."""

import io
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image, ImageCms

from hdit_core.data.format.manifest import read_manifest
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.sources.file_filter import is_text
from tests.data.class_folders import bytes_of
from tests.data.zoo import animals


def rejects_of(folder):
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


def test_every_input_becomes_a_sample_or_a_reject_with_its_reason(pictures, prepare, tmp_path):
    summary = prepare(pictures)
    manifest = read_manifest(tmp_path / "set")
    assert (summary.images, summary.rejects, summary.classes, summary.shards) == (23, 2, 3, 4)
    assert summary.images + summary.rejects == manifest.origin.inputs
    assert {reject["name"]: reject["reason"] for reject in rejects_of(tmp_path / "set")} == {
        "ant/notes.bin": "not an image of a known format",
        "bee/cut.png": "truncated PNG: cut in a chunk",
    }
    assert manifest.contents.classes == ("ant", "bee", "cow")
    assert manifest.contents.class_counts == (8, 8, 7)


def test_shards_are_ordinary_webdataset_tars(pictures, prepare, tmp_path):
    import webdataset

    prepare(pictures)
    shards = sorted(str(path) for path in (tmp_path / "set").glob("*.tar"))
    samples = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert len(samples) == 23
    reader = ImageReader(tmp_path / "set")
    for index, sample in enumerate(samples):
        image, label = reader.read(index)
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(sample["png"]))), image)
        assert int(sample["cls"]) == label
        about = json.loads(sample["json"])
        assert about["class"] == about["name"].split("/")[0] == ("ant", "bee", "cow")[label]


def test_names_with_many_dots_stay_samples_of_their_own(prepare, tmp_path):
    folder = tmp_path / "dots"
    folder.mkdir()
    for name in ("a.cat.1.png", "a.cat.2.png", "b..png"):
        Image.new("RGB", (9, 9)).save(folder / name)
    (folder / os.fsdecode(b"caf\xe9.png")).write_bytes((folder / "b..png").read_bytes())
    assert prepare(folder).images == 4


def test_the_pixels_are_those_of_pillow(pictures, prepare, tmp_path):
    prepare(pictures, size=(9, 14), labels="none")
    reader = ImageReader(tmp_path / "set")
    names = sorted(path.relative_to(pictures) for path in pictures.rglob("0*.png"))
    for index, name in enumerate(sorted(names, key=str)):
        image, label = reader.read(index)
        assert np.array_equal(image, np.asarray(Image.open(pictures / name)))
        assert label == -1


@pytest.mark.parametrize("codec", ["png", "webp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_kinds_keep_every_pixel(pictures, prepare, tmp_path, codec, channels):
    prepare(pictures, name="one", size=(9, 14), codec=codec, channels=channels)
    prepare(pictures, name="two", size=(9, 14), codec="png", channels=channels)
    one, two = ImageReader(tmp_path / "one"), ImageReader(tmp_path / "two")
    assert one.read(0)[0].shape == (9, 14, channels)
    assert all(np.array_equal(one.read(index)[0], two.read(index)[0]) for index in range(len(one)))


def test_jpeg_is_near(prepare, tmp_path):
    folder = tmp_path / "flat"
    folder.mkdir()
    Image.new("RGB", (20, 20), (200, 100, 50)).save(folder / "a.png")
    prepare(folder, codec="jpeg")
    assert np.abs(ImageReader(tmp_path / "set").read(0)[0].astype(int) - (200, 100, 50)).max() <= 2


def test_two_worker_processes_write_the_same_bytes_as_none(pictures, prepare, tmp_path):
    prepare(pictures, name="one")
    prepare(pictures, name="two", workers=2)
    assert bytes_of(tmp_path / "one") == bytes_of(tmp_path / "two")


def test_folder_zip_and_tar_give_the_same_root_hash(pictures, prepare, tmp_path):
    names = [path for path in pictures.rglob("*") if path.is_file()]
    np.random.default_rng(1).shuffle(names)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for path in names:
            archive.write(path, path.relative_to(pictures))
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for path in names:
            archive.add(path, str(path.relative_to(pictures)))
    roots = {
        prepare(source, name=f"of-{number}").root
        for number, source in enumerate((pictures, tmp_path / "a.zip", tmp_path / "a.tar"))
    }
    assert len(roots) == 1


def test_other_pixels_give_another_root_hash(pictures, prepare):
    assert prepare(pictures, name="one").root != prepare(pictures, name="two", crop="fit").root


def test_random_crops_depend_on_the_seed(pictures, prepare):
    roots = [
        prepare(pictures, name=f"set-{number}", crop="random", seed=seed).root for number, seed in enumerate((0, 0, 1))
    ]
    assert roots[0] == roots[1] != roots[2]


@pytest.mark.parametrize(
    ("size", "crop", "upscaled"),
    [
        ((9, 14), "center", 0),
        ((9, 15), "center", 23),
        ((10, 14), "center", 23),
        ((9, 15), "fit", 0),
        ((10, 15), "fit", 23),
    ],
)
def test_images_that_had_to_be_upscaled_are_counted(pictures, prepare, size, crop, upscaled):
    assert prepare(pictures, size=size, crop=crop).remarks.get("upscaled", 0) == upscaled


def test_only_the_pixels_of_the_source_are_written(prepare, tmp_path):
    folder = tmp_path / "tagged"
    folder.mkdir()
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    Image.new("RGB", (12, 8)).save(folder / "a.jpg", comment=b"secret", icc_profile=srgb)
    for codec in ("png", "webp", "jpeg"):
        prepare(folder, name=codec, codec=codec)
        shard = (tmp_path / codec / "shard-000000.tar").read_bytes()
        assert b"secret" not in shard
        assert srgb[:40] not in shard
        assert b"iCCP" not in shard


def test_a_labels_file_in_the_folder_is_not_an_input(prepare, tmp_path):
    folder = tmp_path / "flowers"
    folder.mkdir()
    for number in range(4):
        Image.new("RGB", (9, 9)).save(folder / f"{number}.png")
    (folder / "labels.csv").write_text("file,label\n" + "".join(f"{number}.png,{10 - number}\n" for number in range(4)))
    summary = prepare(folder, labels=str(folder / "labels.csv"))
    assert (summary.images, summary.rejects, summary.classes) == (4, 0, 4)
    reader = ImageReader(tmp_path / "set")
    assert reader.manifest.contents.classes == ("7", "8", "9", "10")
    assert [reader.read(index)[1] for index in range(4)] == [3, 2, 1, 0]


def test_shards_without_any_usable_input_are_left_out(prepare, tmp_path):
    folder = tmp_path / "mixed"
    folder.mkdir()
    for number in range(9):
        (folder / f"{number}.png").write_text("no image")
    Image.new("RGB", (9, 9)).save(folder / "8.png")
    summary = prepare(folder, shard_size=3)
    assert (summary.shards, summary.images, summary.rejects) == (1, 1, 8)
    assert [path.name for path in (tmp_path / "set").glob("*.tar")] == ["shard-000002.tar"]
    assert ImageReader(tmp_path / "set").read(0)[0].shape == (8, 12, 3)


COUNTED_IN_ALL = ("upscaled", "exact duplicates of an earlier image", "grayscale, stored as RGB")


def test_every_file_of_the_corpus_is_a_sample_or_a_reject(prepare, tmp_path):
    folder = tmp_path / "zoo"
    folder.mkdir()
    zoo = animals()
    for name, animal in zoo.items():
        (folder / name).write_bytes(animal.data)
    summary = prepare(folder)
    skipped = {name for name in zoo if is_text(name)}
    refused = {name for name, animal in zoo.items() if animal.refusal is not None} - skipped
    assert {reject["name"] for reject in rejects_of(tmp_path / "set")} == refused
    assert summary.images == len(zoo) - len(refused) - len(skipped)
    remarks = Counter(remark for animal in zoo.values() for remark in animal.remarks)
    assert {remark: count for remark, count in summary.remarks.items() if remark not in COUNTED_IN_ALL} == remarks


def test_preparation_needs_no_torch():
    code = "import sys, hdit_core.data.prepare.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
