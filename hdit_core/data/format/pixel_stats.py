"""Mean and standard deviation of the stored pixels per channel, from exact integer sums in any order."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

Moments = tuple[int, ...]
"""Number of pixels, then for each channel the sum of its 8-bit levels, then for each the sum of their squares."""

_LEVELS = np.arange(256, dtype=np.int64)


def image_moments(image: Image.Image) -> Moments:
    """Return the moments of an image of mode L or RGB."""
    counts = np.array(image.histogram(), np.int64).reshape(-1, 256)
    return (int(counts[0].sum()), *(counts @ _LEVELS).tolist(), *(counts @ _LEVELS**2).tolist())


def add_moments(first: Moments, second: Moments, sign: int = 1) -> Moments:
    """Return the moments of both sets of images together or, with sign -1, of the first without the second."""
    return tuple(a + sign * b for a, b in zip(first, second, strict=True)) if first and second else first or second


def mean_and_std(moments: Moments) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, of pixels in [-1, 1]."""
    pixels, channels = moments[0], len(moments) // 2
    sums, squares = moments[1 : 1 + channels], moments[1 + channels :]
    means = tuple(round(total / pixels / 127.5 - 1, 6) for total in sums)
    variances = ((square * pixels - total**2) / pixels**2 for total, square in zip(sums, squares, strict=True))
    return means, tuple(round(math.sqrt(variance) / 127.5, 6) for variance in variances)


def overall_std(mean: Sequence[float], std: Sequence[float]) -> float:
    """Return the standard deviation over all channels, which `diffusion.sigma_data` means."""
    square = sum(m**2 + s**2 for m, s in zip(mean, std, strict=True)) / len(mean)
    return math.sqrt(max(0.0, square - (sum(mean) / len(mean)) ** 2))
