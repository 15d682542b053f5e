"""Bits per dimension of many images under a model, batch by batch, with error bars.

8-bit images get uniform noise as wide as one level (dequantisation), so that a density becomes a number of bits: on
average an upper bound of what storing the levels costs (Theis et al. 2016). Noise and probes are each image's own.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hdit_core.devices import autocast, compute_dtype
from hdit_core.diffusion.likelihood import LEVELS_PER_UNIT, log_likelihood, rademacher_probes
from hdit_core.errors import UsageError
from hdit_core.generate.painter import Painter
from hdit_core.images import from_uint8
from hdit_core.randomness import streams

PURPOSE = "dequantise"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class Given:
    """An image to judge.

    Attributes:
        number: its place among all, which its random numbers belong to.
        name: for people.
        class_id: None for networks without classes.
    """

    number: int
    name: str
    image_u8: UInt8[np.ndarray, "H W C"]
    class_id: int | None


@dataclass(frozen=True)
class Judged:
    """What an image costs."""

    number: int
    name: str
    bits_per_dim: float


@dataclass
class Tally:
    """Mean and standard error of numbers that come one by one (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = field(default=0.0, repr=False)

    def add(self, value: float) -> None:
        """Count one more."""
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self._squares += before * (value - self.mean)

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None for a single number. It covers images, dequantisation and probes alike."""
        return math.sqrt(self._squares / (self.count - 1) / self.count) if self.count > 1 else None


def dequantised(images_u8: UInt8[np.ndarray, "B H W C"], seed: int, numbers: Sequence[int]) -> Float[Tensor, "B C H W"]:
    """Return images in [-1, 1] with uniform noise of one level, of half a level to either side."""
    images = from_uint8(images_u8)
    for image, generator in zip(images, streams(seed, PURPOSE, numbers), strict=True):
        shift = generator.random(tuple(image.shape), np.float32) - np.float32(0.5)
        image += torch.from_numpy(shift) / LEVELS_PER_UNIT
    return images


def judged(
    painter: Painter, images: Iterable[Given], probes: int = 1, tolerance: float = TOLERANCE
) -> Iterator[Judged]:
    """Yield what each image costs, batch after batch of the settings' size.

    Args:
        probes: random directions in which each image's trace is measured (Hutchinson); more scatter less.
        tolerance: of the ODE's solver, relative and absolute.

    Raises:
        UsageError: guidance, which is no density.
        NumericalError: the model's answer is not finite, or the ODE cannot be solved.
    """
    if painter.settings.guidance != 1:
        raise UsageError(
            f"sample.guidance = {painter.settings.guidance}: what guidance draws has no likelihood; leave it out, or "
            "set it to 1"
        )
    waiting = iter(images)
    while batch := list(islice(waiting, painter.settings.batch_size)):
        bits = _bits(painter, batch, probes, tolerance)
        yield from (Judged(one.number, one.name, found) for one, found in zip(batch, bits, strict=True))


def _bits(painter: Painter, batch: Sequence[Given], probes: int, tolerance: float) -> list[float]:
    numbers, device, settings = [one.number for one in batch], painter.device, painter.settings
    x = dequantised(np.stack([one.image_u8 for one in batch]), painter.seed, numbers).to(device)
    directions = rademacher_probes(painter.seed, numbers, painter.shape, probes).to(device)
    classes = [one.class_id for one in batch if one.class_id is not None] or None
    ends = {"sigma_min": settings.sigma_min, "sigma_max": settings.sigma_max}
    with autocast(device, compute_dtype(painter.denoiser.recipe.train.precision, device)):
        found = log_likelihood(painter.conditioned(classes), x, directions, **ends, rtol=tolerance, atol=tolerance)
    return found.bits_per_dim_u8.tolist()
