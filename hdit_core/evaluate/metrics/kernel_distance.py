"""The kernel distance between two sets of features, called KID with Inception's."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.errors import DataError
from hdit_core.evaluate.metrics.confidence_intervals import Estimate, estimate
from hdit_core.randomness import stream

KERNEL_SUBSETS = 100
KERNEL_SUBSET_SIZE = 1000


@dataclass(frozen=True)
class KernelDistance:
    """The kernel distance with its standard error.

    Attributes:
        value: the mean over the subsets; unbiased, so it can be negative.
        standard_error: its standard error, by the delete-d jackknife.
        subsets: number of pairs of subsets.
        subset_size: number of images in each subset.
        seed: the seed of the subsets.
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

    Subsets have 1000 images, or half of the smaller set if it has fewer than 2000: the estimate is unbiased for any
    size, and subsets of the whole set would have no variance. Subsets overlap, so the variance of the mean is
    size / (n - size) times theirs (Shao and Wu 1989).

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
    products = (x @ y.T).double()  # in float32: rounding errors average out over a million pairs
    return (products / x.shape[1] + 1) ** 3
