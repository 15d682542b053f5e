"""Schedule lengths follow the number of images."""

import pytest

from hdit_core.errors import RecipeError
from hdit_core.recipe.read import read_recipe, shipped_recipes
from hdit_core.train.optim.lr_schedule import lr_factor


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_built_in_recipe_accepts_another_number_of_images(name):
    recipe = read_recipe(name, ["train.num_images=1000"])
    assert recipe.train.num_images == 1000
    assert recipe.train.warmup_length + recipe.train.cooldown_length <= 1000


def test_fractions_are_converted_to_numbers_of_images(changed):
    fractions = changed({"train.num_images": 960, "train.warmup": 0.1, "train.cooldown": 0.5}).train
    images = changed({"train.num_images": 960, "train.warmup_images": 96, "train.cooldown_images": 480}).train
    factors = [[lr_factor(train, seen) for seen in range(0, 960, 8)] for train in (fractions, images)]
    assert factors[0] == factors[1] and min(factors[0]) < 0.02 < 0.9 < max(factors[0])


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"train.cooldown": 0.5, "train.cooldown_images": 8}, r"train.cooldown: and cooldown_images give the same"),
        ({"train.cooldown": 0.6, "train.warmup": 0.6}, r"train.cooldown: warm-up \(58\) and cool-down \(58\) together"),
        ({"train.cooldown_images": 97}, r"train.cooldown_images: .* use the fractions warmup and cooldown"),
    ],
)
def test_contradictory_lengths_are_refused(changed, keys, message):
    with pytest.raises(RecipeError, match=message):
        changed(keys)
