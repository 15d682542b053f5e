"""A user's image or mask, decoded like any untrusted file and resized for the network."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image

from hdit_core.data.format.transient import read_image_file
from hdit_core.data.image.decode import UnusableImageError, decode_image
from hdit_core.data.image.resize import crop_and_resize
from hdit_core.errors import DataError
from hdit_core.generate.condition.inputs import PAINTED

MIDTONES = range(32, 224)  # grey levels that the opaque part of a mask hardly has
MOST_MIDTONES = 0.1  # fraction of opaque pixels; a soft brush has fewer

Shape = tuple[int, int, int]
"""Height, width and channels."""


@dataclass(frozen=True)
class InputImage:
    """An image that was read.

    Attributes:
        image_u8: in the network's size.
        sha256: of its file.
        remarks: changes that the user may want to know about.
    """

    image_u8: UInt8[np.ndarray, "H W C"]
    sha256: str
    remarks: tuple[str, ...]


@dataclass(frozen=True)
class Mask:
    """A mask that was read.

    Attributes:
        painted: True where the image is to be regenerated.
        sha256: of its file.
        remarks: changes that the user may want to know about.
    """

    painted: Bool[np.ndarray, "H W"]
    sha256: str
    remarks: tuple[str, ...]


def fit_to_shape(image: Image.Image, shape: Shape) -> tuple[UInt8[np.ndarray, "H W C"], tuple[str, ...]]:
    """Return the largest central crop with the shape's aspect ratio, resized to it, and a remark on that."""
    height, width, _ = shape
    if (image.height, image.width) == (height, width):
        return np.asarray(image).reshape(shape), ()
    enlarged = image.height < height or image.width < width
    remark = (
        f"{'enlarged' if enlarged else 'cropped and resized'} from {image.height}x{image.width} to {height}x{width}"
    )
    return np.asarray(crop_and_resize(image, height, width)).reshape(shape), (remark,)


def read_image(path: Path, shape: Shape) -> InputImage:
    """Read one image and resize it to a shape.

    Args:
        path: a file of any format that `hdit prepare-data` reads.
        shape: height and width in pixels, and 1 channel for grey or 3 for color.

    Raises:
        DataError: it cannot be read, is not an image, too large, or damaged.
    """
    content = _read(path)
    image, remarks = _decode(path, content, shape[2])
    image_u8, more = fit_to_shape(image, shape)
    return InputImage(image_u8, hashlib.sha256(content).hexdigest(), (*remarks, *more))


def read_mask(path: Path, image_path: Path, shape: Shape) -> Mask:
    """Read the mask of an image: white is painted, black and transparent are not.

    Args:
        path: the mask, of the image's size; grey levels from 128 on count as white.
        image_path: the image's file.
        shape: what the image is resized to.

    Raises:
        DataError: it cannot be read, differs in size from the image, is a picture with a cut-out, or has nothing white.
    """
    content = _read(path)
    mask, _ = _decode(path, content, 1, background=0)  # transparent becomes black: not painted
    image, _ = _decode(image_path, _read(image_path), 1)
    if mask.size != image.size:
        raise DataError(
            f"{path}: the mask has {mask.height}x{mask.width} pixels, {image_path} has {image.height}x{image.width}; "
            "use a mask of the same size"
        )
    on_white, _ = _decode(path, content, 1, background=255)
    _refuse_cut_out(path, np.asarray(mask), np.asarray(on_white))
    painted = np.asarray(crop_and_resize(mask, shape[0], shape[1], resize="area")) >= PAINTED
    if not painted.any():
        raise DataError(
            f"{path}: nothing in the mask is white within the crop of the image (its brightest grey level is "
            f"{np.asarray(mask).max()} of 255, white starts at {PAINTED}); paint the region to regenerate white"
        )
    remarks = ("the mask is white everywhere, so that nothing of the image is kept",) if painted.all() else ()
    return Mask(painted, hashlib.sha256(content).hexdigest(), remarks)


def _refuse_cut_out(path: Path, on_black: UInt8[np.ndarray, "H W"], on_white: UInt8[np.ndarray, "H W"]) -> None:
    """Refuse, with a DataError, a picture in which the region to regenerate was erased: other tools' convention."""
    opaque = on_black[on_black == on_white]
    if opaque.size in (0, on_black.size):
        return
    if np.isin(opaque, MIDTONES).mean() > MOST_MIDTONES:
        raise DataError(
            f"{path}: looks like a picture with a transparent cut-out, not like a mask; expected white where the image "
            "is to be regenerated, and black or transparent elsewhere"
        )


def _read(path: Path) -> bytes:
    try:
        return read_image_file(path)
    except UnusableImageError as problem:
        raise DataError(f"{path}: {problem}; expected an image such as a PNG or JPEG") from None


def _decode(path: Path, content: bytes, channels: int, background: int = 255) -> tuple[Image.Image, tuple[str, ...]]:
    try:
        decoded = decode_image(content, channels, (background, background, background))
    except UnusableImageError as problem:
        raise DataError(f"{path}: {problem}; expected an image such as a PNG or JPEG") from None
    return decoded.image, decoded.remarks
