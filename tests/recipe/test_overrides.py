"""`--set table.key=value`."""

import pytest

from hdit_core.errors import RecipeError
from hdit_core.recipe.read import read_recipe
from tests.recipe.recipe_file import GOOD


@pytest.mark.parametrize(
    ("override", "value"),
    [
        ("data.path=some where", "some where"),
        ("data.path='some where'", "some where"),
        ('data.path = "a\\tb" ', "a\tb"),
        ("data.path=a=b", "a=b"),
        ("data.path='a'\nworkers=3", "'a'\nworkers=3"),
        ("data.path=3.5.1", "3.5.1"),
        ("data.path=", ""),
        ("data.path=" + "[" * 500, "[" * 500),
    ],
)
def test_an_override_is_toml_or_else_the_text_itself(write, override, value):
    recipe = read_recipe(write(GOOD), [override])
    assert recipe.data.path == value
    assert recipe.data.workers == 2


def test_overrides_reach_array_elements_and_new_tables_and_the_last_one_wins(write):
    overrides = ["model.levels.1.width=64", "sample.steps=9", "train.lr=1", "train.lr=1e-3", "train.betas=[0.5, 0.6]"]
    recipe = read_recipe(write(GOOD), overrides)
    assert recipe.model.levels[1].width == 64
    assert recipe.sample.steps == 9
    assert recipe.train.lr == 1e-3
    assert recipe.train.betas == (0.5, 0.6)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lr", r"--set train.lr: expected table.key=value, for example train.batch_size=64"),
        ("", "--set : expected table.key=value"),
        ("=3", "--set =3: expected table.key=value"),
        ("train.=3", "--set train.=3: expected table.key=value"),
        ("model.levels.2.width=8", r"expected an index from 0 to 1, found '2'"),
        ("model.levels.-1.width=8", r"expected an index from 0 to 1, found '-1'"),
        ("model.levels.²=8", r"expected an index from 0 to 1, found '²'"),
        ("model.levels." + "1" * 5000 + ".width=8", r"expected an index from 0 to 1"),
        ("train.num_images.x=8", "'num_images' is a value, not a table"),
        ("a" + ".a" * 5000 + "=1", "a key of 5001 parts; a recipe has at most 32"),
        ("data.path=\udcff", "not UTF-8, as a recipe has to be"),
    ],
)
def test_an_invalid_override_is_refused(write, override, message):
    with pytest.raises(RecipeError, match=message):
        read_recipe(write(GOOD), [override])


def test_array_elements_are_also_given_in_brackets(write):
    overrides = ["model.levels[1].width=64", "train.betas=[0.5, 0.6]"]
    assert read_recipe(write(GOOD), [overrides[0]]).model.levels[1].width == 64
    assert read_recipe(write(GOOD), overrides[::-1]).train.betas == (0.5, 0.6)
    with pytest.raises(RecipeError, match=r"--set model.levels\[2\].width=8: expected an index from 0 to 1, found '2'"):
        read_recipe(write(GOOD), ["model.levels[2].width=8"])


def test_an_index_into_an_empty_array_is_refused(write):
    with pytest.raises(RecipeError, match="the array has no element '0', it is empty"):
        read_recipe(write(GOOD), ["train.batch_growth=[]", "train.batch_growth.0.batch_size=3"])


def test_whole_numbers_may_have_an_exponent(write):
    recipe = read_recipe(write(GOOD), ["train.num_images=1e6", "train.lr=1e0"])
    assert recipe.train.num_images == 1_000_000 and isinstance(recipe.train.num_images, int)
    assert recipe.train.lr == 1.0
    assert read_recipe(write(GOOD), ["data.path='1e6'"]).data.path == "1e6"
    with pytest.raises(RecipeError, match=r"train\.num_images = 1500000\.5: expected a whole number"):
        read_recipe(write(GOOD), ["train.num_images=1500000.5"])


@pytest.mark.parametrize("text", ["0.2:5", "[0.2, 5]", " .2 : 5.0 "])
def test_guidance_intervals_have_the_spelling_of_the_commands_too(write, text):
    recipe = read_recipe(write(GOOD), [f"sample.guidance_interval={text}"])
    assert recipe.sample.guidance_interval == (0.2, 5.0)


def test_ddim_is_answered_by_the_sampler_that_is_called_so_here(write):
    with pytest.raises(RecipeError, match=r'sample\.sampler = "ddim": expected .*; ddim is euler here$'):
        read_recipe(write(GOOD), ["sample.sampler=ddim"])


def test_other_keys_keep_texts_with_a_colon(write):
    assert read_recipe(write(GOOD), ["data.path=0.2:5"]).data.path == "0.2:5"
