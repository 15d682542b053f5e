"""Encodes images for shards, and decodes them: PNG, lossless WebP, JPEG or .npy, and nothing else."""

import io

import numpy as np
from jaxtyping import Shaped
from PIL import Image

from hdit_core.data.image.arrays.npy import read_npy

SUFFIXES = {"png": "png", "webp": "webp", "jpeg": "jpg", "npy": "npy"}
JPEG_QUALITY = 95

_SAVE_OPTIONS: dict[str, dict[str, object]] = {
    "png": {"compress_level": 6},
    "webp": {"lossless": True, "quality": 50, "method": 4},  # for lossless WebP, quality is the compression effort
    "jpeg": {"subsampling": 0},
}

_MODES = {1: "L", 3: "RGB"}


def encode(image: Image.Image, codec: str, quality: int = JPEG_QUALITY) -> bytes:
    """Return an image of mode L or RGB as a file of the given kind, without any metadata.

    Args:
        codec: "png", "webp" (both lossless) or "jpeg".
        quality: JPEG quality, 1 to 100.
    """
    buffer = io.BytesIO()
    bare = image.copy()
    bare.info = {}  # the source's color profile and comments, which Pillow would write
    options = _SAVE_OPTIONS[codec] | ({"quality": quality} if codec == "jpeg" else {})
    bare.save(buffer, codec.upper(), **options)
    return buffer.getvalue()


def decode(
    content: bytes, codec: str, shape: tuple[int, int, int], dtype: str = "uint8"
) -> Shaped[np.ndarray, "H W C"]:
    """Return the pixels of an image that was stored in a shard.

    Args:
        content: content of the file.
        codec: the expected format.
        shape: the expected height, width and channels.
        dtype: the expected data type; that of PNG, WebP and JPEG is uint8.

    Raises:
        ValueError: it has another format, size or data type, or cannot be decoded.
    """
    if codec == "npy":
        return _decode_npy(content, shape, dtype)
    height, width, channels = shape
    try:
        image = Image.open(io.BytesIO(content), formats=(codec.upper(),))
        if image.size != (width, height):
            raise ValueError(f"{image.height}x{image.width} pixels where the manifest says {height}x{width}")
        # WebP has no grayscale: such an image is decoded as RGB with three equal channels.
        pixels = np.asarray(image if image.mode == _MODES[channels] else image.convert(_MODES[channels]))
    except ValueError:
        raise
    except Exception as problem:  # a decoder can raise any exception on a malicious file
        raise ValueError(f"not a {codec.upper()} image ({problem})") from None
    return pixels.reshape(shape)


def _decode_npy(content: bytes, shape: tuple[int, int, int], dtype: str) -> Shaped[np.ndarray, "H W C"]:
    array = read_npy(content)
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"an array {array.shape} of {array.dtype} where the manifest says {shape} of {dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError("values that are NaN or infinite")
    return array
