"""Conversion between `images` `[B, C, H, W]` float in [-1, 1] and stored pixels `[B, H, W, C]`; contact sheets.

All of the library rounds in one way: to the nearest of the 256 levels of `images_u8`, or of the 65,536 of 16 bits.
"""

import io
import math
from collections.abc import Sequence

import numpy as np
import torch
from einops import rearrange
from jaxtyping import Float, Shaped, UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor


def to_uint8(images: Float[Tensor, "B C H W"]) -> UInt8[np.ndarray, "B H W C"]:
    """Return images in [-1, 1] rounded to bytes; values outside are clipped, and NaN becomes black."""
    levels = ((images.detach().float() + 1) * 127.5).nan_to_num(0).clamp(0, 255).round().to(torch.uint8)
    return rearrange(levels.cpu(), "b c h w -> b h w c").numpy()


def from_uint8(images_u8: UInt8[np.ndarray, "B H W C"]) -> Float[Tensor, "B C H W"]:
    """Return bytes as images in [-1, 1], float32."""
    if not images_u8.flags.writeable:  # as those of Pillow; torch warns about them
        images_u8 = images_u8.copy()
    return rearrange(torch.from_numpy(images_u8).float() / 127.5 - 1, "b h w c -> b c h w").contiguous()


FULL_8_BIT_RANGE = ((0.0, 255.0),)


def _low_and_half(ranges: Sequence[tuple[float, float]], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the lowest value and half the width of each range."""
    bounds = torch.tensor(list(ranges), dtype=torch.float64)
    return bounds[:, 0].to(dtype), ((bounds[:, 1] - bounds[:, 0]) / 2).to(dtype)


def to_float(pixels: Shaped[np.ndarray, "B H W C"], ranges: Sequence[tuple[float, float]]) -> Float[Tensor, "B C H W"]:
    """Return stored pixels of any data type as images in [-1, 1], float32.

    Args:
        pixels: as stored.
        ranges: the values that are mapped to -1 and 1: one pair for all channels, or one per channel.
    """
    if pixels.dtype == np.uint8 and tuple(ranges) == FULL_8_BIT_RANGE:
        return from_uint8(pixels)
    low, half = _low_and_half(ranges, torch.float32)
    values = torch.from_numpy(pixels.astype(np.float32))
    return rearrange((values - low) / half - 1, "b h w c -> b c h w").contiguous()


def from_float(
    images: Float[Tensor, "B C H W"], dtype: str, ranges: Sequence[tuple[float, float]]
) -> Shaped[np.ndarray, "B H W C"]:
    """Return images in [-1, 1] as stored pixels, the inverse of `to_float`.

    Values outside are clipped, and NaN becomes the lowest value.

    Args:
        images: in [-1, 1].
        dtype: of the pixels: "uint8", "uint16" or "float32"; integers are rounded.
        ranges: as for `to_float`.
    """
    if dtype == "uint8" and tuple(ranges) == FULL_8_BIT_RANGE:
        return to_uint8(images)
    low, half = _low_and_half(ranges, torch.float64)
    clipped = rearrange(images.detach().cpu().double().nan_to_num(-1).clamp(-1, 1), "b c h w -> b h w c")
    values = ((clipped + 1) * half + low).numpy()
    return (np.rint(values) if np.dtype(dtype).kind == "u" else values).astype(dtype)


def shown(images_u8: UInt8[np.ndarray, "B H W C"]) -> UInt8[np.ndarray, "B H W C2"]:
    """Return the channels of images that a picture shows: the first three, of fewer the first one."""
    return images_u8[..., : 3 if images_u8.shape[-1] >= 3 else 1]


def to_pil(image_u8: UInt8[np.ndarray, "H W C"]) -> Image.Image:
    """Return one image as a Pillow image: grey for one channel, RGB for three."""
    return Image.fromarray(image_u8[..., 0] if image_u8.shape[-1] == 1 else image_u8)


def png_bytes(image_u8: UInt8[np.ndarray, "H W C"]) -> bytes:
    """Return one image as a PNG file."""
    buffer = io.BytesIO()
    to_pil(image_u8).save(buffer, "PNG")
    return buffer.getvalue()


def grid(
    images_u8: UInt8[np.ndarray, "B H W C"], columns: int | None = None, gap_px: int = 2
) -> UInt8[np.ndarray, "H2 W2 C"]:
    """Return a grid of images on white in rows of `columns` (default: nearly square)."""
    count, height, width, channels = images_u8.shape
    columns = columns or math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    page = np.full((rows * (height + gap_px) + gap_px, columns * (width + gap_px) + gap_px, channels), 255, np.uint8)
    for index, image in enumerate(images_u8):
        top = gap_px + index // columns * (height + gap_px)
        left = gap_px + index % columns * (width + gap_px)
        page[top : top + height, left : left + width] = image
    return page


CAPTION_PX = 14
FONT_PX = 11
MAX_CAPTION = 256  # characters; the rest is ignored


def sheet(
    images_u8: UInt8[np.ndarray, "B H W C"],
    captions: Sequence[str] | None = None,
    columns: int | None = None,
    gap_px: int = 2,
) -> UInt8[np.ndarray, "H2 W2 C"]:
    """Return a grid of images, each with its caption below."""
    if captions is not None:
        strips = np.stack([caption(text, images_u8.shape[2], images_u8.shape[3]) for text in captions])
        images_u8 = np.concatenate([images_u8, strips], axis=1)
    return grid(images_u8, columns, gap_px)


def caption(text: str, width_px: int, channels: int) -> UInt8[np.ndarray, "H W C"]:
    """Return a strip with a line of centered text, truncated to the width, unprintable characters replaced by ?."""
    strip = Image.new("L", (width_px, CAPTION_PX), 255)
    draw, font = ImageDraw.Draw(strip), ImageFont.load_default(size=FONT_PX)
    printable = "".join(letter if letter.isprintable() else "?" for letter in text[:MAX_CAPTION])
    shown = printable
    while printable and draw.textlength(shown, font) > width_px:
        printable = printable[:-1]
        shown = f"{printable}..." if width_px > 4 * CAPTION_PX else printable
    draw.text((width_px / 2, CAPTION_PX / 2), shown, fill=0, font=font, anchor="mm")
    return np.repeat(np.asarray(strip)[..., None], channels, axis=-1)


def thumbnail(image_u8: UInt8[np.ndarray, "H W C"], size_px: int = 128) -> UInt8[np.ndarray, "S S 3"]:
    """Return an image in RGB, fitted into a white square; small images are enlarged by a whole factor."""
    image = to_pil(image_u8).convert("RGB")
    longest = max(image.size)
    scale = size_px // longest or size_px / longest
    resample = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.NEAREST
    image = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), resample)
    square = Image.new("RGB", (size_px, size_px), (255, 255, 255))
    square.paste(image, ((size_px - image.width) // 2, (size_px - image.height) // 2))
    return np.asarray(square)
