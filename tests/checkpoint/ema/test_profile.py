"""The algebra of power-function profiles: lengths, decays, inner products and combinations."""

import math
from itertools import pairwise

import numpy as np
import pytest

from hdit_core.checkpoint.ema.profile import Profile, decay, gamma_of, inner_products, mixtures

GRID = 200_000


def std_of(gamma):
    """Return the length of the profile of an exponent (appendix C)."""
    return ((gamma + 1) / ((gamma + 2) ** 2 * (gamma + 3))) ** 0.5


def density(profile, length):
    """The profile on the middles of GRID cells of [0, length]."""
    tau = (np.arange(GRID) + 0.5) * length / GRID
    gamma, t = gamma_of(profile.std), profile.num_images
    return np.where(tau < t, (gamma + 1) * tau**gamma / t ** (gamma + 1), 0.0)


@pytest.mark.parametrize(("std", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_the_papers_two_lengths_have_the_papers_exponents(std, gamma):
    assert gamma_of(std) == pytest.approx(gamma, abs=5e-3)  # 16.97 and 6.94 are printed in section 3.1


@pytest.mark.parametrize("std", [0.001, 0.013, 0.05, 0.1, 0.2, 0.288])
def test_lengths_and_exponents_invert_each_other_and_the_length_is_the_standard_deviation_of_the_profile(std):
    gamma = gamma_of(std)
    assert gamma > 0 and std_of(gamma) == pytest.approx(std, rel=1e-10)
    tau = (np.arange(GRID) + 0.5) / GRID
    p = density(Profile(std, 1), 1.0) / GRID
    assert p.sum() == pytest.approx(1, rel=1e-4)
    assert math.sqrt(p @ (tau - p @ tau) ** 2) == pytest.approx(std, rel=1e-3)


def test_with_steps_of_equal_size_the_decay_is_the_papers():
    for t in range(1, 50):
        assert decay(6.94, 8 * (t - 1), 8 * t) == pytest.approx((1 - 1 / t) ** 7.94)


def test_an_ema_weights_the_images_of_steps_of_any_size_by_its_profile():
    gamma, sizes = 3.0, [8, 8, 16, 64, 64, 8]
    ends = np.cumsum(sizes).tolist()
    counts = np.zeros(len(sizes))
    for step, (before, after) in enumerate(zip([0, *ends], ends, strict=False)):
        counts *= decay(gamma, before, after)
        counts[step] += 1 - decay(gamma, before, after)
    shares = (np.array(ends) / ends[-1]) ** (gamma + 1)  # the integral of the profile up to there
    np.testing.assert_allclose(counts, np.diff(shares, prepend=0), rtol=1e-12)


def test_inner_products_equal_the_integrals():
    parts = [Profile(0.05, 700), Profile(0.05, 1000), Profile(0.1, 300), Profile(0.25, 1000)]
    dense = np.stack([density(part, 1000.0) for part in parts])
    found = inner_products(parts, parts)
    np.testing.assert_allclose(found, dense @ dense.T * 1000 / GRID, rtol=2e-3)
    np.testing.assert_allclose(found, found.T)


def every(num_images, count, stds=(0.05, 0.1)):
    return [Profile(std, num_images * (i + 1) // count) for i in range(count) for std in stds]


def test_the_stated_error_is_that_of_the_combination_and_no_other_combination_is_nearer():
    parts, wanted = every(6400, 8), Profile(0.07, 6400)
    mixture = mixtures(parts, [wanted])[0]
    dense, target = np.stack([density(part, 6400.0) for part in parts]), density(wanted, 6400.0)

    def error(weights):
        return np.linalg.norm(weights @ dense - target) / np.linalg.norm(target)

    assert error(np.array(mixture.weights)) == pytest.approx(mixture.error, rel=0.01)
    numbers = np.random.default_rng(0)
    for _ in range(20):
        change = numbers.standard_normal(len(parts)) * 1e-2
        assert error(np.array(mixture.weights) + change - change.mean()) > mixture.error
    assert mixture.gain == pytest.approx(np.linalg.norm(mixture.weights))


@pytest.mark.parametrize("count", [1, 2, 5, 64, 256])
def test_weights_sum_to_one_for_any_snapshots(count):
    wanted = [Profile(std, 6400) for std in (0.03, 0.05, 0.08, 0.2)]
    for mixture in mixtures(every(6400, count), wanted):
        assert sum(mixture.weights) == pytest.approx(1, abs=1e-9)


def test_more_snapshots_give_a_better_combination():
    errors = [mixtures(every(10**6, count), [Profile(0.08, 10**6)])[0].error for count in (4, 8, 16, 32, 64)]
    assert all(later < earlier / 2 for earlier, later in pairwise(errors)) and errors[-1] < 3e-4


def test_a_profile_that_was_tracked_is_used_unchanged():
    parts = every(6400, 16)
    mixture = mixtures(parts, [Profile(0.05, 6400)])[0]
    expected = [float(part == Profile(0.05, 6400)) for part in parts]
    np.testing.assert_allclose(mixture.weights, expected, atol=1e-8)
    assert mixture.error < 1e-6 and mixture.gain == pytest.approx(1)


def test_nearly_equal_snapshots_do_no_harm():
    parts = [
        *every(10**6, 64),
        Profile(0.05, 10**6 - 1),
        Profile(0.1, 10**6 - 1),
    ]  # a run that was made a little longer
    mixture = mixtures(parts, [Profile(0.08, 10**6)])[0]
    assert mixture.error < 1e-3 and mixture.gain < 2 and sum(mixture.weights) == pytest.approx(1)
