"""The frames in a folder as an animation."""

import io
from pathlib import Path

from PIL import Image

FRAME_MS = 80


def film_of(folder: Path, frames: int) -> bytes:
    """Return frames 0 to `frames` - 1 of a folder of samples, forth and back again, as an endless lossless WebP."""
    forth = list(range(frames))
    first, *others = (Image.open(folder / f"{number:08d}.png") for number in [*forth, *forth[-2:0:-1]])
    content = io.BytesIO()
    first.save(content, "WEBP", save_all=True, append_images=others, duration=FRAME_MS, loop=0, lossless=True)
    return content.getvalue()
