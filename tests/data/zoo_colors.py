"""Animals of the zoo in colors: of light, of ink, half transparent, and explained by a profile."""

import struct

import numpy as np
import PIL
from PIL import Image, ImageChops, ImageCms

from tests.data.zoo_parts import (
    BLUE,
    GREEN,
    HEIGHT,
    RED,
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


def colors():
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
    refused = "transparent color of 16 bits"
    yield "rgb-16-clear.png", Animal(png(sixteen_bit_rows(*np.moveaxis(deep, -1, 0)), 16, 2, [clear]), refusal=refused)
    lab = ImageCms.profileToProfile(
        picture(), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    yield "lab.tif", Animal(saved(lab, "TIFF"), refusal="mode LAB")
    tiff_16 = tiff({258: (16, 16, 16), 262: 2, 277: 3}, deep.astype("<u2").tobytes())
    yield "rgb-16.tif", Animal(tiff_16)
    yield "rgb-16.ppm", Animal(b"P6 12 8 65535\n" + deep.astype(">u2").tobytes())
    plain = " ".join(map(str, np.asarray(picture()).ravel()))
    yield "rgb-plain.ppm", Animal(f"P3 12 8 255\n{plain}".encode())
    if int(PIL.__version__.split(".")[0]) >= 13:  # Pillow 12 calls it truncated
        yield "ycbcr.tif", Animal(saved(picture().convert("YCbCr"), "TIFF"), tolerance=1)
    yield "ycbcr-jpeg.tif", Animal(saved(picture(16), "TIFF", compression="jpeg", quality=95), **lossy)
    yield "rgb.j2k", Animal(saved(picture(), "JPEG2000", no_jp2=True))
    adobe_rgb = saved(picture(16), "JPEG", quality=95, subsampling=0, keep_rgb=True)
    yield "rgb-not-ycc.jpg", Animal(adobe_rgb, **lossy)
    yield "followed-by-a-zip.jpg", Animal(saved(picture(16), "JPEG", quality=95, subsampling=0) + b"PK\3\4", **lossy)
    rows = [row.tobytes() for row in np.asarray(picture())]
    passed_over = ("gamma other than sRGB ignored",)
    yield "gamma-1.png", Animal(png(rows, 8, 2, [(b"gAMA", struct.pack(">I", 100_000))]), remarks=passed_over)
    yield "gamma-of-srgb.png", Animal(png(rows, 8, 2, [(b"gAMA", struct.pack(">I", 45_455))]))
    gamma_and_srgb = [(b"sRGB", b"\0"), (b"gAMA", struct.pack(">I", 100_000))]
    yield "gamma-and-srgb.png", Animal(png(rows, 8, 2, gamma_and_srgb))
    yield "too-many-rows.png", Animal(png(rows * 1000, 8, 2))


def transparencies():
    laid = ("transparency composited over the background",)
    half = picture().convert("RGBA")
    half.putalpha(Image.fromarray(grey_picture((0, 128, 255, 0))))
    expected = (WHITE, (127, 255, 127), BLUE, WHITE)
    yield "rgba.png", Animal(saved(half, "PNG"), expected, 1, remarks=laid)
    yield "rgba.webp", Animal(saved(half, "WEBP", lossless=True, exact=True), expected, 1, remarks=laid)
    yield "rgba.tif", Animal(saved(half, "TIFF"), expected, 1, remarks=laid)
    clear_green = (RED, WHITE, BLUE, WHITE)
    yield "rgb-transparent-color.png", Animal(saved(picture(), "PNG", transparency=GREEN), clear_green, remarks=laid)
    deep = np.moveaxis(np.asarray(half).astype(np.uint16) * 257, -1, 0)
    yield "rgba-16.png", Animal(png(sixteen_bit_rows(*deep), 16, 6), expected, 1, remarks=laid)
    yield "rgba.jp2", Animal(saved(half, "JPEG2000"), expected, 1, remarks=laid)
    large = half.resize((192, 128), Image.Resampling.NEAREST)
    lossy = {"tolerance": 3, "size": (192, 128), "remarks": laid}
    yield "rgba-lossy.webp", Animal(saved(large, "WEBP", quality=100), expected, **lossy)
    yield "rgba.avif", Animal(saved(large, "AVIF", quality=100, subsampling="4:4:4"), expected, **lossy)
    yield "rgbx.bmp", Animal(saved(half, "BMP"))  # its fourth byte means nothing


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
    unusable = ("unusable color profile ignored",)
    data = saved(cmyk, "JPEG", quality=95, subsampling=0, icc_profile=b"no profile")
    yield "cmyk-broken-profile.jpg", Animal(data, remarks=unusable, **lossy)


def grey_profile(gamma):
    """Return an ICC profile for grey of one gamma, written byte by byte."""
    text = b"desc" + bytes(4) + struct.pack(">I", 5) + b"grey\0" + bytes(4 + 4 + 2 + 1 + 67)
    white = b"XYZ " + bytes(4) + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    curve = b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256)) + bytes(2)
    parts, place, table = [(b"desc", text), (b"wtpt", white), (b"kTRC", curve)], 128 + 4 + 3 * 12, b""
    for name, part in parts:
        table += name + struct.pack(">II", place, len(part))
        place += -(-len(part) // 4) * 4
    body = b"".join(part.ljust(-(-len(part) // 4) * 4, b"\0") for _, part in parts)
    head = struct.pack(">I4sI4s4s4s", place, b"\0\0\0\0", 0x02100000, b"mntr", b"GRAY", b"XYZ ") + bytes(12) + b"acsp"
    head = head.ljust(68, b"\0") + struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)
    return head.ljust(128, b"\0") + struct.pack(">I", 3) + table + body


def exchanged_profile(name="xRGB"):
    """Return sRGB with red and green exchanged, under another name or not."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red, green = profile.index(b"rXYZ"), profile.index(b"gXYZ")
    profile[red : red + 4], profile[green : green + 4] = b"gXYZ", b"rXYZ"
    return bytes(profile).replace("sRGB".encode("utf-16-be"), name.encode("utf-16-be"))


def profiles():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    yield "srgb-profile.png", Animal(saved(picture(), "PNG", icc_profile=srgb))
    converted = ("converted to sRGB by its color profile",)
    exchanged = (GREEN, RED, BLUE, WHITE)
    data = saved(picture(), "PNG", icc_profile=exchanged_profile())
    yield "exchanged-profile.png", Animal(data, exchanged, 1, remarks=converted)
    with_alpha = picture().convert("RGBA")
    with_alpha.putalpha(Image.fromarray(grey_picture((255, 0, 255, 255))))
    data = saved(with_alpha, "PNG", icc_profile=exchanged_profile())
    laid = "transparency composited over the background"
    yield "profile-and-alpha.png", Animal(data, (GREEN, WHITE, BLUE, WHITE), 1, remarks=(*converted, laid))
    indexed = picture().quantize(8, dither=Image.Dither.NONE)
    data = saved(indexed, "PNG", icc_profile=exchanged_profile())
    yield "profile-and-palette.png", Animal(data, exchanged, 1, remarks=converted)
    unusable = ("unusable color profile ignored",)
    yield "broken-profile.png", Animal(saved(picture(), "PNG", icc_profile=b"no profile"), remarks=unusable)
    linear = grey_profile(1.0)
    half_of_light = tuple((level,) * 3 for level in (0, 188, 255, 255))  # 128/255 of the light is 188 in sRGB
    middle = Image.fromarray(grey_picture((0, 128, 255, 255)))
    yield "grey-profile.png", Animal(saved(middle, "PNG", icc_profile=linear), half_of_light, 1, remarks=converted)
    data = saved(middle.convert("RGB"), "PNG", icc_profile=linear)
    as_it_is = tuple((level,) * 3 for level in (0, 128, 255, 255))
    yield "colors-with-grey-profile.png", Animal(data, as_it_is, remarks=unusable)
    data = saved(middle, "PNG", icc_profile=exchanged_profile())
    yield "grey-with-color-profile.png", Animal(data, as_it_is, 1, remarks=converted)
    named_srgb = saved(picture(), "PNG", icc_profile=exchanged_profile("sRGB"))
    yield "another-profile-named-srgb.png", Animal(named_srgb, exchanged, 1, remarks=converted)
