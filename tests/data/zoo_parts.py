"""What the animals of the zoo are made of: the picture, and files written byte by byte where Pillow cannot."""

import io
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image

RED, GREEN, BLUE, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0)
QUADRANTS = (RED, GREEN, BLUE, WHITE)
HEIGHT, WIDTH = 8, 12
EXIF_ORIENTATIONS = {
    # what a camera has done to the upright picture: the inverse of what a viewer has to do
    1: None,
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


@dataclass
class Animal:
    """A file and what must come of it: pixels (its quadrants) or a refusal (part of the reason)."""

    data: bytes
    quadrants: tuple = QUADRANTS
    tolerance: int = 0
    refusal: str | None = None
    remarks: tuple = ()
    size: tuple = field(default=(WIDTH, HEIGHT))


def picture(scale=1):
    pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
    half_height, half_width = HEIGHT // 2, WIDTH // 2
    pixels[:half_height, :half_width], pixels[:half_height, half_width:] = RED, GREEN
    pixels[half_height:, :half_width], pixels[half_height:, half_width:] = BLUE, WHITE
    return Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))


def grey_picture(levels=(0, 85, 170, 255), dtype=np.uint8):
    quadrants = np.array(levels, dtype).reshape(2, 2)
    return quadrants.repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1)


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def exif(orientation):
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags.tobytes()


def png(rows, bits, color_type, chunks=(), interlaced=0):
    """Write a PNG byte by byte; rows are bytes already packed."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, color_type, 0, 0, interlaced)
    body = b"".join(b"\0" + row for row in rows)
    parts = [chunk(b"IHDR", header), *(chunk(*extra) for extra in chunks), chunk(b"IDAT", zlib.compress(body))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


def tiff(tags, body):
    """Write a TIFF byte by byte; the body is one strip, and a tag of several numbers of 16 bits is a tuple."""
    tags = {256: WIDTH, 257: HEIGHT, 259: 1, 277: 1, 279: len(body), **tags}
    several = b"".join(struct.pack(f"<{len(value)}H", *value) for value in tags.values() if isinstance(value, tuple))
    place = 8 + 2 + 12 * (len(tags) + 1) + 4
    tags[273] = place + len(several)
    entries = b""
    for tag, value in sorted(tags.items()):
        is_several = isinstance(value, tuple)
        kind, count = (3, len(value)) if is_several else (4, 1)
        entries += struct.pack("<HHII", tag, kind, count, place if is_several else value)
        place += 2 * len(value) if is_several else 0
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + several + body


def sixteen_bit_rows(*channels):
    return [row.astype(">u2").tobytes() for row in np.stack(channels, -1)]
