"""A recipe that is right, and what is wrong with one that is not."""

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
    """Return the lines of what is wrong, without the file's name, which each must begin with."""
    with pytest.raises(RecipeError) as error:
        read_recipe(path, overrides)
    lines = str(error.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]
