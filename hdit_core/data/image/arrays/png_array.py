"""PNG as arrays: 16 bits per value, and alpha as a channel; Pillow reduces the former and shows the latter."""

import io
import struct

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from hdit_core.data.image.arrays.packages import imagecodecs
from hdit_core.data.image.decode import LARGEST_IMAGE_PIXELS
from hdit_core.data.image.png import SIGNATURE, check_rows, has_chunk, read_png
from hdit_core.data.image.unusable import UnusableImageError

_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # by color type; 3 is a palette
_HEADER_BYTES = 33


def png_format(data: bytes) -> tuple[int, int] | None:
    """Return bits per value and channels of a PNG; None for another file, and for a palette or fewer than 8 bits."""
    if not data.startswith(SIGNATURE) or len(data) < _HEADER_BYTES:
        return None
    bits, color = data[24], data[25]
    return (bits, _CHANNELS[color]) if bits in (8, 16) and color in _CHANNELS else None


def read_png_array(data: bytes) -> Shaped[np.ndarray, "H W C"]:
    """Return the stored values of a PNG; color profiles and gamma are not applied.

    Raises:
        UnusableImageError: it is too large, damaged, an animation, or has a transparent color.
    """
    width, height = struct.unpack_from(">II", data, 16)
    if not 0 < width * height <= LARGEST_IMAGE_PIXELS:
        raise UnusableImageError(f"{width}x{height} pixels; expected 1 to {LARGEST_IMAGE_PIXELS // 10**6} million")
    bare = read_png(data).data
    for kind, what in ((b"tRNS", "a transparent color"), (b"acTL", "an animation")):
        if has_chunk(bare, kind):
            raise UnusableImageError(f"PNG with {what}, which an array cannot represent")
    with Image.open(io.BytesIO(bare), formats=["PNG"]) as image:
        image.load()
        check_rows(bare, image)
        if data[24] == 8 or image.mode == "I;16":
            array = np.asarray(image)
            return array[..., None] if array.ndim == 2 else array
    array = imagecodecs("16-bit color PNG").png_decode(bare)
    return array[..., None] if array.ndim == 2 else array


def png16_bytes(array: Shaped[np.ndarray, "H W C"]) -> bytes:
    """Return 16-bit grayscale or RGB as a PNG file.

    Raises:
        UnusableImageError: it is RGB, and imagecodecs is not installed.
    """
    if array.shape[-1] == 1:
        buffer = io.BytesIO()
        Image.fromarray(array[..., 0]).save(buffer, "PNG")
        return buffer.getvalue()
    return bytes(imagecodecs("16-bit color PNG").png_encode(np.ascontiguousarray(array), level=6))
