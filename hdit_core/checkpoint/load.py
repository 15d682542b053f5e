"""Loading of checkpoints: only verified ones, in data formats that cannot run code."""

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
    """A verified checkpoint; its tensors are read on demand."""

    folder: Path
    recipe: Recipe
    state: State

    def tensors(self, part: str) -> Tensors:
        """Return the tensors of one file: `"model"`, `"ema"`, `"ema-0.050"` (of a profile) or `"optimizer"`."""
        return read_tensors(self.folder / f"{part}.safetensors")[0]


def open_checkpoint(folder: Path, *, verified: bool = False) -> Checkpoint:
    """Verify a checkpoint, which reads every file once, and open it.

    Args:
        folder: of the checkpoint.
        verified: skip the verification, since it was just done; tensors have a checksum of their own.

    Raises:
        CheckpointError: a file is missing, corrupt, or has a format that this version does not read.
    """
    manifest = read_manifest(folder)
    if not verified:
        verify_files(folder, manifest)
    try:
        writer = manifest["versions"]["hdit"]
        recipe = check_recipe(manifest["recipe"], f"{folder}/{NAME}")
        state = State.model_validate(read_table(folder / "state.json"))
    except RecipeError as error:  # the file itself is intact
        raise CheckpointError(
            f"{folder}: was written by hdit {writer}, and this version refuses its recipe; use that version or a newer "
            f"one: {'; '.join(str(error).splitlines())}"
        ) from None
    except (ValidationError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: corrupt: {error}") from None
    return Checkpoint(folder, recipe, state)


def newest_checkpoint(run: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest valid checkpoint of a run (None if it has no checkpoints), and the errors of newer ones.

    Raises:
        CheckpointError: the run has checkpoints, but none is valid. It must not start over silently.
    """
    errors: list[str] = []
    for folder in checkpoint_folders(run):
        try:
            return open_checkpoint(folder), errors
        except CheckpointError as error:
            errors.append(str(error))
    if errors:
        raise CheckpointError(
            f"{run}: no checkpoint is intact: {'; '.join(errors)}. Restore one from a backup, or start a new run"
        )
    return None, errors
