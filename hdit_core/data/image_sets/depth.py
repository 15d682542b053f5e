"""How the images of a set are decoded: to 8 bits, or to the values that are stored."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Shaped, UInt8

from hdit_core.data.image.arrays.decode_picture import decode_values
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.decode import decode_image
from hdit_core.data.image_sets.saved_values import SavedValues, shown_in_8_bits
from hdit_core.data.sources.source import IMAGE_SUFFIX

Array = Shaped[np.ndarray, "H W C"]


@runtime_checkable
class Depth(Protocol):
    """Decodes images."""

    @property
    def recorded(self) -> PixelFormat | None:
        """Type and range of the stored values; None if they are not recorded, or not returned."""

    def is_image(self, name: str) -> bool:
        """Return whether a file of this name is one of the images."""

    def of_file(self, data: bytes) -> Array:
        """Return the image in a file.

        Raises:
            UnusableImageError: it is damaged, or has a format that is not supported.
        """

    def of_sample(self, stored: Array, pixels: PixelFormat) -> Array:
        """Return an image of a prepared data set.

        Raises:
            UnusableImageError: its number of channels is not supported.
        """


@dataclass(frozen=True)
class EightBits:
    """Images in 8 bits.

    Attributes:
        channels: channels to decode files to.
        saved: the values of the samples in a folder; None for ordinary files.
    """

    channels: int
    saved: SavedValues | None = None

    @property
    def recorded(self) -> None:
        """None: the values are 0 to 255."""
        return None

    def is_image(self, name: str) -> bool:
        """Return whether the name is that of an image file; `.npy` are images only among samples."""
        return bool(IMAGE_SUFFIX.search(name)) or (self.saved is not None and name.endswith(".npy"))

    def of_file(self, data: bytes) -> UInt8[np.ndarray, "H W C"]:
        """Return the image in a file."""
        if self.saved is not None:
            return self.saved.image(data, self.channels)
        image = decode_image(data, self.channels).image
        return np.asarray(image).reshape(image.height, image.width, self.channels)

    def of_sample(self, stored: Array, pixels: PixelFormat) -> UInt8[np.ndarray, "H W C"]:
        """Return an image of a prepared data set."""
        return stored if pixels.is_8_bit_image and not pixels.value_range else shown_in_8_bits(stored, pixels)


@dataclass(frozen=True)
class FullDepth:
    """The stored values of images: 8 bits, 16 bits or floats.

    Attributes:
        recorded: type and range of the stored values; None if they are not recorded.
    """

    recorded: PixelFormat | None = None

    def is_image(self, name: str) -> bool:
        """Return whether the name is that of an image file or of an array."""
        return bool(IMAGE_SUFFIX.search(name)) or name.lower().endswith(".npy")

    def of_file(self, data: bytes) -> Array:
        """Return the values in a file."""
        return decode_values(data)

    def of_sample(self, stored: Array, pixels: PixelFormat) -> Array:
        """Return an image of a prepared data set."""
        return stored if stored.dtype in (np.uint8, np.uint16) else stored.astype(np.float64)


def depth_of(channels: int, full: bool, saved: SavedValues | None) -> Depth:
    """Return how the files of a folder are decoded.

    Args:
        channels: of the images in 8 bits.
        full: whether to the stored values.
        saved: the values of the samples in a folder; None for ordinary files.
    """
    if not full:
        return EightBits(channels, saved)
    return FullDepth() if saved is None else FullDepth(saved.pixels(len(saved.ranges)))
