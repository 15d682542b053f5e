"""Samples that `hdit sample` saved in a type other than 8 bits; `samples.json` records their type and range."""

from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hdit_core.data.image.arrays.decode_picture import as_8_bit, decode_picture, stored_format
from hdit_core.data.image.arrays.picture import as_picture
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.unusable import UnusableImageError
from hdit_core.data.sources.file_filter import SAMPLES_RECORD
from hdit_core.errors import DataError
from hdit_core.files import read_json

LARGEST_RECORD_BYTES = 1 << 28


class SavedValues:
    """The data type and the ranges of the samples in a folder."""

    def __init__(self, about: Any) -> None:
        """Read the values of a record.

        Raises:
            ValueError, TypeError, KeyError: it is invalid.
        """
        self.dtype = about["dtype"]
        self.ranges = tuple((float(low), float(high)) for low, high in about["range"])
        if self.dtype not in ("uint8", "uint16", "float32") or self.pixels(len(self.ranges)).problem():
            raise ValueError("unknown type or range")

    def pixels(self, channels: int) -> PixelFormat:
        """Return the format of samples of so many channels."""
        return PixelFormat(channels, self.dtype, self.ranges)

    def image(self, data: bytes, channels: int) -> UInt8[np.ndarray, "H W C"]:
        """Return a sample in 8 bits, its range mapped to 0..255.

        Raises:
            UnusableImageError: it is damaged, or the number of channels is neither 1 nor 3.
        """
        pixels = self.pixels(stored_format(data).channels)
        return shown_in_8_bits(decode_picture(data, pixels, (0, 0, 0)).picture, pixels, channels)


def shown_in_8_bits(picture: Any, pixels: PixelFormat, channels: int | None = None) -> UInt8[np.ndarray, "H W C"]:
    """Return a picture or its stored pixels in 8 bits, its range mapped to 0..255.

    Args:
        picture: a picture of 1 or 3 channels.
        pixels: its format.
        channels: channels of the result; None: those of the picture.

    Raises:
        UnusableImageError: it has another number of channels.
    """
    if pixels.channels not in (1, 3):
        raise UnusableImageError(f"{pixels.channels} channels; expected grayscale or RGB")
    image = as_8_bit(picture if isinstance(picture, Image.Image) else as_picture(picture, pixels), pixels)
    image = image.convert({1: "L", 3: "RGB", None: image.mode}[channels])
    return np.asarray(image).reshape(image.height, image.width, len(image.getbands()))


def saved_values(location: Path) -> SavedValues | None:
    """Return the type and range of the samples in a folder; None if it has no samples, or samples of 8 bits.

    Raises:
        DataError: the record cannot be read.
    """
    path = location / SAMPLES_RECORD
    if not path.is_file():
        return None
    try:
        about = read_json(path, LARGEST_RECORD_BYTES).get("origin", {}).get("pixels")
        return None if about is None else SavedValues(about)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as problem:
        raise DataError(
            f"{path}: cannot be read ({type(problem).__name__}: {problem}); write the samples again, or remove it if "
            "they are ordinary 8-bit images"
        ) from None
