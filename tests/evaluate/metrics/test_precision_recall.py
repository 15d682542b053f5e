"""Precision, recall, density, coverage and authenticity against brute force over all pairs."""

import numpy as np
import pytest
import torch
from scipy.stats import binomtest

from hdit_core.evaluate.metrics import precision_recall as module
from hdit_core.evaluate.metrics.confidence_intervals import Estimate
from hdit_core.evaluate.metrics.precision_recall import precision_recall
from hdit_core.evaluate.metrics.statistics import Accumulator, image_digest


def measured(features):
    accumulator = Accumulator(features.shape[1])
    accumulator.add(features, [image_digest(row.numpy().view(np.uint8)[None, None]) for row in features])
    return accumulator.statistics()


def normal(n, seed, shift=0.0, scale=1.0):
    return torch.randn(n, 3, generator=torch.Generator().manual_seed(seed)) * scale + shift


def by_brute_force(x, y):
    """The five definitions, pair by pair, as their papers write them."""
    x, y = x.double().numpy(), y.double().numpy()

    def radius(points, i, k):
        return sorted(np.linalg.norm(points[i] - other) for other in points)[k]

    def distance(i, j):
        return np.linalg.norm(x[i] - y[j])

    rows, columns = range(len(x)), range(len(y))
    r3_x, r3_y = [radius(x, i, 3) for i in rows], [radius(y, j, 3) for j in columns]
    r5_y = [radius(y, j, 5) for j in columns]
    nearest = [min(columns, key=lambda j: distance(i, j)) for i in rows]
    return {
        "precision": np.mean([any(distance(i, j) <= r3_y[j] for j in columns) for i in rows]),
        "recall": np.mean([any(distance(i, j) <= r3_x[i] for i in rows) for j in columns]),
        "density": sum(distance(i, j) < r5_y[j] for i in rows for j in columns) / (5 * len(x)),
        "coverage": np.mean([any(distance(i, j) < r5_y[j] for i in rows) for j in columns]),
        "authenticity": np.mean([distance(i, j) > radius(y, j, 1) for i, j in zip(rows, nearest, strict=True)]),
    }


@pytest.mark.parametrize("block_distances", [1, 100, 1 << 24])
def test_the_five_numbers_equal_their_definitions(monkeypatch, block_distances):
    """However many distances are held at once."""
    monkeypatch.setattr(module, "BLOCK_DISTANCES", block_distances)
    x, y = normal(37, seed=1, shift=0.8), normal(44, seed=2)
    found = precision_recall(measured(x), measured(y))
    expected = by_brute_force(x, y)
    assert all(0 < expected[name] < 1 for name in ("precision", "recall", "coverage", "authenticity"))
    for name, value in expected.items():
        assert found[name].value == pytest.approx(value, abs=1e-12)


def test_a_set_has_precision_and_recall_1_with_itself():
    x = measured(normal(30, seed=3) * 100 + 1e4)
    found = precision_recall(x, x)
    assert (found["precision"].value, found["recall"].value, found["coverage"].value) == (1, 1, 1)


def test_distant_sets_have_precision_and_recall_0():
    found = precision_recall(measured(normal(30, seed=4)), measured(normal(30, seed=5, shift=100)))
    values = {name: estimate.value for name, estimate in found.items()}
    assert values == dict.fromkeys(("precision", "recall", "density", "coverage"), 0) | {"authenticity": 1}


def test_copies_of_the_reference_are_not_authentic():
    reference = normal(40, seed=3)
    found = precision_recall(measured(torch.cat([reference[:10], normal(30, seed=4) * 9])), measured(reference))
    assert 0.5 < found["authenticity"].value <= 0.75
    assert precision_recall(measured(reference), measured(reference))["authenticity"].value == 0


def test_a_copy_of_an_image_that_the_reference_has_twice_is_not_authentic():
    reference = normal(40, seed=3)
    twice = measured(torch.cat([reference, reference]))
    assert precision_recall(measured(reference[:10]), twice)["authenticity"].value == 0


def test_a_narrow_set_has_precision_without_recall():
    found = precision_recall(measured(normal(200, seed=6, scale=0.1)), measured(normal(200, seed=7)))
    assert found["precision"].value > 0.9 and found["recall"].value < 0.2


def test_a_fraction_of_0_or_1_has_the_exact_binomial_interval():
    """As scipy has it; the jackknife sees no variance there."""
    apart = precision_recall(measured(normal(30, seed=4)), measured(normal(40, seed=5, shift=100)))
    exact = binomtest(0, 30).proportion_ci(0.95, "exact")
    assert (apart["precision"].standard_error, apart["precision"].low) == (None, 0)
    assert apart["precision"].high == pytest.approx(exact.high, rel=1e-9) and apart["precision"].high > 0.1
    assert apart["density"] == Estimate(0.0), "no interval of 0 to 0"
    same = measured(normal(30, seed=3))
    exact = binomtest(30, 30).proportion_ci(0.95, "exact")
    recall = precision_recall(same, same)["recall"]
    assert (recall.low, recall.high) == (pytest.approx(exact.low, rel=1e-9), 1)


def test_intervals_stay_between_0_and_1():
    found = precision_recall(measured(normal(200, seed=8, shift=0.5)), measured(normal(200, seed=9)))
    for name in ("precision", "recall", "coverage"):
        share = found[name]
        assert 0 <= share.low < share.value < share.high <= 1


def test_the_interval_of_density_has_no_negative_numbers():
    """One image of sixty is among those of the reference, so that most blocks have none."""
    images = torch.cat([normal(59, 1, shift=40), normal(1, 2, scale=0.1)])
    density = precision_recall(measured(images), measured(normal(300, 3)))["density"]
    assert density.value - density.standard_error < 0 == density.low


def test_six_images_are_needed_on_both_sides():
    assert precision_recall(measured(normal(5, seed=1)), measured(normal(30, seed=2))) == {}
    assert precision_recall(measured(normal(6, seed=1)), measured(normal(6, seed=2))) != {}
