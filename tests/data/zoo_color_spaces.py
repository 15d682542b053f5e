"""Animals of the zoo whose colors are named otherwise than by an ICC profile of their own kind's.

The expected values were computed from the matrices and curves that the CSS Color 4 specification publishes.
"""

import struct

import numpy as np
from PIL import Image, ImageCms

from tests.data.zoo_colors import exchanged_profile, grey_profile
from tests.data.zoo_parts import HEIGHT, WIDTH, Animal, grey_picture, png, saved

MIXED = ((200, 100, 50), (50, 160, 90), (40, 60, 180), (220, 220, 220))
CONVERTED = ("converted to sRGB by its color space",)
UNKNOWN = ("unknown color space taken as sRGB",)
HDR = "high dynamic range .*tone-map it first"

# Primaries and transfer (ITU-T H.273), and what becomes of MIXED.
SPACES = {
    "srgb": ((1, 13), MIXED, ()),
    "p3": ((12, 13), ((215, 93, 31), (0, 163, 82), (34, 61, 187), (220, 220, 220)), CONVERTED),
    "bt2020": ((9, 14), ((241, 76, 29), (0, 168, 79), (0, 60, 188), (220, 220, 220)), CONVERTED),
    "linear": ((1, 8), ((229, 168, 122), (122, 208, 160), (110, 133, 219), (239, 239, 239)), CONVERTED),
    "p3-linear": ((12, 8), ((240, 165, 114), (89, 210, 156), (104, 134, 225), (239, 239, 239)), CONVERTED),
    "gamma-22": ((1, 4), ((201, 100, 46), (46, 161, 90), (35, 57, 181), (221, 221, 221)), CONVERTED),
    "gamma-28": ((1, 5), ((189, 76, 26), (26, 142, 66), (17, 36, 165), (212, 212, 212)), CONVERTED),
    "bt709": ((1, 1), MIXED, ()),
    "unspecified": ((2, 2), MIXED, ()),
    "unknown-primaries": ((77, 13), MIXED, UNKNOWN),
    "unknown-transfer": ((1, 77), MIXED, UNKNOWN),
}


def mixed(scale=1):
    pixels = np.array(MIXED, np.uint8).reshape(2, 2, 3).repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1)
    return Image.fromarray(pixels.repeat(scale, 0).repeat(scale, 1))


def with_cicp(profile, primaries, transfer):
    """Add the tag `cicp`, of ICC 4.4, to a profile."""
    count = int.from_bytes(profile[128:132])
    body = profile[132 + 12 * count :]
    body += bytes(-len(body) % 4)
    place = 132 + 12 * (count + 1) + len(body)
    tags = b"".join(
        struct.pack(">4sII", kind, start + 12, size)
        for kind, start, size in struct.iter_unpack(">4sII", profile[132 : 132 + 12 * count])
    )
    tags += struct.pack(">4sII", b"cicp", place, 12)
    content = (
        profile[4:128]
        + struct.pack(">I", count + 1)
        + tags
        + body
        + b"cicp"
        + bytes(4)
        + bytes([primaries, transfer, 0, 1])
    )
    return struct.pack(">I", len(content) + 4) + content


def rows():
    return [row.tobytes() for row in np.asarray(mixed())]


def cicp(primaries, transfer, matrix=0, full_range=1):
    return b"cICP", bytes([primaries, transfer, matrix, full_range])


def avif(primaries, transfer, **options):
    """Write an AVIF and name another space in its color box."""
    data = bytearray(saved(mixed(16), "AVIF", quality=100, subsampling="4:4:4", **options))
    struct.pack_into(">HH", data, data.index(b"colrnclx") + 8, primaries, transfer)
    return bytes(data)


def named_spaces():
    for name, (numbers, expected, remarks) in SPACES.items():
        yield f"cicp-{name}.png", Animal(png(rows(), 8, 2, [cicp(*numbers)]), expected, 1, remarks=remarks)
        lossy = {"tolerance": 6, "size": (192, 128)}
        yield f"nclx-{name}.avif", Animal(avif(*numbers), expected, remarks=remarks, **lossy)
    for name, transfer in (("pq", 16), ("hlg", 18)):
        yield f"cicp-{name}.png", Animal(png(rows(), 8, 2, [cicp(9, transfer)]), refusal=HDR)
        yield f"nclx-{name}.avif", Animal(avif(9, transfer), refusal=HDR)
    narrow = png(rows(), 8, 2, [cicp(12, 13, 0, 0)])
    yield "cicp-narrow-range.png", Animal(narrow, MIXED, remarks=UNKNOWN)
    middle = grey_picture((0, 128, 188, 255))
    linear = png([row.tobytes() for row in middle], 8, 0, [cicp(1, 8)])
    light = tuple((level,) * 3 for level in (0, 188, 223, 255))
    yield "cicp-linear-grey.png", Animal(linear, light, 1, remarks=CONVERTED)
    alpha = mixed().convert("RGBA")
    alpha.putalpha(Image.fromarray(grey_picture((255, 0, 255, 255))))
    data = png([row.tobytes() for row in np.asarray(alpha)], 8, 6, [cicp(12, 13)])
    expected = (SPACES["p3"][1][0], (255, 255, 255), *SPACES["p3"][1][2:])
    laid = (*CONVERTED, "transparency composited over the background")
    yield "cicp-p3-and-alpha.png", Animal(data, expected, 1, remarks=laid)
    deep = [row.astype(">u2").tobytes() for row in np.asarray(mixed()).astype(np.uint16) * 257]
    yield "cicp-p3-16.png", Animal(png(deep, 16, 2, [cicp(12, 13)]), SPACES["p3"][1], 1, remarks=CONVERTED)


def profiles_and_others():
    by_profile = ("converted to sRGB by its color profile",)
    exchanged = tuple((green, red, blue) for red, green, blue in MIXED)
    both = saved(mixed(), "PNG", icc_profile=exchanged_profile())
    end = both.index(b"iCCP") - 4
    chunk = png(rows(), 8, 2, [cicp(12, 13)])
    chunk = chunk[chunk.index(b"cICP") - 4 : chunk.index(b"cICP") + 12]
    yield "cicp-before-profile.png", Animal(
        both[:end] + chunk + both[end:], SPACES["p3"][1], 1, remarks=CONVERTED
    )  # fmt: skip
    data = avif(12, 13, icc_profile=exchanged_profile())
    yield "profile-before-nclx.avif", Animal(data, exchanged, 6, remarks=by_profile, size=(192, 128))
    chromaticities = struct.pack(">8I", 31270, 32900, 68000, 32000, 26500, 69000, 15000, 6000)
    passed_over = ("primaries other than sRGB ignored",)
    yield "chrm-p3.png", Animal(png(rows(), 8, 2, [(b"cHRM", chromaticities)]), MIXED, remarks=passed_over)
    chromaticities = struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000)
    yield "chrm-srgb.png", Animal(png(rows(), 8, 2, [(b"cHRM", chromaticities)]), MIXED)
    body = np.asarray(mixed())[::-1, :, ::-1].tobytes()
    profile = exchanged_profile()
    header = struct.pack("<IiiHHIIiiII", 124, WIDTH, HEIGHT, 1, 24, 0, len(body), 0, 0, 0, 0)
    header += bytes(16) + b"DEBM" + bytes(48) + struct.pack("<IIII", 4, 124 + len(body), len(profile), 0)
    bmp = b"BM" + struct.pack("<IHHI", 14 + 124 + len(body) + len(profile), 0, 0, 138) + header + body + profile
    yield "profile-in.bmp", Animal(bmp, exchanged, 1, remarks=by_profile)
    header = struct.pack("<IiiHHIIiiII", 108, WIDTH, HEIGHT, 1, 24, 0, len(body), 0, 0, 0, 0) + bytes(20)
    for name, gamma, remarks in (("calibrated.bmp", 1 << 16, UNKNOWN), ("not-calibrated.bmp", 0, ())):
        bmp = (
            b"BM"
            + struct.pack("<IHHI", 122 + len(body), 0, 0, 122)
            + header
            + bytes(36)
            + struct.pack("<3I", *[gamma] * 3)
        )
        yield name, Animal(bmp + body, MIXED, remarks=remarks)
    jp2 = saved(mixed(), "JPEG2000")
    place = jp2.index(b"colr") - 4
    (size,) = struct.unpack(">I", jp2[place : place + 4])
    colr = struct.pack(">I", 11 + len(profile)) + b"colr\x02\0\0" + profile
    grown = struct.unpack(">I", jp2[jp2.index(b"jp2h") - 4 : jp2.index(b"jp2h")])[0] + len(colr) - size
    head = jp2[: jp2.index(b"jp2h") - 4] + struct.pack(">I", grown) + jp2[jp2.index(b"jp2h") : place]
    yield "profile-in.jp2", Animal(head + colr + jp2[place + size :], exchanged, 1, remarks=by_profile)
    lab = jp2.replace(b"colr\x01\0\0\0\0\0\x10", b"colr\x01\0\0\0\0\0\x0e")
    yield "lab.jp2", Animal(lab, refusal="color space 14")
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0xA001] = 2
    adobe = ((227, 100, 42), (0, 161, 85), (21, 57, 185), (221, 221, 221))
    options = {"quality": 98, "subsampling": 0}
    data = saved(mixed(16), "JPEG", exif=tags.tobytes(), **options)
    yield "adobe-rgb-by-exif.jpg", Animal(data, adobe, 4, remarks=CONVERTED, size=(192, 128))
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0xA001] = 1
    data = saved(mixed(16), "JPEG", exif=tags.tobytes(), **options)
    yield "srgb-by-exif.jpg", Animal(data, MIXED, 4, size=(192, 128))
    tags = Image.Exif()
    tags.get_ifd(0x8769)[0xA001] = 0xFFFF
    data = saved(mixed(16), "JPEG", exif=tags.tobytes(), **options)
    yield "uncalibrated-by-exif.jpg", Animal(data, MIXED, 4, remarks=UNKNOWN, size=(192, 128))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for name, transfer, refusal in (("pq", 16, HDR), ("hlg", 18, HDR), ("srgb", 13, None)):
        named = with_cicp(srgb, 9, transfer)
        yield f"{name}-in-a-profile.png", Animal(saved(mixed(), "PNG", icc_profile=named), MIXED, refusal=refusal)
    large = srgb + bytes(2_000_000)
    large = struct.pack(">I", len(large)) + large[4:]
    yield "profile-of-two-megabytes.png", Animal(saved(mixed(), "PNG", icc_profile=large), MIXED)
    linear = saved(
        Image.fromarray(grey_picture((0, 128, 188, 255))), "WEBP", lossless=True, icc_profile=grey_profile(1.0)
    )
    as_it_is = tuple((level,) * 3 for level in (0, 128, 188, 255))
    yield "grey-profile.webp", Animal(linear, as_it_is, 1, remarks=("unusable color profile ignored",))
