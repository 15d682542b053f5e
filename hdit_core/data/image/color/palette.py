"""Palettes: refuses pixels without a color, and reads those of 8 bits in TIFF; decoders show both as black."""

import numpy as np
from PIL import Image

from hdit_core.data.image.unusable import UnusableImageError

_WITH_FOURTH_BYTE = ("X", "A")
_COLOR_MAP = 320  # of TIFF
_LEVELS = 256


def palette_size(image: Image.Image) -> int | None:
    """Return the number of colors in the palette of an image that was opened and not decoded; None without one.

    Raises:
        UnusableImageError: its pixels are numbers of colors, and there is no palette.
    """
    if image.mode != "P":
        return None
    if image.palette is None:
        raise UnusableImageError("its palette is missing")
    kind = image.palette.rawmode or image.palette.mode
    return len(image.palette.palette) // (4 if kind[-1:] in _WITH_FOURTH_BYTE else 3)


def read_8_bit_palette(image: Image.Image) -> None:
    """Replace the palette of a decoded TIFF if its numbers are of 8 bits; the format wants 16, and Pillow drops 8."""
    colors = getattr(image, "tag_v2", {}).get(_COLOR_MAP)
    if image.mode == "P" and colors and len(colors) % 3 == 0 and max(colors) < _LEVELS:
        image.putpalette(np.array(colors, np.uint8).reshape(3, -1).T.tobytes())


def check_palette(image: Image.Image, colors: int | None) -> None:
    """Refuse a decoded image with pixels beyond its palette.

    Args:
        image: of mode P, if it has a palette.
        colors: the number of colors in its palette, None without one.

    Raises:
        UnusableImageError: there is such a pixel.
    """
    if colors is None or image.mode != "P":
        return
    _, highest = image.getextrema()
    if isinstance(highest, int) and highest >= colors:
        raise UnusableImageError(
            f"damaged: a pixel has color {highest}, and the last one of its palette is {colors - 1}"
        )
