"""The Inception Score against closed forms and against torch-fidelity's."""

import numpy as np
import pytest
import torch

from hdit_core.evaluate.feature_batch import FeatureBatch
from hdit_core.evaluate.metrics.confidence_intervals import NUM_BLOCKS
from hdit_core.evaluate.metrics.inception_score import InceptionScore


def digest(index):
    """Of an image in block `index % 10`."""
    return index.to_bytes(8, "big") + bytes(24)


def scored(logits, batch_size=7, order=None):
    score = InceptionScore(lambda features: features)
    order = list(range(len(logits)) if order is None else order)
    for start in range(0, len(order), batch_size):
        chosen = order[start : start + batch_size]
        score.observe(FeatureBatch(logits[chosen], [digest(i) for i in chosen], [(4, 5, 3)] * len(chosen)), start)
    return score.estimates().get("inception_score")


def test_a_confident_classifier_that_sees_every_class_scores_the_number_of_classes():
    logits = torch.eye(6)[torch.arange(240) // NUM_BLOCKS % 6] * 100
    assert scored(logits).value == pytest.approx(6, rel=1e-9)


def test_a_constant_classifier_scores_one():
    found = scored(torch.zeros(60, 5))
    assert found.value == pytest.approx(1) and found.low >= 1


def test_the_score_depends_on_neither_batches_nor_order():
    logits = torch.randn(90, 5, generator=torch.Generator().manual_seed(0)) * 3
    shuffled = np.random.default_rng(0).permutation(90).tolist()
    assert scored(logits, 90).value == pytest.approx(scored(logits, 4, shuffled).value, rel=1e-12)


def test_the_score_equals_torch_fidelitys(importable_torchvision):
    metric = pytest.importorskip("torch_fidelity.metric_isc")
    logits = torch.randn(200, 9, generator=torch.Generator().manual_seed(1)) * 2
    by_block = torch.cat([logits[block::NUM_BLOCKS] for block in range(NUM_BLOCKS)]).double()
    theirs = metric.isc_features_to_metric(by_block, splits=NUM_BLOCKS, shuffle=False)
    found = scored(logits)
    assert found.value == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    # Theirs divides by the number of splits, a standard error by one fewer, and by its root.
    spread = theirs["inception_score_std"] / (NUM_BLOCKS - 1) ** 0.5
    assert found.standard_error == pytest.approx(spread, rel=1e-9)


def test_too_few_images_have_no_inception_score():
    assert scored(torch.zeros(15, 4)) is None
    assert InceptionScore(lambda features: features).estimates() == {}
