"""Lists of image indices in their short form, read and written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hdit_core.errors import UsageError
from hdit_core.generate.index_ranges import first_indices, read_ranges, write_ranges


def test_ranges_and_single_indices_are_sorted_without_repeats():
    assert read_ranges("5, 0-3,2,100-101") == [0, 1, 2, 3, 5, 100, 101]


@given(st.sets(st.integers(0, 300), min_size=1))
def test_the_written_file_is_read_back(numbers):
    assert read_ranges(write_ranges(sorted(numbers))) == sorted(numbers)


def test_consecutive_indices_are_written_as_one_range():
    assert write_ranges([0, 1, 2, 5, 7, 8]) == "0-2,5,7-8"


@pytest.mark.parametrize("text", ["", "a", "3-1", "-1", "1--2", "1,", "1.5", "9" * 20, "0-9999999999999999999"])
def test_an_invalid_list_is_refused_with_an_example(text):
    with pytest.raises(UsageError, match=r"--indices .*expected indices and ranges .* for example 0-63,100"):
        read_ranges(text)


def test_more_indices_than_memory_holds_are_refused_before_they_are_created():
    with pytest.raises(UsageError, match="more than 10,000,000 images"):
        read_ranges("0-4000000000000000000")


def test_more_images_than_a_command_can_list_are_refused_before_they_are_counted():
    assert first_indices(3) == [0, 1, 2]
    with pytest.raises(UsageError, match=r"--count 1,000,000,000: at most 10,000,000 .* --indices 10000000-19999999"):
        first_indices(1_000_000_000)
