"""Intervals and the extrapolation to infinitely many images, against theory and random sets."""

import numpy as np
import pytest
import torch

from hdit_core.evaluate.metrics.confidence_intervals import (
    NUM_BLOCKS,
    Estimate,
    distance_interval,
    estimate,
    extrapolate,
    jackknife,
    mean_estimate,
)
from hdit_core.evaluate.metrics.frechet_distance import FrechetTarget
from hdit_core.evaluate.metrics.statistics import Accumulator, Statistics


def measured(features, seed=0, num_blocks=NUM_BLOCKS, kept=10_000):
    accumulator = Accumulator(features.shape[1], kept=kept, num_blocks=num_blocks)
    digests = np.random.default_rng(seed).bytes(32 * len(features))
    accumulator.add(features, [digests[32 * i : 32 * i + 32] for i in range(len(features))])
    return accumulator.statistics()


def normal(n, seed, features=6, shift=0.0):
    return torch.randn(n, features, generator=torch.Generator().manual_seed(seed)) + shift


TRUTH = Statistics(
    None,
    torch.zeros(6, dtype=torch.float64),
    torch.eye(6, dtype=torch.float64),
    torch.empty(0, 6),
    torch.empty(0, dtype=torch.int64),
    "",
)


def test_the_jackknife_error_of_a_mean_is_its_standard_error():
    values = torch.randn(200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    blocks = torch.arange(200) % NUM_BLOCKS
    means = torch.tensor([values[blocks == block].mean() for block in range(NUM_BLOCKS)], dtype=torch.float64)
    found = mean_estimate(values, blocks)
    assert found.value == pytest.approx(float(values.mean()))
    assert found.standard_error == pytest.approx(float(means.std()) / NUM_BLOCKS**0.5, rel=1e-10)
    assert found.high - found.value == pytest.approx(2.262 * found.standard_error)


def test_an_interval_is_bounded_below_by_the_least_possible_value():
    assert jackknife(0.1, [0.0, 0.2] * 5, least=0.0).low == 0
    assert estimate(1.0, 0.5).low == pytest.approx(1 - 1.96 * 0.5)


def test_the_extrapolation_of_exact_points_is_exact():
    points = [(n, 3.25 + 700 / n) for n in (1000, 1800, 2000)]
    assert extrapolate(points) == pytest.approx(3.25, rel=1e-9)


def test_statistics_of_a_part_equal_those_of_its_images():
    features = normal(90, seed=1)
    whole = measured(features)
    part = whole.of_blocks([0, 3, 4])
    rows = torch.isin(whole.keys.remainder(NUM_BLOCKS), torch.tensor([0, 3, 4]))
    assert part.n == int(rows.sum()) and torch.equal(part.features, whole.features[rows])
    np.testing.assert_allclose(part.mean, whole.features[rows].double().mean(0), rtol=1e-10)
    np.testing.assert_allclose(part.covariance, np.cov(whole.features[rows].double().numpy(), rowvar=False), rtol=1e-9)


def test_the_interval_agrees_with_the_spread_over_random_sets():
    """The standard error agrees within a factor of two with the spread over new random sets."""
    target = FrechetTarget(TRUTH)
    drawn = [measured(normal(300, seed=seed, shift=0.4), seed) for seed in range(40)]
    values = [target.distance(one).value for one in drawn]
    errors = [
        distance_interval(v, one, target.quick_distance).estimate.standard_error
        for v, one in zip(values[:8], drawn[:8], strict=True)
    ]
    assert np.std(values) / 2 < np.median(errors) < np.std(values) * 2


def test_extrapolation_to_infinitely_many_images_reduces_the_bias():
    """Images of the reference's own distribution are at distance 0, from which few of them are far by chance."""
    target = FrechetTarget(TRUTH)
    sets = [measured(normal(150, seed=seed), seed) for seed in range(10)]
    values = [target.distance(one).value for one in sets]
    infinite = [distance_interval(v, one, target.quick_distance).infinity for v, one in zip(values, sets, strict=True)]
    assert np.mean(values) > 0.1
    assert abs(np.mean(infinite)) < np.mean(values) / 4


def test_halves_with_no_more_images_than_features_are_not_extrapolated():
    few = measured(normal(60, seed=3, features=40))
    truth = measured(normal(200, seed=4, features=40))
    target = FrechetTarget(truth)
    found = distance_interval(target.distance(few).value, few, target.quick_distance)
    assert found.infinity is None and found.estimate.standard_error > 0


def test_a_set_with_an_empty_block_has_no_interval():
    few = measured(normal(8, seed=5))
    assert distance_interval(1.5, few, lambda _: 0.0).estimate == Estimate(1.5)
    assert str(Estimate(1.5)) == "1.5000" and "95 %" in str(estimate(1.5, 0.1))


@pytest.mark.parametrize("n, kept", [(12, 10_000), (80, 10_000), (80, 20)])
def test_the_fast_distance_equals_the_exact_one(n, kept):
    """From fewer images than features, from more, and from moments alone."""
    a, b = measured(normal(n, seed=6, features=20), kept=kept), measured(normal(90, seed=7, features=20, shift=0.5))
    assert FrechetTarget(b).quick_distance(a) == pytest.approx(FrechetTarget(b).distance(a).value, rel=1e-6)
