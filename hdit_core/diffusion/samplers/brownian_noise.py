"""Noise for stochastic samplers: the increments of one Brownian motion per image, with sigma as its time.

The motion is a function of (seed, image) alone, so that an image changes smoothly with the number of steps and does not
depend on the batch or the order of calls. It uses Levy's construction: each cell of a binary tree over
[sigma_min, sigma_max] has one standard normal image, and W(sigma) is a weighted sum of those whose cells contain sigma.
The weights are computed in float64 before any noise is drawn, so that short increments lose no precision; only cells in
which the two times differ are drawn. Cells split at the geometric mean: schedules are roughly uniform in ln sigma.

In a finest cell, the bridge between the cell's ends has its exact variance at sigma: every W(sigma) has the exact
variance, and only values within the same finest cell are more correlated than they should be.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product

import torch
from jaxtyping import Float, Float32, Float64
from torch import Tensor

from hdit_core.devices import copy_to
from hdit_core.diffusion.samplers.colored_noise import WHITE, NoiseColor
from hdit_core.randomness import normal

PURPOSE = "brownian"
FINER_LEVELS = 1  # finest cells are at most half the schedule's shortest step: midpoints get cells of their own
BELOW = 1 << 63  # a cell number that no tree reaches
Weights = dict[int, float]  # cell -> weight of its normal image


def depth_for(sigmas: Sequence[float]) -> int:
    """Return the tree depth for a decreasing schedule of positive noise levels."""
    logs = [math.log(sigma) for sigma in sigmas]
    shortest = min((a - b for a, b in pairwise(logs)), default=0.0)
    return FINER_LEVELS + (math.ceil(math.log2((logs[0] - logs[-1]) / shortest)) if shortest else 0)


class BrownianTree:
    """The weights of normal images that give W(sigma), with W(sigma_min) = 0.

    Cells are numbered as in a heap: 1 is the whole interval, 2n and 2n + 1 are the lower and upper half of n. Number 0
    is the end of the motion, W(sigma_max).
    """

    def __init__(self, sigma_min: float, sigma_max: float, depth: int):
        self.sigma_min, self.sigma_max, self.depth = sigma_min, sigma_max, depth

    def at(self, sigma: float) -> Weights:
        """Return W(sigma) as weights of at most depth + 2 cells."""
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

        The step from sigma_min to 0, for churn before a schedule's last step, has a normal image of its own.
        """
        if sigma_next == 0 and sigma == self.sigma_min:
            return {BELOW: 1.0}
        start, end = self.at(sigma), self.at(sigma_next)
        scale = math.sqrt(abs(sigma_next - sigma))
        weights = {cell: (end.get(cell, 0.0) - start.get(cell, 0.0)) / scale for cell in sorted(start | end)}
        return {cell: weight for cell, weight in weights.items() if weight}


def _bridge(at_low: Weights, at_high: Weights, low: float, high: float, middle: float, cell: int) -> Weights:
    """Return W(middle) between two known ends: their linear interpolation, and the cell's own image scaled."""
    share = (middle - low) / (high - low)
    mean = {known: (1 - share) * at_low.get(known, 0.0) + share * at_high.get(known, 0.0) for known in at_low | at_high}
    return mean | {cell: math.sqrt((middle - low) * (high - middle) / (high - low))}


class BrownianNoise:
    """A `NoiseSource` for a batch: one motion for each image.

    The images of the last step's cells are cached, since the next step starts where it ended: about two images of the
    batch's size for each level of the tree, on the CPU.
    """

    def __init__(
        self,
        seed: int,
        indices: Sequence[int],
        shape: Sequence[int],
        sigmas: Float64[Tensor, "levels"],
        *,
        color: NoiseColor = WHITE,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
    ):
        """
        Args:
            seed: of the samples.
            indices: the image index of each row of the batch.
            shape: of one image, [C, H, W].
            sigmas: the schedule: its ends bound the motion's time, its shortest step sets the resolution.
            color: of the noise.
            device, dtype: of the noise; it is drawn in float32 on the CPU, identically for every device.
        """
        levels = [float(sigma) for sigma in sigmas if sigma > 0]
        self.seed, self.indices, self.shape = seed, [int(index) for index in indices], tuple(shape)
        self.color, self.device, self.dtype = color, device, dtype
        self.tree = BrownianTree(levels[-1], levels[0], depth_for(levels))
        self._images: dict[int, Float32[Tensor, "B C H W"]] = {}

    def __call__(self, sigma: float, sigma_next: float) -> Float[Tensor, "B C H W"]:
        """Return each image's increment between two noise levels, scaled to unit variance."""
        weights = self.tree.increment(sigma, sigma_next)
        known = {cell: image for cell, image in self._images.items() if cell in weights}
        self._images = known | self._draw([cell for cell in weights if cell not in known])

        total = torch.zeros((len(self.indices), *self.shape))
        for cell, weight in weights.items():
            total += weight * self._images[cell]
        return copy_to(torch.device(self.device), self.color.of(total, sigma), self.dtype)

    def _draw(self, cells: Sequence[int]) -> dict[int, Float32[Tensor, "B C H W"]]:
        """Return the normal images of new cells, drawn in parallel threads: numpy releases the GIL."""

        def draw(cell_and_index: tuple[int, int]) -> Float32[Tensor, "1 C H W"]:
            cell, index = cell_and_index
            return normal(self.seed, PURPOSE, [index], self.shape, part=cell)

        with ThreadPoolExecutor(torch.get_num_threads()) as pool:
            images = list(pool.map(draw, product(cells, self.indices)))
        count = len(self.indices)
        return {cell: torch.cat(images[k * count : (k + 1) * count]) for k, cell in enumerate(cells)}
