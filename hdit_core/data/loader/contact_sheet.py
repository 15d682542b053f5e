"""A contact sheet: images of a data set on one page, each with its class name below."""

from pathlib import Path

import numpy as np
from PIL import Image

from hdit_core.data.loader.reader import ImageReader
from hdit_core.files import write_atomic
from hdit_core.images import png_bytes, sheet, thumbnail, to_pil

COLUMNS = 8
GAP_PX = 8


def spread(num_images: int, count: int) -> list[int]:
    """Return `count` image indices evenly spread over a data set, or all indices if it has fewer images."""
    return [index * num_images // count for index in range(count)] if count < num_images else list(range(num_images))


def contact_sheet(folder: Path, num_images: int = 64) -> Image.Image:
    """Return an image with images evenly spread over a data set, in rows of eight.

    Args:
        folder: of the data set.
        num_images: number of images, at least 1.

    Raises:
        DataError: the data set is damaged.
    """
    reader = ImageReader(folder)
    classes = reader.manifest.contents.classes
    images, labels = zip(*(reader.read(index) for index in spread(len(reader), num_images)), strict=True)
    captions = [classes[label] if label >= 0 else "" for label in labels] if classes else None
    columns = min(COLUMNS, len(images))
    return to_pil(sheet(np.stack([thumbnail(image) for image in images]), captions, columns, GAP_PX))


def write_contact_sheet(folder: Path, path: Path, num_images: int = 64) -> None:
    """Write a contact sheet as a PNG file atomically; an existing file is replaced.

    Raises:
        DataError: the data set is damaged.
    """
    write_atomic(path, png_bytes(np.asarray(contact_sheet(folder, num_images))))
