"""The candidates of a sweep."""

import pytest

from hdit_core.errors import UsageError
from hdit_core.evaluate.sweep.search_space import Point, grid, read_intervals, read_numbers


def test_ranges_include_both_ends_and_lists_may_mix_them_with_numbers():
    assert read_numbers("--guidance", "1:3:0.25") == (1, 1.25, 1.5, 1.75, 2, 2.25, 2.5, 2.75, 3)
    assert read_numbers("--guidance", "1:1.3:0.1,4,4") == (1, 1.1, 1.2, 1.3, 4)
    assert read_numbers("--guidance", "2:2:1") == (2,)


@pytest.mark.parametrize("text", ["", "x", "1:2", "1:2:0", "3:1:0.5", "1:2:-1", "nan", "1,,2", "1:2:3:4", "1:2:1e-9"])
def test_an_invalid_list_of_numbers_is_named(text):
    with pytest.raises(UsageError, match=r"--guidance .*: expected comma-separated numbers or ranges LOW:HIGH:STEP"):
        read_numbers("--guidance", text)


def test_intervals_are_noise_levels_or_all():
    assert read_intervals("--guidance-interval", "all,0.2:5", None) == (None, (0.2, 5))
    assert read_intervals("--guidance-interval", "all", (0.0, 80.0)) == ((0, 80),)
    for text in ("5:0.2", "1", "-1:2", "1:1", "x", "all:5", "0.2:inf", "1:2:3", "", "all,,1:2"):
        with pytest.raises(UsageError, match=r"--guidance-interval .*: expected LOW:HIGH with 0 <= LOW < HIGH, or all"):
            read_intervals("--guidance-interval", text, None)


def test_every_combination_is_tried_once_and_without_guidance_no_interval():
    points = grid(["ema", "0.05"], [1.0, 2.0], [None, (0.2, 5.0)])
    assert len(points) == len(set(points)) == 6
    assert points[:3] == (Point("ema", 1.0), Point("ema", 2.0), Point("ema", 2.0, (0.2, 5.0)))
    assert str(points[2]) == "weights ema, guidance 2, interval 0.2:5"
    assert points[2].to_json() == {"weights": "ema", "guidance": 2.0, "guidance_interval": [0.2, 5.0]}
