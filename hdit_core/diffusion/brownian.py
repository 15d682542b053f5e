"""Noise for stochastic samplers: the increments of one Brownian motion per image, with sigma as its time.

The motion is a function of (seed, image) alone, so a picture changes smoothly with the number of steps, and neither the
batch nor the order of questions matters. It is a sum of tents (Levy's construction): every cell of a binary tree over
[sigma_min, sigma_max] has one standard normal image, and W(sigma) is a combination of the cells that hold sigma. A
difference of two such combinations costs at most two numbers per level and image; cells split at the geometric mean,
since schedules are about even in ln sigma. In the finest cells the last tent is as high as a bridge is wide at sigma,
which makes every W(sigma) exact and only questions nearer to each other than such a cell a little too smooth.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from hdit_core.randomness import normal

PURPOSE = "brownian"
FINER_LEVELS = 3  # cells at most an eighth of the schedule's shortest step
Combination = dict[int, float]  # cell -> weight of its normal image


def depth_for(sigmas: Sequence[float]) -> int:
    """Return the number of levels whose finest cells are well below the shortest step of a falling schedule."""
    logs = [math.log(sigma) for sigma in sigmas if sigma > 0]
    if len(logs) < 2:
        return 0
    shortest = min(a - b for a, b in pairwise(logs))
    return max(0, math.ceil(math.log2((logs[0] - logs[-1]) / shortest))) + FINER_LEVELS


class BrownianPath:
    """W(sigma) of one image. Cells are numbered as a heap: 1 is the whole, 2n and 2n + 1 the lower and upper half of n;
    cell 0 stands for the motion's end point."""

    def __init__(self, seed: int, index: int, shape: Sequence[int], sigma_min: float, sigma_max: float, depth: int):
        self.seed, self.index, self.shape = seed, index, shape
        self.sigma_min, self.sigma_max, self.depth = sigma_min, sigma_max, depth
        self._recent: dict[int, Float32[Tensor, "C H W"]] = {}

    def combination(self, sigma: float) -> Combination:
        """Return W(sigma), which is 0 at sigma_min, as weights of cells."""
        low, high, cell = self.sigma_min, self.sigma_max, 1
        if not low <= sigma <= high:
            raise ValueError(f"sigma = {sigma} is outside the path's [{low}, {high}]")
        at_low: Combination = {}
        at_high: Combination = {0: math.sqrt(high - low)}
        for level in range(self.depth + 1):
            middle = sigma if level == self.depth else math.sqrt(low * high)
            at_middle = _bridge(at_low, at_high, low, high, middle, cell)
            if sigma == middle:
                return at_middle
            if sigma < middle:
                high, at_high, cell = middle, at_middle, 2 * cell
            else:
                low, at_low, cell = middle, at_middle, 2 * cell + 1
        raise AssertionError("the finest cell splits at sigma itself")

    def increment(self, sigma: float, sigma_next: float) -> Float32[Tensor, "C H W"]:
        """Return (W(sigma_next) - W(sigma)) / sqrt|sigma_next - sigma|: standard normal."""
        start, end = self.combination(sigma), self.combination(sigma_next)
        scale = 1 / math.sqrt(abs(sigma_next - sigma))
        weights = {cell: scale * (end.get(cell, 0.0) - start.get(cell, 0.0)) for cell in sorted(start | end)}
        self._recent = {cell: self._image(cell) for cell, weight in weights.items() if weight}
        total = torch.zeros(tuple(self.shape))
        for cell, image in self._recent.items():
            total += weights[cell] * image
        return total

    def _image(self, cell: int) -> Float32[Tensor, "C H W"]:
        if cell in self._recent:
            return self._recent[cell]
        return normal(self.seed, PURPOSE, [self.index], self.shape, part=cell)[0]


def _bridge(
    at_low: Combination, at_high: Combination, low: float, high: float, middle: float, cell: int
) -> Combination:
    """Return W(middle) between two known ends: their mean by distance, and the cell's own image times the spread."""
    share = (middle - low) / (high - low)
    mean = {known: _mix(at_low.get(known, 0.0), at_high.get(known, 0.0), share) for known in at_low | at_high}
    return mean | {cell: math.sqrt((middle - low) * (high - middle) / (high - low))}


def _mix(low: float, high: float, share: float) -> float:
    return (1 - share) * low + share * high


class BrownianNoise:
    """A `NoiseSource` for a batch: one path for each image."""

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        shape: Sequence[int],
        sigmas: Float64[Tensor, "T+1"],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        """
        Args:
            seed: of the samples.
            indices: which sample each row of the batch is.
            shape: of one image, [C, H, W].
            sigmas: the schedule; its ends bound the path, its shortest step says how finely it is known.
            device, dtype: of the noise; it is drawn in float32 on the CPU, the same for every device.
        """
        levels = [float(sigma) for sigma in sigmas if sigma > 0]
        depth = depth_for(levels)
        self.device, self.dtype = device, dtype
        self.paths = [BrownianPath(seed, int(i), shape, levels[-1], levels[0], depth) for i in indices]

    def __call__(self, sigma: Float64[Tensor, "B"], sigma_next: Float64[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
        """Return each image's increment between two times as a standard normal image."""
        steps = zip(self.paths, sigma.tolist(), sigma_next.tolist(), strict=True)
        return torch.stack([path.increment(a, b) for path, a, b in steps]).to(self.device, self.dtype)
