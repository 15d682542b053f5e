"""The folder of a run: begun, recognised and resumed, or refused because it holds something else."""

from pathlib import Path
from typing import Any

from hdit_core.checkpoint.layout import recipe_file
from hdit_core.errors import RecipeError, UsageError
from hdit_core.files import write_whole
from hdit_core.recipe.read import read_recipe
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.write import recipe_toml

MAY_CHANGE = (
    "data.path",
    "data.workers",
    "train.num_images",
    "train.micro_batch_size",
    "train.compile",
    "train.activation_checkpointing",
    "train.log_every_images",
    "train.checkpoint_every_images",
    "train.keep_checkpoints",
    "train.sample_every_images",
    "sample.",
    "evaluate.",
)
"""Keys of a recipe that a run may go on with when they have changed. All others decide what the weights become."""


def claim_folder(run: Path, recipe: Recipe) -> None:
    """Make the folder of a run, or recognise it as this recipe's.

    Raises:
        UsageError: the folder holds another run, or files that are no run.
    """
    file = recipe_file(run)
    if file.exists():
        _check_same(run, recipe)
    elif run.exists() and (not run.is_dir() or any(run.iterdir())):
        raise UsageError(f"{run}: exists and is not a run of hdit; give another folder with --out")
    run.mkdir(parents=True, exist_ok=True)
    write_whole(file, recipe_toml(recipe))


def _check_same(run: Path, recipe: Recipe) -> None:
    try:
        before = _flat(read_recipe(str(recipe_file(run))).model_dump(mode="json"))
    except RecipeError as error:
        raise UsageError(f"{run}: its recipe cannot be read, so that the run cannot go on:\n{error}") from None
    now = _flat(recipe.model_dump(mode="json"))
    changed = [key for key in now | before if now.get(key) != before.get(key) and not key.startswith(MAY_CHANGE)]
    if changed:
        details = "; ".join(f"{key} is {before.get(key)!r} there and {now.get(key)!r} here" for key in changed[:3])
        more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UsageError(f"{run}: holds another run: {details}{more}. Give another folder with --out")


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
