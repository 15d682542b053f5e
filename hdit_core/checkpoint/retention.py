"""Which checkpoints of a run are kept: the newest valid ones, the best one, and those that are never removed."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hdit_core.checkpoint.layout import checkpoint_folders
from hdit_core.checkpoint.load import open_checkpoint
from hdit_core.checkpoint.manifest import read_table
from hdit_core.checkpoint.state import State
from hdit_core.errors import CheckpointError, CheckpointWriteError
from hdit_core.files import TEMPORARY, flush_folder, write_atomic
from hdit_core.recipe.train import TrainRecipe


def best_checkpoint(run: Path) -> Path | None:
    """Return the folder of a run's best checkpoint; None if none is marked, or it was removed."""
    link = run / "best"
    return run / "checkpoints" / link.readlink().name if link.is_symlink() and link.is_dir() else None


def mark_best(run: Path, folder: Path, score: Mapping[str, Any]) -> None:
    """Mark a checkpoint as the best of its run; the previous best may then be removed.

    Args:
        folder: of the checkpoint, in RUN/checkpoints.
        score: the metric and its value, as JSON.
    """
    link, temporary = run / "best", run / f"{TEMPORARY}best"
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(Path("checkpoints") / folder.name)  # relative: a run may be moved
    temporary.replace(link)
    flush_folder(run)
    record = {"checkpoint": f"checkpoints/{folder.name}", **score}
    write_atomic(run / "best.json", json.dumps(record, indent=1) + "\n")


def is_intact(folder: Path) -> bool:
    """Return whether a checkpoint is valid; every file is read."""
    try:
        open_checkpoint(folder)
    except CheckpointError:
        return False
    return True


def prune(run: Path, train: TrainRecipe, just_read: Path | None = None) -> None:
    """Remove checkpoints older than the newest `train.keep_checkpoints` valid ones, except the best and permanent ones.

    The ones to keep are read and verified before anything is removed, and a corrupt one does not count. So at least
    two are valid at any moment, even if the process is killed.

    Args:
        train: the `[train]` table of the recipe.
        just_read: a checkpoint that was just verified.

    Raises:
        CheckpointError: one cannot be removed.
    """
    folders = checkpoint_folders(run)
    if len(folders) <= train.keep_checkpoints:
        return
    counted, best = 0, best_checkpoint(run)
    for folder in folders:
        if counted < train.keep_checkpoints:
            counted += folder == just_read or is_intact(folder)
        elif folder != best and not is_permanent(folder, train):
            remove_checkpoint(folder)


def is_permanent(folder: Path, train: TrainRecipe) -> bool:
    """Return whether the last step of a checkpoint passed a multiple of `train.keep_every_images`."""
    every = train.keep_every_images
    try:
        after = State.model_validate(read_table(folder / "state.json")).num_images
    except (CheckpointError, ValidationError):
        return False
    return bool(every) and after // every != (after - train.batch_size_at(after - 1)) // every


def remove_checkpoint(folder: Path) -> None:
    """Remove a checkpoint; no incomplete one is ever visible.

    Raises:
        CheckpointError: it cannot be removed.
    """
    # renamed first, so that a kill while removing leaves no incomplete checkpoint
    doomed = folder.with_name(f"{TEMPORARY}removed-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    try:
        folder.rename(doomed)
        flush_folder(folder.parent)
        shutil.rmtree(doomed)
    except OSError as error:
        raise CheckpointWriteError(
            f"{folder}: cannot be removed ({error.strerror or error}); remove it by hand"
        ) from error
