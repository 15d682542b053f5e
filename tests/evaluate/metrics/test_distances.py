"""Distances against closed forms and against scipy's matrix square root."""

import numpy as np
import pytest
import scipy.linalg
import torch

from hdit_core.errors import DataError, NumericalError
from hdit_core.evaluate.metrics.frechet_distance import FrechetTarget
from hdit_core.evaluate.metrics.kernel_distance import kernel_distance
from hdit_core.evaluate.metrics.statistics import Statistics
from tests.evaluate.made_up_features import correlated, measured


def gaussian(mean, covariance):
    """Statistics without features, as a file of clean-fid's has them."""
    mean, covariance = (torch.tensor(np.asarray(x), dtype=torch.float64) for x in (mean, covariance))
    return Statistics(None, mean, covariance, torch.empty(0, len(mean)), torch.empty(0, dtype=torch.int64), "")


def by_scipy(a, b):
    """Clean-fid's formula on the same features, through scipy's square root instead of singular values."""
    a, b = a.double().numpy(), b.double().numpy()
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = scipy.linalg.sqrtm(cov_a @ cov_b).real
    return np.square(a.mean(0) - b.mean(0)).sum() + np.trace(cov_a + cov_b - 2 * root)


def test_one_dimensional_gaussians_have_the_textbook_distance():
    distance = FrechetTarget(gaussian([3.5], [[0.25]])).distance(gaussian([1.0], [[4.0]]))
    assert distance.value == pytest.approx(2.5**2 + (2 - 0.5) ** 2, rel=1e-14)
    assert distance.mean_term == pytest.approx(6.25)
    assert distance.clipped_mass == 0


def test_for_gaussians_with_common_axes_the_distance_follows_from_the_standard_deviations():
    axes, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((6, 6)))
    spread_a, spread_b = np.array([3, 2, 1, 0.5, 0.1, 1e-3]), np.array([1, 1, 2, 0.7, 0.2, 0.0])
    a = gaussian(np.zeros(6), axes @ np.diag(spread_a**2) @ axes.T)
    b = gaussian(np.zeros(6), axes @ np.diag(spread_b**2) @ axes.T)
    expected = np.square(spread_a - spread_b).sum()
    assert FrechetTarget(b).distance(a).value == pytest.approx(expected, rel=1e-9)
    assert FrechetTarget(a).distance(b).value == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("n", [40, 15])
def test_frechet_distance_agrees_with_clean_fids_formula(n):
    """With more images than features, and with fewer, where the n x n form is taken."""
    a, b = correlated(n, 24, seed=1), correlated(60, 24, seed=2, shift=0.3)
    assert FrechetTarget(measured(b)).distance(measured(a)).value == pytest.approx(by_scipy(a, b), rel=1e-6)


def test_the_low_rank_form_equals_the_one_from_eigenvalues():
    a, b = measured(correlated(10, 24, seed=3)), measured(correlated(60, 24, seed=4))
    without_features = gaussian(a.mean.numpy(), a.covariance.numpy())
    assert FrechetTarget(b).distance(a).value == pytest.approx(
        FrechetTarget(b).distance(without_features).value, rel=1e-7
    )


@pytest.mark.parametrize("n", [2, 20, 24, 25, 200])
def test_identical_sets_have_distance_zero(n):
    """To 1e-8 of the trace, also where the covariance is singular and a squared spectrum would lose half the digits."""
    a = measured(correlated(n, 24, seed=5))
    assert 0 <= FrechetTarget(a).distance(a).value <= 1e-8 * float(a.covariance.trace())
    saved = gaussian(a.mean.numpy(), a.covariance.numpy())
    assert 0 <= FrechetTarget(saved).distance(saved).value <= 1e-8 * float(a.covariance.trace())


def test_negative_eigenvalues_are_clipped_and_their_mass_is_reported():
    broken = gaussian([0.0, 0.0, 0.0], np.diag([2.0, 1.0, -0.25]))
    distance = FrechetTarget(gaussian([0.0, 0.0, 0.0], np.diag([2.0, 1.0, 9.0]))).distance(broken)
    assert distance.clipped_mass == pytest.approx(0.25)
    assert distance.value == pytest.approx((0 - 3) ** 2)


def test_a_distance_that_is_not_finite_is_an_error():
    with pytest.raises(NumericalError, match="the Frechet distance is not finite"):
        FrechetTarget(gaussian([0.0], [[1.0]])).distance(gaussian([1e200], [[1.0]]))


def by_hand(x, y):
    """The unbiased estimator of Binkowski et al., written as its three double sums."""
    x, y = x.double().numpy(), y.double().numpy()

    def mean(u, v, skip):
        sums = [
            ((u[i] @ v[j]) / len(u[i]) + 1) ** 3 for i in range(len(u)) for j in range(len(v)) if not skip or i != j
        ]
        return sum(sums) / len(sums)

    return mean(x, x, True) + mean(y, y, True) - 2 * mean(x, y, False)


def test_the_kernel_distance_is_unbiased():
    """The mean over subsets comes to the estimate from all pairs, within four times what chance explains."""
    a, b = correlated(30, 6, seed=6), correlated(20, 6, seed=7, shift=0.2)
    distance = kernel_distance(a, b, subsets=900)
    assert distance.subset_size == 10
    of_the_mean = distance.standard_error / 900**0.5  # half of the images in a subset: its spread is the standard error
    assert distance.value == pytest.approx(by_hand(a, b), abs=4 * of_the_mean)


def test_the_standard_error_agrees_with_the_spread_over_random_sets():
    """It agrees with the spread of the distance over new random sets within a factor of two."""
    estimates = [
        kernel_distance(correlated(80, 4, seed=2 * i), correlated(80, 4, seed=2 * i + 1, shift=0.5), subsets=40)
        for i in range(40)
    ]
    spread = np.std([estimate.value for estimate in estimates])
    typical = np.median([estimate.standard_error for estimate in estimates])
    assert spread / 2 < typical < spread * 2


def test_the_kernel_distance_depends_on_its_seed_alone():
    a, b = correlated(30, 6, seed=8), correlated(40, 6, seed=9)
    assert kernel_distance(a, b, seed=3) == kernel_distance(a, b, seed=3)
    assert kernel_distance(a, b, seed=3).value != kernel_distance(a, b, seed=4).value


def test_three_images_are_too_few_for_a_kernel_distance():
    with pytest.raises(DataError, match="needs at least 4 images on both sides; found 3"):
        kernel_distance(correlated(3, 6, seed=1), correlated(9, 6, seed=2))
