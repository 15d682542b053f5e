"""Sheets of condition images, samples and targets, side by side."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from torch import Tensor

from hdit_core.images import grid, png_bytes, thumbnail, to_uint8

MOST_ROWS = 8
LARGEST_SIDE_PX = 256  # of images that are shown in their own size

Row = Sequence[Float[Tensor, "_ _ _"] | None]
"""Condition image, sample, and target or None, each [C, H, W] in [-1, 1]."""


def comparison_png(rows: Sequence[Row]) -> bytes:
    """Return a PNG with a row for each image: condition, sample, and target where it is known.

    Images are shown in their own size where all have the same, which is at most 256 pixels; else as thumbnails.

    Args:
        rows: of images with any number of channels, of which the first three, or the first one, are shown.
    """
    images = [[_shown(image) for image in row if image is not None] for row in rows]
    sizes = {image.shape for row in images for image in row}
    if len(sizes) > 1 or max(max(size[:2]) for size in sizes) > LARGEST_SIDE_PX:
        images = [[thumbnail(image) for image in row] for row in images]
    columns = max(len(row) for row in images)
    blank = np.full_like(images[0][0], 255)
    filled = [image for row in images for image in [*row, *[blank] * (columns - len(row))]]
    return png_bytes(grid(np.stack(filled), columns))


def _shown(image: Float[Tensor, "C H W"]) -> UInt8[np.ndarray, "H W 3"]:
    channels = image[:3] if len(image) >= 3 else image[:1].expand(3, -1, -1)
    shown: UInt8[np.ndarray, "H W 3"] = to_uint8(channels[None])[0]
    return shown
