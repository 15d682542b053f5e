"""The order of the images: a permutation per epoch that is computed, not stored."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdit_core.data.loader.order import images_at
from tests.data.elastic import image_at

ORDER_OF_1000 = [343, 666, 996, 481, 801, 849, 23, 586]
ORDER_FAR_OUT = 71986687


def epoch(seed, number, num_images):
    return images_at(seed, np.arange(number * num_images, (number + 1) * num_images), num_images)


@pytest.mark.parametrize("num_images", [*range(1, 70), 97, 255, 256, 257, 5000, 65_537, 300_007])
def test_every_epoch_shows_every_image_once(num_images):
    for number in (0, 1, 7):
        assert np.array_equal(np.sort(epoch(3, number, num_images)), np.arange(num_images))


@given(seed=st.integers(0, 2**64 - 1), number=st.integers(0, 2**30), num_images=st.integers(1, 300))
@settings(max_examples=150, deadline=None)
def test_every_epoch_of_any_seed_is_a_permutation(seed, number, num_images):
    assert np.array_equal(np.sort(epoch(seed, number, num_images)), np.arange(num_images))


def test_epochs_and_seeds_have_orders_of_their_own():
    orders = [epoch(seed, number, 1000) for seed in (0, 1, 2**63) for number in range(4)]
    for first, one in enumerate(orders):
        for other in orders[:first]:
            assert np.mean(one == other) < 0.01


def test_an_image_depends_on_seed_and_number_alone():
    numbers = np.random.default_rng(0).integers(0, 50_000, 300)
    together = images_at(11, numbers, 4321)
    assert [image_at(11, int(n), 4321) for n in numbers] == together.tolist()


def test_the_order_equals_the_recorded_one():
    """A run that is resumed by a later version must continue exactly: these numbers must never change."""
    assert images_at(0, np.arange(8), 1000).tolist() == ORDER_OF_1000
    assert image_at(2**64 - 1, 2**62, 10**8) == ORDER_FAR_OUT


def test_positions_are_uniformly_distributed():
    """Chi-squared over a 20 x 20 table of (place, image), about its 19 * 19 degrees of freedom."""
    counts = np.zeros((20, 20))
    for seed in range(100):
        cells = np.arange(2000) // 100, epoch(seed, seed, 2000) // 100
        np.add.at(counts, cells, 1)
    expected = counts.sum() / counts.size
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert abs(chi_squared - 361) < 6 * np.sqrt(2 * 361)


def test_consecutive_images_of_an_epoch_are_not_consecutive_in_the_set():
    steps = np.diff(epoch(5, 0, 100_000))
    assert np.mean(np.abs(steps) < 100) < 0.01
    assert len(np.unique(steps)) > 50_000


def test_a_hundred_million_images_need_no_memory():
    indices = images_at(1, np.arange(10**8, 10**8 + 1000), 10**8)
    assert len(np.unique(indices)) == 1000
    assert indices.min() >= 0
    assert indices.max() < 10**8
