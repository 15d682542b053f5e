"""Atomic saving of checkpoints."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.checkpoint.load import open_checkpoint
from hdit_core.checkpoint.manifest import NAME, make_manifest
from hdit_core.checkpoint.retention import is_intact, remove_checkpoint
from hdit_core.checkpoint.safetensors_file import num_bytes, write_tensors
from hdit_core.checkpoint.state import State
from hdit_core.errors import CheckpointError, CheckpointWriteError
from hdit_core.files import atomic_folder, digest, forget_cached, write_file
from hdit_core.recipe.run import Recipe

HEADER_BYTES = 256  # of a tensor in the header of its file, at most
Parts = Mapping[str, Mapping[str, Tensor]]
"""The tensors of each file by its stem: model, ema, optimizer."""


def save_checkpoint(run: Path, recipe: Recipe, state: State, parts: Parts) -> Path:
    """Write a checkpoint of a run, read it back, and return its folder.

    The files are written to a temporary sibling and flushed to the disk; then the folder is renamed. A corrupt
    checkpoint of the same step is replaced: a run that resumed from an older one reaches it again.

    Raises:
        CheckpointWriteError: the disk is full or cannot be written. Older checkpoints are unchanged.
        CheckpointError: the checkpoint reads back differently, or a valid one of that step exists.
    """
    final = checkpoint_folder(run, state.step)
    if final.exists():
        _remove_corrupt(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _check_space(final, recipe, parts)
        with atomic_folder(final) as folder:
            _write(folder, recipe, state, parts)
        for file in final.iterdir():
            forget_cached(file)
    except OSError as error:
        raise CheckpointWriteError(
            f"{final}: cannot be saved ({error.strerror or error}); older checkpoints are intact"
        ) from error
    return open_checkpoint(final).folder


def needed_bytes(recipe: Recipe, parts: Parts) -> int:
    """Return an upper bound of the size of a checkpoint in bytes."""
    tensors = [tensor for part in parts.values() for tensor in part.values()]
    texts = (len(parts) + 2) * len(recipe.model_dump_json(indent=1))
    return num_bytes(tensors) + len(tensors) * HEADER_BYTES + texts


def _remove_corrupt(final: Path) -> None:
    if is_intact(final):
        raise CheckpointError(
            f"{final}: exists and is valid; a checkpoint is never overwritten. Move it out of the run"
        )
    remove_checkpoint(final)


def _check_space(final: Path, recipe: Recipe, parts: Parts) -> None:
    needed, free = needed_bytes(recipe, parts), shutil.disk_usage(final.parent).free
    if needed > free:
        raise CheckpointWriteError(
            f"{final}: cannot be saved: it needs {needed:,} bytes, {free:,} are free; older checkpoints are intact. "
            "Free disk space or lower train.keep_checkpoints, and rerun the command"
        )


def _write(folder: Path, recipe: Recipe, state: State, parts: Parts) -> None:
    files = {
        f"{name}.safetensors": write_tensors(folder / f"{name}.safetensors", tensors, recipe.model_dump_json())
        for name, tensors in parts.items()
    }
    write_file(folder / "state.json", state.model_dump_json(indent=1) + "\n")
    files["state.json"] = digest(folder / "state.json")
    write_file(folder / NAME, json.dumps(make_manifest(recipe, state, files), indent=1) + "\n")
