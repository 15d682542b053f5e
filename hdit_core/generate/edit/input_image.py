"""A user's image or mask, decoded like any untrusted file, in the depth of the network's images, and resized."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image
from torch import Tensor

from hdit_core.data.format.retry_reads import read_image_file
from hdit_core.data.image.arrays.decode_picture import OtherFormatError
from hdit_core.data.image.arrays.picture import Picture, as_array, as_picture, frame, picture_size
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.image.decode import LARGEST_IMAGE_PIXELS, UnusableImageError, decode_image
from hdit_core.data.image.resize import Geometry, ImageSize, crop_and_resize
from hdit_core.errors import DataError
from hdit_core.generate.condition import inputs
from hdit_core.generate.condition.inputs import PAINTED, DecodedInput
from hdit_core.images import to_float

MIDTONES = range(32, 224)  # grey levels that the opaque part of a mask hardly has
MOST_MIDTONES = 0.1  # fraction of opaque pixels; a soft brush has fewer
BLACK = (0, 0, 0)
CENTER = (0.5, 0.5)


@dataclass(frozen=True)
class InputImage:
    """An image that was read.

    Attributes:
        image: in [-1, 1], in the network's size.
        sha256: of its file.
        remarks: changes that the user may want to know about.
    """

    image: Float[Tensor, "C H W"]
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


def fit_to_size(picture: Picture, pixels: PixelFormat, size: ImageSize) -> tuple[Picture, tuple[str, ...]]:
    """Return the largest central crop with the size's aspect ratio, resized to it, and a remark on that.

    Args:
        picture: the picture.
        pixels: the format of its values.
        size: height and width in pixels.
    """
    found = picture_size(picture)
    if found == size:
        return picture, ()
    enlarged = found[0] < size[0] or found[1] < size[1]
    remark = f"{'enlarged' if enlarged else 'cropped and resized'} from {found[0]}x{found[1]} to {size[0]}x{size[1]}"
    picture = as_picture(as_array(picture), pixels)
    return frame(picture, Geometry(found, size, CENTER), "lanczos", pixels, BLACK), (remark,)


def read_image(path: Path, pixels: PixelFormat, size: ImageSize) -> InputImage:
    """Read one image in the depth of the network's images, and resize it.

    Args:
        path: a file of any format that `hdit prepare-data` reads, or a .npy array.
        pixels: the format of the images that the network was trained on.
        size: height and width in pixels.

    Raises:
        DataError: it cannot be read, is not an image of such values, too large, or damaged.
    """
    content = _read(path)
    decoded = _decode(path, content, pixels)
    picture, more = fit_to_size(decoded.picture, decoded.pixels, size)
    image = to_float(np.array(as_array(picture)[None]), decoded.pixels.ranges)[0]
    return InputImage(image, hashlib.sha256(content).hexdigest(), (*decoded.remarks, *more))


def read_mask(path: Path, image_path: Path, pixels: PixelFormat, size: ImageSize) -> Mask:
    """Read the mask of an image: white is painted, black and transparent are not.

    Args:
        path: the mask, of the image's size; grey levels from 128 on count as white.
        image_path: the image's file.
        pixels: the format of the images that the network was trained on.
        size: height and width that the image is resized to.

    Raises:
        DataError: it cannot be read, differs in size from the image, is a picture with a cut-out, or has nothing white.
    """
    content = _read(path)
    mask = _decode_grey(path, content, background=0)  # transparent becomes black: not painted
    height, width = picture_size(_decode(image_path, _read(image_path), pixels).picture)
    if (mask.height, mask.width) != (height, width):
        raise DataError(
            f"{path}: the mask has {mask.height}x{mask.width} pixels, {image_path} has {height}x{width}; "
            "use a mask of the same size"
        )
    on_white = _decode_grey(path, content, background=255)
    _refuse_cut_out(path, np.asarray(mask), np.asarray(on_white))
    painted = np.asarray(crop_and_resize(mask, *size, resize="area")) >= PAINTED
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


def _refused(path: Path, problem: UnusableImageError) -> DataError:
    most = LARGEST_IMAGE_PIXELS // 10**6
    return DataError(
        f"{path}: {problem}; expected an intact image, such as a PNG or JPEG, of at most {most} million pixels"
    )


def _read(path: Path) -> bytes:
    try:
        return read_image_file(path)
    except UnusableImageError as problem:
        raise _refused(path, problem) from None


def _decode(path: Path, content: bytes, pixels: PixelFormat) -> DecodedInput:
    try:
        return inputs.InputImage(path.name, content).picture(pixels)
    except OtherFormatError as problem:
        raise DataError(f"{path}: {problem}") from None
    except UnusableImageError as problem:
        raise _refused(path, problem) from None


def _decode_grey(path: Path, content: bytes, background: int) -> Image.Image:
    try:
        return decode_image(content, 1, (background, background, background)).image
    except UnusableImageError as problem:
        raise _refused(path, problem) from None
