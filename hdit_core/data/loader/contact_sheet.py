"""A contact sheet: images of a data set on one page, each with its condition image, class name and caption."""

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.loader.image_reader import ImageReader, Pixels
from hdit_core.files import write_atomic
from hdit_core.images import png_bytes, sheet, thumbnail, to_float, to_pil, to_uint8

COLUMNS = 8
GAP_PX = 8


def spread(num_images: int, count: int) -> list[int]:
    """Return `count` image indices evenly spread over a data set, or all indices if it has fewer images."""
    return [index * num_images // count for index in range(count)] if count < num_images else list(range(num_images))


def _thumbnail(pixels: Pixels, format_of: PixelFormat) -> UInt8[np.ndarray, "S S 3"]:
    """Return a thumbnail of the first one or three channels of stored pixels, the range from black to white."""
    if format_of != PixelFormat(format_of.channels) or not format_of.is_8_bit_image:
        pixels = to_uint8(to_float(pixels[None], format_of.ranges)[:, : 3 if format_of.channels >= 3 else 1])[0]
    return thumbnail(pixels)


def _cell(reader: ImageReader, index: int) -> UInt8[np.ndarray, "S W 3"]:
    """Return the thumbnail of an image, with that of its condition image to its left."""
    contents = reader.manifest.contents
    parts = [_thumbnail(reader.read(index)[0], contents.pixels)]
    condition = reader.condition(index)
    if condition is not None and contents.condition is not None:
        parts.insert(0, _thumbnail(condition, contents.condition.pixels))
    return np.concatenate(parts, axis=1)


def _caption(reader: ImageReader, index: int) -> str:
    """Return the class and the caption of an image."""
    classes, label = reader.manifest.contents.classes, reader.label(index)
    parts = [classes[label] if classes and label >= 0 else None, reader.caption(index)]
    return ": ".join(part for part in parts if part)


def contact_sheet(folder: Path, num_images: int = 64) -> Image.Image:
    """Return images of a data set, evenly spread over it, in rows of eight, or four with condition images.

    Args:
        folder: folder of the data set.
        num_images: number of images to show, at least 1.

    Raises:
        DataError: the data set is damaged.
    """
    reader = ImageReader(folder)
    contents, indices = reader.manifest.contents, spread(len(reader), num_images)
    has_captions = bool(contents.classes) or contents.captions
    captions = [_caption(reader, index) for index in indices] if has_captions else None
    columns = min(COLUMNS // 2 if contents.condition else COLUMNS, len(indices))
    return to_pil(sheet(np.stack([_cell(reader, index) for index in indices]), captions, columns, GAP_PX))


def write_contact_sheet(folder: Path, path: Path, num_images: int = 64) -> None:
    """Write a contact sheet as a PNG file atomically; an existing file is replaced.

    Raises:
        DataError: the data set is damaged.
    """
    write_atomic(path, png_bytes(np.asarray(contact_sheet(folder, num_images))))
