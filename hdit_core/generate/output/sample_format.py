"""The file format of samples: the values of the training data, from which they are read back.

8-bit grayscale and RGB are PNG, as 16-bit grayscale and RGB are; everything else is a .npy array [height, width,
channels]. What was made from a TIFF of 16 bits or floats is a TIFF again.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from hdit_core.data.image.arrays.decode_picture import decode_picture
from hdit_core.data.image.arrays.npy import npy_bytes
from hdit_core.data.image.arrays.packages import imagecodecs, tifffile
from hdit_core.data.image.arrays.picture import as_array
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.arrays.png_array import png16_bytes
from hdit_core.data.image.arrays.tiff_array import tiff_bytes
from hdit_core.data.image.codec import decode
from hdit_core.data.image.unusable import UnusableImageError
from hdit_core.errors import UsageError
from hdit_core.images import from_float, png_bytes, to_float, to_uint8
from hdit_core.recipe.run import Recipe

Pixels = Shaped[np.ndarray, "H W C"]


def pixel_format(recipe: Recipe) -> PixelFormat:
    """Return the format of the images that a recipe's network was trained on."""
    return PixelFormat(recipe.model.channels, recipe.data.dtype, recipe.data.value_range)


@dataclass(frozen=True)
class SampleFormat:
    """How samples are stored."""

    pixels: PixelFormat

    @property
    def suffix(self) -> str:
        """The ending of a sample's file: "png" or "npy"."""
        return "png" if self.pixels.channels in (1, 3) and self.pixels.dtype != "float32" else "npy"

    def check(self) -> None:
        """Refuse, before any work, what cannot be written.

        Raises:
            UsageError: a package is missing.
        """
        if self.pixels.dtype == "uint16" and self.pixels.channels == 3:
            try:
                imagecodecs("16-bit color PNG")
            except UnusableImageError as problem:
                raise UsageError(f"--out: {problem}") from None

    def stored(self, images: Float[Tensor, "B C H W"]) -> Shaped[np.ndarray, "B H W C"]:
        """Return the stored values of images in [-1, 1]."""
        return from_float(images, self.pixels.dtype, self.pixels.ranges)

    def encode(self, images: Float[Tensor, "B C H W"]) -> Iterator[bytes]:
        """Yield the file of each image."""
        for pixels in self.stored(images):
            yield self._encoded(pixels, self.suffix)

    def _encoded(self, pixels: Pixels, suffix: str) -> bytes:
        if suffix in ("npy", "tif"):
            return npy_bytes(pixels) if suffix == "npy" else tiff_bytes(pixels)
        return png_bytes(pixels) if self.pixels.dtype == "uint8" else png16_bytes(pixels)

    def ending_for(self, name: str) -> str:
        """Return the ending of the file that is made from an input: `.tif` for a TIFF, unless values have 8 bits.

        Raises:
            UnusableImageError: a package that writes TIFF is missing.
        """
        if self.pixels.dtype == "uint8" or not name.lower().endswith((".tif", ".tiff")):
            return f".{self.suffix}"
        tifffile("16-bit and float TIFF")
        return ".tif"

    def file(self, image: Float[Tensor, "C H W"], ending: str) -> bytes:
        """Return the file of an image, with an ending that `ending_for` gave."""
        return self._encoded(self.stored(image[None])[0], ending.removeprefix("."))

    def decode(self, content: bytes, size: tuple[int, int]) -> Pixels:
        """Return the stored pixels of a file.

        Args:
            content: of the file.
            size: expected height and width.

        Raises:
            ValueError: it is damaged, or of another size.
        """
        shape = (*size, self.pixels.channels)
        if self.suffix == "npy" or self.pixels.is_8_bit_image:
            return decode(content, self.suffix, shape, self.pixels.dtype)
        try:
            pixels = as_array(decode_picture(content, self.pixels, (0, 0, 0)).picture)
        except UnusableImageError as problem:
            raise ValueError(str(problem)) from None
        if pixels.shape != shape:
            raise ValueError(f"pixels of shape {pixels.shape}, expected {shape}")
        return pixels

    def to_float(self, pixels: Pixels) -> Float[Tensor, "C H W"]:
        """Return stored pixels as an image in [-1, 1]."""
        return to_float(np.array(pixels[None]), self.pixels.ranges)[0]

    def shown(self, pixels: Pixels) -> UInt8[np.ndarray, "H W C2"]:
        """Return stored pixels as 8-bit grayscale or RGB: of other numbers of channels the first one, or three."""
        if self.pixels == PixelFormat(self.pixels.channels) and self.pixels.is_8_bit_image:
            return pixels
        shown = 3 if self.pixels.channels >= 3 else 1
        return to_uint8(self.to_float(pixels)[None, :shown])[0]

    def provenance(self) -> dict[str, Any]:
        """Return the fields of the samples' record that describe their values; none for 8 bits."""
        if self.pixels == PixelFormat(self.pixels.channels):
            return {}
        return {"pixels": {"dtype": self.pixels.dtype, "range": [list(pair) for pair in self.pixels.ranges]}}
