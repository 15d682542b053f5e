"""Finished images as files: one PNG each, whole or not there, and a sheet of the first ones with their classes."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from hdit_core.errors import UsageError
from hdit_core.files import write_whole
from hdit_core.generate.generate import Generated
from hdit_core.images import grid, png_bytes, to_uint8

CAPTION_PX = 14
MOST_GRID_IMAGES = 100
MOST_GRID_PIXELS = 16_000_000


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


class ImageFolder:
    """A folder of samples: `00000012.png` for image 12, `grid.png`, and `samples.json` with how they were made."""

    def __init__(self, folder: Path) -> None:
        """Make the folder.

        Raises:
            UsageError: it is there and not empty, so that images of two runs would mix.
        """
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise UsageError(f"{folder}: exists and is not an empty folder; give another with --out")
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.grid_file = folder / "grid.png"
        self.num_images = 0
        self._first: list[UInt8[np.ndarray, "H W C"]] = []
        self._class_ids: list[int] = []

    def write(self, batch: Generated) -> None:
        """Write each image of a batch."""
        images = to_uint8(batch.images)
        for index, image in zip(batch.indices, images, strict=True):
            write_whole(self.folder / f"{index:08d}.png", png_bytes(image))
        room = max(0, min(MOST_GRID_IMAGES, MOST_GRID_PIXELS // images[0, ..., 0].size) - len(self._first))
        self._first.extend(images[:room])
        self._class_ids.extend(batch.class_ids or [])
        self.num_images += len(batch.indices)

    def finish(self, record: dict[str, Any]) -> dict[str, Any]:
        """Draw the grid, say that the set is complete and how it was made, and return that record."""
        if self._first:
            captions = [str(class_id) for class_id in self._class_ids[: len(self._first)]] or None
            write_whole(self.grid_file, png_bytes(sheet(np.stack(self._first), captions)))
        record = {"num_images": self.num_images, **record}
        content = record | {"class_ids": self._class_ids or None}
        write_whole(self.folder / "samples.json", json.dumps(content, indent=1) + "\n")
        return record
