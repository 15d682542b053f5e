"""Whether the classes of a reference are those of a network: as many, and the same number for the same name."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hdit_core.data.manifest import MANIFEST, read_manifest
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.extractor import Say
from hdit_core.evaluate.generated import Labels
from hdit_core.recipe.run import Recipe


def class_map_sha256(names: Sequence[str]) -> str:
    """Return the sha256 of the names of classes in the order of their numbers."""
    return hashlib.sha256(json.dumps(list(names)).encode()).hexdigest()


def check_classes(recipe: Recipe, source: dict[str, Any], labels: Labels, say: Say) -> None:
    """Compare the classes of a reference with those that a network was trained on.

    Args:
        recipe: the network's.
        source: the reference's part of the passport.
        labels: how the network's images get their classes; drawn as in the reference, they have to be its own.
        say: told of what differs, or cannot be checked, and may.

    Raises:
        UsageError: the images are to have the reference's classes, and those are others.
    """
    counts, theirs = source.get("class_counts"), source.get("class_map")
    if not recipe.model.num_classes or not counts:
        return
    where = source["path"]
    if len(counts) != recipe.model.num_classes and labels != "data":  # with "data" it is refused where they are drawn
        say(f"{where}: has {len(counts)} classes, the network {recipe.model.num_classes}: they are not the same images")
    ours = _trained_map(recipe)
    if labels == "data" and ours is None:
        say(f"whether the classes of {where} are the network's is taken on trust: {recipe.data.path} is not here")
    if None in (ours, theirs) or ours == theirs:
        return
    problem = f"{where}: its classes are not those of {recipe.data.path}, on which the network was trained"
    if labels == "data":
        raise UsageError(f"--labels data: {problem}; give that, or one prepared with its --classes")
    say(problem)


def _trained_map(recipe: Recipe) -> str | None:
    folder = Path(recipe.data.path)
    if not (folder / MANIFEST).is_file():
        return None
    try:
        names = read_manifest(folder).contents.classes
    except DataError:
        return None
    return class_map_sha256(names) if names else None
