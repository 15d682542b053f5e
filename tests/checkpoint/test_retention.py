"""Retention of checkpoints: at least two valid ones are always kept."""

import pytest
import torch

from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders
from hdit_core.checkpoint.retention import is_intact, prune, remove_checkpoint
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.errors import CheckpointError, RecipeError


def save(run, recipe, step):
    state = State(step=step, num_images=8 * step, data_hash="f" * 64)
    return save_checkpoint(run, recipe, state, {"model": {"weight": torch.full((3, 5), float(step))}})


def steps(run):
    return [int(folder.name[-9:]) for folder in checkpoint_folders(run)]


def damage(folder):
    weights = folder / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


@pytest.mark.parametrize("keep", [2, 4])
def test_only_the_newest_few_checkpoints_stay(tmp_path, changed, keep):
    recipe = changed({"train.keep_checkpoints": keep})
    for step in range(1, 6):
        save(tmp_path, recipe, step)
        prune(tmp_path, recipe.train)
        assert steps(tmp_path) == list(range(step, max(step - keep, 0), -1))
    assert len(list((tmp_path / "checkpoints").iterdir())) == keep


def test_a_damaged_checkpoint_does_not_count_among_those_that_stay(tmp_path, changed):
    recipe = changed({"train.keep_checkpoints": 2})
    for step in (1, 2, 3, 4):
        save(tmp_path, recipe, step)
    damage(checkpoint_folder(tmp_path, 3))
    prune(tmp_path, recipe.train)
    assert steps(tmp_path) == [4, 3, 2]
    save(tmp_path, recipe, 5)
    prune(tmp_path, recipe.train)
    assert steps(tmp_path) == [5, 4]


def test_nothing_is_removed_while_fewer_than_two_are_intact(tmp_path, changed):
    recipe = changed({"train.keep_checkpoints": 2})
    for step in range(1, 6):
        save(tmp_path, recipe, step)
        if step > 1:
            damage(checkpoint_folder(tmp_path, step))
        prune(tmp_path, recipe.train)
    assert steps(tmp_path) == [5, 4, 3, 2, 1] and is_intact(checkpoint_folder(tmp_path, 1))


def test_permanent_checkpoints_are_kept_at_regular_intervals(tmp_path, changed):
    # steps of 8 images: a multiple of 30 lies within steps 4, 8, 12 and 15, and saves fall on each multiple of 15
    recipe = changed({"train.checkpoint_every_images": 15, "train.keep_every_images": 30, "train.keep_checkpoints": 2})
    for step in (2, 4, 6, 8, 10, 12, 14, 15):
        save(tmp_path, recipe, step)
        prune(tmp_path, recipe.train)
    assert steps(tmp_path) == [15, 14, 12, 8, 4]


def test_the_interval_of_permanent_checkpoints_is_a_multiple_of_the_save_interval(changed):
    with pytest.raises(
        RecipeError, match=r"train.keep_every_images.*40 is not a multiple of checkpoint_every_images = 32"
    ):
        changed({"train.keep_every_images": 40})
    assert changed({"train.keep_every_images": 64}).train.keep_every_images == 64


def test_a_checkpoint_that_cannot_be_removed_is_named(tmp_path, tiny_recipe, monkeypatch):
    folder = save(tmp_path, tiny_recipe, 1)

    def refused(self, target):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("pathlib.Path.rename", refused)
    with pytest.raises(CheckpointError, match=r"step-000000001: cannot be removed \(Read-only file system\)"):
        remove_checkpoint(folder)
