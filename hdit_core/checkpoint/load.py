"""Reading a checkpoint: only an intact one, and only with data formats that cannot run code."""

from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from hdit_core.checkpoint.layout import checkpoint_folders
from hdit_core.checkpoint.manifest import NAME, read_manifest, read_table, verify_files
from hdit_core.checkpoint.safetensors_file import Tensors, read_tensors
from hdit_core.checkpoint.state import State
from hdit_core.errors import CheckpointError, RecipeError
from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.run import Recipe


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint; its tensors are read when they are asked for."""

    folder: Path
    recipe: Recipe
    state: State

    def tensors(self, part: str) -> Tensors:
        """Return the tensors of one file: `"model"`, `"ema"` or `"optimizer"`."""
        return read_tensors(self.folder / f"{part}.safetensors")[0]


def open_checkpoint(folder: Path, *, verified: bool = False) -> Checkpoint:
    """Verify a checkpoint, for which every file is read once, and open it.

    Args:
        verified: whether somebody else has done so a moment ago, so that only the manifest and the state are read; the
            tensors have a checksum of their own.

    Raises:
        CheckpointError: a file of it is missing, corrupt, or of a format that this hdit does not read.
    """
    manifest = read_manifest(folder)
    if not verified:
        verify_files(folder, manifest)
    try:
        recipe = check_recipe(manifest["recipe"], f"{folder}/{NAME}")
        state = State.model_validate(read_table(folder / "state.json"))
    except RecipeError as error:  # the bytes are as they were written
        raise CheckpointError(
            f"{folder}: was written by hdit {manifest['versions']['hdit']}, and this one does not take its recipe; use "
            f"that one, or a newer: {'; '.join(str(error).splitlines())}"
        ) from None
    except (ValidationError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: corrupt: {error}") from None
    return Checkpoint(folder, recipe, state)


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest intact checkpoint of a run, or None where it has none yet, and what is wrong with newer ones.

    Raises:
        CheckpointError: the run has checkpoints and none is intact. Starting again from nothing is never the answer.
    """
    complaints: list[str] = []
    for folder in checkpoint_folders(run):
        try:
            return open_checkpoint(folder), complaints
        except CheckpointError as error:
            complaints.append(str(error))
    if complaints:
        raise CheckpointError(
            f"{run}: no checkpoint is intact: {'; '.join(complaints)}. Bring one back from a copy, or begin a new run"
        )
    return None, complaints
