"""The values of a form are checked, and every error is one line."""

import math

import pytest

from hdit_core.errors import UsageError
from hdit_core.play.request import read_form, real_number, whole_number


def test_a_form_combines_the_settings_of_the_run_and_of_the_user(tiny_recipe, values):
    form = read_form(values | {"seed": "1234567890123456", "steps": 7.0, "guidance": "1.5", "class": "2"}, tiny_recipe)
    assert (form.seed, form.count, form.class_id) == (1234567890123456, 3, 2)
    assert (form.settings.steps, form.settings.guidance) == (7, 1.5)
    assert form.settings.batch_size == tiny_recipe.sample.batch_size


def test_an_interval_may_be_open_at_either_end(tiny_recipe, values):
    assert read_form(values, tiny_recipe).settings.guidance_interval is None
    assert read_form(values | {"low": 0.5}, tiny_recipe).settings.guidance_interval == (0.5, 80.0)
    assert read_form(values | {"high": 2}, tiny_recipe).settings.guidance_interval == (0, 2)


def test_an_interval_of_the_run_can_be_removed(changed, values):
    recipe = changed({"sample.guidance_interval": [0.5, 2.0], "sample.sigma_max": 80.0})
    assert read_form(values, recipe).settings.guidance_interval == (0, 80)  # all noise levels


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": math.nan}, "seed nan: expected a whole number from 0 to"),
        ({"seed": None}, r"seed \(empty\): expected"),
        ({"seed": 1.5}, "seed 1.5: expected a whole number"),
        ({"seed": 2**53}, "seed 9007199254740992: expected a whole number from 0 to 9,007,199,254,740,991"),
        ({"seed": [1]}, r"seed \[1\]: expected"),
        ({"count": 0}, "images 0: expected a whole number from 1 to 64"),
        ({"count": 1e300}, "images 1e[+]300: expected"),
        ({"steps": "many"}, "steps many: expected a whole number from 1 to 1,000"),
        ({"steps": True}, "steps True: expected"),
        ({"guidance": math.nan}, "guidance nan: expected a number of at least 0"),
        ({"guidance": -1}, "guidance -1: expected"),
        ({"guidance": math.inf}, "guidance inf: expected"),
        ({"low": 3, "high": 2}, "guidance from sigma 3 to 2: expected the lower noise level first"),
        ({"low": "x"}, "guidance from sigma x: expected"),
        ({"class": "9"}, "class 9: the network has the classes 0 to 2"),
        ({"class": "none"}, "class none: expected a whole number"),
        ({"sampler": "ddim"}, "sampler"),
        ({"schedule": "linear"}, "schedule"),
    ],
)
def test_an_error_is_one_line_that_names_the_field(wrong, message, tiny_recipe, values):
    with pytest.raises(UsageError, match=message) as problem:
        read_form(values | wrong, tiny_recipe)
    assert "\n" not in str(problem.value) and len(str(problem.value)) < 400


def test_more_pixels_than_a_page_can_show_are_refused(changed, values):
    recipe = changed({"model.image_size": [1024, 1024], "model.patch_size": 4})
    with pytest.raises(UsageError, match="images 20: expected at most 16 of 1024x1024 at once"):
        read_form(values | {"count": 20}, recipe)
    assert read_form(values | {"count": 16}, recipe).count == 16


def test_numbers_are_limited():
    assert whole_number(" 7 ", "n") == 7 and real_number("0.5", "n", 0.0, 1.0) == 0.5
    with pytest.raises(UsageError, match="n 2: expected a number from 0 to 1"):
        real_number(2, "n", 0.0, 1.0)
    with pytest.raises(UsageError, match="n 11: expected a whole number from 0 to 10"):
        whole_number(11, "n", 0, 10)
