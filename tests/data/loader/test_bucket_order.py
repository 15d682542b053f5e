"""The order of images of several sizes: one size per step, each image equally often, computed without storage."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hdit_core.data.loader.bucket_order import BatchSizePhase, BucketOrder, SizeBucket
from hdit_core.data.loader.order import UniformOrder

SIZES = st.lists(st.integers(1, 60), min_size=1, max_size=6)
FEW = st.lists(st.integers(1, 20), min_size=1, max_size=4)
STEPS_OF_3_BUCKETS = [1, 0, 2, 2, 1, 2, 2, 1, 0, 2, 1, 2]


def order_of(seed, sizes, parts):
    firsts = np.cumsum(sizes) - sizes
    buckets = [
        SizeBucket(int(first), size, UniformOrder(seed + k, size))
        for k, (first, size) in enumerate(zip(firsts, sizes, strict=True))
    ]
    return BucketOrder(seed, buckets, parts)


def bucket_of(sizes, images):
    return np.repeat(np.arange(len(sizes)), sizes)[images]


@given(seed=st.integers(0, 2**63), sizes=SIZES, batch=st.integers(1, 40), start=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_the_images_of_a_step_have_one_size(seed, sizes, batch, start):
    images = order_of(seed, sizes, [BatchSizePhase(0, batch)]).images_at(np.arange(start * batch, (start + 20) * batch))
    assert all(len(set(step)) == 1 for step in bucket_of(sizes, images).reshape(20, batch))


@given(seed=st.integers(0, 2**63), sizes=FEW, batch=st.integers(1, 40))
@settings(max_examples=25, deadline=None)
def test_after_as_many_epochs_as_images_per_step_each_image_was_shown_equally_often(seed, sizes, batch):
    """B rounds are N steps exactly: bucket i has had B N_i / B = N_i of them, B images each."""
    images = order_of(seed, sizes, [BatchSizePhase(0, batch)]).images_at(np.arange(batch * sum(sizes)))
    assert np.array_equal(np.bincount(images, minlength=sum(sizes)), np.full(sum(sizes), batch))


@given(seed=st.integers(0, 2**63), sizes=FEW, batch=st.integers(5, 40), rounds=st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_each_bucket_has_its_share_of_the_steps_to_within_one(seed, sizes, batch, rounds):
    steps = sum(rounds * size // batch for size in sizes)
    images = order_of(seed, sizes, [BatchSizePhase(0, batch)]).images_at(np.arange(steps) * batch)
    found = np.bincount(bucket_of(sizes, images), minlength=len(sizes))
    assert found.tolist() == [rounds * size // batch for size in sizes]


@given(seed=st.integers(0, 2**63), data=st.data())
@settings(max_examples=25, deadline=None)
def test_an_image_depends_on_seed_and_number_alone(seed, data):
    sizes, parts = data.draw(SIZES), [BatchSizePhase(0, 4), BatchSizePhase(40, 6), BatchSizePhase(100, 12)]
    numbers = np.array(data.draw(st.lists(st.integers(0, 2**40), min_size=1, max_size=20)))
    order = order_of(seed, sizes, parts)
    together = order.images_at(numbers).tolist()
    assert [int(order_of(seed, sizes, parts).images_at(np.array([n]))[0]) for n in numbers] == together


def test_within_a_bucket_an_epoch_shows_every_image_once():
    sizes, batch = [24, 60, 12], 12
    images = order_of(3, sizes, [BatchSizePhase(0, batch)]).images_at(np.arange(5 * 96))
    for epoch in images.reshape(5, 96):  # a round shows all, since 12 divides every size
        assert np.array_equal(np.sort(epoch), np.arange(96))


def test_after_batch_growth_steps_have_one_size_and_start_new_epochs():
    sizes, parts = [24, 60], [BatchSizePhase(0, 12), BatchSizePhase(84 * 2, 6)]
    order = order_of(3, sizes, parts)
    before, after = order.images_at(np.arange(84 * 2)), order.images_at(np.arange(84 * 2, 84 * 4))
    assert all(len(set(step)) == 1 for step in bucket_of(sizes, after).reshape(-1, 6))
    assert np.array_equal(np.sort(after[:84]), np.arange(84))
    assert np.mean(before == after) < 0.2


def test_a_replacement_is_another_image_of_the_same_size():
    sizes = [24, 60, 12]
    order = order_of(3, sizes, [BatchSizePhase(0, 12)])
    numbers = np.arange(300)
    for later in (1, 2, 7):
        others = order.images_at(numbers, later)
        assert np.array_equal(bucket_of(sizes, others), bucket_of(sizes, order.images_at(numbers)))
        assert np.mean(others == order.images_at(numbers)) < 0.1


def test_steps_of_different_sizes_are_interleaved():
    steps = bucket_of([500, 500], order_of(1, [500, 500], [BatchSizePhase(0, 5)]).images_at(np.arange(200) * 5))
    assert 60 < np.sum(np.diff(steps) != 0) < 140


def test_the_order_equals_the_recorded_one():
    """A run that is resumed by a later version must continue exactly: these numbers must never change."""
    images = order_of(0, [10, 20, 30], [BatchSizePhase(0, 5)]).images_at(np.arange(12) * 5)
    assert bucket_of([10, 20, 30], images).tolist() == STEPS_OF_3_BUCKETS


@pytest.mark.parametrize("number", [10**12, 2**61])
def test_indices_far_into_a_run_are_valid(number):
    images = order_of(0, [10**6, 3 * 10**5], [BatchSizePhase(0, 256)]).images_at(np.arange(number, number + 512))
    assert images.min() >= 0 and images.max() < 13 * 10**5
