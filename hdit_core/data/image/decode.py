"""Decodes a file to upright 8-bit sRGB or grayscale pixels: the first step of preparation.

The format is detected from the content, never from the name. A file that is damaged, or has no defined meaning in 8-bit
sRGB, is refused with the reason. Pillow alone is not enough: its `convert("RGB")` clips 16-bit gray to white, shows the
color under transparent pixels, and ignores orientation and color space; its decoders repair damaged data silently.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from hdit_core.data.image.arrays.npy import is_npy
from hdit_core.data.image.color.cicp import color_space_to_srgb
from hdit_core.data.image.color.icc_profile import to_srgb
from hdit_core.data.image.color.palette import check_palette, palette_size, read_8_bit_palette
from hdit_core.data.image.exif import camera_space, read_exif, turn_upright
from hdit_core.data.image.file_facts import FileFacts
from hdit_core.data.image.frames import check_gif, check_webp, read_bmp
from hdit_core.data.image.jpeg import decode_jpeg
from hdit_core.data.image.jpeg2000_avif import CODESTREAM, JP2_SIGNATURE, read_avif, read_jpeg2000
from hdit_core.data.image.png import SIGNATURE, check_rows, read_png
from hdit_core.data.image.tiff_checks import RAW, check_data, check_raw, is_raw_of_own_kind, is_tiff
from hdit_core.data.image.unusable import UnusableImageError as UnusableImageError
from hdit_core.data.image.unusable import is_archive, not_an_image, reason_of
from hdit_core.files import naming

LARGEST_FILE_BYTES = 1 << 29  # larger files are videos or archives

FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM", "JPEG2000", "AVIF")
"""What is tried. Never EPS, which runs Ghostscript, nor formats that need another program or file."""

LARGEST_IMAGE_PIXELS = 100_000_000
FIRST_FRAME = "first frame of an animation"

_PHOTOMETRIC, _SAMPLE_FORMAT = 0x0106, 0x0153  # of TIFF
_WHITE_IS_ZERO = 0
_SRGB_GAMMA = 0.45455


@dataclass(frozen=True)
class Decoded:
    """An image of mode L or RGB, and remarks on what was done to it."""

    image: Image.Image
    remarks: tuple[str, ...]


def _open(data: bytes) -> ImageFile.ImageFile:
    """Read the header, and refuse what is too large; the pixels are not decoded."""
    image = Image.open(io.BytesIO(data), formats=FORMATS)
    if image.width * image.height > LARGEST_IMAGE_PIXELS:
        raise UnusableImageError(
            f"{image.width}x{image.height} pixels are more than {LARGEST_IMAGE_PIXELS // 10**6} million"
        )
    return image


def _check_depth(image: ImageFile.ImageFile) -> None:
    """Refuse sample formats whose range Pillow does not keep; this is known only before the pixels are decoded."""
    raw_modes = [str(tile.args[0] if isinstance(tile.args, tuple) else tile.args) for tile in image.tile]
    if any(raw.startswith("I;12") for raw in raw_modes):
        raise UnusableImageError("12-bit grey has no defined scale here")
    signed = 2 in image.tag_v2.get(_SAMPLE_FORMAT, ()) if isinstance(image, TiffImagePlugin.TiffImageFile) else False
    if signed or any(raw.startswith("I;32") for raw in raw_modes):
        raise UnusableImageError("signed or 32-bit grey has no defined range")
    if image.mode == "RGB" and "transparency" in image.info and any("16" in raw for raw in raw_modes):
        raise UnusableImageError("a transparent color of 16 bits, while Pillow reads 8 bits")


def _read_facts(data: bytes) -> FileFacts:
    """Return what Pillow does not read of a file, and refuse what its decoders get wrong."""
    if is_raw_of_own_kind(data):
        raise UnusableImageError(RAW)
    if data.startswith(SIGNATURE):
        return read_png(data)
    if data[4:8] == b"ftyp":
        return read_avif(data)
    if data.startswith((JP2_SIGNATURE, CODESTREAM)):
        return read_jpeg2000(data)
    if data.startswith(b"BM"):
        return read_bmp(data)
    if is_tiff(data):
        check_raw(data)
    return FileFacts(data)


def _check(data: bytes, image: ImageFile.ImageFile) -> None:
    """Refuse damage that a decoder would repair silently; it takes longer, so the header is read before."""
    if is_tiff(data):
        check_data(data)
    elif image.format == "GIF":
        check_gif(data)
    elif image.format == "WEBP":
        check_webp(data)


def _load(facts: FileFacts) -> tuple[ImageFile.ImageFile, Image.Image, list[str]]:
    """Return the opened file, its first frame, and remarks, or refuse it."""
    header = _open(facts.data)
    _check(facts.data, header)
    _check_depth(header)
    if facts.data.startswith(b"\xff\xd8"):
        return header, *decode_jpeg(facts.data, header)
    colors = palette_size(header)
    header.load()
    check_palette(header, colors)
    read_8_bit_palette(header)
    if header.format == "PNG":
        check_rows(facts.data, header)
    return header, header, []


# 0..65535 to 0..255: divided by 257 and rounded.
_TO_8_BITS_TABLE = ((np.arange(1 << 16, dtype=np.uint32) + 128) // 257).astype(np.uint8)


def _grey16_to_grey(image: Image.Image) -> Image.Image:
    """Scale 0..65535 to 0..255. A transparent level becomes alpha."""
    levels = np.asarray(image)
    if levels.max(initial=0) > 0xFFFF or levels.min(initial=0) < 0:
        raise UnusableImageError("grey beyond 16 bits has no defined range")
    grey = _TO_8_BITS_TABLE[levels]
    if getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _WHITE_IS_ZERO:  # Pillow applies it only up to 8 bits
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
    return [] if "srgb" in image.info or abs(gamma - _SRGB_GAMMA) < 0.01 else ["gamma other than sRGB ignored"]


def _to_srgb(image: Image.Image, header: Image.Image, facts: FileFacts) -> tuple[Image.Image, list[str]]:
    """Return an opaque image in sRGB, converted by cICP or nclx, an ICC profile, or the camera's color space.

    cICP of PNG has precedence over a profile, nclx of AVIF does not.
    """
    profile = facts.profile or header.info.get("icc_profile")
    if facts.space and image.mode != "CMYK" and (header.format == "PNG" or not profile):
        return color_space_to_srgb(image, facts.space)
    return to_srgb(image, profile) if profile else (image, _gamma_remarks(header))


def _flatten(
    image: Image.Image, header: Image.Image, facts: FileFacts, background: tuple[int, int, int]
) -> tuple[Image.Image, list[str]]:
    """Return RGB or grey of 8 bits: converted to sRGB, then transparency composited over the background."""
    image = _TO_8_BITS.get(image.mode, lambda same: same)(image)
    alpha = image.convert("RGBA").getchannel("A") if image.has_transparency_data else None
    grey = image.mode in ("1", "L", "LA")
    opaque = image if image.mode == "CMYK" else image.convert("L" if grey else "RGB")
    opaque, remarks = _to_srgb(opaque, header, facts)
    if alpha is None:
        return opaque, remarks

    sheet = Image.new("RGB", image.size, background)
    sheet.paste(opaque.convert("RGB"), mask=alpha)
    return sheet, [*remarks, "transparency composited over the background"]


def _decode(data: bytes, background: tuple[int, int, int]) -> Decoded:
    facts = _read_facts(data)
    header, stored, of_decoder = _load(facts)
    frames = [FIRST_FRAME] if getattr(header, "is_animated", False) else []
    exif = read_exif(header)
    if facts.space is None and not header.info.get("icc_profile"):
        facts = replace(facts, space=camera_space(exif))
    upright, turned = turn_upright(stored, exif)
    flat, converted = _flatten(upright, header, facts, background)
    remarks = dict.fromkeys((*frames, *facts.remarks, *of_decoder, *turned, *converted))
    return Decoded(flat, tuple(remarks))


def decode_image(data: bytes, channels: int | None, background: tuple[int, int, int] = (255, 255, 255)) -> Decoded:
    """Return the image in a file: upright, opaque, sRGB, 8 bits.

    Args:
        data: the file.
        channels: 1 for grayscale (the luma of ITU-R BT.601), 3 for RGB; None: those of the file.
        background: color behind transparent pixels, RGB in 0..255.

    Raises:
        UnusableImageError: it is not an image, too large (by its header, before decoding), truncated or damaged, or its
            pixels have no defined meaning.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about sizes, which are checked here, and about broken metadata
            decoded = _decode(data, background)
    except UnusableImageError:
        raise
    except UnidentifiedImageError:
        raise UnusableImageError(not_an_image(data)) from None
    except Image.DecompressionBombError:
        raise UnusableImageError(f"more than {LARGEST_IMAGE_PIXELS // 10**6} million pixels") from None
    except Exception as problem:  # a decoder can raise any exception on a malicious file
        raise UnusableImageError(reason_of(problem)) from None
    mode = {1: "L", 3: "RGB", None: decoded.image.mode}[channels]
    return replace(decoded, image=decoded.image.convert(mode))


def read_file(path: Path) -> bytes:
    """Return the content of a file; one that has grown since it was listed must not fill the memory."""
    with naming(path), path.open("rb") as file:
        content = file.read(LARGEST_FILE_BYTES + 1)
    if len(content) > LARGEST_FILE_BYTES:
        raise UnusableImageError(f"more than {LARGEST_FILE_BYTES >> 20} MiB")
    return content


def is_image_file(path: Path) -> bool:
    """Return whether a file is one image or array, by its header."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with naming(path), path.open("rb") as file:
                head = file.read(512)
            if is_archive(head):  # a tar starts with a file name, which can look like the header of an image
                return False
            if is_npy(head) or is_tiff(head):  # Pillow cannot open all of them
                return True
            with Image.open(path, formats=FORMATS):
                return True
    except Exception:  # a parser can raise any exception on a malicious file
        return False


def size_problem(size_bytes: int) -> str | None:
    """Return why a file of this size is not worth reading, or None."""
    if size_bytes > LARGEST_FILE_BYTES:
        return f"{size_bytes:,} bytes are more than {LARGEST_FILE_BYTES >> 20} MiB"
    return None if size_bytes else "empty file"
