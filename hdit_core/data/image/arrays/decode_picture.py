"""Decodes a file to a picture of a given format: 8-bit sRGB images, or arrays whose values are kept as they are."""

from dataclasses import dataclass

from hdit_core.data.image.arrays.picture import Picture
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.decode import decode_image
from hdit_core.data.image.unusable import UnusableImageError


@dataclass(frozen=True)
class DecodedPicture:
    """A picture, and remarks on what was done to it."""

    picture: Picture
    remarks: tuple[str, ...]


def decode_picture(data: bytes, pixels: PixelFormat, background: tuple[int, int, int]) -> DecodedPicture:
    """Return the picture in a file.

    Args:
        data: the file.
        pixels: the format of the result.
        background: what shows through transparent pixels of 8-bit images, RGB in 0..255.

    Raises:
        UnusableImageError: it is none, damaged, or of another kind than the format.
    """
    if pixels.is_8_bit_image:
        decoded = decode_image(data, pixels.channels, background)
        return DecodedPicture(decoded.image, decoded.remarks)
    raise UnusableImageError("other pixels than 8-bit greyscale and RGB")


def stored_format(data: bytes) -> PixelFormat:
    """Return the format in which a file can be kept without loss, as far as it is one that `decode_picture` makes.

    Raises:
        UnusableImageError: it is no image.
    """
    image = decode_image(data, None).image
    return PixelFormat(1 if image.mode == "L" else 3)
