"""Precision, recall, density, coverage and authenticity: the overlap of two sets, by balls around their images.

The ball around an image reaches to its k-th nearest neighbor in the same set. Precision and recall: Kynkäänniemi et al.
2019, with k = 3; density and coverage: Naeem et al. 2020, with k = 5; authenticity: Alaa et al. 2022, with k = 1.
Distances are computed block by block, so memory does not grow with the square of the set.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor

from hdit_core.evaluate.metrics.confidence_intervals import NUM_BLOCKS, Estimate, mean_estimate
from hdit_core.evaluate.metrics.statistics import Statistics, block_of

RECALL_NEIGHBORS = 3
COVERAGE_NEIGHBORS = 5
AUTHENTICITY_NEIGHBORS = 1
BLOCK_DISTANCES = 1 << 24  # 134 MB in float64
ROUNDING = 1e-12  # relative to the squared lengths; smaller squared distances count as 0
TAIL = 0.025  # of a 95 % interval, on each side


def precision_recall(images: Statistics, reference: Statistics) -> dict[str, Estimate]:
    """Return the overlap of the kept samples of two sets; empty if one has no more than 5 images.

    Returns:
        precision: fraction of the images inside a ball of the reference.
        recall: fraction of the reference inside a ball of the images.
        density: mean number of balls of the reference that contain an image, divided by k.
        coverage: fraction of the reference whose ball contains an image.
        authenticity: fraction of the images outside the ball of the nearest reference image. Copies are inside, so a
            low value means memorization if the reference is the training set.
    """
    if min(len(images.features), len(reference.features)) <= COVERAGE_NEIGHBORS:
        return {}
    x, y = images.features.double() - reference.mean, reference.features.double() - reference.mean
    radii_x = radii(x, RECALL_NEIGHBORS)
    radii_y, wide_radii_y = radii(y, RECALL_NEIGHBORS), radii(y, COVERAGE_NEIGHBORS)
    narrow_radii_y = radii(y, AUTHENTICITY_NEIGHBORS)

    near_y, authentic = torch.zeros(len(x), dtype=torch.bool), torch.zeros(len(x), dtype=torch.bool)
    balls = torch.zeros(len(x), dtype=torch.float64)  # number of wide balls of the reference, divided by k
    near_x, covered = torch.zeros(len(y), dtype=torch.bool), torch.zeros(len(y), dtype=torch.bool)
    for rows, squared in squared_distances(x, y):
        inside: Bool[Tensor, "B Ny"] = squared < wide_radii_y
        near_y[rows] = (squared <= radii_y).any(1)  # in a ball of the reference?
        nearest = squared.min(1)
        authentic[rows] = nearest.values > narrow_radii_y[nearest.indices]
        balls[rows] = inside.sum(1).double() / COVERAGE_NEIGHBORS
        near_x |= (squared <= radii_x[rows, None]).any(0)
        covered |= inside.any(0)

    of_images, of_reference = block_of(images.keys, NUM_BLOCKS), block_of(reference.keys, NUM_BLOCKS)
    return {
        "precision": _share(near_y, of_images),
        "recall": _share(near_x, of_reference),
        "density": mean_estimate(balls, of_images, least=0.0),
        "coverage": _share(covered, of_reference),
        "authenticity": _share(authentic, of_images),
    }


def _share(flags: Bool[Tensor, "N"], blocks: Int64[Tensor, "N"]) -> Estimate:
    """Return the fraction that is true, with an interval within [0, 1].

    Where all flags are equal the jackknife sees no variance. The interval is then the exact binomial one (Clopper and
    Pearson 1934), and there is no standard error.
    """
    fraction = mean_estimate(flags.double(), blocks)
    if fraction.value in (0.0, 1.0):
        margin = 1 - TAIL ** (1 / len(flags))
        return Estimate(fraction.value, None, fraction.value * (1 - margin), max(margin, fraction.value))
    if fraction.low is None or fraction.high is None:
        return fraction
    return Estimate(fraction.value, fraction.standard_error, max(fraction.low, 0.0), min(fraction.high, 1.0))


def radii(x: Float64[Tensor, "N F"], neighbors: int) -> Float64[Tensor, "N"]:
    """Return the squared distance of each point to its k-th nearest neighbor."""
    nearest = [squared.kthvalue(neighbors + 1, dim=1).values for _, squared in squared_distances(x, x)]
    return torch.cat(nearest)  # k + 1, since the nearest is the point itself


def squared_distances(
    x: Float64[Tensor, "Nx F"], y: Float64[Tensor, "Ny F"]
) -> Iterator[tuple[slice, Float64[Tensor, "B Ny"]]]:
    """Yield the squared distances of some rows of x to all of y; those of equal points are exactly 0."""
    length_y = y.square().sum(1)
    for start in range(0, len(x), step := max(1, BLOCK_DISTANCES // len(y))):
        part: Float[Tensor, "B F"] = x[start : start + step]
        lengths = part.square().sum(1, keepdim=True) + length_y
        squared = lengths - 2 * part @ y.T
        yield slice(start, start + len(part)), torch.where(squared <= ROUNDING * lengths, 0, squared)
