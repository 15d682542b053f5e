"""Names of a network's classes: a run has those of its data set, an exported folder those in its `classes.json`."""

import json
from pathlib import Path

from hdit_core.checkpoint.state import State
from hdit_core.data.format.manifest import MANIFEST, read_manifest
from hdit_core.errors import CheckpointError, DataError
from hdit_core.recipe.run import Recipe

CLASSES = "classes.json"
LARGEST_FILE_BYTES = 16 << 20


def trained_classes(recipe: Recipe, state: State) -> tuple[str, ...]:
    """Return the class names of a checkpoint; empty if its data set is gone, has changed, or has no names."""
    folder = Path(recipe.data.path)
    try:
        if not recipe.model.num_classes or not (folder / MANIFEST).is_file():
            return ()
        manifest = read_manifest(folder)
    except (DataError, CheckpointError, OSError, ValueError):
        return ()
    names = manifest.contents.classes or ()
    return names if manifest.root == state.data_hash and len(names) == recipe.model.num_classes else ()


def exported_classes(folder: Path, recipe: Recipe) -> tuple[str, ...]:
    """Return the class names of an exported folder, in index order; empty if it has none, or none that can be used."""
    try:
        with (folder / CLASSES).open("rb") as file:
            names = json.loads(file.read(LARGEST_FILE_BYTES))
    except (OSError, ValueError, RecursionError):
        return ()
    are_names = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if are_names and len(names) == recipe.model.num_classes else ()
