"""How images are drawn: the recipe's `[sample]` table with what a user asked for instead."""

from collections.abc import Iterable

from hdit_core.errors import UsageError
from hdit_core.recipe.read import check_recipe, override_key
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import SampleRecipe


def sample_settings(recipe: Recipe, overrides: Iterable[str] = (), **given: object) -> SampleRecipe:
    """Return the recipe's sampling settings with those replaced that are given and not None.

    Args:
        recipe: whose `[sample]` table is the preset.
        overrides: `sample.key=value` each, as on the command line.
        given: by key of the table, stronger than overrides.

    Raises:
        UsageError: an override of another table, which decides nothing here.
        RecipeError: a setting that there is not, or that does not go with the network.
    """
    tables = recipe.model_dump(mode="json", exclude_none=True)
    for override in overrides:
        if not override.strip().startswith("sample."):
            raise UsageError(
                f"--set {override}: only keys of [sample] decide how images are drawn, for example sample.schedule=vp"
            )
        override_key(tables, override)
    tables["sample"] |= {key: value for key, value in given.items() if value is not None}
    return check_recipe(tables, "sampling").sample
