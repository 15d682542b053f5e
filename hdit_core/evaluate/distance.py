"""Distances between two sets of features: Frechet's between their Gaussians, and the kernel distance.

No matrix square root is taken: scipy's has changed its answers between releases, and its squared spectrum costs half of
the digits. With covariances A^T A and B^T B, the trace of sqrt(Cov_a^.5 Cov_b Cov_a^.5) is the sum of the singular
values of A B^T, which are right to the last digits of the largest.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.errors import DataError, NumericalError
from hdit_core.evaluate.interval import Estimate, estimate
from hdit_core.evaluate.statistics import Statistics
from hdit_core.randomness import stream

KERNEL_SUBSETS = 100
KERNEL_SUBSET_SIZE = 1000


@dataclass(frozen=True)
class FrechetDistance:
    """Frechet's distance, squared as always, and what went into it.

    Attributes:
        value: |mean_a - mean_b|^2 + tr(Cov_a + Cov_b - 2 sqrt(Cov_a^.5 Cov_b Cov_a^.5)), at least 0.
        mean_term: the first summand.
        clipped_mass: how much negative eigenvalue, which no covariance has, was set to 0 in either covariance; beyond
            rounding it says that saved statistics are damaged.
    """

    value: float
    mean_term: float
    clipped_mass: float


class FrechetTarget:
    """A reference that many sets are compared with: what it takes for that is worked out once."""

    def __init__(self, reference: Statistics) -> None:
        self._reference = reference
        self._trace = float(reference.covariance.trace())
        self._factor, self._clipped = _factor(reference)

    def distance(self, a: Statistics) -> FrechetDistance:
        """Return the Frechet distance of a set, right to the last digits.

        Raises:
            NumericalError: the numbers are so large that the distance is not finite.
        """
        mean_term, traces = self._finite_terms(a)
        factor, clipped = _factor(a)
        overlap = float(torch.linalg.svdvals(factor @ self._factor.T).sum())
        spread_term = max(traces + clipped + self._clipped - 2 * overlap, 0.0)  # what rounding puts below 0 is 0
        return FrechetDistance(mean_term + spread_term, mean_term, clipped + self._clipped)

    def quick_distance(self, a: Statistics) -> float:
        """Return the same by the eigenvalues of B Cov_a B^T, three times as fast, to half of the digits.

        Enough for how a distance varies between parts of a set, which is in its third digit.

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
            raise NumericalError("the Frechet distance is not finite: the features are too large for float64")
        return mean_term, traces


def frechet_distance(a: Statistics, b: Statistics) -> FrechetDistance:
    """Return the Frechet distance of two sets (Heusel et al. 2017, equation 6), in float64.

    Raises:
        NumericalError: the numbers are so large that the distance is not finite.
    """
    return FrechetTarget(b).distance(a)


def _is_small(statistics: Statistics) -> bool:
    """Return whether the set has no more images than features, and all of those at hand."""
    return statistics.has_all_features and len(statistics.features) <= statistics.num_features


def _factor(statistics: Statistics) -> tuple[Float64[Tensor, "R F"], float]:
    """Return A with A^T A = the covariance, and the negative eigenvalue that had to be clipped for it.

    With no more images than features, the centred features themselves: exact, and the n x n form of the problem.
    Otherwise Cholesky's factor, or where the covariance is singular, the one from its eigenvalues.
    """
    if _is_small(statistics):
        return (statistics.features.double() - statistics.mean) / math.sqrt(len(statistics.features) - 1), 0.0
    if not statistics.covariance.isfinite().all():
        return statistics.covariance, 0.0  # told of when the terms are added up

    factor, failed = torch.linalg.cholesky_ex(statistics.covariance, upper=True)
    if not failed:
        return factor, 0.0

    eigenvalues, vectors = torch.linalg.eigh(statistics.covariance)
    return eigenvalues.clamp(min=0).sqrt()[:, None] * vectors.T, float(-eigenvalues.clamp(max=0).sum())


@dataclass(frozen=True)
class KernelDistance:
    """The kernel distance with its standard error.

    Attributes:
        value: the mean over the subsets; unbiased, so that it can be below 0.
        standard_error: of the value as an estimate from these images, by the delete-d jackknife.
        subsets: how many pairs of subsets.
        subset_size: images in each.
        seed: what the subsets were drawn with.
    """

    value: float
    standard_error: float
    subsets: int
    subset_size: int
    seed: int

    @property
    def estimate(self) -> Estimate:
        """The value with its 95 % interval."""
        return estimate(self.value, self.standard_error)


def kernel_distance(
    a: Float[Tensor, "Na F"], b: Float[Tensor, "Nb F"], seed: int = 0, subsets: int = KERNEL_SUBSETS
) -> KernelDistance:
    """Return the squared maximum mean discrepancy under the kernel (x.y / F + 1)^3 (Binkowski et al. 2018, KID).

    Subsets have 1000 images, or half of the smaller set where it has fewer than 2000: unbiased whatever their size,
    and subsets that leave none out would show no spread. They overlap, so that their mean is surer than one of them
    and less sure than if they were independent: variance = m / (n - m) times theirs (Shao and Wu 1989).

    Raises:
        DataError: a set has fewer than 4 images.
    """
    n = min(len(a), len(b))
    if n < 4:
        raise DataError(f"the kernel distance needs at least 4 images on both sides; found {n}")
    size = min(KERNEL_SUBSET_SIZE, n // 2)
    pairs = ((_pick(a, seed, subset, 0, size), _pick(b, seed, subset, 1, size)) for subset in range(subsets))
    values = torch.tensor([_discrepancy(x, y) for x, y in pairs], dtype=torch.float64)
    error = math.sqrt(float(values.var(correction=0)) * size / (n - size))
    return KernelDistance(float(values.mean()), error, subsets, size, seed)


def _pick(features: Float[Tensor, "N F"], seed: int, subset: int, side: int, size: int) -> Float[Tensor, "M F"]:
    chosen = stream(seed, "kernel-subset", subset, side).choice(len(features), size, replace=False)
    return features[torch.from_numpy(chosen)]


def _discrepancy(x: Float[Tensor, "M F"], y: Float[Tensor, "M F"]) -> float:
    """Return the unbiased estimate from one pair of subsets: no image is compared with itself."""
    size = len(x)
    within = _kernel(x, x).fill_diagonal_(0).sum() + _kernel(y, y).fill_diagonal_(0).sum()
    return float(within / (size * (size - 1)) - 2 * _kernel(x, y).mean())


def _kernel(x: Float[Tensor, "M F"], y: Float[Tensor, "M F"]) -> Float64[Tensor, "M M"]:
    products = (x @ y.T).double()  # in the features' own float32: what is lost averages out over a million pairs
    return (products / x.shape[1] + 1) ** 3
