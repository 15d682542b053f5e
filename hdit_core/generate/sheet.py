"""Finished images side by side on a sheet, each with its class under it."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from hdit_core.generate.generate import Generated
from hdit_core.images import grid, to_uint8

CAPTION_PX = 14


def sheet(
    images_u8: UInt8[np.ndarray, "B H W C"], captions: Sequence[str] | None = None, columns: int | None = None
) -> UInt8[np.ndarray, "H2 W2 C"]:
    """Lay images out in rows, each with its caption under it."""
    if captions is not None:
        strips = np.stack([_caption(text, images_u8.shape[2], images_u8.shape[3]) for text in captions])
        images_u8 = np.concatenate([images_u8, strips], axis=1)
    return grid(images_u8, columns)


def collect(batches: Iterable[Generated]) -> tuple[UInt8[np.ndarray, "B H W C"], list[int] | None]:
    """Return all images of some batches as bytes, and their classes; for sheets, which are small."""
    parts, classes = [], []
    for batch in batches:
        parts.append(to_uint8(batch.images))
        classes.extend(batch.class_ids or [])
    return np.concatenate(parts), classes or None


def _caption(text: str, width_px: int, channels: int) -> UInt8[np.ndarray, "H W C"]:
    strip = Image.new("L", (width_px, CAPTION_PX), 255)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=11)
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    while printable and draw.textlength(printable, font) > width_px:
        printable = printable[:-1]
    draw.text((width_px / 2, CAPTION_PX / 2), printable, fill=0, font=font, anchor="mm")
    return np.repeat(np.asarray(strip)[..., None], channels, axis=-1)
