"""PNG chunks: checksums, the rows that are there, and colors; damaged texts and profiles never cost the picture."""

import struct
import zlib
from collections.abc import Iterator

from PIL import Image

from hdit_core.data.image.color.cicp import UNKNOWN, ColorSpace
from hdit_core.data.image.color.icc_profile import UNUSABLE
from hdit_core.data.image.file_facts import FileFacts
from hdit_core.data.image.unusable import UnusableImageError

SIGNATURE = b"\x89PNG\r\n\x1a\n"
LARGEST_PROFILE_BYTES = 16 << 20

CORRUPT_EXIF = "corrupt EXIF ignored"
OTHER_PRIMARIES = "primaries other than sRGB ignored"

# Chunks that affect pixels, their size or their orientation. The others (texts, times, print sizes) are dropped.
_PIXELS = (b"IHDR", b"PLTE", b"IDAT", b"IEND", b"tRNS", b"acTL", b"fcTL", b"fdAT")
_COLORS = (b"gAMA", b"cHRM", b"sRGB", b"cICP", b"iCCP")
_ORIENTATION = (b"eXIf",)
_XMP = b"XML:com.adobe.xmp\0"
_SRGB_CHROMATICITIES = (31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
_TOLERANCE = 500  # of 100,000
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes, bytes, bool]]:
    """Yield kind, content and bytes of each chunk, and whether its checksum is right."""
    place = len(SIGNATURE)
    while place < len(data):
        if place + 12 > len(data):
            raise UnusableImageError("truncated PNG: cut in a chunk")
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        if end > len(data):
            raise UnusableImageError("truncated PNG: cut in a chunk")
        chunk = data[place:end]
        yield kind, chunk[8:-4], chunk, zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:])
        if kind == b"IEND":
            return
        place = end
    raise UnusableImageError("truncated PNG: its end is missing")


def _profile(content: bytes) -> bytes | None:
    """Return the ICC profile of an iCCP chunk, None if it is damaged or too large."""
    _, _, compressed = content.partition(b"\0")
    try:
        unpacker = zlib.decompressobj()
        profile = unpacker.decompress(compressed[1:], LARGEST_PROFILE_BYTES)
        return profile if unpacker.eof else None
    except zlib.error:
        return None


def _space(colors: dict[bytes, bytes]) -> tuple[ColorSpace | None, tuple[str, ...]]:
    """Return the color space that cICP names, and remarks on what is not used."""
    if b"cICP" in colors and len(colors[b"cICP"]) == 4:
        primaries, transfer, matrix, is_full_range = colors[b"cICP"]
        if matrix or is_full_range != 1:
            return None, (UNKNOWN,)
        return ColorSpace(primaries, transfer), ()
    if b"cHRM" in colors and not {b"iCCP", b"sRGB"} & colors.keys() and len(colors[b"cHRM"]) == 32:
        found = struct.unpack(">8I", colors[b"cHRM"])
        if max(abs(one - other) for one, other in zip(found, _SRGB_CHROMATICITIES, strict=True)) > _TOLERANCE:
            return None, (OTHER_PRIMARIES,)
    return None, ()


def read_png(data: bytes) -> FileFacts:
    """Return a PNG without the chunks that do not affect its pixels, and its color space.

    Raises:
        UnusableImageError: it is truncated, or a chunk that affects pixels is damaged.
    """
    kept, colors, profile, remarks = [SIGNATURE], {}, None, []
    for kind, content, chunk, is_right in _chunks(data):
        if not is_right and (kind in _PIXELS or kind[0] & 0x20 == 0):
            raise UnusableImageError(f"broken PNG file: checksum of {kind.decode(errors='replace')}")
        if kind == b"iCCP":
            profile = _profile(content) if is_right else None
            remarks += [] if profile else [UNUSABLE]
        if kind in _ORIENTATION and not is_right:
            remarks.append(CORRUPT_EXIF)
        if kind in _COLORS and is_right:
            colors[kind] = content
        is_xmp = kind == b"iTXt" and content.startswith(_XMP)
        wanted = kind in _PIXELS or kind[0] & 0x20 == 0 or kind in (b"gAMA", b"sRGB")
        if wanted or (is_right and (kind in _ORIENTATION or (is_xmp and len(content) < 1 << 20))):
            kept.append(chunk)
    space, of_space = _space(colors)
    return FileFacts(b"".join(kept), profile, space, (*remarks, *of_space))


def has_chunk(data: bytes, kind: bytes) -> bool:
    """Return whether a PNG has a chunk of a kind."""
    return any(found == kind for found, *_ in _chunks(data))


def _size_of_rows(width: int, height: int, bits: int, is_interlaced: bool) -> int:
    """Return how many bytes the rows of an image take, each with its filter."""
    if not is_interlaced:
        return height * (1 + -(-width * bits // 8))
    total = 0
    for left, top, step_x, step_y in _ADAM7:
        columns, rows = -(-(width - left) // step_x), -(-(height - top) // step_y)
        total += rows * (1 + -(-columns * bits // 8)) if columns > 0 and rows > 0 else 0
    return total


def check_rows(data: bytes, image: Image.Image) -> None:
    """Refuse a PNG with fewer rows than in its header; Pillow leaves the rest black.

    The rows are counted only if the last one is black or the file is interlaced, since that takes time.

    Raises:
        UnusableImageError: rows are missing.
    """
    width, height, depth, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    extrema = image.crop((0, image.height - 1, image.width, image.height)).getextrema()
    is_black = not any(high for _, high in (extrema if isinstance(extrema[0], tuple) else (extrema,)))
    if not (is_black or interlaced):
        return
    wanted = _size_of_rows(width, height, depth * _CHANNELS.get(color, 1), bool(interlaced))
    unpacker, found = zlib.decompressobj(), 0
    for kind, content, _, _ in _chunks(data):
        if kind == b"IDAT":
            found += len(unpacker.decompress(content, max(1, wanted + 1 - found)))
            while unpacker.unconsumed_tail and found < wanted:
                found += len(unpacker.decompress(unpacker.unconsumed_tail, wanted + 1 - found))
    if found < wanted:
        raise UnusableImageError("truncated PNG: fewer rows than its header says")
