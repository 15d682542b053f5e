"""Several sizes in one data set: each image gets the one whose shape is nearest to its own."""

from collections.abc import Sequence
from fractions import Fraction

from hdit_core.errors import UsageError

ImageSize = tuple[int, int]  # height, width in pixels


def _distance(size: ImageSize, height: int, width: int) -> Fraction:
    """Return by what factor the aspect ratios differ, 1 for the same: the logarithm of it, without rounding."""
    one, other = size[0] * width, size[1] * height
    return Fraction(max(one, other), min(one, other))


def nearest_size(sizes: Sequence[ImageSize], height: int, width: int) -> ImageSize:
    """Return the size of which the aspect ratio is nearest to an image's, by the logarithm of their quotient.

    Args:
        sizes: to choose from; the first of two that are equally near is taken.
        height: of the image, pixels.
        width: of the image, pixels.
    """
    return min(sizes, key=lambda size: _distance(size, height, width))


def bucket_sizes(sizes: Sequence[ImageSize]) -> tuple[ImageSize, ...]:
    """Return sizes in the order of a data set's buckets: by height, then width.

    Raises:
        UsageError: two have the same shape, so that it would be left open which of them an image gets.
    """
    ordered = sorted(sizes)
    by_shape: dict[Fraction, ImageSize] = {}
    for size in ordered:
        shape = Fraction(*size)
        if shape in by_shape:
            other = by_shape[shape]
            raise UsageError(
                f"--size: {other[0]}x{other[1]} and {size[0]}x{size[1]} have the same shape, so that an image could "
                "become either; give one size a shape"
            )
        by_shape[shape] = size
    return tuple(ordered)
