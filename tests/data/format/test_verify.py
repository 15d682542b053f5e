"""Verification names every damaged part of a data set, and none of an intact one."""

import os
import shutil

import numpy as np
import pytest

from hdit_core.data.format.manifest import read_manifest
from hdit_core.data.format.shard import INDEX_DTYPE
from hdit_core.data.format.verify import verify
from hdit_core.data.prepare.finalize import _write_array as write_array
from tests.data.damaging import files_of, first_shard, flip, forge

LEVELS = ("quick", "full", "deep")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("workers", [1, 3])
def test_an_undamaged_set_passes_verification(either_copy, level, workers):
    calls = []
    verdict = verify(either_copy, level, workers, lambda *call: calls.append(call))
    assert verdict.defects == ()
    assert (verdict.images, verdict.root) == (23, read_manifest(either_copy).root)
    assert calls[-1] == (23, 23)


@pytest.mark.parametrize("codec", ["webp", "jpeg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_an_undamaged_set_of_any_kind_passes_verification(pictures, prepare, tmp_path, codec, channels):
    prepare(pictures, codec=codec, channels=channels, labels="none")
    assert verify(tmp_path / "set", "deep").defects == ()


@pytest.mark.parametrize("level", LEVELS)
def test_every_missing_and_every_cut_file_is_named(either_copy, level):
    shards = [shard.name for shard in read_manifest(either_copy).contents.shards]
    (either_copy / shards[0]).unlink()
    os.truncate(either_copy / shards[1], (either_copy / shards[1]).stat().st_size - 1)
    os.truncate(either_copy / "index.npy", 100)
    (either_copy / "hashes.npy").unlink()
    (either_copy / "rejects.jsonl").write_text("")
    assert files_of(verify(either_copy, level)) == {shards[0], shards[1], "index.npy", "hashes.npy", "rejects.jsonl"}


@pytest.mark.parametrize("name", ["index.npy", "hashes.npy"])
def test_a_flipped_bit_of_the_rows_is_found_by_quick_verification(either_copy, name):
    flip(either_copy / name, 300, 3)
    assert [(damage.file, damage.problem) for damage in verify(either_copy, "quick").defects] == [
        (name, "its checksum does not match the manifest")
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
        assert [(damage.file, damage.problem) for damage in verdict.defects] == [
            (path.name, "altered: its SHA-256 differs from the manifest")
        ]
        flip(path, place, place % 8)


@pytest.mark.parametrize("level", LEVELS)
def test_a_damaged_manifest_is_the_only_reported_damage(either_copy, level):
    flip(either_copy / "manifest.json", 300)
    verdict = verify(either_copy, level)
    assert (files_of(verdict), verdict.root, verdict.images) == ({"manifest.json"}, None, 0)
    assert str(either_copy) not in verdict.defects[0].problem


def test_a_folder_without_a_manifest_is_reported(tmp_path):
    assert "not found; expected a finished data set" in verify(tmp_path).defects[0].problem


def test_a_shard_that_is_not_in_the_manifest_is_reported(either_copy):
    shutil.copy(first_shard(either_copy), either_copy / "shard-000099.tar")
    assert [(damage.file, damage.problem) for damage in verify(either_copy, "quick").defects] == [
        ("shard-000099.tar", "is not part of the data set: the manifest does not name it")
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda index: index["shard"].__setitem__(0, 1), "does not have as many images per shard as the manifest says"),
        (
            lambda index: index["shard"].__setitem__(-1, 99),
            "does not have as many images per shard as the manifest says",
        ),
        (lambda index: index["label"].__setitem__(0, 3), "has labels that are none of the 3 classes"),
        (lambda index: index["label"].__setitem__(0, -2), "has labels that are none of the 3 classes"),
        (lambda index: index["label"].__setitem__(0, 2), "does not have as many images per class as the manifest"),
    ],
)
def test_an_index_that_contradicts_the_manifest_is_reported(either_copy, change, problem):
    index = np.load(either_copy / "index.npy")
    change(index)
    forge(either_copy, index=write_array(either_copy / "index.npy", index))
    assert any(
        damage.file == "index.npy" and problem in damage.problem for damage in verify(either_copy, "quick").defects
    )


def test_rows_of_another_kind_are_reported(either_copy):
    forge(either_copy, index=write_array(either_copy / "index.npy", np.zeros(22, INDEX_DTYPE)))
    assert [damage.problem for damage in verify(either_copy, "quick").defects] == [
        "does not have the rows of 23 images"
    ]


def test_verification_writes_nothing_and_needs_no_torch(either_copy):
    import subprocess
    import sys

    before = {path: path.stat().st_mtime_ns for path in [either_copy, *either_copy.iterdir()]}
    code = (
        "import sys; from pathlib import Path; from hdit_core.data.format.verify import verify\n"
        "assert not verify(Path(sys.argv[1]), 'deep').defects; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(either_copy)]).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in [either_copy, *either_copy.iterdir()]} == before
