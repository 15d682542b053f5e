"""The runs in a folder: the columns of `hdit runs list`."""

from pathlib import Path
from typing import Any

from hdit_core.checkpoint.layout import recipe_file
from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.status import read_status, updated
from hdit_core.errors import RecipeError, UsageError
from hdit_core.recipe.read import read_recipe


def list_runs(folder: Path) -> list[dict[str, Any]]:
    """Return the row of each run in a folder, sorted by name; checkpoints are not read.

    Raises:
        UsageError: there is no such folder.
    """
    if not folder.is_dir():
        raise UsageError(f"{folder}: no such directory")
    return [_row(run) for run in sorted(folder.iterdir()) if recipe_file(run).is_file()]


def _row(run: Path) -> dict[str, Any]:
    """Return the columns of a run."""
    status, log = read_status(run), read_log(run)
    last = log[-1] if log else {}
    try:
        total: int | None = read_recipe(str(recipe_file(run))).train.num_images
    except (RecipeError, FileNotFoundError):  # damaged, or removed meanwhile
        total = None
    return {
        "run": str(run),
        "state": str(status.get("state", "unknown")),
        "step": max(int(status.get("step", 0)), int(last.get("step", 0))),
        "images": max(int(status.get("num_images", 0)), int(last.get("num_images", 0))),
        "total_images": total,
        "loss": last.get("loss"),
        "updated": updated(run),
    }
