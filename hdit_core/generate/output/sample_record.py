"""Reads `samples.json` of a folder of samples, for a score: how the images were sampled, and the run's extractor."""

import logging
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.layout import recipe_file
from hdit_core.data.format.manifest import MANIFEST
from hdit_core.errors import RecipeError
from hdit_core.files import read_json
from hdit_core.generate.output.sample_folder import LARGEST_RECORD_BYTES, RECORD
from hdit_core.recipe.read import read_recipe

logger = logging.getLogger("hdit")


def sampling_record(folder: Path) -> dict[str, Any]:
    """Return the sampling settings and the model of the samples in a folder; empty if there is no such file."""
    try:
        record = _read(folder)
        model = {"model": dict(record["model"])} if "model" in record else {}
        return {"samples": dict(record["origin"]), **model} if record else {}
    except (OSError, ValueError, KeyError, TypeError) as problem:
        path = folder / RECORD
        logger.warning(f"{path}: cannot be read ({problem}); the result will not say how the images were sampled")
        return {}


def recorded_extractor(folder: Path) -> str | None:
    """Return the extractor of the recipe of the run that the images of a folder were sampled from; None if unknown."""
    try:
        record = _read(folder)
    except (OSError, ValueError, TypeError):
        return None
    name = record.get("extractor")
    return name if isinstance(name, str) else extractor_of_run(record.get("model"))


def extractor_of_run(model: Any) -> str | None:
    """Return the extractor of a run's recipe; None if the run is unknown or not here.

    Args:
        model: the record of the model, with its run.
    """
    run = model.get("run") if isinstance(model, dict) else None
    try:
        return read_recipe(str(recipe_file(Path(run)))).evaluate.extractor if isinstance(run, str) else None
    except (RecipeError, OSError):
        return None


def _read(folder: Path) -> dict[str, Any]:
    path = folder / RECORD
    return {} if (folder / MANIFEST).exists() or not path.is_file() else dict(read_json(path, LARGEST_RECORD_BYTES))
