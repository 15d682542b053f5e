"""Verification names every damaged part of a data set, and nothing of a whole one."""

import io
import json
import os
import shutil
import tarfile

import numpy as np
import pytest
from class_folders import SIZE, write_pictures

from hdit_core.data.codec import encode
from hdit_core.data.manifest import read_manifest, root_of, write_manifest
from hdit_core.data.merge import _write_array as write_array
from hdit_core.data.prepare import PrepareSettings, prepare_data
from hdit_core.data.shard import INDEX_DTYPE
from hdit_core.data.verify import verify
from hdit_core.files import digest

LEVELS = ("quick", "full", "deep")


@pytest.fixture(scope="module")
def bucket_set(tmp_path_factory):
    """Return a prepared data set of two sizes, with class names, in six shards."""
    folder = tmp_path_factory.mktemp("buckets")
    pictures = write_pictures(folder / "pictures")
    for path in sorted(pictures.rglob("0*.png"))[::2]:
        from PIL import Image

        with Image.open(path) as image:
            image.transpose(Image.Transpose.ROTATE_90).save(path)
    prepare_data(PrepareSettings(str(pictures), folder / "set", SIZE, shard_size=9, buckets=((8, 12), (12, 8))))
    return folder / "set"


@pytest.fixture(params=["one size", "two sizes"])
def copy(request, data_set, bucket_set, tmp_path):
    """Return a data set that may be damaged."""
    source = data_set if request.param == "one size" else bucket_set
    return shutil.copytree(source, tmp_path / "copy")


def flip(path, place, bit=0):
    data = bytearray(path.read_bytes())
    data[place] ^= 1 << bit
    path.write_bytes(data)


def files_of(verdict):
    return {damage.file for damage in verdict.damages}


def first_shard(folder):
    return folder / read_manifest(folder).contents.shards[0].name


def forge(folder, **changes):
    """Change a shard's bytes and make everything that is derived from them fit: only looking at the images helps."""
    manifest = read_manifest(folder)
    contents = manifest.contents
    shards = []
    for shard in contents.shards:
        found = digest(folder / shard.name)
        shards.append(
            shard.model_copy(update={"bytes": found.size_bytes, "crc32": found.crc32, "sha256": found.sha256})
        )
    contents = contents.model_copy(update={"shards": tuple(shards), **changes})
    write_manifest(folder, manifest.model_copy(update={"contents": contents, "root": root_of(contents)}))


def rewrite(path, change):
    """Write a shard again with its members changed by `change(name, content)`, each as long as it was."""
    with tarfile.open(path) as tar:
        members = [(member.name, tar.extractfile(member).read()) for member in tar]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members:
            changed = change(name, content)
            member = tarfile.TarInfo(name)
            member.size = len(changed)
            tar.addfile(member, io.BytesIO(changed))
    path.write_bytes(buffer.getvalue())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("workers", [1, 3])
def test_a_whole_set_has_no_damage(copy, level, workers):
    calls = []
    verdict = verify(copy, level, workers, lambda *call: calls.append(call))
    assert verdict.damages == ()
    assert (verdict.images, verdict.root) == (23, read_manifest(copy).root)
    assert calls[-1] == (23, 23)


@pytest.mark.parametrize("codec", ["webp", "jpeg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_whole_set_of_any_kind_has_no_damage(pictures, prepare, tmp_path, codec, channels):
    prepare(pictures, codec=codec, channels=channels, labels="none")
    assert verify(tmp_path / "set", "deep").damages == ()


@pytest.mark.parametrize("level", LEVELS)
def test_every_missing_and_every_cut_file_is_named(copy, level):
    shards = [shard.name for shard in read_manifest(copy).contents.shards]
    (copy / shards[0]).unlink()
    os.truncate(copy / shards[1], (copy / shards[1]).stat().st_size - 1)
    os.truncate(copy / "index.npy", 100)
    (copy / "hashes.npy").unlink()
    (copy / "rejects.jsonl").write_text("")
    assert files_of(verify(copy, level)) == {shards[0], shards[1], "index.npy", "hashes.npy", "rejects.jsonl"}


@pytest.mark.parametrize("name", ["index.npy", "hashes.npy"])
def test_a_flipped_bit_of_the_rows_is_found_even_quickly(copy, name):
    flip(copy / name, 300, 3)
    assert [(damage.file, damage.problem) for damage in verify(copy, "quick").damages] == [
        (name, "altered: its checksum is not the manifest's")
    ]


def test_every_cut_of_a_shard_is_found_by_every_level(data_set, tmp_path):
    """The short form of tests/endurance/test_verify_damage.py."""
    copy = shutil.copytree(data_set, tmp_path / "copy")
    path = first_shard(copy)
    whole = path.read_bytes()
    for length in range(0, len(whole), 9700):
        path.write_bytes(whole[:length])
        for level in LEVELS:
            assert files_of(verify(copy, level)) == {path.name}, (length, level)


def test_every_flipped_bit_of_a_shard_is_found(data_set, tmp_path):
    """The short form of tests/endurance/test_verify_damage.py."""
    copy = shutil.copytree(data_set, tmp_path / "copy")
    path = first_shard(copy)
    random = np.random.default_rng(0)
    for place in random.integers(0, path.stat().st_size, 25).tolist():
        flip(path, place, place % 8)
        verdict = verify(copy, "full")
        assert [(damage.file, damage.problem) for damage in verdict.damages] == [
            (path.name, "altered: its SHA-256 is not the manifest's")
        ]
        flip(path, place, place % 8)


def test_deep_names_the_images_that_a_flip_hit(copy):
    path = first_shard(copy)
    row = np.load(copy / "index.npy")[2]
    flip(path, int(row["offset"]) + 5)
    problems = [damage.problem for damage in verify(copy, "deep").damages]
    assert problems[0] == "altered: its SHA-256 is not the manifest's"
    assert problems[1].startswith("image 2 (00")
    assert problems[1].endswith(f"at byte {row['offset']:,}: does not have the checksum of the index")
    assert len(problems) == 2


@pytest.mark.parametrize("level", LEVELS)
def test_a_damaged_manifest_is_the_one_damage(copy, level):
    flip(copy / "manifest.json", 300)
    verdict = verify(copy, level)
    assert (files_of(verdict), verdict.root, verdict.images) == ({"manifest.json"}, None, 0)
    assert str(copy) not in verdict.damages[0].problem


def test_a_folder_without_a_manifest_is_said(tmp_path):
    assert "not found; expected a data set" in verify(tmp_path).damages[0].problem


def test_a_shard_that_the_manifest_does_not_name_is_said(copy):
    shutil.copy(first_shard(copy), copy / "shard-000099.tar")
    assert [(damage.file, damage.problem) for damage in verify(copy, "quick").damages] == [
        ("shard-000099.tar", "is no part of the data set: the manifest does not name it")
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda index: index["shard"].__setitem__(0, 1), "its images do not lie in the shards as the manifest says"),
        (lambda index: index["shard"].__setitem__(-1, 99), "its images do not lie in the shards as the manifest says"),
        (lambda index: index["label"].__setitem__(0, 3), "has labels outside of the 3 classes"),
        (lambda index: index["label"].__setitem__(0, -2), "has labels outside of the 3 classes"),
        (lambda index: index["label"].__setitem__(0, 2), "its classes do not have as many images as the manifest"),
    ],
)
def test_an_index_that_contradicts_the_manifest_is_said(copy, change, problem):
    index = np.load(copy / "index.npy")
    change(index)
    forge(copy, index=write_array(copy / "index.npy", index))
    assert any(damage.file == "index.npy" and problem in damage.problem for damage in verify(copy, "quick").damages)


def test_rows_of_another_kind_are_said(copy):
    forge(copy, index=write_array(copy / "index.npy", np.zeros(22, INDEX_DTYPE)))
    assert [damage.problem for damage in verify(copy, "quick").damages] == ["not the rows of 23 images"]


def reject_json(name, content):
    return b"[" * len(content) if name.endswith(".json") else content


def other_json(name, content):
    return json.dumps(json.loads(content) | {"sha256": "0" * 64}).encode() if name.endswith(".json") else content


def other_label(name, content):
    return b"2" if name.endswith(".cls") else content


def other_image(name, content):
    if not name.endswith(".png"):
        return content
    from PIL import Image

    size = Image.open(io.BytesIO(content)).size
    black = encode(Image.new("RGB", size), "png")
    return black + bytes(len(content) - len(black))


def no_image(name, content):
    return bytes(len(content)) if name.endswith(".png") else content


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (reject_json, "damaged (Expecting value"),
        (other_json, "its original is not that of the hashes"),
        (other_label, "class '2' in the tar, 0 in the index"),
        (other_image, "its pixels are not those of the hashes"),
        (no_image, "damaged (not a PNG image"),
    ],
)
def test_deep_finds_what_fits_its_checksums_and_is_wrong(copy, change, problem):
    """As after a fault in memory while the set was made, or where somebody changed it with care."""
    import zlib

    path = first_shard(copy)
    rewrite(path, change)
    index = np.load(copy / "index.npy")
    data = path.read_bytes()
    crcs = [
        zlib.crc32(data[o : o + n]) for o, n in zip(index["offset"].tolist(), index["length"].tolist(), strict=True)
    ]
    index["crc32"] = np.where(index["shard"] == 0, crcs, index["crc32"])
    forge(copy, index=write_array(copy / "index.npy", index))
    assert verify(copy, "full").damages == ()
    verdict = verify(copy, "deep")
    assert files_of(verdict) == {path.name}
    assert all(problem in damage.problem for damage in verdict.damages)


def test_deep_finds_what_is_missing_or_out_of_place(copy):
    path = first_shard(copy)
    rewrite(path, lambda name, content: content + bytes(600) if name.endswith(".png") else content)
    forge(copy)
    assert "does not lie where the index says" in verify(copy, "deep").damages[0].problem
    path.write_bytes(bytes(10240))
    forge(copy)
    assert "holds 0 samples, the index" in verify(copy, "deep").damages[0].problem
    path.write_bytes(b"no tar at all" * 100)
    forge(copy)
    assert "not a whole tar" in verify(copy, "deep").damages[0].problem


def test_a_member_twice_or_a_link_in_a_shard_is_said(copy):
    path = first_shard(copy)
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("000000000.png")
        member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(member)
    forge(copy)
    assert "'000000000.png' is no file, or is there twice" in verify(copy, "deep").damages[0].problem


def test_no_more_than_twenty_images_of_a_shard_are_named(pictures, prepare, tmp_path):
    prepare(pictures, shard_size=25)
    path = tmp_path / "set" / "shard-000000.tar"
    rewrite(path, no_image)
    problems = [damage.problem for damage in verify(tmp_path / "set", "deep").damages]
    assert len(problems) == 22
    assert problems[-1] == "and 3 more"


def test_verification_writes_nothing_and_needs_no_torch(copy):
    import subprocess
    import sys

    before = {path: path.stat().st_mtime_ns for path in [copy, *copy.iterdir()]}
    code = (
        "import sys; from pathlib import Path; from hdit_core.data.verify import verify\n"
        "assert not verify(Path(sys.argv[1]), 'deep').damages; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(copy)]).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in [copy, *copy.iterdir()]} == before
