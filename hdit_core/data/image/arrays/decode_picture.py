"""Decodes a file to a picture of a given format: 8-bit sRGB images, or arrays with unchanged values.

Arrays come from .npy (height, width, channels), PNG with 16 bits or alpha, TIFF, and 8-bit images of any kind. Their
values are not interpreted: no color profile, gamma or transparency is applied to values of 16 bits or floats.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from hdit_core.data.image.arrays.npy import is_npy, read_npy
from hdit_core.data.image.arrays.picture import Picture, as_array, as_picture, clip
from hdit_core.data.image.arrays.pixel_format import MOST_CHANNELS, Dtype, PixelFormat
from hdit_core.data.image.arrays.png_array import png_format, read_png_array
from hdit_core.data.image.arrays.tiff_array import is_stack, read_tiff_array, tiff_format
from hdit_core.data.image.decode import LARGEST_IMAGE_PIXELS, decode_image
from hdit_core.data.image.tiff_checks import is_8_bit_tiff, is_tiff
from hdit_core.data.image.unusable import UnusableImageError, reason_of

PAGES = "TIFF pages as channels"
CLIPPED = "values outside the range clipped"
SCALED = "8 bits scaled to 16"
COARSE_STEP = 16
LARGEST_VALUES = 4 * LARGEST_IMAGE_PIXELS  # of all channels together

Array = Shaped[np.ndarray, "H W C"]


class OtherFormatError(UnusableImageError):
    """A file has other channels or values than the format; `advice` names the options of `hdit prepare-data`."""

    def __init__(self, found: str, advice: str) -> None:
        super().__init__(found + advice)
        self.found, self.advice = found, advice


@dataclass(frozen=True)
class DecodedPicture:
    """A picture, and remarks on what was done to it.

    Attributes:
        is_grey: whether the 8-bit image in the file has no colors, in one channel or in three; None for other pictures.
    """

    picture: Picture
    remarks: tuple[str, ...]
    is_grey: bool | None = None


def _read_npy(data: bytes) -> Array:
    try:
        array = read_npy(data)
    except ValueError as problem:
        raise UnusableImageError(str(problem)) from None
    array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or not 1 <= array.shape[-1] <= MOST_CHANNELS or min(array.shape) < 1:
        raise UnusableImageError(
            f".npy of shape {array.shape}; expected height, width, and 1 to {MOST_CHANNELS} channels"
        )
    if math.prod(array.shape[:2]) > LARGEST_IMAGE_PIXELS or array.size > LARGEST_VALUES:
        raise UnusableImageError(f".npy of shape {array.shape}, more than {LARGEST_VALUES // 10**6} million values")
    return array.astype(np.uint8) * 255 if array.dtype == bool else array


def _read_array(
    data: bytes, pixels: PixelFormat, background: tuple[int, int, int], pages_as_channels: bool
) -> tuple[Array, tuple[str, ...]]:
    """Return the values of a file as they are stored, and remarks."""
    if is_npy(data):
        return _read_npy(data), ()
    if pages_as_channels and is_stack(data):
        return read_tiff_array(data, pages_as_channels), (PAGES,)
    stored = png_format(data)
    if stored and (stored[0] == 16 or (stored[1] in (2, 4) and pixels.channels == stored[1])):
        return read_png_array(data), ()
    if is_tiff(data) and not is_8_bit_tiff(data):
        return read_tiff_array(data), ()
    decoded = decode_image(data, {1: 1, 3: 3}.get(pixels.channels), background)
    return as_array(decoded.image), decoded.remarks


def _check_finite(array: Array) -> None:
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        row, column, channel = np.argwhere(~np.isfinite(array))[0].tolist()
        raise UnusableImageError(
            f"{array[row, column, channel]} at row {row}, column {column}, channel {channel}; expected finite values"
        )


def _check_integers(array: Array, dtype: Dtype) -> None:
    """Refuse values that an integer type cannot keep."""
    if array.dtype.kind == "f":
        raise OtherFormatError(f"values of {array.dtype}", "; keep them with float32 and a range (--dtype, --range)")
    if array.dtype == np.uint16 and dtype == "uint8":
        raise OtherFormatError("values of 16 bits", "; keep them with uint16 (--dtype)")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high > np.iinfo(dtype).max:
        found = f"values from {low} to {high}, which {dtype} cannot keep"
        raise OtherFormatError(found, "; use float32 and a range (--dtype, --range)")


def _converted(array: Array, pixels: PixelFormat) -> tuple[Array, tuple[str, ...]]:
    """Return the values in a format's data type, and remarks."""
    if array.shape[-1] != pixels.channels:
        found = f"{array.shape[-1]} channels"
        raise OtherFormatError(found, f", expected {pixels.channels} (--channels)")
    if pixels.dtype == "float32":
        with np.errstate(over="ignore"):  # 64 bits may become infinite
            array = array.astype(np.float32)
        _check_finite(array)
        return array, ()
    _check_integers(array, pixels.dtype)
    if array.dtype == np.uint8 and pixels.dtype == "uint16" and not pixels.value_range:
        return array.astype(np.uint16) * 257, (SCALED,)
    return array.astype(pixels.dtype), ()


def _has_no_colors(image: Image.Image) -> bool:
    """Return whether an image of mode L or RGB is grayscale."""
    if image.mode == "L":
        return True
    pixels = np.asarray(image)
    parts = (pixels[::COARSE_STEP, ::COARSE_STEP], pixels)  # a few pixels decide for most images
    return all((part == part[..., :1]).all() for part in parts)


@contextmanager
def _refusing_any_error() -> Iterator[None]:
    """Refuse the file of the body for any exception: a decoder can raise any one on a malicious file."""
    try:
        yield
    except UnusableImageError:
        raise
    except Exception as problem:
        raise UnusableImageError(reason_of(problem)) from None


@_refusing_any_error()
def decode_picture(
    data: bytes, pixels: PixelFormat, background: tuple[int, int, int], pages_as_channels: bool = False
) -> DecodedPicture:
    """Return the picture in a file.

    Args:
        data: the file.
        pixels: the format of the result.
        background: color behind the transparent pixels of 8-bit images, RGB in 0..255.
        pages_as_channels: the pages of a TIFF that has several are the channels of one image.

    Raises:
        UnusableImageError: not an image, damaged, with other channels, NaN, or values that the format cannot store.
    """
    is_array = is_npy(data) or (pages_as_channels and is_stack(data))
    if pixels.is_8_bit_image and not is_array:
        decoded = decode_image(data, None, background)
        is_grey: bool | None = _has_no_colors(decoded.image)
        picture: Picture = decoded.image.convert("L" if pixels.channels == 1 else "RGB")
        remarks = decoded.remarks
    else:
        is_grey = None
        array, remarks = _read_array(data, pixels, background, pages_as_channels)
        array, converted = _converted(array, pixels)
        picture, remarks = as_picture(array, pixels), remarks + converted
    clipped = clip(picture, pixels)
    return DecodedPicture(clipped, remarks if clipped is picture else (*remarks, CLIPPED), is_grey)


@_refusing_any_error()
def decode_values(data: bytes) -> Array:
    """Return the values in a file in the type that they have there: uint8, uint16, or float64 for any other.

    8-bit images are RGB in sRGB, on white where they are transparent; the pages of a TIFF with other values are
    channels. Nothing is scaled or clipped.

    Raises:
        UnusableImageError: not an image, damaged, or with NaN or infinity.
    """
    pages_as_channels = is_tiff(data) and not is_8_bit_tiff(data)
    array, _ = _read_array(data, PixelFormat(3), (255, 255, 255), pages_as_channels)
    _check_finite(array)
    return array if array.dtype in (np.uint8, np.uint16) else array.astype(np.float64)


def _dtype_of(dtype: np.dtype) -> Dtype:
    names: dict[str, Dtype] = {"uint8": "uint8", "bool": "uint8", "uint16": "uint16"}
    return names.get(dtype.name, "float32")


@_refusing_any_error()
def stored_format(data: bytes, pages_as_channels: bool = False) -> PixelFormat:
    """Return the format that can store the values of a file, without a range.

    Args:
        data: the file.
        pages_as_channels: as for `decode_picture`.

    Raises:
        UnusableImageError: it is not an image.
    """
    if is_npy(data):
        array = _read_npy(data)
        return PixelFormat(array.shape[-1], _dtype_of(array.dtype))
    if (stored := png_format(data)) and stored[0] == 16:
        return PixelFormat(stored[1], "uint16")
    if is_tiff(data) and (not is_8_bit_tiff(data) or (pages_as_channels and is_stack(data))):
        dtype, channels = tiff_format(data, pages_as_channels)
        return PixelFormat(channels, _dtype_of(dtype))
    return PixelFormat(1 if decode_image(data, None).image.mode == "L" else 3)


def as_8_bit(picture: Picture, pixels: PixelFormat) -> Image.Image:
    """Return a picture of 1 or 3 channels as 8-bit grayscale or RGB, its range mapped to 0..255."""
    if isinstance(picture, Image.Image) and not pixels.value_range:
        return picture
    low, high = np.array(pixels.ranges, np.float64).T
    levels = np.rint((as_array(picture).astype(np.float64) - low) / (high - low) * 255).clip(0, 255).astype(np.uint8)
    return Image.fromarray(levels[..., 0] if levels.shape[-1] == 1 else levels)
