"""A picture: a Pillow image for 8-bit grayscale and RGB, an array for everything else; one set of operations for both.

Arrays are resized channel by channel as 32-bit floats (Pillow's mode F, whose sums are in double precision), with the
same filters and the same geometry as images; then integers are rounded, and values are clipped to the range.
"""

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float32, Shaped
from PIL import Image

from hdit_core.data.image.arrays.npy import npy_bytes
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.codec import encode
from hdit_core.data.image.resize import Geometry, ImageSize, ResizeFilter, padding_of

Picture = Image.Image | Shaped[np.ndarray, "_ _ _"]  # height, width, channels


def picture_size(picture: Picture) -> ImageSize:
    """Return height and width in pixels."""
    if isinstance(picture, Image.Image):
        return picture.height, picture.width
    return picture.shape[0], picture.shape[1]


def as_picture(pixels_of: Shaped[np.ndarray, "H W C"], pixels: PixelFormat) -> Picture:
    """Return stored pixels as the picture that they were."""
    if not pixels.is_8_bit_image:
        return pixels_of
    return Image.fromarray(pixels_of[..., 0] if pixels.channels == 1 else pixels_of)


def as_array(picture: Picture) -> Shaped[np.ndarray, "H W C"]:
    """Return the pixels of a picture."""
    array = np.asarray(picture)
    return array[..., None] if array.ndim == 2 else array


def frame(
    picture: Picture,
    geometry: Geometry,
    resize: ResizeFilter,
    pixels: PixelFormat,
    background: tuple[int, int, int],
) -> Picture:
    """Return a picture in the target's size.

    Args:
        picture: the image, or its condition image in any resolution.
        geometry: geometry of the image.
        resize: the filter.
        pixels: format of the picture.
        background: color of the padding, RGB in 0..255; arrays that are not RGB get its brightness in their range.
    """
    if isinstance(picture, Image.Image):
        return clip(geometry.apply(picture, resize, padding_of(background, picture.mode)), pixels)
    levels = padding_levels(background, pixels)

    def apply(channel: int) -> Float32[np.ndarray, "H2 W2"]:
        plane = np.ascontiguousarray(picture[..., channel], np.float32)
        return np.asarray(geometry.apply(Image.fromarray(plane), resize, levels[channel]))

    return _stored(apply, pixels)


def clip(picture: Picture, pixels: PixelFormat) -> Picture:
    """Return a picture whose values are in the range of its format; the same object if all of them are."""
    if not pixels.value_range:
        return picture
    low, high = np.array(pixels.value_range, np.float64).T
    array = as_array(picture)
    if ((array >= low) & (array <= high)).all():
        return picture
    return as_picture(array.clip(low, high).astype(pixels.dtype), pixels)


def padding_levels(background: tuple[int, int, int], pixels: PixelFormat) -> list[float]:
    """Return a color as a value for each channel."""
    grey = padding_of(background, "L")
    shares = background if pixels.channels == 3 else [grey] * pixels.channels
    ranges = _per_channel(pixels)
    return [low + share / 255 * (high - low) for share, (low, high) in zip(shares, ranges, strict=True)]  # type: ignore[operator]


def _per_channel(pixels: PixelFormat) -> Sequence[tuple[float, float]]:
    return pixels.ranges if len(pixels.ranges) == pixels.channels else pixels.ranges * pixels.channels


def _stored(plane_of: Callable[[int], Float32[np.ndarray, "H W"]], pixels: PixelFormat) -> Shaped[np.ndarray, "H W C"]:
    """Return planes in the format's data type: rounded, and clipped to the range."""
    planes = []
    for channel, (low, high) in enumerate(_per_channel(pixels)):
        plane = plane_of(channel)
        planes.append((plane if pixels.dtype == "float32" else np.rint(plane)).clip(low, high).astype(pixels.dtype))
    return np.stack(planes, -1)


def encode_picture(picture: Picture, codec: str, quality: int) -> bytes:
    """Return a picture as it is stored in a shard.

    Args:
        codec: "npy" for arrays, else see `codec.encode`.
        quality: JPEG quality, 1 to 100.
    """
    return encode(picture, codec, quality) if isinstance(picture, Image.Image) else npy_bytes(picture)
