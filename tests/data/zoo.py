"""Small files of every kind a folder of pictures may hold, each with what must come of it.

The picture is 12 wide and 8 high; its quadrants are red, green (right), blue (below) and white (below right) unless a
case says otherwise. Everything is made on the spot by Pillow, or byte by byte where Pillow cannot write it.
"""

import io
import struct
import zlib
from dataclasses import dataclass, field

import numpy as np
from PIL import Image, ImageChops, ImageCms

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


def png(rows, bits, colour_type, chunks=()):
    """Write a PNG byte by byte; rows are bytes already packed."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", WIDTH, HEIGHT, bits, colour_type, 0, 0, 0)
    body = b"".join(b"\0" + row for row in rows)
    parts = [chunk(b"IHDR", header), *(chunk(*extra) for extra in chunks), chunk(b"IDAT", zlib.compress(body))]
    return b"\x89PNG\r\n\x1a\n" + b"".join([*parts, chunk(b"IEND", b"")])


def twelve_bit_tiff():
    """Write a grey TIFF of 12 bits a pixel, two pixels in three bytes."""
    tags = {
        256: WIDTH,
        257: HEIGHT,
        258: 12,
        259: 1,
        262: 1,
        273: 8 + 2 + 8 * 12 + 4,
        277: 1,
        279: WIDTH * HEIGHT * 3 // 2,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4 + WIDTH * HEIGHT * 3 // 2)


def sixteen_bit_rows(*channels):
    return [row.astype(">u2").tobytes() for row in np.stack(channels, -1)]


def orientations():
    for number, done in EXIF_ORIENTATIONS.items():
        turned = picture() if done is None else picture().transpose(done)
        said = () if number == 1 else ("turned upright by EXIF orientation",)
        yield f"orientation-{number}.png", Animal(saved(turned, "PNG", exif=exif(number)), remarks=said)
        large = picture(16) if done is None else picture(16).transpose(done)
        data = saved(large, "JPEG", exif=exif(number), quality=95, subsampling=0)
        yield f"orientation-{number}.jpg", Animal(data, tolerance=2, remarks=said, size=(192, 128))
    turned = picture().transpose(EXIF_ORIENTATIONS[6])
    said = ("turned upright by EXIF orientation",)
    yield "orientation-6.webp", Animal(saved(turned, "WEBP", lossless=True, exif=exif(6)), remarks=said)
    yield "orientation-6.tif", Animal(saved(turned, "TIFF", tiffinfo={0x0112: 6}))  # Pillow itself turns these
    yield "orientation-99.png", Animal(saved(picture(), "PNG", exif=exif(99)))
    corrupt = ("corrupt EXIF passed over",)
    yield "exif-garbage.png", Animal(saved(picture(), "PNG", exif=b"Exif\0\0" + b"\xff" * 40), remarks=corrupt)


def palettes():
    indexed = picture().quantize(8, dither=Image.Dither.NONE)
    yield "palette.png", Animal(saved(indexed, "PNG"))
    yield "palette.gif", Animal(saved(indexed, "GIF"))
    yield "palette.bmp", Animal(saved(indexed, "BMP"))
    where_red = indexed.getpixel((0, 0))
    laid = ("transparency laid on the background",)
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
    laid = ("transparency laid on the background",)
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
    yield "grey-32.tif", Animal(saved(Image.fromarray(deep.astype(np.int32) * 65537), "TIFF"), refusal="32-bit grey")
    yield "grey-12.tif", Animal(twelve_bit_tiff(), refusal="12-bit grey")
    yield "grey-float.tif", Animal(saved(Image.fromarray(deep.astype(np.float32)), "TIFF"), refusal="mode F")


def colours():
    yield "rgb.png", Animal(saved(picture(), "PNG"))
    yield "rgb.bmp", Animal(saved(picture(), "BMP"))
    yield "rgb.ppm", Animal(saved(picture(), "PPM"))
    yield "rgb.tif", Animal(saved(picture(), "TIFF"))
    yield "rgb-lzw.tif", Animal(saved(picture(), "TIFF", compression="tiff_lzw"))
    yield "rgb.webp", Animal(saved(picture(), "WEBP", lossless=True))
    yield "rgb.jp2", Animal(saved(picture(), "JPEG2000"))
    lossy = {"tolerance": 3, "size": (192, 128)}
    yield "rgb.avif", Animal(saved(picture(16), "AVIF", quality=100, subsampling="4:4:4"), **lossy)
    yield "rgb.jpg", Animal(saved(picture(16), "JPEG", quality=95, subsampling=0), **lossy)
    yield "progressive.jpg", Animal(saved(picture(16), "JPEG", quality=95, subsampling=0, progressive=True), **lossy)
    yield "png-by-name.jpg", Animal(saved(picture(), "PNG"))
    yield "no-ending", Animal(saved(picture(16), "JPEG", quality=95, subsampling=0), **lossy)
    deep = np.asarray(picture()).astype(np.uint16) * 257
    yield "rgb-16.png", Animal(png(sixteen_bit_rows(*np.moveaxis(deep, -1, 0)), 16, 2))
    middle = np.full((HEIGHT, WIDTH), 32896, np.uint16)
    yield "rgb-16-middle.png", Animal(png(sixteen_bit_rows(middle, middle, middle), 16, 2), ((128,) * 3,) * 4, 1)
    clear = (b"tRNS", struct.pack(">HHH", 65535, 0, 0))
    refused = "transparent colour of 16 bits"
    yield "rgb-16-clear.png", Animal(png(sixteen_bit_rows(*np.moveaxis(deep, -1, 0)), 16, 2, [clear]), refusal=refused)
    lab = ImageCms.profileToProfile(
        picture(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    yield "lab.tif", Animal(saved(lab, "TIFF"), refusal="mode LAB")


def transparencies():
    laid = ("transparency laid on the background",)
    half = picture().convert("RGBA")
    half.putalpha(Image.fromarray(grey_picture((0, 128, 255, 0))))
    expected = (WHITE, (127, 255, 127), BLUE, WHITE)
    yield "rgba.png", Animal(saved(half, "PNG"), expected, 1, remarks=laid)
    yield "rgba.webp", Animal(saved(half, "WEBP", lossless=True, exact=True), expected, 1, remarks=laid)
    yield "rgba.tif", Animal(saved(half, "TIFF"), expected, 1, remarks=laid)
    clear_green = (RED, WHITE, BLUE, WHITE)
    yield "rgb-transparent-colour.png", Animal(saved(picture(), "PNG", transparency=GREEN), clear_green, remarks=laid)
    deep = np.moveaxis(np.asarray(half).astype(np.uint16) * 257, -1, 0)
    yield "rgba-16.png", Animal(png(sixteen_bit_rows(*deep), 16, 6), expected, 1, remarks=laid)


def ycck(image):
    """Write a JPEG of Y, Cb, Cr of the three inks, and black inverted: Photoshop's way, which Pillow only reads."""
    black = Image.new("L", image.size, 0)
    planes = [plane.point(lambda level: 255 - level) for plane in ImageChops.invert(image).convert("YCbCr").split()]
    data = saved(Image.merge("CMYK", (*planes, black)), "JPEG", quality=95, subsampling=0)
    place = data.index(b"Adobe") + 11
    return data[:place] + b"\x02" + data[place + 1 :]


def inks():
    lossy = {"tolerance": 3, "size": (192, 128)}
    cmyk = picture(16).convert("CMYK")
    yield "cmyk.jpg", Animal(saved(cmyk, "JPEG", quality=95, subsampling=0), **lossy)
    yield "ycck.jpg", Animal(ycck(picture(16)), **lossy)
    yield "cmyk.tif", Animal(saved(picture().convert("CMYK"), "TIFF"))
    unusable = ("unusable colour profile passed over",)
    data = saved(cmyk, "JPEG", quality=95, subsampling=0, icc_profile=b"no profile")
    yield "cmyk-broken-profile.jpg", Animal(data, remarks=unusable, **lossy)


def exchanged_profile():
    """Return sRGB with red and green exchanged, under another name."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), "xRGB".encode("utf-16-be"))


def profiles():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "srgb-profile.png", Animal(saved(picture(), "PNG", icc_profile=srgb))
    converted = ("converted to sRGB by its colour profile",)
    exchanged = (GREEN, RED, BLUE, WHITE)
    data = saved(picture(), "PNG", icc_profile=exchanged_profile())
    yield "exchanged-profile.png", Animal(data, exchanged, 1, remarks=converted)
    with_alpha = picture().convert("RGBA")
    with_alpha.putalpha(Image.fromarray(grey_picture((255, 0, 255, 255))))
    data = saved(with_alpha, "PNG", icc_profile=exchanged_profile())
    laid = "transparency laid on the background"
    yield "profile-and-alpha.png", Animal(data, (GREEN, WHITE, BLUE, WHITE), 1, remarks=(*converted, laid))
    indexed = picture().quantize(8, dither=Image.Dither.NONE)
    data = saved(indexed, "PNG", icc_profile=exchanged_profile())
    yield "profile-and-palette.png", Animal(data, exchanged, 1, remarks=converted)
    unusable = ("unusable colour profile passed over",)
    yield "broken-profile.png", Animal(saved(picture(), "PNG", icc_profile=b"no profile"), remarks=unusable)


def animations():
    first = ("first frame of an animation",)
    others = [Image.new("RGB", (WIDTH, HEIGHT), BLACK)] * 2
    yield "animated.gif", Animal(saved(picture(), "GIF", save_all=True, append_images=others), remarks=first)
    yield "animated.png", Animal(saved(picture(), "PNG", save_all=True, append_images=others), remarks=first)
    data = saved(picture(), "WEBP", save_all=True, append_images=others, lossless=True)
    yield "animated.webp", Animal(data, remarks=first)


def shapes():
    for name, size in {"tall.png": (1, 10_000), "wide.png": (10_000, 1), "point.png": (1, 1)}.items():
        yield name, Animal(saved(Image.new("RGB", size, RED), "PNG"), (RED,) * 4, size=size)


def broken():
    large = saved(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")
    yield "truncated.jpg", Animal(large[: len(large) // 2], refusal="truncated")
    for kind, reason in {"PNG": "Truncated File Read", "WEBP": "decoder", "GIF": "truncated"}.items():
        data = saved(Image.effect_noise((64, 64), 50).convert("RGB"), kind)
        yield f"truncated.{kind.lower()}", Animal(data[: len(data) // 2], refusal=reason)
    good = saved(Image.effect_noise((64, 64), 50), "PNG")
    yield "bad-checksum.png", Animal(good[:200] + bytes([good[200] ^ 1]) + good[201:], refusal="broken PNG file")
    bomb = bytearray(saved(picture(), "PNG"))
    bomb[16:24] = struct.pack(">II", 13_400, 13_400)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    yield "bomb-180-million.png", Animal(bytes(bomb), refusal="more than 100 million")
    bomb[16:24] = struct.pack(">II", 10_001, 10_000)
    bomb[29:33] = struct.pack(">I", zlib.crc32(bomb[12:29]))
    yield "bomb-100-million.png", Animal(bytes(bomb), refusal="more than 100 million")
    yield "text.jpg", Animal(b"not an image at all\n" * 20, refusal="not an image of a known kind")
    yield "empty.png", Animal(b"", refusal="not an image of a known kind")
    yield "page.html", Animal(b"<html>404</html>", refusal="not an image of a known kind")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    yield "program.eps", Animal(postscript, refusal="not an image of a known kind")
    yield "header-only.png", Animal(saved(picture(), "PNG")[:33], refusal="not an image of a known kind")


def animals():
    """Return every file by its name."""
    groups = (
        orientations, palettes, greys, colours, transparencies, inks, profiles, animations, shapes, broken
    )  # fmt: skip
    return {name: animal for group in groups for name, animal in group()}
