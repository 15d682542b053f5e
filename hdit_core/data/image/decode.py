"""From a file to the pixels that its author meant, as grey or RGB bytes: the first of the two steps of preparation.

Content decides the kind, never the name. A pixel is never wrong in silence: what has no defined meaning in 8-bit
sRGB is refused with the reason. Pillow alone is not enough: its `convert("RGB")` clips 16-bit grey to white, shows the
colour under transparent pixels and leaves the orientation and the colour profile out.
"""

import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from hdit_core.data.image.icc_profile import to_srgb

LARGEST_FILE_BYTES = 1 << 29  # no image is this large; a video or an archive among them is not worth the memory

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is tried. Never EPS, which runs Ghostscript, nor formats that need another program or file."""

LARGEST_IMAGE_PIXELS = 100_000_000

ORIENTATION_TAG = 0x0112
_PHOTOMETRIC, _SAMPLE_FORMAT = 0x0106, 0x0153  # of TIFF
_WHITE_IS_ZERO = 0
_SRGB_GAMMA = 0.45455

# EXIF orientation: what brings the stored image upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class UnusableImageError(Exception):
    """This file gives no image; the message is the reason, the same on every machine."""


@dataclass(frozen=True)
class Decoded:
    """An image of mode L or RGB, and what was done to it that a user may want to know."""

    image: Image.Image
    remarks: tuple[str, ...]


def _reason(problem: Exception) -> str:
    """Return a library's complaint without the memory addresses and control characters in it."""
    text = re.sub(r"<[^>]* at 0x[0-9a-f]+>", "file", str(problem))
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return f"{type(problem).__name__}: {text[:200]}" if text else type(problem).__name__


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header, refuse what is too large, and leave the pixels alone."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > LARGEST_IMAGE_PIXELS:
        raise UnusableImageError(
            f"{image.width}x{image.height} pixels are more than {LARGEST_IMAGE_PIXELS // 10**6} million"
        )
    return image


def _check_depth(image: ImageFile.ImageFile) -> None:
    """Refuse sample formats whose range Pillow does not keep; known before the pixels are decoded only."""
    raw_modes = [str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in image.tile]
    if any(raw.startswith("I;12") for raw in raw_modes):
        raise UnusableImageError("12-bit grey has no defined scale here")
    signed = 2 in image.tag_v2.get(_SAMPLE_FORMAT, ()) if isinstance(image, TiffImagePlugin.TiffImageFile) else False
    if signed or any(raw.startswith("I;32") for raw in raw_modes):
        raise UnusableImageError("signed or 32-bit grey has no defined range")
    if image.mode == "RGB" and "transparency" in image.info and any("16" in raw for raw in raw_modes):
        raise UnusableImageError("a transparent colour of 16 bits, while Pillow reads 8 bits")


def _load(data: bytes) -> Image.Image:
    """Decode the first frame whole, or refuse."""
    image = _open(data)
    if image.format == "PNG":
        image.verify()  # the checksums, which Pillow passes over when it decodes
        image = _open(data)
    _check_depth(image)
    image.load()
    return image


def _upright(image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Apply the EXIF orientation; what is corrupt there is passed over, and said."""
    try:
        orientation = image.getexif().get(ORIENTATION_TAG)
    except Exception:  # Pillow's parser raises whatever a broken tag leads it to
        return image, ["corrupt EXIF passed over"]
    if orientation not in _UPRIGHT:
        return image, []
    return image.transpose(_UPRIGHT[orientation]), ["turned upright by EXIF orientation"]


# 0..65535 to 0..255: divided by 257 and rounded.
_TO_8_BITS_TABLE = ((np.arange(1 << 16, dtype=np.uint32) + 128) // 257).astype(np.uint8)


def _grey16_to_grey(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255. A transparent level becomes alpha."""
    levels = np.asarray(image)
    if levels.max(initial=0) > 0xFFFF or levels.min(initial=0) < 0:
        raise UnusableImageError("grey beyond 16 bits has no defined range")
    grey = _TO_8_BITS_TABLE[levels]
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # which Pillow heeds up to 8 bits only
        grey = 255 - grey
    transparent = image.info.get("transparency")
    whole = Image.fromarray(grey)
    if isinstance(transparent, int):
        whole.putalpha(Image.fromarray(np.where(levels == transparent, 0, 255).astype(np.uint8)))
    return whole


def _refuse_mode(image: Image.Image) -> Image.Image:
    raise UnusableImageError(f"pixels of Pillow's mode {image.mode} have no defined range in sRGB")


_TO_8_BITS: dict[str, Callable[[Image.Image], Image.Image]] = {
    "I;16": _grey16_to_grey,
    "I;16L": _grey16_to_grey,
    "I;16B": _grey16_to_grey,
    "I;16N": _grey16_to_grey,
    "I": _grey16_to_grey,
    "F": _refuse_mode,
    "LAB": _refuse_mode,
}


def _gamma_remarks(image: Image.Image) -> list[str]:
    """Say that a PNG names a gamma that is not sRGB's; viewers differ in what they make of it, most of them nothing."""
    gamma = image.info.get("gamma", _SRGB_GAMMA)
    return [] if "srgb" in image.info or abs(gamma - _SRGB_GAMMA) < 0.01 else ["another gamma than sRGB's passed over"]


def _flatten(image: Image.Image, background: tuple[int, int, int]) -> tuple[Image.Image, list[str]]:
    """Return RGB or grey of 8 bits: colours by their profile, then transparency laid on the background."""
    image = _TO_8_BITS.get(image.mode, lambda same: same)(image)
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    grey = image.mode in ("1", "L", "LA")
    opaque = image if image.mode == "CMYK" else image.convert("L" if grey else "RGB")

    profile_bytes = image.info.get("icc_profile")
    opaque, remarks = to_srgb(opaque, profile_bytes) if profile_bytes else (opaque, _gamma_remarks(image))
    if alpha is None:
        return opaque, remarks

    sheet = Image.new("RGB", image.size, background)
    sheet.paste(opaque.convert("RGB"), mask=alpha)
    return sheet, [*remarks, "transparency laid on the background"]


def decode_image(data: bytes, channels: int, background: tuple[int, int, int] = (255, 255, 255)) -> Decoded:
    """Return the image in a file: upright, opaque, sRGB, 8 bits.

    Args:
        data: the file.
        channels: 1 for grey (the luma of ITU-R BT.601), 3 for RGB.
        background: what shows through transparent pixels, RGB in 0..255.

    Raises:
        RefusedImageError: it is no image, too large (by its header, before decoding), cut short or damaged, or of a
            kind whose pixels have no defined meaning.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about sizes, which are checked here, and about broken metadata
            stored = _load(data)
            remarks = ["first frame of an animation"] if getattr(stored, "is_animated", False) else []
            upright, turned = _upright(stored)
            flat, converted = _flatten(upright, background)
    except UnusableImageError:
        raise
    except UnidentifiedImageError:
        raise UnusableImageError("not an image of a known kind") from None
    except Image.DecompressionBombError:
        raise UnusableImageError(f"more than {LARGEST_IMAGE_PIXELS // 10**6} million pixels") from None
    except Exception as problem:  # a decoder raises whatever a hostile file leads it to
        raise UnusableImageError(_reason(problem)) from None
    image = flat.convert("L" if channels == 1 else "RGB")
    return Decoded(image, (*remarks, *turned, *converted))


def read_file(path: Path) -> bytes:
    """Return a file; one that has grown since it was listed must not fill the memory."""
    with path.open("rb") as file:
        content = file.read(LARGEST_FILE_BYTES + 1)
    if len(content) > LARGEST_FILE_BYTES:
        raise UnusableImageError(f"more than {LARGEST_FILE_BYTES >> 20} MiB")
    return content


def is_image_file(path: Path) -> bool:
    """Return whether a file is one image, by its header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with path.open("rb") as file:
                if file.read(512)[257:262] == b"ustar":
                    return False
            with Image.open(path, formats=FORMATS):
                return True
    except Exception:  # a parser raises whatever a file leads it to
        return False


def size_problem(size_bytes: int) -> str | None:
    """Return why a file of this size is not worth reading, or None."""
    if size_bytes > LARGEST_FILE_BYTES:
        return f"{size_bytes:,} bytes are more than {LARGEST_FILE_BYTES >> 20} MiB"
    return None if size_bytes else "empty file"
