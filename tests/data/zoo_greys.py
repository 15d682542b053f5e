"""Animals of the zoo without color, or with a list of colors."""

import struct

import numpy as np
from PIL import Image

from tests.data.zoo_parts import (
    BLACK,
    BLUE,
    GREEN,
    HEIGHT,
    WHITE,
    WIDTH,
    Animal,
    grey_picture,
    picture,
    png,
    saved,
    sixteen_bit_rows,
    tiff,
)


def palettes():
    indexed = picture().quantize(8, dither=Image.Dither.NONE)
    yield "palette.png", Animal(saved(indexed, "PNG"))
    yield "palette.gif", Animal(saved(indexed, "GIF"))
    yield "palette.bmp", Animal(saved(indexed, "BMP"))
    where_red = indexed.getpixel((0, 0))
    laid = ("transparency composited over the background",)
    see_through = (WHITE, GREEN, BLUE, WHITE)
    yield (
        "palette-one-transparent.png",
        Animal(saved(indexed, "PNG", transparency=where_red), see_through, remarks=laid),
    )
    alphas = bytes(128 if index == where_red else 255 for index in range(8))
    half_red = ((255, 127, 127), GREEN, BLUE, WHITE)
    yield "palette-half-transparent.png", Animal(saved(indexed, "PNG", transparency=alphas), half_red, 1, remarks=laid)
    yield "transparent.gif", Animal(saved(indexed, "GIF", transparency=where_red), see_through, remarks=laid)
    two_bit = [bytes([0x00, 0x05, 0x55])] * 4 + [bytes([0xAA, 0xAF, 0xFF])] * 4
    greys = tuple((level,) * 3 for level in (0, 85, 170, 255))
    yield "grey-2-bit.png", Animal(png(two_bit, 2, 0), greys)


def greys():
    levels = tuple((level,) * 3 for level in (0, 85, 170, 255))
    grey = Image.fromarray(grey_picture())
    yield "grey.png", Animal(saved(grey, "PNG"), levels)
    yield "grey.jpg", Animal(saved(grey.resize((192, 128), 0), "JPEG", quality=95), levels, 2, size=(192, 128))
    yield "grey.pgm", Animal(saved(grey, "PPM"), levels)
    laid = ("transparency composited over the background",)
    yield "grey-transparent-level.png", Animal(saved(grey, "PNG", transparency=0), (WHITE, *levels[1:]), remarks=laid)
    bits = Image.fromarray(grey_picture((0, 255, 255, 0))).convert("1")
    yield "one-bit.png", Animal(saved(bits, "PNG"), (BLACK, WHITE, WHITE, BLACK))
    yield "one-bit.tif", Animal(saved(bits, "TIFF", compression="group4"), (BLACK, WHITE, WHITE, BLACK))
    with_alpha = grey.copy()
    with_alpha.putalpha(Image.fromarray(grey_picture((0, 255, 255, 51))))
    yield "grey-alpha.png", Animal(saved(with_alpha, "PNG"), (WHITE, *levels[1:]), remarks=laid)
    deep = grey_picture((0, 32896, 200, 65535), np.uint16)  # 128 * 257, and what v >> 8 gets wrong
    sixteen = tuple((level,) * 3 for level in (0, 128, 1, 255))
    yield "grey-16.png", Animal(saved(Image.fromarray(deep), "PNG"), sixteen)
    yield "grey-16.tif", Animal(saved(Image.fromarray(deep), "TIFF"), sixteen)
    yield "grey-16-big-endian.tif", Animal(saved(Image.fromarray(deep.astype(">u2")), "TIFF"), sixteen)
    yield "grey-16.pgm", Animal(b"P5 12 8 65535\n" + deep.astype(">u2").tobytes(), sixteen)
    clear = (b"tRNS", struct.pack(">H", 32896))
    see_through = (BLACK, WHITE, *sixteen[2:])
    yield (
        "grey-16-transparent-level.png",
        Animal(png(sixteen_bit_rows(deep), 16, 0, [clear]), see_through, remarks=laid),
    )
    alpha = grey_picture((0, 65535, 65535, 65535), np.uint16)
    yield "grey-alpha-16.png", Animal(png(sixteen_bit_rows(deep, alpha), 16, 4), (WHITE, *sixteen[1:]), 1, remarks=laid)
    yield (
        "grey-32.tif",
        Animal(saved(Image.fromarray(deep.astype(np.int32) * 65537), "TIFF"), refusal="signed or 32-bit grey"),
    )
    yield "grey-12.tif", Animal(tiff({258: 12, 262: 1}, bytes(WIDTH * HEIGHT * 3 // 2)), refusal="12-bit grey")
    yield "grey-float.tif", Animal(saved(Image.fromarray(deep.astype(np.float32)), "TIFF"), refusal="mode F")
    white_is_zero = tiff({258: 16, 262: 0}, deep.astype("<u2").tobytes())
    inverted = tuple((level,) * 3 for level in (255, 127, 254, 0))
    yield "grey-16-white-is-zero.tif", Animal(white_is_zero, inverted)
    yield (
        "grey-white-is-zero.tif",
        Animal(
            tiff({258: 8, 262: 0}, grey_picture().tobytes()), tuple((255 - level,) * 3 for level in (0, 85, 170, 255))
        ),
    )
    refused = "signed or 32-bit grey"  # a dark one would silently be read as black
    dark = grey_picture((0, 100, 200, 255), np.int32)
    for size, kind, sample in ((16, "<i2", 2), (32, "<u4", 1), (32, "<i4", 2)):
        data = tiff({258: size, 262: 1, 339: sample}, dark.astype(kind).tobytes())
        yield f"grey-{size}-{kind[1:]}.tif", Animal(data, refusal=refused)
    yield "grey-8-i1.tif", Animal(tiff({258: 8, 262: 1, 339: 2}, (dark // 2).astype("i1").tobytes()), refusal=refused)
    yield "grey-maxval-100.pgm", Animal(b"P5 12 8 100\n" + grey_picture((0, 33, 67, 100)).tobytes(), levels, 1)
    middle = grey_picture((0, 341, 682, 1023), np.uint16).astype(">u2").tobytes()
    yield "grey-maxval-1023.pgm", Animal(b"P5 12 8 1023\n" + middle, levels)
    yield "grey-float.pfm", Animal(b"Pf 12 8 -1.0\n" + bytes(4 * WIDTH * HEIGHT), refusal="mode F")
    yield "grey.webp", Animal(saved(grey, "WEBP", lossless=True), levels)
    yield "grey.jp2", Animal(saved(grey, "JPEG2000"), levels)
    yield "grey-16.jp2", Animal(saved(Image.fromarray(deep), "JPEG2000"), sixteen)
    yield "grey.bmp", Animal(saved(grey, "BMP"), levels)
    yield "one-bit.pbm", Animal(saved(bits, "PPM"), (BLACK, WHITE, WHITE, BLACK))
    rows = [bytes([0x00] * 3 + [0x55] * 3)] * 4 + [bytes([0xAA] * 3 + [0xFF] * 3)] * 4
    yield "grey-4-bit.png", Animal(png(rows, 4, 0), levels)
