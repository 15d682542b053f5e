"""Statistics do not depend on how a set is divided, and identify it by its pixels."""

import numpy as np
import pytest
import torch

from hdit_core.errors import DataError, NumericalError
from hdit_core.evaluate.metrics import statistics
from hdit_core.evaluate.metrics.statistics import Accumulator, MomentSum, image_digest

FEATURES = torch.randn(50, 7, generator=torch.Generator().manual_seed(0)) * 3 + 100
DIGESTS = [image_digest(np.full((2, 3, 1), index, np.uint8)) for index in range(50)]


def accumulate(order, batch_size, kept=100):
    accumulator = Accumulator(7, kept)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        accumulator.add(FEATURES[chosen], [DIGESTS[index] for index in chosen])
    return accumulator


def assert_same(a, b):
    assert a.n == b.n and a.fingerprint == b.fingerprint
    torch.testing.assert_close(a.mean, b.mean, rtol=1e-13, atol=0)
    torch.testing.assert_close(a.covariance, b.covariance, rtol=1e-12, atol=1e-12)
    assert torch.equal(a.keys, b.keys) and torch.equal(a.features, b.features)


def test_mean_and_covariance_equal_numpys_in_float64():
    found = accumulate(list(range(50)), 8).statistics()
    np.testing.assert_allclose(found.mean, FEATURES.double().numpy().mean(0), rtol=1e-14)
    np.testing.assert_allclose(found.covariance, np.cov(FEATURES.double().numpy(), rowvar=False), rtol=1e-11)


@pytest.mark.parametrize("batch_size", [1, 3, 50])
def test_statistics_do_not_depend_on_batches_or_order(batch_size):
    shuffled = np.random.default_rng(1).permutation(50).tolist()
    assert_same(accumulate(shuffled, batch_size).statistics(), accumulate(list(range(50)), 8).statistics())


def test_statistics_are_bit_identical_for_any_chunks_of_features():
    """So that ranks, batches and resumed runs, which bring the same features in other portions, give the same score."""
    features = torch.randn(1300, 7, generator=torch.Generator().manual_seed(4)) + 10
    sums = []
    for portion in (1, 7, 512, 1300):
        total = MomentSum(7)
        for start in range(0, 1300, portion):
            total.add(features[start : start + portion])
        sums.append(total.moments())
    assert all(torch.equal(sums[0].mean, other.mean) for other in sums[1:])
    assert all(torch.equal(sums[0].scatter, other.scatter) for other in sums[1:])


def test_the_feature_sample_is_bounded_and_does_not_depend_on_the_order():
    forward = accumulate(list(range(50)), 4, kept=10).statistics()
    backward = accumulate(list(range(49, -1, -1)), 9, kept=10).statistics()
    assert len(forward.features) == 10 and forward.n == 50
    assert_same(forward, backward)
    smallest = sorted(range(50), key=lambda index: int.from_bytes(DIGESTS[index][:8], "big", signed=True))[:10]
    assert torch.equal(forward.features, FEATURES[smallest])


def test_the_feature_sample_uses_bounded_memory():
    assert statistics.KEPT_FEATURES * 2048 * 4 < 100e6


def test_the_digest_depends_on_shapes_and_pixels():
    image = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    other = image.copy()
    other[1, 2, 0] += 1
    assert len({image_digest(image), image_digest(other), image_digest(image.reshape(4, 2, 3))}) == 3
    assert image_digest(image) == image_digest(np.asfortranarray(image))


def test_features_that_are_not_finite_are_an_error():
    with pytest.raises(NumericalError, match="the feature network returned non-finite values"):
        Accumulator(2).add(torch.tensor([[1.0, float("nan")]]), [bytes(32)])


def test_one_image_has_no_covariance():
    with pytest.raises(DataError, match="needs at least 2 images on both sides; found 1"):
        accumulate([0], 1).statistics()
