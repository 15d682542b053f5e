"""How sure a score is: 95 % intervals by the jackknife over blocks of images, and what an infinite set would score.

A set falls into ten blocks by the hash of each image's pixels. Leaving one out at a time and scoring the rest shows how
much the score hangs on the images that happened to be drawn (Tukey 1958; Shao and Wu 1989). The reference is taken as
given.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hdit_core.evaluate.metrics.statistics import Statistics

NUM_BLOCKS = 10
T_QUANTILE = 2.262  # of Student's distribution, 97.5 %, 9 degrees of freedom: one fewer than blocks
NORMAL_QUANTILE = 1.960
LEAST_IN_BLOCK = 2


@dataclass(frozen=True)
class Estimate:
    """A number with how sure it is.

    Attributes:
        value: the number.
        standard_error: of it; None where the set is too small to tell.
        low: lower end of the 95 % interval, or None.
        high: upper end, or None.
    """

    value: float
    standard_error: float | None = None
    low: float | None = None
    high: float | None = None

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.value:.4f}"
        return f"{self.value:.4f} (95 %: {self.low:.4f} to {self.high:.4f})"


def estimate(
    value: float, standard_error: float, quantile: float = NORMAL_QUANTILE, least: float = -math.inf
) -> Estimate:
    """Return a number with its interval, which does not go below `least`."""
    margin = quantile * standard_error
    return Estimate(value, standard_error, max(value - margin, least), value + margin)


def jackknife(value: float, without_one: Sequence[float], least: float = -math.inf) -> Estimate:
    """Return a score with its interval from the scores that leave out one block each.

    Args:
        value: of the whole set.
        without_one: the scores without each of NUM_BLOCKS blocks.
        least: what no score can be below.
    """
    count = len(without_one)
    variance = (count - 1) / count * float(np.square(np.asarray(without_one) - np.mean(without_one)).sum())
    return estimate(value, math.sqrt(variance), T_QUANTILE, least)


def mean_estimate(values: Float[Tensor, "N"], blocks: Int64[Tensor, "N"]) -> Estimate:
    """Return the mean of one number an image, with its interval by the jackknife over blocks."""
    values = values.double()
    sums = torch.zeros(NUM_BLOCKS, dtype=torch.float64).index_add_(0, blocks, values)
    counts = torch.bincount(blocks, minlength=NUM_BLOCKS)
    if int(counts.min()) < LEAST_IN_BLOCK:
        return Estimate(float(values.mean()))
    without_one = (sums.sum() - sums) / (counts.sum() - counts)
    return jackknife(float(values.mean()), without_one.tolist())


@dataclass(frozen=True)
class DistanceInterval:
    """A Frechet distance's interval, and its extrapolation to infinitely many images (Chong and Forsyth 2020).

    Attributes:
        estimate: the distance with its interval.
        infinity: where the line through the distances of the whole, of nine tenths and of halves of the set, over one
            through the number of images, meets 0; None where halves have no more images than there are features.
        points: what the line goes through: numbers of images and the distances of as many; empty without a line.
    """

    estimate: Estimate
    infinity: float | None
    points: tuple[tuple[int, float], ...] = ()


def without_each_block(value: float, a: Statistics, quick_distance: Callable[[Statistics], float]) -> Estimate:
    """Return a distance with its interval from the distances without one block each; alone where blocks are too small.

    Args:
        value: the distance of the whole set.
        a: the set, with its blocks.
        quick_distance: from statistics to their distance.
    """
    found = _left_out(a, quick_distance)
    return jackknife(value, [distance for _, distance in found], least=0.0) if found else Estimate(value)


def distance_interval(value: float, a: Statistics, quick_distance: Callable[[Statistics], float]) -> DistanceInterval:
    """Return how sure a distance is, and what it would be with infinitely many images; arguments as above."""
    tenths = _left_out(a, quick_distance)
    if not tenths or a.n is None:
        return DistanceInterval(Estimate(value), None)
    found = jackknife(value, [distance for _, distance in tenths], least=0.0)

    count = len(a.blocks)
    halves = [a.of_blocks([(first + step) % count for step in range(count // 2)]) for first in range(count)]
    if min(part.n or 0 for part in halves) <= a.num_features:
        return DistanceInterval(found, None)
    points = [(a.n, value), *tenths, *((part.n or 0, quick_distance(part)) for part in halves)]
    return DistanceInterval(found, extrapolate(points), tuple(points))


def _left_out(a: Statistics, quick_distance: Callable[[Statistics], float]) -> list[tuple[int, float]]:
    """Return size and distance of the set without each of its blocks; nothing where a block has hardly an image."""
    if not a.blocks or min(block.n for block in a.blocks) < LEAST_IN_BLOCK:
        return []
    everyone = range(len(a.blocks))
    parts = (a.of_blocks([block for block in everyone if block != left_out]) for left_out in everyone)
    return [(part.n or 0, quick_distance(part)) for part in parts]


def extrapolate(points: Sequence[tuple[int, float]]) -> float:
    """Return the value at 1/n = 0 of the straight line through points (n, value), by least squares."""
    inverse = np.array([1 / n for n, _ in points])
    _, intercept = np.polyfit(inverse, [value for _, value in points], 1)
    return float(intercept)
