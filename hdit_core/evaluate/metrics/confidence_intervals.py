"""Uncertainty of a score: 95 % intervals by the jackknife over blocks of images, and extrapolation to infinite sets.

A set is divided into ten blocks by the hash of each image's pixels. The scores without one block each show how much the
score depends on the particular images (Tukey 1958; Shao and Wu 1989). The reference counts as fixed.
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
T_QUANTILE = 2.262  # Student's t, 97.5 %, NUM_BLOCKS - 1 = 9 degrees of freedom
NORMAL_QUANTILE = 1.960
LEAST_IN_BLOCK = 2


@dataclass(frozen=True)
class Estimate:
    """A value with its uncertainty.

    Attributes:
        value: the value.
        standard_error: its standard error; None if it cannot be estimated.
        low: lower end of the 95 % interval, or None.
        high: upper end of the 95 % interval, or None.
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
    """Return a value with its 95 % interval, which is cut off below `least`."""
    margin = quantile * standard_error
    return Estimate(value, standard_error, max(value - margin, least), value + margin)


def jackknife(value: float, without_one: Sequence[float], least: float = -math.inf) -> Estimate:
    """Return a score with its interval from the scores without one block each.

    Args:
        value: the score of the whole set.
        without_one: the scores without each of NUM_BLOCKS blocks.
        least: the smallest possible score.
    """
    count = len(without_one)
    variance = (count - 1) / count * float(np.square(np.asarray(without_one) - np.mean(without_one)).sum())
    return estimate(value, math.sqrt(variance), T_QUANTILE, least)


def mean_estimate(values: Float[Tensor, "N"], blocks: Int64[Tensor, "N"], least: float = -math.inf) -> Estimate:
    """Return the mean of one value per image, at least `least`, with its interval by the jackknife over blocks.

    Without an interval if all values are equal, since the jackknife then sees no variance, or if a block is tiny.
    """
    values = values.double()
    sums = torch.zeros(NUM_BLOCKS, dtype=torch.float64).index_add_(0, blocks, values)
    counts = torch.bincount(blocks, minlength=NUM_BLOCKS)
    if int(counts.min()) < LEAST_IN_BLOCK or bool((values == values[0]).all()):
        return Estimate(float(values.mean()))
    without_one = (sums.sum() - sums) / (counts.sum() - counts)
    return jackknife(float(values.mean()), without_one.tolist(), least)


@dataclass(frozen=True)
class DistanceInterval:
    """A Frechet distance's interval, and its extrapolation to infinitely many images (Chong and Forsyth 2020).

    Attributes:
        estimate: the distance with its interval.
        infinity: the intercept at 1/n = 0 of the line through the distances of the whole set, of nine tenths and of
            halves of it; None if halves have no more images than there are features.
        points: the points of the fit, each a number of images and a distance; empty without a fit.
    """

    estimate: Estimate
    infinity: float | None
    points: tuple[tuple[int, float], ...] = ()


def without_each_block(value: float, a: Statistics, quick_distance: Callable[[Statistics], float]) -> Estimate:
    """Return a distance with its interval from the distances without one block each; no interval for tiny blocks.

    Args:
        value: the distance of the whole set.
        a: the set, with its blocks.
        quick_distance: returns the distance of statistics.
    """
    parts = _leave_one_out(a, quick_distance)
    return jackknife(value, [distance for _, distance in parts], least=0.0) if parts else Estimate(value)


def distance_interval(value: float, a: Statistics, quick_distance: Callable[[Statistics], float]) -> DistanceInterval:
    """Return a distance's interval and extrapolation; arguments as in `without_each_block`."""
    tenths = _leave_one_out(a, quick_distance)
    if not tenths or a.n is None:
        return DistanceInterval(Estimate(value), None)
    interval = jackknife(value, [distance for _, distance in tenths], least=0.0)

    count = len(a.blocks)
    halves = [a.of_blocks([(first + step) % count for step in range(count // 2)]) for first in range(count)]
    if min(part.n or 0 for part in halves) <= a.num_features:
        return DistanceInterval(interval, None)
    points = [(a.n, value), *tenths, *((part.n or 0, quick_distance(part)) for part in halves)]
    return DistanceInterval(interval, extrapolate(points), tuple(points))


def _leave_one_out(a: Statistics, quick_distance: Callable[[Statistics], float]) -> list[tuple[int, float]]:
    """Return size and distance of the set without each of its blocks; empty if a block has fewer than 2 images."""
    if not a.blocks or min(block.n for block in a.blocks) < LEAST_IN_BLOCK:
        return []
    blocks = range(len(a.blocks))
    parts = (a.of_blocks([block for block in blocks if block != omitted]) for omitted in blocks)
    return [(part.n or 0, quick_distance(part)) for part in parts]


def extrapolate(points: Sequence[tuple[int, float]]) -> float:
    """Return the intercept at 1/n = 0 of the least-squares line through points (n, value)."""
    inverse = np.array([1 / n for n, _ in points])
    _, intercept = np.polyfit(inverse, [value for _, value in points], 1)
    return float(intercept)
