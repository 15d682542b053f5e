"""A valid recipe, and the mistakes in an invalid one."""

import pytest

from hdit_core.errors import RecipeError
from hdit_core.recipe.read import read_recipe

GOOD = """
[model]
image_size = [32, 48]
patch_size = [4, 2]

[[model.levels]]
depth = 1
width = 64
attention = "neighborhood"
head_dim = 32

[[model.levels]]
depth = 2
width = 128
attention = "global"

[train]
num_images = 1000
batch_size = 8
"""


def mistakes_of(path, overrides=()):
    """Return the mistakes, one per line, without the file name with which each must start."""
    with pytest.raises(RecipeError) as error:
        read_recipe(path, overrides)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]
