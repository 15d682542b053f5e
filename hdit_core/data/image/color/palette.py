"""Palettes: refuses pixels without a color, which decoders show as black."""

from PIL import Image

from hdit_core.data.image.unusable import UnusableImageError

_WITH_FOURTH_BYTE = ("X", "A")


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
