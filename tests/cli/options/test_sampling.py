"""Options of the commands that generate images."""

from typing import get_args

import pytest

from hdit_cli.options.sampling import SAMPLERS, noise_levels
from hdit_core.errors import UsageError
from hdit_core.recipe.sample import Sampler


def test_the_help_lists_every_sampler():
    assert tuple(SAMPLERS.replace(" (DDIM)", "").split(", ")) == get_args(Sampler)


@pytest.mark.parametrize("text", ["0.28:2.9", "0.28,2.9", " 0.28 : 2.9", "[0.28, 2.9]"])
def test_an_interval_may_be_written_with_a_colon_or_a_comma(text):
    assert noise_levels(text) == [0.28, 2.9]


@pytest.mark.parametrize("text", ["5", "5:1", "0:inf", "1:2:3", "a:b", ""])
def test_an_invalid_interval_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"--guidance-interval .*expected LOW:HIGH in sigma, for example 0\.28:2\.9"):
        noise_levels(text)
