"""Damaged files that decoders accept silently, and intact ones that look similar.

The whole ones were also decoded by ImageMagick when they were added; the values agree.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image, ImageFilter

from tests.data.zoo_parts import (
    BLACK,
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
    tiff,
)

ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
TRUNCATED_JPEG, ZEROS = "damaged or truncated JPEG", "filled with zeros at its end"


def noise(side=64):
    """Return a soft picture that compresses neither to nothing nor badly."""
    levels = np.random.default_rng(3).integers(0, 256, (side, side, 3), np.uint8)
    return Image.fromarray(levels).filter(ImageFilter.GaussianBlur(1))


def zero_tail(data, share=0.5, keep_end=0):
    start, end = int(len(data) * share), len(data) - keep_end
    return data[:start] + bytes(end - start) + data[end:]


def scans_of(data):
    """Return where the scans of a JPEG begin."""
    places, place = [], data.find(b"\xff\xda")
    while place >= 0:
        places.append(place)
        place = data.find(b"\xff\xda", place + 2)
    return places


def jpegs():
    end = b"\xff\xd9"
    kinds = {
        "plain": {"quality": 90},
        "progressive": {"quality": 90, "progressive": True},
        "restarts": {"quality": 90, "restart_marker_blocks": 2},
        "full-chroma": {"quality": 90, "subsampling": 0},
        "optimized": {"quality": 90, "optimize": True},
    }
    whole = {"tolerance": 4, "size": (192, 128)}
    for name, options in kinds.items():
        data = saved(noise(), "JPEG", **options)
        yield f"cut-then-end-{name}.jpg", Animal(data[: len(data) * 2 // 3] + end, refusal="truncated JPEG|damaged")
        yield f"zero-tail-{name}.jpg", Animal(zero_tail(data), refusal="truncated|damaged")
        yield f"zero-tail-then-end-{name}.jpg", Animal(zero_tail(data, keep_end=2), refusal="truncated|damaged")
        yield (
            f"whole-{name}.jpg",
            Animal(saved(picture(16), "JPEG", **options | {"quality": 96}), **whole | {"tolerance": 8}),
        )
    grey = saved(noise().convert("L"), "JPEG", quality=90)
    yield "cut-then-end-grey.jpg", Animal(grey[: len(grey) // 2] + end, refusal=TRUNCATED_JPEG)
    cmyk = saved(noise().convert("CMYK"), "JPEG", quality=90)
    yield "cut-then-end-cmyk.jpg", Animal(cmyk[: len(cmyk) // 2] + end, refusal=TRUNCATED_JPEG)
    data = saved(noise(), "JPEG", quality=90, progressive=True)
    for number in (1, 4, -1):
        cut = data[: scans_of(data)[number]] + end
        yield f"progressive-to-scan-{number}.jpg", Animal(cut, refusal="some of its scans are missing")
    data = saved(noise(), "JPEG", quality=90, restart_marker_blocks=2)
    middle = data.index(b"\xff\xd3")
    later = data.index(b"\xff\xd5", middle)
    yield "restarts-lost.jpg", Animal(data[:middle] + data[later:], refusal=TRUNCATED_JPEG)
    yield (
        "cut-then-end.mpo",
        Animal(
            (lambda one: one[: len(one) // 3] + end)(saved(noise(), "JPEG", quality=90)),
            refusal="truncated JPEG|damaged",
        ),
    )
    data = bytearray(saved(picture(16), "JPEG", quality=95, subsampling=0))
    data[scans_of(data)[0] + 11] = 7  # Ss, which means nothing here; some cameras leave it so
    yield (
        "scan-header-of-a-camera.jpg",
        Animal(bytes(data), remarks=("nonstandard JPEG header",), tolerance=3, size=(192, 128)),
    )
    data = bytearray(saved(noise(), "JPEG", quality=90, subsampling=0))
    data[scans_of(data)[0] + 11] = 7
    yield "scan-header-of-a-camera-cut.jpg", Animal(bytes(data[: len(data) // 2]) + end, refusal=TRUNCATED_JPEG)


def chunk(kind, content, right=True):
    crc = zlib.crc32(kind + content) ^ (not right)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def pngs():
    rows = [row.tobytes() for row in np.asarray(picture())]
    missing = "fewer rows than its header says"
    yield "fewer-rows.png", Animal(png(rows[:5], 8, 2), refusal=missing)
    yield "last-row-missing.png", Animal(png(rows[:7], 8, 2), refusal=missing)
    yield "black-last-row.png", Animal(png([*rows[:7], bytes(36)], 8, 2))
    for last in (6, 7):
        passes = ADAM7[:last]
        scans = [np.asarray(picture())[y::down, x::right] for x, y, right, down in passes]
        data = png([row.tobytes() for scan in scans for row in scan], 8, 2, interlaced=1)
        yield f"interlaced-{last}-of-7.png", Animal(data) if last == 7 else Animal(data, refusal=missing)
    yield "part-of-a-row.png", Animal(png([*rows[:7], rows[7][:20]], 8, 2), refusal="truncated")
    indexed = picture().quantize(8, dither=Image.Dither.NONE)
    palette = bytes(indexed.getpalette()[:24])
    lines = [row.tobytes() for row in np.asarray(indexed)]
    yield "fewer-rows-of-a-palette.png", Animal(png(lines[:4], 8, 3, [(b"PLTE", palette)]), refusal=missing)
    yield "all-black.png", Animal(png([bytes(36)] * 8, 8, 2), (BLACK,) * 4)
    yield "black-one-bit.png", Animal(png([bytes(2)] * 8, 1, 0), (BLACK,) * 4)
    head = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", WIDTH, HEIGHT, 8, 2, 0, 0, 0))
    body = zlib.compress(b"".join(b"\0" + row for row in rows))
    tail = chunk(b"IDAT", body) + chunk(b"IEND", b"")
    yield "no-iend.png", Animal(head + chunk(b"IDAT", body), refusal="its end is missing")
    yield "cut-data.png", Animal(head + chunk(b"IDAT", body[:20]) + chunk(b"IEND", b""), refusal="truncated|broken")
    yield (
        "many-idats.png",
        Animal(
            head + b"".join(chunk(b"IDAT", body[at : at + 3]) for at in range(0, len(body), 3)) + chunk(b"IEND", b"")
        ),
    )
    for name, kind, content in (
        ("text", b"tEXt", b"Comment\0x"), ("ztext", b"zTXt", b"Comment\0\0broken"), ("itext", b"iTXt", b"\xff" * 9),
        ("private", b"prVt", b"x" * 99), ("time", b"tIME", b"x"),
    ):  # fmt: skip
        yield f"damaged-{name}.png", Animal(head + chunk(kind, content, right=False) + tail)
        yield f"broken-{name}.png", Animal(head + chunk(kind, content) + tail)
    unusable = ("unusable color profile ignored",)
    profile = chunk(b"iCCP", b"x\0\0" + zlib.compress(b"no profile"), right=False)
    yield "damaged-profile.png", Animal(head + profile + tail, remarks=unusable)
    exif = chunk(b"eXIf", b"II*\0\x08\0\0\0", right=False)
    yield "damaged-exif.png", Animal(head + exif + tail, remarks=("corrupt EXIF ignored",))
    clear = chunk(b"tRNS", bytes(6), right=False)
    yield "damaged-transparency.png", Animal(head + clear + tail, refusal="broken PNG file: checksum of tRNS")
    with_palette = bytearray(png(lines, 8, 3, [(b"PLTE", palette)]))
    with_palette[with_palette.index(b"PLTE") + 5] ^= 1
    yield "damaged-palette.png", Animal(bytes(with_palette), refusal="broken PNG file: checksum of PLTE")


def tiff_pages(kind, **options):
    data = saved(noise().convert("1") if kind == "group4" else noise(), "TIFF", compression=kind, **options)
    page = Image.open(io.BytesIO(data)).tag_v2
    start, size = page[273][-1], page[279][-1]
    return data[: start + size // 2] + bytes(size - size // 2) + data[start + size :]


def tiffs():
    for kind in ("tiff_adobe_deflate", "jpeg", "group4"):
        yield f"zero-tail-{kind}.tif", Animal(tiff_pages(kind), refusal="damaged or truncated TIFF")
    for kind in ("tiff_lzw", "packbits"):
        yield f"zero-tail-{kind}.tif", Animal(tiff_pages(kind), refusal="decoder error")
    body = np.asarray(picture()).tobytes()
    rgb = {258: (8, 8, 8), 262: 2, 277: 3}
    reduced = "its first page is a reduced-resolution copy"
    yield "reduced-page.tif", Animal(tiff(rgb | {254: 1}, body), refusal=reduced)
    yield "old-reduced-page.tif", Animal(tiff(rgb | {255: 2}, body), refusal=reduced)
    yield "full-page.tif", Animal(tiff(rgb | {254: 0}, body))
    raw = "camera raw: only a preview can be read; export it first"
    yield "photo.dng", Animal(tiff(rgb | {254: 1, 50706: 0x0401}, body), refusal=raw)
    cfa = tiff({258: 8, 262: 32803}, grey_picture().tobytes())
    yield "sensor.tif", Animal(cfa, refusal=raw)
    preview = bytearray(tiff(rgb | {330: 0}, body))
    place = preview.index(struct.pack("<HHII", 330, 4, 1, 0))
    struct.pack_into("<I", preview, place + 8, len(preview))
    sub = struct.pack("<HHHIII", 1, 262, 3, 1, 34892, 0)
    yield "preview-without-a-mark.arw", Animal(bytes(preview) + sub, refusal=raw)
    canon = bytearray(tiff(rgb, body))
    entries = bytes(canon[8:])
    moved = b"II*\0" + struct.pack("<I", 16) + b"CR\x02\0\0\0\0\0" + entries
    yield "photo.cr2", Animal(moved, refusal=raw)
    for name, head in {"raf": b"FUJIFILMCCD-RAW 0201", "orf": b"IIRO\x08\0\0\0", "rw2": b"IIU\0", "x3f": b"FOVb",
                       "mrw": b"\0MRM\0\0\0\0", "cr3": b"\0\0\0\x18ftypcrx \0\0\0\1"}.items():  # fmt: skip
        yield f"photo.{name}", Animal(head + bytes(200), refusal=raw)
    later = [noise(32)]
    preview = "its first page has 16x16 pixels, a later one 32x32; export the full image"
    yield (
        "small-page-first.tif",
        Animal(saved(noise(16), "TIFF", save_all=True, append_images=later), refusal=preview),
    )
    for kind in ("group3", "tiff_ccitt"):
        fax = saved(noise().convert("1"), "TIFF", compression=kind)
        yield (
            f"whole-{kind}.tif",
            Animal(saved(Image.new("1", (WIDTH, HEIGHT)), "TIFF", compression=kind), (BLACK,) * 4),
        )
        start, size = (Image.open(io.BytesIO(fax)).tag_v2[tag][0] for tag in (273, 279))
        hole = fax[: start + size // 2] + bytes(64) + fax[start + size // 2 + 64 :]
        yield (
            f"zeros-inside-{kind}.tif",
            Animal(hole, refusal="damaged or truncated TIFF: filled with zeros in its mid"),
        )
    yield "big.tif", Animal(saved(picture(), "TIFF", big_tiff=True))
    yield "deflate.tif", Animal(saved(picture(), "TIFF", compression="tiff_adobe_deflate"))
    yield "packbits.tif", Animal(saved(picture(), "TIFF", compression="packbits"))
    yield "zstd.tif", Animal(saved(picture(), "TIFF", compression="zstd"))


def palettes_and_pixels():
    """Yield indexed images whose pixels have no color: decoders show them as black."""
    indexed = Image.fromarray(grey_picture((0, 1, 2, 3)), "P")
    indexed.putpalette([*RED, *BLACK, *BLACK, *RED])
    data = saved(indexed, "PNG", bits=8)
    place = data.index(b"PLTE") - 4
    (size,) = struct.unpack(">I", data[place : place + 4])
    short = chunk(b"PLTE", data[place + 8 : place + 14])
    refusal = "damaged: a pixel has color 3, and the last one of its palette is 1"
    yield "short-palette.png", Animal(data[:place] + short + data[place + 12 + size :], refusal=refusal)
    yield "no-palette.png", Animal(data[:place] + data[place + 12 + size :], refusal="its palette is missing")
    bmp = bytearray(saved(indexed, "BMP"))
    bmp[int.from_bytes(bmp[10:14], "little")] = 200
    if int.from_bytes(bmp[46:50], "little") < 200:
        yield (
            "pixel-without-a-color.bmp",
            Animal(bytes(bmp), refusal="damaged: a pixel has color 200, and the last one"),
        )
    maps = np.zeros((3, 256), np.uint16)
    maps[:, :4] = np.array([RED, GREEN, BLUE, WHITE]).T
    for name, scale in (("palette-of-8-bits.tif", 1), ("palette-of-16-bits.tif", 257)):  # Pillow#2157
        tags = {258: 8, 262: 3, 320: tuple(int(level) for level in (maps * scale).reshape(-1))}
        yield name, Animal(tiff(tags, np.asarray(indexed).tobytes()))


def others():
    yield "zero-tail.webp", Animal(zero_tail(saved(noise(), "WEBP", quality=90)), refusal=ZEROS)
    yield "zero-tail-lossless.webp", Animal(zero_tail(saved(noise(), "WEBP", lossless=True)), refusal=ZEROS)
    yield "zero-tail.avif", Animal(zero_tail(saved(noise(), "AVIF", quality=90)), refusal=ZEROS)
    jp2 = saved(noise(), "JPEG2000")
    yield "zero-tail.jp2", Animal(zero_tail(jp2), refusal="broken data stream")
    yield "cut.j2k", Animal(saved(noise(), "JPEG2000", no_jp2=True)[:2000], refusal="broken data stream")
    size = jp2.index(b"\xff\x51")
    for bits, refusal in {
        16: "colors of 16 bits",
        12: "colors of 12 bits",
        10: "colors of 10",
        4: "colors of 4 ",
    }.items():
        deep = bytearray(jp2)
        deep[size + 40 : size + 49 : 3] = bytes([bits - 1]) * 3
        yield f"rgb-{bits}.jp2", Animal(bytes(deep), refusal=refusal)
    signed = bytearray(jp2)
    signed[size + 40 : size + 49 : 3] = bytes([0x87]) * 3
    yield "signed.jp2", Animal(bytes(signed), refusal="signed samples")
    levels = grey_picture((0, 32896, 200, 65535), np.uint16)
    sixteen = tuple((level,) * 3 for level in (0, 128, 1, 255))
    yield "grey-16.jp2", Animal(saved(Image.fromarray(levels), "JPEG2000"), sixteen, 1)
    small = picture().crop((0, 0, 6, 4))
    covers = "the first frame of the animation covers only 6x4 pixels of 12x8"
    gif = bytearray(saved(small, "GIF", save_all=True, append_images=[Image.new("RGB", (6, 4), (9, 9, 9))]))
    struct.pack_into("<HH", gif, 6, 12, 8)
    yield "first-frame-in-part.gif", Animal(bytes(gif), refusal=covers)
    still = bytearray(saved(picture(), "GIF"))
    yield "still.gif", Animal(bytes(still))
    yield "interlaced.gif", Animal(saved(picture(), "GIF", interlace=1))
    webp = bytearray(
        saved(small, "WEBP", save_all=True, append_images=[Image.new("RGB", (6, 4), (9, 9, 9))], lossless=True)
    )
    webp[24:30] = (11).to_bytes(3, "little") + (7).to_bytes(3, "little")
    yield "first-frame-in-part.webp", Animal(bytes(webp), refusal=covers)
    preview = "its first image has 16x16 pixels, a later one 64x64; export the full image"
    small, large = (saved(noise(side), "JPEG", quality=90) for side in (16, 64))
    yield "small-first.mpo", Animal(saved(noise(16), "MPO", save_all=True, append_images=[noise()]), refusal=preview)
    yield "another-file-behind.jpg", Animal(small + large, refusal=preview)
    whole = {"tolerance": 4, "size": (192, 128)}
    yield "smaller-file-behind.jpg", Animal(saved(picture(16), "JPEG", quality=95, subsampling=0) + small, **whole)
    yield "float.pfm", Animal(b"Pf\n12 8\n-1.0\n" + np.zeros(96, "<f4").tobytes(), refusal="mode F")
    commented = b"P6\n# a comment\n12 8\n# another\n255\n" + np.asarray(picture()).tobytes()
    yield "comments.ppm", Animal(commented)
    yield "cut.ppm", Animal(commented[:-50], refusal="truncated")
    yield "cut.bmp", Animal(saved(picture(), "BMP")[:-50], refusal="truncated")
