"""The Frechet distance between two sets of features, as Gaussians: called FID with Inception's features.

It needs no matrix square root, whose results differ between releases of scipy, and which loses half of the digits by
squaring the spectrum. With covariances A^T A and B^T B, the trace of sqrt(Cov_a^.5 Cov_b Cov_a^.5) is the sum of the
singular values of A B^T, which are accurate to the last digits of the largest.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float64
from torch import Tensor

from hdit_core.errors import NumericalError
from hdit_core.evaluate.metrics.statistics import Statistics


@dataclass(frozen=True)
class FrechetDistance:
    """The squared Frechet distance and its parts.

    Attributes:
        value: |mean_a - mean_b|^2 + tr(Cov_a + Cov_b - 2 sqrt(Cov_a^.5 Cov_b Cov_a^.5)), at least 0.
        mean_term: the first summand.
        clipped_mass: the sum of negative eigenvalues of both covariances that were set to 0; more than rounding means
            that saved statistics are damaged.
    """

    value: float
    mean_term: float
    clipped_mass: float


class FrechetTarget:
    """A reference for many distances; its factorization is computed once."""

    def __init__(self, reference: Statistics) -> None:
        self._reference = reference
        self._trace = float(reference.covariance.trace())
        self._factor, self._clipped = _factor(reference)

    def distance(self, a: Statistics) -> FrechetDistance:
        """Return the Frechet distance of a set (Heusel et al. 2017, equation 6), in float64 and to full precision.

        Raises:
            NumericalError: the distance is not finite.
        """
        mean_term, traces = self._finite_terms(a)
        factor, clipped = _factor(a)
        overlap = float(torch.linalg.svdvals(factor @ self._factor.T).sum())
        spread_term = max(traces + clipped + self._clipped - 2 * overlap, 0.0)  # rounding can make it negative
        return FrechetDistance(mean_term + spread_term, mean_term, clipped + self._clipped)

    def quick_distance(self, a: Statistics) -> float:
        """Return the same from the eigenvalues of B Cov_a B^T: three times as fast, with half of the digits.

        Precise enough for the variation between parts of a set, which is in the third digit.

        Raises:
            NumericalError: as `distance`.
        """
        mean_term, traces = self._finite_terms(a)
        if _is_small(a):
            product = _factor(a)[0] @ self._factor.T
            symmetric = product @ product.T
        else:
            symmetric = self._factor @ a.covariance @ self._factor.T
        overlap = float(torch.linalg.eigvalsh(symmetric).clamp(min=0).sqrt().sum())
        return mean_term + max(traces + self._clipped - 2 * overlap, 0.0)

    def _finite_terms(self, a: Statistics) -> tuple[float, float]:
        mean_term = float((a.mean - self._reference.mean).square().sum())
        traces = float(a.covariance.trace()) + self._trace
        if not math.isfinite(mean_term + traces):
            raise NumericalError("the Frechet distance is not finite; the features are too large for float64")
        return mean_term, traces


def _is_small(statistics: Statistics) -> bool:
    """Return whether the set has no more images than features, and all of its features are kept."""
    return statistics.has_all_features and len(statistics.features) <= statistics.num_features


def _factor(statistics: Statistics) -> tuple[Float64[Tensor, "R F"], float]:
    """Return A with A^T A = the covariance, and the sum of negative eigenvalues that were clipped.

    With no more images than features A is the centered features, which is exact and gives an n x n problem. Otherwise
    it is the Cholesky factor, or for a singular covariance the factor from its eigenvalues.
    """
    if _is_small(statistics):
        return (statistics.features.double() - statistics.mean) / math.sqrt(len(statistics.features) - 1), 0.0
    if not statistics.covariance.isfinite().all():
        return statistics.covariance, 0.0  # `_finite_terms` raises

    factor, failed = torch.linalg.cholesky_ex(statistics.covariance, upper=True)
    if not failed:
        return factor, 0.0

    eigenvalues, vectors = torch.linalg.eigh(statistics.covariance)
    return eigenvalues.clamp(min=0).sqrt()[:, None] * vectors.T, float(-eigenvalues.clamp(max=0).sum())
