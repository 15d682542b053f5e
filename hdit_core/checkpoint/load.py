"""Reading a checkpoint: only an intact one, and only with data formats that cannot run code."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from hdit_core.checkpoint.layout import checkpoint_folders
from hdit_core.checkpoint.save import FORMAT, State, manifest_checksum
from hdit_core.checkpoint.tensors import Tensors, read_tensors
from hdit_core.errors import CheckpointError, RecipeError
from hdit_core.files import crc32
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


def open_checkpoint(folder: Path) -> Checkpoint:
    """Verify a checkpoint and open it.

    Raises:
        CheckpointError: a file of it is missing, damaged, or of another version of the format.
    """
    manifest = _read_json(folder / "manifest.json")
    if manifest.get("format") != FORMAT:
        raise CheckpointError(
            f"{folder}: its format is {manifest.get('format')!r}, this hdit reads {FORMAT}; use the hdit that wrote it"
        )
    if manifest.get("checksum") != manifest_checksum(manifest):
        raise CheckpointError(f"{folder}/manifest.json: damaged: its checksum does not fit its content")
    for name, expected in _files(folder, manifest).items():
        _verify(folder / name, expected)
    try:
        recipe = check_recipe(manifest["recipe"], f"{folder}/manifest.json")
        state = State.model_validate(_read_json(folder / "state.json"))
    except (RecipeError, ValidationError, KeyError, TypeError) as error:
        raise CheckpointError(f"{folder}: damaged: {error}") from None
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
        raise CheckpointError("\n".join([f"{run}: no checkpoint is intact", *complaints]))
    return None, complaints


def _files(folder: Path, manifest: dict[str, Any]) -> dict[str, Any]:
    files = manifest.get("files")
    if not isinstance(files, dict) or "state.json" not in files or "model.safetensors" not in files:
        raise CheckpointError(f"{folder}/manifest.json: damaged: it does not list the checkpoint's files")
    if any("/" in name or "\\" in name or name.startswith(".") for name in files):
        raise CheckpointError(f"{folder}/manifest.json: names a file outside of its folder")
    return files


def _verify(path: Path, expected: Any) -> None:
    if not path.is_file():
        raise CheckpointError(f"{path}: missing")
    if not isinstance(expected, dict):
        raise CheckpointError(f"{path.parent}/manifest.json: damaged")
    if (size_bytes := path.stat().st_size) != expected.get("size_bytes"):
        raise CheckpointError(f"{path}: damaged: {size_bytes} bytes, expected {expected.get('size_bytes')}")
    try:
        found = crc32(path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    if found != expected.get("crc32"):
        raise CheckpointError(f"{path}: damaged: checksum {found:08x}, expected {expected.get('crc32')}")


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path}: no such file; is this a checkpoint of hdit?") from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from None
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: damaged: not a table")
    return content
