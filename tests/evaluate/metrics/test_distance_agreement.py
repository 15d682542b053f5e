"""Distances agree with those of clean-fid and torch-fidelity on the same features."""

import numpy as np
import pytest

from hdit_core.evaluate.metrics.frechet_distance import FrechetTarget
from hdit_core.evaluate.metrics.kernel_distance import kernel_distance
from tests.evaluate.made_up_features import correlated, measured

A, B = correlated(300, 48, seed=1), correlated(260, 48, seed=2, shift=0.2)


def test_the_frechet_distance_equals_clean_fids(importable_torchvision):
    from cleanfid.fid import fid_from_feats

    expected = fid_from_feats(A.double().numpy(), B.double().numpy())
    assert FrechetTarget(measured(B)).distance(measured(A)).value == pytest.approx(expected, rel=1e-6)


def test_the_frechet_distance_equals_torch_fidelitys(importable_torchvision):
    metric = pytest.importorskip("torch_fidelity.metric_fid")
    statistics = [metric.fid_features_to_statistics(features) for features in (A, B)]
    expected = metric.fid_statistics_to_metric(*statistics, verbose=False)["frechet_inception_distance"]
    assert FrechetTarget(measured(B)).distance(measured(A)).value == pytest.approx(expected, rel=1e-6)


def test_the_kernel_distance_equals_torch_fidelitys_within_random_error(importable_torchvision):
    """Both draw subsets, by their own chance; with as many, the means differ by a few standard errors of a mean."""
    metric = pytest.importorskip("torch_fidelity.metric_kid")
    theirs = metric.kid_features_to_metric(
        A, B, kid_subsets=400, kid_subset_size=130, kid_degree=3, kid_gamma=None, kid_coef0=1, rng_seed=0, verbose=False
    )
    ours = kernel_distance(A, B, subsets=400)
    assert ours.subset_size == 130
    spread = theirs["kernel_inception_distance_std"] * np.sqrt(2 / 400)
    assert ours.value == pytest.approx(theirs["kernel_inception_distance_mean"], abs=5 * spread)
