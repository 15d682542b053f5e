"""Mean and standard deviation of the stored pixels per channel, from exact integer sums, independent of the order."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from hdit_core.data.image.arrays.picture import Picture, as_array
from hdit_core.data.image.arrays.pixel_format import PixelFormat

Moments = tuple[int, ...]
"""Number of pixels, then the sum of levels of each channel, then the sum of their squares.

The levels of an 8-bit image are its values, 0 to 255; those of an array are its values scaled to 0 to 65,535 and
rounded, so that sums of floats are exact too.
"""

_LEVELS = np.arange(256, dtype=np.int64)
_TOP_OF_ARRAYS = 65535


def top_level(pixels: PixelFormat) -> int:
    """Return the level of the highest value of the range (white)."""
    return 255 if pixels.is_8_bit_image and not pixels.value_range else _TOP_OF_ARRAYS


def picture_moments(picture: Picture, pixels: PixelFormat) -> Moments:
    """Return the moments of a picture of this format."""
    if isinstance(picture, Image.Image) and not pixels.value_range:
        return _image_moments(picture)
    array = as_array(picture)
    low, high = np.array(pixels.ranges, np.float64).T
    sums, squares = [], []
    for channel in range(array.shape[-1]):
        at = channel if len(low) > 1 else 0
        shares = (array[..., channel].astype(np.float64) - low[at]) / (high[at] - low[at])
        levels = np.rint(shares * _TOP_OF_ARRAYS).astype(np.int64)
        sums.append(int(levels.sum()))
        squares.append(int((levels**2).sum()))
    return (array.shape[0] * array.shape[1], *sums, *squares)


def _image_moments(image: Image.Image) -> Moments:
    counts = np.array(image.histogram(), np.int64).reshape(-1, 256)
    return (int(counts[0].sum()), *(counts @ _LEVELS).tolist(), *(counts @ _LEVELS**2).tolist())


def add_moments(first: Moments, second: Moments, sign: int = 1) -> Moments:
    """Return the moments of both sets of images together or, with sign -1, of the first without the second."""
    return tuple(a + sign * b for a, b in zip(first, second, strict=True)) if first and second else first or second


def mean_and_std(moments: Moments, top: int = 255) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation per channel, of pixels in [-1, 1]; `top` is the level of white."""
    pixels, channels = moments[0], len(moments) // 2
    half = top / 2
    sums, squares = moments[1 : 1 + channels], moments[1 + channels :]
    means = tuple(round(total / pixels / half - 1, 6) for total in sums)
    variances = ((square * pixels - total**2) / pixels**2 for total, square in zip(sums, squares, strict=True))
    return means, tuple(round(math.sqrt(variance) / half, 6) for variance in variances)


def overall_std(mean: Sequence[float], std: Sequence[float]) -> float:
    """Return the standard deviation over all channels, for `diffusion.sigma_data`."""
    square = sum(m**2 + s**2 for m, s in zip(mean, std, strict=True)) / len(mean)
    return math.sqrt(max(0.0, square - (sum(mean) / len(mean)) ** 2))
