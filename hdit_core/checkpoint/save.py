"""Writing a checkpoint: all of it or nothing, whatever happens in between."""

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
from hdit_core.files import atomic_folder, digest, forget_cached
from hdit_core.recipe.run import Recipe

HEADER_BYTES = 256  # of a tensor's entry in its file's header, at most
Parts = Mapping[str, Mapping[str, Tensor]]
"""The tensors of each file, by the file's name without its ending: model, ema, optimizer."""


def save_checkpoint(run: Path, recipe: Recipe, state: State, parts: Parts) -> Path:
    """Write a checkpoint of a run, read it back, and return its folder.

    The files are written into a temporary sibling and flushed to the disk; the folder then gets its name in one step.
    A corrupt one of the same step is replaced: a run comes by it again when it had to begin from an older one.

    Raises:
        CheckpointError: the disk is full or cannot be written, what was written reads back as something else, or an
            intact checkpoint of that step is there. Older checkpoints are as they were.
    """
    final = checkpoint_folder(run, state.step)
    if final.exists():
        _make_way(final)
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
    """Return how much a checkpoint takes on the disk, a little more rather than less."""
    tensors = [tensor for part in parts.values() for tensor in part.values()]
    texts = (len(parts) + 2) * len(recipe.model_dump_json(indent=1))
    return num_bytes(tensors) + len(tensors) * HEADER_BYTES + texts


def _make_way(final: Path) -> None:
    if is_intact(final):
        raise CheckpointError(
            f"{final}: is there already, and intact; a checkpoint is never written over. Move it out of the run"
        )
    remove_checkpoint(final)


def _check_space(final: Path, recipe: Recipe, parts: Parts) -> None:
    needed, free = needed_bytes(recipe, parts), shutil.disk_usage(final.parent).free
    if needed > free:
        raise CheckpointWriteError(
            f"{final}: cannot be saved: it takes {needed:,} bytes, {free:,} are free; older checkpoints are intact. "
            "Make room, or give a lower train.keep_checkpoints, and run the same command again"
        )


def _write(folder: Path, recipe: Recipe, state: State, parts: Parts) -> None:
    files = {
        f"{name}.safetensors": write_tensors(folder / f"{name}.safetensors", tensors, recipe.model_dump_json())
        for name, tensors in parts.items()
    }
    (folder / "state.json").write_text(state.model_dump_json(indent=1) + "\n")
    files["state.json"] = digest(folder / "state.json")
    (folder / NAME).write_text(json.dumps(make_manifest(recipe, state, files), indent=1) + "\n")
