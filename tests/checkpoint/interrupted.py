"""An interrupted save that also removes an old checkpoint, and the invariants of the run afterwards."""

import shutil

import torch

from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.retention import is_intact
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.distributed import World
from hdit_core.files import remove_temporaries
from hdit_core.train.async_checkpoint import AsyncCheckpointer

CPU = torch.device("cpu")


def parts(step):
    weights = {"weight": torch.full((40, 50), float(step)), "bias": torch.arange(7)}
    return dict.fromkeys(("model", "ema", "optimizer"), weights)


def state(step):
    return State(step=step, num_images=8 * step, data_hash="f" * 64)


def save(run, recipe, step):
    """Save like a run: asynchronously, verified, and with old checkpoints removed."""
    with AsyncCheckpointer(run, recipe, World()) as saver:
        saver.save(state(step), parts(step))


def begun(folder, recipe):
    """Make a run with two checkpoints, of which the next save removes one."""
    for step in (1, 2):
        save_checkpoint(folder, recipe, state(step), parts(step))
    return folder


def copy_of(run, to):
    """Return a copy of a run, for one more trial."""
    return shutil.copytree(run, to)


def check_after(run, recipe, content, damaged_before=0):
    """Check that nothing is damaged or lost, and that continuing gives the same state as an uninterrupted save.

    Args:
        content: of the undisturbed run, as `content_of` gives it.
        damaged_before: how many checkpoints of the run were damaged before the save.
    """
    newest, complaints = newest_checkpoint(run)
    assert newest.state.step in (2, 3) and len(complaints) <= damaged_before, complaints
    intact = [folder for folder in checkpoint_folders(run) if is_intact(folder)]
    assert len(intact) >= 2 and len(checkpoint_folders(run)) - len(intact) <= damaged_before
    remove_temporaries(run / "checkpoints")  # as a run does that begins again
    assert set((run / "checkpoints").iterdir()) == set(checkpoint_folders(run))
    if newest.state.step == 3:  # it takes the next step, and saves
        save(run, recipe, 4)
        assert [folder.name[-1] for folder in checkpoint_folders(run)] == ["4", "3"]
        shutil.rmtree(checkpoint_folder(run, 4))
    else:
        save(run, recipe, 3)
        shutil.rmtree(checkpoint_folder(run, 2))
    assert content_of(run) == content


def content_of(run):
    """Return the bytes of every file of the checkpoint of step 3, by name."""
    return {path.name: path.read_bytes() for path in checkpoint_folder(run, 3).iterdir()}
