"""How images are drawn: the recipe's `[sample]` table with what a user asked for instead."""

from hdit_core.recipe.read import check_recipe
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.sample import SampleRecipe


def sample_settings(recipe: Recipe, **given: object) -> SampleRecipe:
    """Return the recipe's sampling settings with those replaced that are given and not None.

    Raises:
        RecipeError: a setting that there is not, or that does not go with the network.
    """
    tables = recipe.model_dump(mode="json", exclude_none=True)
    tables["sample"] |= {key: value for key, value in given.items() if value is not None}
    return check_recipe(tables, "sampling").sample
