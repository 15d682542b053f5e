"""The order of blocks: each image once per epoch, as in the uniform one, from few shards at a time."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdit_core.data.loader.order import BlockOrder

SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=30).filter(any)
BLOCKS_OF_40 = [15, 17, 20, 21, 14, 25, 12, 22]


def epoch(order, number, num_images):
    return order.images_at(np.arange(number * num_images, (number + 1) * num_images))


def shard_of(sizes, images):
    """Return the shard of each image."""
    return np.repeat(np.arange(len(sizes)), sizes)[images]


@given(seed=st.integers(0, 2**64 - 1), number=st.integers(0, 2**30), sizes=SIZES, block=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_every_epoch_shows_every_image_once(seed, number, sizes, block):
    images = epoch(BlockOrder(seed, sizes, block), number, sum(sizes))
    assert np.array_equal(np.sort(images), np.arange(sum(sizes)))


@given(seed=st.integers(0, 2**64 - 1), number=st.integers(0, 99), sizes=SIZES, block=st.integers(1, 12))
@settings(max_examples=60, deadline=None)
def test_a_window_is_finished_before_the_next_begins(seed, number, sizes, block):
    """At every place of an epoch, no more than `block` shards have been begun and are not finished."""
    shards = shard_of(sizes, epoch(BlockOrder(seed, sizes, block), number, sum(sizes)))
    first = {shard: place for place, shard in reversed(list(enumerate(shards)))}
    last = {shard: place for place, shard in enumerate(shards)}
    for place in range(len(shards)):
        being_read = [shard for shard in first if first[shard] <= place <= last[shard]]
        assert len(being_read) <= block


@given(seed=st.integers(0, 2**64 - 1), sizes=SIZES, block=st.integers(1, 12), data=st.data())
@settings(max_examples=25, deadline=None)
def test_an_image_depends_on_seed_and_number_alone(seed, sizes, block, data):
    numbers = np.array(data.draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=20)))
    order = BlockOrder(seed, sizes, block)
    together = order.images_at(numbers)
    assert [int(BlockOrder(seed, sizes, block).images_at(np.array([n]))[0]) for n in numbers] == together.tolist()
    assert order.images_at(numbers, skip=3).tolist() == order.images_at(numbers + 3).tolist()
    assert pickle.loads(pickle.dumps(order)).images_at(numbers).tolist() == together.tolist()


def test_epochs_and_seeds_have_orders_of_their_own():
    sizes = [100] * 40
    orders = [epoch(BlockOrder(seed, sizes, 4), number, 4000) for seed in (0, 2**63) for number in range(3)]
    for first, one in enumerate(orders):
        for other in orders[:first]:
            assert np.mean(one == other) < 0.01
            assert np.mean(shard_of(sizes, one)[::400] == shard_of(sizes, other)[::400]) < 0.5


def test_each_window_has_its_own_shuffle():
    order = epoch(BlockOrder(5, [50] * 8, 2), 0, 400).reshape(4, 100)
    ranks = [window.argsort().argsort() for window in order]
    assert all(np.mean(ranks[a] == ranks[b]) < 0.1 for a in range(4) for b in range(a))


@pytest.mark.parametrize("block", [7, 100])
def test_one_window_over_all_shards_shuffles_globally(block):
    shards = shard_of([30] * 7, epoch(BlockOrder(1, [30] * 7, block), 0, 210))
    assert all(len(set(shards[start : start + 42])) == 7 for start in range(0, 210, 42))


def test_the_order_equals_the_recorded_one():
    """A run that is resumed by a later version must continue exactly: these numbers must never change."""
    assert BlockOrder(0, [10, 5, 0, 12, 13], 2).images_at(np.arange(8)).tolist() == BLOCKS_OF_40


def test_a_hundred_thousand_shards_need_little_memory():
    order = BlockOrder(3, [1000] * 100_000, 16)
    images = order.images_at(np.arange(10**8 - 500, 10**8 + 500))  # from one epoch into the next
    assert len(np.unique(images[:500])) == len(np.unique(images[500:])) == 500
    assert sum(array.nbytes for kept in order._epochs.values() for array in (kept.shards, kept.starts)) < 4e6
