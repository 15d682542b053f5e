"""A contact sheet: some images of a data set on one page, each with its class under it."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from hdit_core.data.loader.reader import ImageReader
from hdit_core.errors import UsageError
from hdit_core.files import atomic_file

CELL_PX = 128
GAP_PX = 8
TEXT_PX = 14
COLUMNS = 8
PAPER, INK, FRAME = "#ffffff", "#202020", "#d0d0d0"

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def spread(num_images: int, wanted: int) -> list[int]:
    """Return as many image numbers as wanted, evenly spread; all where there are fewer."""
    return [place * num_images // wanted for place in range(wanted)] if wanted < num_images else list(range(num_images))


def _caption(text: str, font: Font) -> str:
    """Return a name cut to the width of a cell, without characters that no font has a sign for."""
    shown = "".join(sign if sign.isprintable() else "?" for sign in text[:256])
    if font.getlength(shown) <= CELL_PX:
        return shown
    while shown and font.getlength(shown + "...") > CELL_PX:
        shown = shown[:-1]
    return shown + "..."


def _thumbnail(pixels: np.ndarray) -> Image.Image:
    """Return an image as large as a cell allows; small ones are enlarged by whole pixels, to be seen as they are."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).convert("RGB")
    longest = max(image.size)
    if longest <= CELL_PX:
        factor = CELL_PX // longest
        return image.resize((image.width * factor, image.height * factor), Image.Resampling.NEAREST)
    size = (max(1, image.width * CELL_PX // longest), max(1, image.height * CELL_PX // longest))
    return image.resize(size, Image.Resampling.LANCZOS)


def contact_sheet(folder: Path, num_images: int = 64) -> Image.Image:
    """Lay out images of a data set, evenly spread over it, in rows of eight.

    Args:
        folder: of the data set.
        num_images: how many are shown, at least 1.

    Raises:
        DataError: the data set is damaged.
    """
    reader = ImageReader(folder)
    classes = reader.manifest.contents.classes
    numbers = spread(len(reader), num_images)
    columns = min(COLUMNS, len(numbers))
    cell_height = CELL_PX + GAP_PX + (TEXT_PX + GAP_PX // 2 if classes else 0)
    width = columns * (CELL_PX + GAP_PX) + GAP_PX
    sheet = Image.new("RGB", (width, -(-len(numbers) // columns) * cell_height + GAP_PX), PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default()

    for place, number in enumerate(numbers):
        pixels, label = reader.read(number)
        left, top = GAP_PX + place % columns * (CELL_PX + GAP_PX), GAP_PX + place // columns * cell_height
        image = _thumbnail(pixels)
        inner = (left + (CELL_PX - image.width) // 2, top + (CELL_PX - image.height) // 2)
        draw.rectangle((left - 1, top - 1, left + CELL_PX, top + CELL_PX), outline=FRAME)
        sheet.paste(image, inner)
        if classes and label >= 0:
            draw.text((left, top + CELL_PX + GAP_PX // 2), _caption(classes[label], font), fill=INK, font=font)
    return sheet


def write_contact_sheet(folder: Path, path: Path, num_images: int = 64) -> None:
    """Write a contact sheet as a PNG file, whole or not at all; an older file of the name is replaced.

    Raises:
        DataError: the data set is damaged.
        UsageError: there is no such folder to write to.
    """
    if not path.absolute().parent.is_dir():
        raise UsageError(f"{path}: cannot be written, its folder is not there; make it, or choose another name")
    sheet = contact_sheet(folder, num_images)
    with atomic_file(path) as temporary:
        sheet.save(temporary, "PNG")
