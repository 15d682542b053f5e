"""The Inception Score (Salimans et al. 2016): confidence of a classifier in each image, and diversity of its classes.

exp of the mean of KL(p(class | image), p(class)) in each of ten parts of the set, averaged over the parts, as is common
practice. The parts are the blocks of the set, so the order of the images does not matter.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.evaluate.feature_batch import FeatureBatch
from hdit_core.evaluate.metrics.confidence_intervals import LEAST_IN_BLOCK, NUM_BLOCKS, T_QUANTILE, Estimate, estimate
from hdit_core.evaluate.metrics.statistics import block_of, key_of


class InceptionScore:
    """Observes features, and accumulates three sums per block."""

    def __init__(self, class_logits: Callable[[Float[Tensor, "B F"]], Float[Tensor, "B K"]]) -> None:
        self._class_logits = class_logits
        self._counts = torch.zeros(NUM_BLOCKS, dtype=torch.int64)
        self._certainty = torch.zeros(NUM_BLOCKS, dtype=torch.float64)  # sum of p log p
        self._probabilities: Float[Tensor, "J K"] | None = None

    def observe(self, batch: FeatureBatch, start: int) -> None:
        """Add some images."""
        blocks = block_of(torch.tensor([key_of(digest) for digest in batch.digests]), NUM_BLOCKS)
        logs = self._class_logits(batch.features).double().log_softmax(1)
        probabilities = logs.exp()
        if self._probabilities is None:
            self._probabilities = torch.zeros(NUM_BLOCKS, logs.shape[1], dtype=torch.float64)
        self._probabilities.index_add_(0, blocks, probabilities)
        self._certainty.index_add_(0, blocks, (probabilities * logs).sum(1))
        self._counts += torch.bincount(blocks, minlength=NUM_BLOCKS)

    def estimates(self) -> dict[str, Estimate]:
        """Return the score, at least 1; empty if a block has fewer than 2 images."""
        if self._probabilities is None or int(self._counts.min()) < LEAST_IN_BLOCK:
            return {}
        marginal = self._probabilities / self._counts[:, None]
        variety = torch.special.entr(marginal).sum(1)
        scores = (self._certainty / self._counts + variety).exp()
        error = float(scores.std()) / math.sqrt(NUM_BLOCKS)
        return {"inception_score": estimate(float(scores.mean()), error, T_QUANTILE, least=1.0)}
