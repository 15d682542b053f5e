"""Writing a checkpoint: all of it or nothing, whatever happens in between."""

import hashlib
import json
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict

from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders
from hdit_core.checkpoint.tensors import Tensors, write_tensors
from hdit_core.errors import CheckpointError
from hdit_core.files import TEMPORARY, digest, new_folder
from hdit_core.recipe.run import Recipe

FORMAT = 1


class State(BaseModel):
    """Where a run stands, beside its tensors."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    step: int
    num_images: int
    data_hash: str
    elapsed_s: float = 0.0
    world_size: int = 1


def save_checkpoint(run: Path, recipe: Recipe, state: State, parts: Mapping[str, Tensors]) -> Path:
    """Write a checkpoint of a run and return its folder.

    The files are written into a temporary sibling and flushed to the disk; the folder then gets its name in one step.
    One of the same step that is there already is replaced: a run comes by it again only if it was damaged.

    Args:
        parts: the tensors of each file, by the file's name without its ending: model, ema, optimizer.

    Raises:
        CheckpointError: the disk is full or cannot be written; older checkpoints are as they were.
    """
    final = checkpoint_folder(run, state.step)
    try:
        if final.exists():
            _remove(final)
        final.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(final) as folder:
            for name, tensors in parts.items():
                write_tensors(folder / f"{name}.safetensors", tensors, recipe.model_dump_json())
            (folder / "state.json").write_text(state.model_dump_json(indent=1) + "\n")
            files = {file.name: digest(file).to_json() for file in sorted(folder.iterdir())}
            versions = {"hdit": version("hdit-toolkit"), "torch": str(torch.__version__)}
            manifest: dict[str, Any] = {
                "format": FORMAT,
                "versions": versions,
                "recipe": recipe.model_dump(mode="json"),
                "files": files,
            }
            manifest["checksum"] = manifest_checksum(manifest)
            (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    except OSError as error:
        raise CheckpointError(
            f"{final}: cannot be saved ({error.strerror or error}); older checkpoints are intact"
        ) from error
    return final


def manifest_checksum(manifest: Mapping[str, Any]) -> str:
    """Return the sha256 of what a manifest says, but for its own checksum."""
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def prune(run: Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints."""
    for folder in checkpoint_folders(run)[keep:]:
        _remove(folder)


def _remove(folder: Path) -> None:
    # renamed first: a kill in the midst of removing leaves no checkpoint that lacks files
    doomed = folder.with_name(f"{TEMPORARY}removed-{folder.name}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed)
