"""Duplicates are counted or left out, and an image of another set is refused."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from hdit_core.data.format.duplicates import first_duplicate, image_hashes, read_hashes
from hdit_core.data.format.manifest import read_manifest
from hdit_core.data.format.shard import HASHES_DTYPE, ROW_DTYPE
from hdit_core.data.format.verify import verify
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.prepare.array_task import ArrayTask
from hdit_core.data.prepare.drop_duplicates import find_duplicates
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import finish_data, prepare_data, prepare_task
from hdit_core.errors import DataError
from tests.data.class_folders import SIZE, bytes_of

DROPPED = "dropped duplicates"


@pytest.fixture
def twins(pictures):
    """Return the pictures and four more: a copy, one in another class, the same pixels in other files, twice."""
    (pictures / "ant" / "100.png").write_bytes((pictures / "ant" / "000.png").read_bytes())
    (pictures / "cow" / "101.png").write_bytes((pictures / "bee" / "004.png").read_bytes())
    with Image.open(pictures / "cow" / "005.png") as image:
        image.save(pictures / "cow" / "102.png", compress_level=0)
        image.save(pictures / "ant" / "103.bmp")
    return pictures


def rejects_of(folder):
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


def words(*numbers):
    return np.array([(number, number % 3) for number in numbers], np.uint64).reshape(-1, 2)


@pytest.mark.parametrize("seed", range(3))
def test_the_first_of_equal_rows_is_found(seed):
    rows = np.random.default_rng(seed).integers(0, 4, (200, 2)).astype(np.uint64)
    seen = {}
    assert first_duplicate(rows).tolist() == [
        seen.setdefault(tuple(row), place) for place, row in enumerate(rows.tolist())
    ]
    assert first_duplicate(words()).tolist() == []


def test_the_hash_of_pixels_includes_shape_and_type():
    same = [Image.new("RGB", (4, 6)), Image.new("RGB", (6, 4)), Image.new("L", (4, 18)), Image.new("RGB", (4, 6))]
    hashes = [image_hashes(["ab" * 32], [image]) for image in same]
    assert len(set(hashes)) == 3
    assert hashes[0] == hashes[3]
    assert {len(one) for one in hashes} == {HASHES_DTYPE.itemsize}


def test_a_duplicate_refers_to_a_kept_row():
    """B is the same file as A and the same pixels as C: B goes, and C has nothing that stays to be the same as."""
    rows = np.zeros(4, ROW_DTYPE)
    rows["source"] = words(1, 1, 2, 3)
    rows["pixels"] = words(7, 8, 8, 9)
    assert {row: (twin.kind, twin.first) for row, twin in find_duplicates(rows).items()} == {1: ("source", 0)}
    rest = np.delete(rows, 1)
    assert find_duplicates(rest) == {}


def test_the_hashes_are_those_of_the_files_and_the_pixels(pictures, prepare, tmp_path):
    import hashlib

    prepare(pictures, size=(9, 14))
    hashes = read_hashes(tmp_path / "set")
    for number, path in enumerate(sorted(path for path in pictures.rglob("0*.png"))):
        assert hashes["source"][number].tobytes() == hashlib.sha256(path.read_bytes()).digest()[:16]
        with Image.open(path) as image:
            pixels = hashlib.blake2b(f"RGB {image.size} ".encode() + image.tobytes(), digest_size=16)
        assert hashes["pixels"][number].tobytes() == pixels.digest()


def test_duplicates_are_counted_and_stay(twins, prepare):
    summary = prepare(twins)
    assert (summary.images, summary.rejects) == (27, 2)
    assert summary.remarks["exact duplicates of an earlier image"] == 4
    assert summary.remarks["exact duplicates of an earlier image of another class"] == 3


def test_duplicates_are_left_out_and_listed(twins, prepare, tmp_path):
    summary = prepare(twins, drop_duplicates=True)
    assert (summary.images, summary.rejects, summary.remarks[DROPPED]) == (23, 6, 4)
    assert not any(remark.startswith("the same as") for remark in summary.remarks)
    assert {
        reject["name"]: reject["reason"] for reject in rejects_of(tmp_path / "set") if "same" in reject["reason"]
    } == {
        "ant/100.png": "the same file as ant/000.png",
        "cow/005.png": "the same pixels as ant/103.bmp",
        "cow/101.png": "the same file as bee/004.png",
        "cow/102.png": "the same pixels as ant/103.bmp",
    }
    numbers = [reject["number"] for reject in rejects_of(tmp_path / "set")]
    assert numbers == sorted(numbers)
    assert read_manifest(tmp_path / "set").origin.inputs == summary.images + summary.rejects
    assert verify(tmp_path / "set", "deep").defects == ()


def test_the_kept_images_are_as_if_the_duplicates_had_never_existed(twins, prepare, tmp_path):
    prepare(twins, name="thin", drop_duplicates=True)
    prepare(twins, name="whole")
    thin, whole = ImageReader(tmp_path / "thin"), ImageReader(tmp_path / "whole")
    first = [
        place
        for place, found in enumerate(first_duplicate(read_hashes(tmp_path / "whole")["pixels"]))
        if found == place
    ]
    assert len(thin) == len(first)
    for place, number in enumerate(first):
        assert np.array_equal(thin.read(place)[0], whole.read(number)[0])
        assert thin.label(place) == whole.label(number)


def test_a_chunk_of_duplicates_has_no_shard(pictures, prepare, tmp_path):
    for number in range(9):
        (pictures / "dog").mkdir(exist_ok=True)
        (pictures / "dog" / f"{number}.png").write_bytes((pictures / "ant" / "000.png").read_bytes())
    prepare(pictures, shard_size=3, drop_duplicates=True)
    manifest = read_manifest(tmp_path / "set")
    assert manifest.contents.class_counts == (8, 8, 7, 0)
    assert sorted(path.name for path in (tmp_path / "set").glob("*.tar")) == [
        shard.name for shard in manifest.contents.shards
    ]
    assert len(manifest.contents.shards) == 9


@pytest.mark.parametrize("settings", [{}, {"buckets": ((8, 12), (12, 8))}, {"codec": "webp"}])
def test_dropping_is_the_same_with_tasks_and_when_killed_anywhere(twins, tmp_path, settings):
    chosen = {"size": SIZE, "shard_size": 5, "drop_duplicates": True, **settings}
    prepare_data(PrepareSettings(str(twins), tmp_path / "alone", **chosen))
    tasks = PrepareSettings(str(twins), tmp_path / "tasks", **chosen)
    for index in (1, 0, 2):
        prepare_task(tasks, ArrayTask(index, 3))
    finish_data(tasks)
    assert bytes_of(tmp_path / "tasks") == bytes_of(tmp_path / "alone")


def test_preparation_killed_while_dropping_duplicates_resumes_to_the_same_bytes(twins, prepare, tmp_path, monkeypatch):
    from hdit_core.data.prepare import drop_duplicates as dropping

    prepare(twins, name="alone", shard_size=5, drop_duplicates=True)
    thin = dropping._rewrite_chunk
    for step in range(3):
        calls = []

        def interrupted(*args, step=step, calls=calls):
            calls.append(args)
            if len(calls) > step:
                raise KeyboardInterrupt
            thin(*args)

        monkeypatch.setattr(dropping, "_rewrite_chunk", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(twins, name=f"set-{step}", shard_size=5, drop_duplicates=True)
        monkeypatch.setattr(dropping, "_rewrite_chunk", thin)
        prepare(twins, name=f"set-{step}", shard_size=5, drop_duplicates=True)
        assert bytes_of(tmp_path / f"set-{step}") == bytes_of(tmp_path / "alone")


@pytest.fixture
def validation(pictures, prepare, tmp_path):
    """Return a prepared set of one of the pictures, and of the pixels of another."""
    folder = tmp_path / "validation"
    folder.mkdir()
    (folder / "a.png").write_bytes((pictures / "bee" / "001.png").read_bytes())
    with Image.open(pictures / "cow" / "002.png") as image:
        image.save(folder / "b.bmp")
    prepare(folder, name="held-out")
    return tmp_path / "held-out"


def test_an_image_of_another_set_is_refused(pictures, prepare, validation, tmp_path):
    message = r"bee/001.png: the same file as image 0 of .*held-out, which --not-in forbids: .* with --drop-duplicates"
    with pytest.raises(DataError, match=message):
        prepare(pictures, not_in=(validation,))


def test_images_of_another_set_are_left_out_and_listed(pictures, prepare, validation, tmp_path):
    summary = prepare(pictures, not_in=(validation,), drop_duplicates=True, max_bad="2")
    assert (summary.images, summary.rejects, summary.remarks[DROPPED]) == (21, 4, 2)
    reasons = {reject["name"]: reject["reason"] for reject in rejects_of(tmp_path / "set")}
    assert reasons["bee/001.png"] == f"the same file as image 0 of {validation}"
    assert reasons["cow/002.png"] == f"the same pixels as image 1 of {validation}"


def test_an_image_of_another_set_is_recognized_by_the_hash_of_its_file(pictures, prepare, validation, tmp_path):
    with pytest.raises(DataError, match="the same file as image 0"):
        prepare(pictures, not_in=(validation,), size=(5, 5), crop="random", codec="webp")


def test_a_set_that_shares_no_image_passes(prepare, validation, tmp_path):
    (tmp_path / "others").mkdir()
    for number in range(3):
        Image.new("RGB", (9, 14), (number, 0, 0)).save(tmp_path / "others" / f"{number}.png")
    assert prepare(tmp_path / "others", not_in=(validation,)).images == 3
    settings = read_manifest(tmp_path / "set").settings
    assert settings["not_in"] == read_manifest(validation).root


def test_changing_the_excluded_sets_is_refused_in_an_existing_folder(pictures, prepare, validation, tmp_path):
    prepare(pictures, drop_duplicates=True)
    with pytest.raises(DataError, match=r"expected a finished data set"):
        prepare(pictures, name="next", not_in=(pictures,))
    from hdit_core.errors import UsageError

    with pytest.raises(UsageError, match="already contains a data set made from other images or with other settings"):
        prepare(pictures, not_in=(validation,), drop_duplicates=True)


def test_a_set_without_hashes_cannot_be_excluded(pictures, prepare, validation):
    from hdit_core.data.format.manifest import write_manifest

    write_manifest(validation, read_manifest(validation).model_copy(update={"hashes": None}))
    with pytest.raises(DataError, match="held-out: made by an early version of hdit, without image hashes; prepare it"):
        prepare(pictures, not_in=(validation,))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), r"hashes.npy: cannot be read .No such file or directory.; prepare or copy"),
        (lambda path: os.truncate(path, 100), r"hashes.npy: has 100 bytes, the manifest says .*; prepare or copy"),
    ],
)
def test_damaged_hashes_are_reported(pictures, prepare, validation, damage, message):
    damage(validation / "hashes.npy")
    with pytest.raises(DataError, match=message):
        prepare(pictures, not_in=(validation,))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no numpy", "hashes.npy: cannot be read "),
        (None, "hashes.npy: does not have the rows of 2 images; prepare or copy"),
    ],
)
def test_forged_hashes_are_reported(validation, content, message):
    import io
    import zlib

    from hdit_core.data.format.manifest import write_manifest

    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3, HASHES_DTYPE))
    content = content or buffer.getvalue()
    (validation / "hashes.npy").write_bytes(content)
    manifest = read_manifest(validation)
    entry = manifest.hashes.model_copy(update={"crc32": zlib.crc32(content), "bytes": len(content)})
    write_manifest(validation, manifest.model_copy(update={"hashes": entry}))
    with pytest.raises(DataError, match=message):
        read_hashes(validation)
