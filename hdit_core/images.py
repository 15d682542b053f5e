"""Images between their two forms: `images` `[B, C, H, W]` float in [-1, 1], and `images_u8` `[B, H, W, C]` bytes.

One rounding for the whole library: to the nearest of the 256 levels.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def to_uint8(images: Float[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B H W C"]:
    """Round images in [-1, 1] to bytes; what lies outside is clipped, and NaN becomes black."""
    levels = ((images.detach().float() + 1) * 127.5).nan_to_num(0).clamp(0, 255).round().to(torch.uint8)
    return rearrange(levels.cpu(), "b c h w -> b h w c").numpy()


def from_uint8(images_u8: UInt8[np.ndarray, "B H W C"]) -> Float[Tensor, "B C H W"]:
    """Return bytes as images in [-1, 1], float32."""
    return rearrange(torch.from_numpy(images_u8).float() / 127.5 - 1, "b h w c -> b c h w").contiguous()


def to_pil(image_u8: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """Return one image, grey for one channel and RGB for three, as Pillow's."""
    return Image.fromarray(image_u8[..., 0] if image_u8.shape[-1] == 1 else image_u8)


def png_bytes(image_u8: UInt8[np.ndarray, "H W C"]) -> bytes:
    """Return one image as a PNG file."""
    buffer = io.BytesIO()
    to_pil(image_u8).save(buffer, "PNG")
    return buffer.getvalue()


def grid(
    images_u8: UInt8[np.ndarray, "B H W C"], columns: int | None = None, gap_px: int = 2
) -> UInt8[np.ndarray, "H2 W2 C"]:
    """Lay images out on white in rows of `columns` (default: as square as can be)."""
    count, height, width, channels = images_u8.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap_px) + gap_px, columns * (width + gap_px) + gap_px, channels), 255, np.uint8)
    for place, image in enumerate(images_u8):
        top = gap_px + place // columns * (height + gap_px)
        left = gap_px + place % columns * (width + gap_px)
        sheet[top : top + height, left : left + width] = image
    return sheet


CAPTION_PX = 14


def sheet(
    images_u8: UInt8[np.ndarray, "B H W C"], captions: Sequence[str] | None = None, columns: int | None = None
) -> UInt8[np.ndarray, "H2 W2 C"]:
    """Lay images out in rows, each with its caption under it."""
    if captions is not None:
        strips = np.stack([_caption(text, images_u8.shape[2], images_u8.shape[3]) for text in captions])
        images_u8 = np.concatenate([images_u8, strips], axis=1)
    return grid(images_u8, columns)


def _caption(text: str, width_px: int, channels: int) -> UInt8[np.ndarray, "H W C"]:
    strip = Image.new("L", (width_px, CAPTION_PX), 255)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=11)
    printable = "".join(letter if letter.isprintable() else "?" for letter in text)
    while printable and draw.textlength(printable, font) > width_px:
        printable = printable[:-1]
    draw.text((width_px / 2, CAPTION_PX / 2), printable, fill=0, font=font, anchor="mm")
    return np.repeat(np.asarray(strip)[..., None], channels, axis=-1)
