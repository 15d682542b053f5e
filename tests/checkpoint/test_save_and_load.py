"""A checkpoint is complete or absent, and a damaged one is never used."""

import errno
import json
import os
import random
import re
import shutil
from pathlib import Path

import pytest
import torch

from hdit_core.checkpoint import manifest
from hdit_core.checkpoint.denoiser import read_weights
from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.checkpoint.load import newest_checkpoint, open_checkpoint
from hdit_core.checkpoint.manifest import manifest_checksum
from hdit_core.checkpoint.safetensors_file import read_tensors, write_tensors
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.data.format import retry_reads
from hdit_core.data.format.retry_reads import StorageUnavailable
from hdit_core.errors import CheckpointError


def save(run, recipe, step):
    tensors = {"a.weight": torch.full((3, 5), float(step)), "b": torch.arange(7)}
    state = State(step=step, num_images=64 * step, data_hash="f" * 64)
    return save_checkpoint(run, recipe, state, {"model": tensors, "ema": tensors})


def test_a_saved_checkpoint_is_read_back(tmp_path, tiny_recipe):
    folder = save(tmp_path, tiny_recipe, 12)
    checkpoint = open_checkpoint(folder)
    assert checkpoint.recipe == tiny_recipe and checkpoint.state.num_images == 768
    assert torch.equal(checkpoint.tensors("model")["a.weight"], torch.full((3, 5), 12.0))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000012"]


def test_the_newest_intact_checkpoint_is_taken_and_the_damaged_one_is_named(tmp_path, tiny_recipe):
    for step in (1, 2, 3):
        save(tmp_path, tiny_recipe, step)
    damage(checkpoint_folder(tmp_path, 3) / "ema.safetensors", random.Random(0))
    checkpoint, complaints = newest_checkpoint(tmp_path)
    assert checkpoint.state.step == 2
    assert len(complaints) == 1 and "step-000000003/ema.safetensors" in complaints[0]


def test_a_run_without_an_intact_checkpoint_does_not_start_over(tmp_path, tiny_recipe):
    (save(tmp_path, tiny_recipe, 1) / "state.json").unlink()
    damage(save(tmp_path, tiny_recipe, 2) / "model.safetensors", random.Random(0))
    with pytest.raises(CheckpointError, match="no checkpoint is intact") as raised:
        newest_checkpoint(tmp_path)
    said = str(raised.value)  # one line, with the same kind of number twice
    assert re.search(r"02/model.safetensors: corrupt: its crc32 is \d+, expected \d+; .*01/state.json: missing", said)
    assert "\n" not in said and said.endswith(". Restore one from a backup, or start a new run")


def failing(monkeypatch, number, times):
    """Let reads of the newest checkpoint's EMA weights fail."""
    left, crc32 = [number] * times, manifest.crc32
    monkeypatch.setattr(retry_reads, "PAUSES_S", (0.001, 0.001))

    def fail(path):
        if "3/ema" in str(path) and left:
            raise OSError(left.pop(), "the disk is away", str(path))
        return crc32(path)

    monkeypatch.setattr(manifest, "crc32", fail)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_a_checkpoint_that_is_temporarily_unreadable_is_read_again(tmp_path, tiny_recipe, monkeypatch, number):
    for step in (1, 2, 3):
        save(tmp_path, tiny_recipe, step)
    failing(monkeypatch, number, times=2)
    checkpoint, complaints = newest_checkpoint(tmp_path)
    assert checkpoint.state.step == 3 and not complaints


def test_an_older_checkpoint_is_used_for_a_damaged_disk_and_not_for_an_unavailable_storage(
    tmp_path, tiny_recipe, monkeypatch
):
    for step in (1, 2, 3):
        save(tmp_path, tiny_recipe, step)
    failing(monkeypatch, errno.ESTALE, times=99)
    with pytest.raises(StorageUnavailable, match=r"3/ema.safetensors: cannot be read \(the disk is away\), tried for"):
        newest_checkpoint(tmp_path)
    monkeypatch.undo()
    failing(monkeypatch, errno.EIO, times=99)
    checkpoint, complaints = newest_checkpoint(tmp_path)
    assert checkpoint.state.step == 2
    assert [complaint.partition("ema")[2] for complaint in complaints] == [
        ".safetensors: cannot be read (Input/output error)"
    ]


def test_a_run_without_checkpoints_has_no_newest_one(tmp_path):
    assert newest_checkpoint(tmp_path) == (None, [])


def damage(path, chance):
    content = bytearray(path.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def test_every_flipped_bit_and_every_cut_in_any_file_is_noticed(tmp_path, tiny_recipe):
    folder = save(tmp_path, tiny_recipe, 5)
    chance = random.Random(1)
    for path in sorted(folder.iterdir()):
        whole = path.read_bytes()
        for trial in range(80):
            damaged = whole[: chance.randrange(len(whole))] if trial % 4 == 0 else None
            path.write_bytes(damaged) if damaged is not None else damage(path, chance)
            try:
                checkpoint = open_checkpoint(folder)
            except CheckpointError:
                pass
            else:  # a flip between the values of the manifest: one white space for another
                assert path.name == "manifest.json"
                assert (checkpoint.recipe, checkpoint.state.step) == (tiny_recipe, 5)
                assert torch.equal(checkpoint.tensors("ema")["b"], torch.arange(7))
            path.write_bytes(whole)


def test_a_single_file_notices_its_damage_without_its_checkpoint(tmp_path, tiny_recipe):
    path, chance = tmp_path / "weights.safetensors", random.Random(2)
    write_tensors(path, {"weight": torch.randn(4, 6)}, tiny_recipe.model_dump_json())
    whole, expected = path.read_bytes(), read_tensors(path)
    for _ in range(300):
        damage(path, chance)
        try:
            tensors, metadata = read_tensors(path)
        except CheckpointError:
            pass
        else:  # a flip in the padding of the header, or in a key of the metadata that nobody reads
            assert torch.equal(tensors["weight"], expected[0]["weight"])
            assert metadata.get("recipe") == expected[1]["recipe"] or "hdit" not in metadata
        path.write_bytes(whole)


def test_a_full_disk_keeps_the_older_checkpoints_and_leaves_no_temporary_files(tmp_path, tiny_recipe, monkeypatch):
    save(tmp_path, tiny_recipe, 1)

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(CheckpointError, match=r"cannot be saved \(No space left on device\)"):
        save(tmp_path, tiny_recipe, 2)
    monkeypatch.undo()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000001"]
    assert newest_checkpoint(tmp_path)[0].state.step == 1


def test_every_file_and_both_folders_are_flushed_before_the_rename(tmp_path, tiny_recipe, monkeypatch):
    flushed, fsync = [], os.fsync

    def record(descriptor):
        name = Path(f"/proc/self/fd/{descriptor}").readlink().name
        flushed.append((name, checkpoint_folder(tmp_path, 4).exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    save(tmp_path, tiny_recipe, 4)
    names = ["ema.safetensors", "manifest.json", "model.safetensors", "state.json"]
    assert sorted(name for name, named in flushed if not named and "." in name and not name.startswith(".")) == names
    assert any(name.startswith(".tmp-step") and not named for name, named in flushed)
    assert ("checkpoints", True) in flushed


def test_a_damaged_checkpoint_of_the_same_step_is_replaced(tmp_path, tiny_recipe):
    folder = save(tmp_path, tiny_recipe, 3)
    (folder / "optimizer.safetensors").write_bytes(b"of another run")
    (folder / "state.json").unlink()
    save(tmp_path, tiny_recipe, 3)
    assert newest_checkpoint(tmp_path)[0].state.step == 3 and not (folder / "optimizer.safetensors").exists()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == [folder.name]


def test_a_file_that_the_disk_cannot_read_is_named(tmp_path, tiny_recipe, monkeypatch):
    path = save(tmp_path, tiny_recipe, 3) / "ema.safetensors"
    failing(monkeypatch, errno.EIO, times=99)
    with pytest.raises(CheckpointError, match=rf"{path.name}: cannot be read \(Input/output error\)"):
        open_checkpoint(path.parent)


def test_files_have_the_permissions_of_the_umask(tmp_path, tiny_recipe):
    before = os.umask(0o022)
    try:
        folder = save(tmp_path, tiny_recipe, 1)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o644}


def test_a_manifest_cannot_lead_out_of_its_folder(tmp_path, tiny_recipe):
    folder = save(tmp_path, tiny_recipe, 1)
    table = json.loads((folder / "manifest.json").read_text())
    table["files"]["../../secret"] = table["files"]["state.json"]
    table["checksum"] = manifest_checksum(table)
    (folder / "manifest.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="outside of its folder"):
        open_checkpoint(folder)


def test_a_data_set_in_place_of_a_checkpoint_is_recognized(tiny_data):
    with pytest.raises(CheckpointError, match="is a prepared data set; expected a run or a checkpoint"):
        open_checkpoint(tiny_data)


def test_a_checkpoint_of_another_format_is_refused(tmp_path, tiny_recipe):
    folder = save(tmp_path, tiny_recipe, 1)
    table = json.loads((folder / "manifest.json").read_text()) | {"format": 99}
    (folder / "manifest.json").write_text(json.dumps(table))
    with pytest.raises(CheckpointError, match="its format is 99"):
        open_checkpoint(folder)


def test_an_implausibly_large_header_is_refused_before_anything_is_read(tmp_path):
    path = tmp_path / "huge.safetensors"
    path.write_bytes((1 << 40).to_bytes(8, "little") + b"{}")
    with pytest.raises(CheckpointError, match="not a safetensors file, or truncated"):
        read_tensors(path)
    header = (
        b'{"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]}}'
    )
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(CheckpointError, match="contains a name twice"):
        read_tensors(path)
    shutil.rmtree(tmp_path)


def test_a_warning_is_logged_when_an_older_checkpoint_is_used(tmp_path, tiny_recipe, caplog):
    for step in (1, 2):
        newest = save(tmp_path, tiny_recipe, step)
    damage(newest / "ema.safetensors", random.Random(0))
    _, state, source = read_weights(tmp_path)
    assert re.search(r"step-000000002.*; step-000000001 is used instead", caplog.text)
    assert state["a.weight"].unique().item() == 1.0
    assert (source.run, source.step, source.weights) == (str(tmp_path), 1, "ema")
