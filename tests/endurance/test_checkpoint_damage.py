"""Flipped bits and truncations in every file of a trained run's newest checkpoint never go unnoticed.

`--flips` bits, and half as many cuts. The short form is in tests/checkpoint/test_save_and_load.py.
"""

import random

import pytest
import torch

from hdit_core.checkpoint.layout import checkpoint_folders
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.train.run import train

PARTS = ("model", "ema", "optimizer")


@pytest.fixture
def run(tmp_path, trained):
    """Return a run of twelve steps with checkpoints after the fourth, the eighth and the last."""
    train(trained({}), tmp_path / "run")
    assert len(checkpoint_folders(tmp_path / "run")) == 3
    return tmp_path / "run"


def said_by(checkpoint):
    """Return all that a checkpoint says but its tensors."""
    return checkpoint.folder, checkpoint.recipe, checkpoint.state


def all_tensors(checkpoint):
    return {f"{part}/{name}": tensor for part in PARTS for name, tensor in checkpoint.tensors(part).items()}


def check_noticed(run, path, before):
    """Return whether the checkpoint was passed over; where not, see that it says what it did."""
    found, complaints = newest_checkpoint(run)
    if complaints:
        assert len(complaints) == 1 and complaints[0].startswith(str(path)), complaints
        assert found.folder == checkpoint_folders(run)[1]
        return True
    assert path.name == "manifest.json"  # another way to write the same number
    assert said_by(found) == said_by(before)
    expected = all_tensors(before)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in all_tensors(found).items())
    return False


def flipped(content, chance):
    changed = bytearray(content)
    changed[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(changed)


def cut(content, chance):
    return content[: chance.randrange(len(content))]


@pytest.mark.parametrize(("damage", "share"), [(flipped, 1), (cut, 2)], ids=["flips", "cuts"])
def test_damage_is_named_and_the_next_older_checkpoint_is_used(run, flips, damage, share):
    before, _ = newest_checkpoint(run)
    files, chance, passed_over = sorted(before.folder.iterdir()), random.Random(share), 0
    count = flips // share
    for trial in range(count):
        path = files[trial % len(files)]
        whole = path.read_bytes()
        path.write_bytes(damage(whole, chance))
        passed_over += check_noticed(run, path, before)
        path.write_bytes(whole)
    harmless = count - passed_over
    print(
        f"{count} {damage.__name__} over {len(files)} files: {passed_over} passed over, {harmless} harmless, 0 silent"
    )
