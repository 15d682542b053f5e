"""A user's picture as the network takes it: read like any hostile file, and cut to the size."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from hdit_core.data.image.decode import UnusableImageError, decode_image, read_file
from hdit_core.data.image.resize import crop_and_resize
from hdit_core.errors import DataError

WHITE = 128  # from which grey on a mask says "here"

Shape = tuple[int, int, int]
"""Height, width and channels."""


@dataclass(frozen=True)
class Picture:
    """A picture that was read.

    Attributes:
        image_u8: as the network takes it.
        sha256: of its file.
        remarks: what was done to it that its owner may want to know.
    """

    image_u8: UInt8[np.ndarray, "H W C"]
    sha256: str
    remarks: tuple[str, ...]


def frame(image: Image.Image, shape: Shape) -> tuple[UInt8[np.ndarray, "H W C"], tuple[str, ...]]:
    """Return the largest middle part of the shape's proportions at its size, and what was done for that."""
    height, width, _ = shape
    found = (image.height, image.width)
    if found == (height, width):
        return np.asarray(image).reshape(shape), ()
    enlarged = found[0] < height or found[1] < width
    remark = f"{'enlarged' if enlarged else 'cut and scaled'} from {found[0]}x{found[1]} to {height}x{width}"
    return np.asarray(crop_and_resize(image, height, width)).reshape(shape), (remark,)


def read_picture(path: Path, shape: Shape) -> Picture:
    """Read one picture and cut it to a shape.

    Args:
        path: a file of any kind that `hdit prepare-data` reads.
        shape: height and width in pixels, and 1 channel for grey or 3 for colour.

    Raises:
        DataError: it cannot be read, is no image, too large, or damaged.
    """
    content, image, remarks = _decoded(path, shape[2])
    image_u8, more = frame(image, shape)
    return Picture(image_u8, hashlib.sha256(content).hexdigest(), (*remarks, *more))


def read_mask(path: Path, picture: Path, shape: Shape) -> tuple[Bool[np.ndarray, "H W"], str]:
    """Read the mask of a picture, True where it is white, and the sha256 of its file.

    Args:
        path: the mask, of the picture's size; grey from 128 on is white.
        picture: the picture's file.
        shape: what the picture is cut to.

    Raises:
        DataError: it cannot be read, is of another size than the picture, or has nothing white in it.
    """
    content, mask, _ = _decoded(path, 1)
    _, image, _ = _decoded(picture, 1)
    if mask.size != image.size:
        raise DataError(
            f"{path}: the mask has {mask.height}x{mask.width} pixels, {picture} has {image.height}x{image.width}; "
            "give one of the same size"
        )
    white = np.asarray(crop_and_resize(mask, shape[0], shape[1], resize="area")) >= WHITE
    if not white.any():
        raise DataError(
            f"{path}: nothing in the mask is white where the picture is used; paint white what is to be new"
        )
    return white, hashlib.sha256(content).hexdigest()


def _decoded(path: Path, channels: int) -> tuple[bytes, Image.Image, tuple[str, ...]]:
    try:
        content = read_file(path)
        decoded = decode_image(content, channels)
    except UnusableImageError as problem:
        raise DataError(f"{path}: {problem}; expected an image such as a PNG or JPEG") from None
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem.strerror or type(problem).__name__})") from None
    return content, decoded.image, decoded.remarks
