"""`read_recipe`: from a file, a name or text to a checked recipe."""

from hdit_core.api.arguments import PathLike, path_argument
from hdit_core.recipe import read
from hdit_core.recipe.read import Overrides, parse_recipe
from hdit_core.recipe.run import Recipe


def read_recipe(recipe: PathLike, overrides: Overrides = ()) -> Recipe:
    """Return a checked recipe, from a file, by the name of a built-in one, or from TOML text.

    Args:
        recipe: a path, a name such as `"mnist32"`, or text of several lines.
        overrides: values by key, such as `{"train.batch_size": 64}`; or `"train.batch_size=64"` each, in a list.

    Raises:
        RecipeError: one line per mistake, with file, key, the value found and the value expected.
    """
    if isinstance(overrides, str):
        raise TypeError(f"overrides: expected a dict or a list of strings, got the string {overrides!r}")
    text = path_argument(recipe, "recipe")
    return parse_recipe(text, overrides) if "\n" in text else read.read_recipe(text, overrides)
