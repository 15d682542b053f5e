"""Noise for stochastic samplers: the increments of one Brownian motion per image, with sigma as its time.

The motion is a function of (seed, image) alone, so a picture changes smoothly with the number of steps, and neither
the batch nor the order of questions matters. It is a sum of tents (Levy's construction): every cell of a binary tree
over [sigma_min, sigma_max] has one standard normal image, and W(sigma) is a weighted sum of those whose cells hold
sigma. The weights are found in float64 before anything is drawn, so that a short increment loses no digits, and only
cells that tell the two times apart are drawn. Cells split at the geometric mean: schedules are about even in ln sigma.

A finest cell's tent peaks at sigma itself, as high as a bridge between the cell's ends is wide there: every W(sigma)
has its exact variance, and only questions that share a finest cell are more alike than they should be.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from hdit_core.randomness import normal

PURPOSE = "brownian"
FINER_LEVELS = 1  # finest cells are at most half the schedule's shortest step: middles of steps have their own, too
BELOW = 1 << 63  # the number of a cell that no tree is deep enough for
Weights = dict[int, float]  # cell -> weight of its normal image


def depth_for(sigmas: Sequence[float]) -> int:
    """Return how often the tree has to split for a falling schedule of positive noise levels."""
    logs = [math.log(sigma) for sigma in sigmas]
    shortest = min((a - b for a, b in pairwise(logs)), default=0.0)
    return FINER_LEVELS + (math.ceil(math.log2((logs[0] - logs[-1]) / shortest)) if shortest else 0)


class BrownianTree:
    """Which normal images make W(sigma), W(sigma_min) = 0, and how much of each.

    Cells are numbered as in a heap: 1 is the whole, 2n and 2n + 1 are the lower and the upper half of n. Number 0
    stands for the motion's other end, W(sigma_max).
    """

    def __init__(self, sigma_min: float, sigma_max: float, depth: int):
        self.sigma_min, self.sigma_max, self.depth = sigma_min, sigma_max, depth

    def at(self, sigma: float) -> Weights:
        """Return W(sigma) as weights of cells, depth + 2 of them at most."""
        if not self.sigma_min <= sigma <= self.sigma_max:
            raise ValueError(f"sigma = {sigma} is outside [{self.sigma_min}, {self.sigma_max}]")
        low, high, cell = self.sigma_min, self.sigma_max, 1
        at_low: Weights = {}
        at_high: Weights = {0: math.sqrt(high - low)}

        for _ in range(self.depth):
            middle = math.sqrt(low * high)
            at_middle = _bridge(at_low, at_high, low, high, middle, cell)
            if sigma < middle:
                high, at_high, cell = middle, at_middle, 2 * cell
            else:
                low, at_low, cell = middle, at_middle, 2 * cell + 1
        return _bridge(at_low, at_high, low, high, sigma, cell)

    def increment(self, sigma: float, sigma_next: float) -> Weights:
        """Return (W(sigma_next) - W(sigma)) / sqrt|sigma_next - sigma|, standard normal, as weights of cells.

        The way from sigma_min to 0, for churn before a schedule's last step, has a normal image of its own.
        """
        if sigma_next == 0 and sigma == self.sigma_min:
            return {BELOW: 1.0}
        start, end = self.at(sigma), self.at(sigma_next)
        scale = math.sqrt(abs(sigma_next - sigma))
        weights = {cell: (end.get(cell, 0.0) - start.get(cell, 0.0)) / scale for cell in sorted(start | end)}
        return {cell: weight for cell, weight in weights.items() if weight}


def _bridge(at_low: Weights, at_high: Weights, low: float, high: float, middle: float, cell: int) -> Weights:
    """Return W(middle) between two known ends: their mean by distance, and the cell's own image times the spread."""
    share = (middle - low) / (high - low)
    mean = {known: (1 - share) * at_low.get(known, 0.0) + share * at_high.get(known, 0.0) for known in at_low | at_high}
    return mean | {cell: math.sqrt((middle - low) * (high - middle) / (high - low))}


class BrownianNoise:
    """A `NoiseSource` for a batch: one motion for each image.

    Images of the cells of the last step are kept, since the next step starts where it ended: about two images of the
    batch's size for each level of the tree, on the CPU.
    """

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        shape: Sequence[int],
        sigmas: Float64[Tensor, "levels"],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        """
        Args:
            seed: of the samples.
            indices: which sample each row of the batch is.
            shape: of one image, [C, H, W].
            sigmas: the schedule: its ends bound the motion's time, its shortest step says how finely to know it.
            device, dtype: of the noise; it is drawn in float32 on the CPU, the same for every device.
        """
        levels = [float(sigma) for sigma in sigmas if sigma > 0]
        self.seed, self.indices, self.shape = seed, [int(index) for index in indices], tuple(shape)
        self.device, self.dtype = device, dtype
        self.tree = BrownianTree(levels[-1], levels[0], depth_for(levels))
        self._images: dict[int, Float32[Tensor, "B C H W"]] = {}

    def __call__(self, sigma: float, sigma_next: float) -> Float[Tensor, "B C H W"]:
        """Return each image's increment between two noise levels, scaled to a standard normal image."""
        weights = self.tree.increment(sigma, sigma_next)
        known = {cell: image for cell, image in self._images.items() if cell in weights}
        self._images = known | self._draw([cell for cell in weights if cell not in known])

        total = torch.zeros((len(self.indices), *self.shape))
        for cell, weight in weights.items():
            total += weight * self._images[cell]
        return total.to(self.device, self.dtype)

    def _draw(self, cells: Sequence[int]) -> dict[int, Float32[Tensor, "B C H W"]]:
        """Return the normal images of new cells, drawn side by side: numpy lets go of the interpreter meanwhile."""

        def draw(place: tuple[int, int]) -> Float32[Tensor, "1 C H W"]:
            cell, index = place
            return normal(self.seed, PURPOSE, [index], self.shape, part=cell)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            images = list(pool.map(draw, product(cells, self.indices)))
        count = len(self.indices)
        return {cell: torch.cat(images[k * count : (k + 1) * count]) for k, cell in enumerate(cells)}
