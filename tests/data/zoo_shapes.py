"""Rotated, animated, very thin and broken files."""

import struct
import zlib

from PIL import Image, PngImagePlugin

from tests.data.zoo_parts import BLACK, EXIF_ORIENTATIONS, HEIGHT, RED, WIDTH, Animal, exif, picture, png, saved


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
    corrupt = ("corrupt EXIF ignored",)
    yield "exif-garbage.png", Animal(saved(picture(), "PNG", exif=b"Exif\0\0" + b"\xff" * 40), remarks=corrupt)
    lying = picture(16).transpose(EXIF_ORIENTATIONS[6])
    data = saved(lying, "AVIF", quality=100, subsampling="4:4:4", exif=exif(6))
    yield "orientation-6.avif", Animal(data, tolerance=3, remarks=said, size=(192, 128))
    words = PngImagePlugin.PngInfo()
    words.add_itxt("XML:com.adobe.xmp", '<rdf:Description tiff:Orientation="6"/>')
    yield "orientation-6-in-xmp.png", Animal(saved(turned, "PNG", pnginfo=words), remarks=said)


def animations():
    first = ("first frame of an animation",)
    others = [Image.new("RGB", (WIDTH, HEIGHT), BLACK)] * 2
    yield "animated.gif", Animal(saved(picture(), "GIF", save_all=True, append_images=others), remarks=first)
    yield "animated.png", Animal(saved(picture(), "PNG", save_all=True, append_images=others), remarks=first)
    data = saved(picture(), "WEBP", save_all=True, append_images=others, lossless=True)
    yield "animated.webp", Animal(data, remarks=first)
    lossy = {"tolerance": 3, "size": (192, 128), "remarks": first}
    other = [Image.new("RGB", (192, 128), BLACK)]
    options = {"save_all": True, "append_images": other, "quality": 95}
    yield "animated.avif", Animal(saved(picture(16), "AVIF", **options, subsampling="4:4:4"), **lossy)
    yield "two-pictures.mpo", Animal(saved(picture(16), "MPO", **options, subsampling=0), **lossy)
    yield "two-pages.tif", Animal(saved(picture(), "TIFF", save_all=True, append_images=others), remarks=first)


def shapes():
    for name, size in {"tall.png": (1, 10_000), "wide.png": (10_000, 1), "point.png": (1, 1)}.items():
        yield name, Animal(saved(Image.new("RGB", size, RED), "PNG"), (RED,) * 4, size=size)


def broken():
    large = saved(Image.effect_noise((64, 64), 50).convert("RGB"), "JPEG")
    yield "truncated.jpg", Animal(large[: len(large) // 2], refusal="truncated")
    for kind, reason in {"PNG": "truncated PNG", "WEBP": "decoder", "GIF": "truncated"}.items():
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
    yield "text.jpg", Animal(b"not an image at all\n" * 20, refusal="not an image of a known format")
    yield "archive.png", Animal(b"PK\x03\x04" + bytes(60), refusal="an archive; unpack it, or give it as the source")
    yield "empty.png", Animal(b"", refusal="not an image of a known format")
    yield "page.html", Animal(b"<html>404</html>", refusal="not an image of a known format")
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n"
    yield "program.eps", Animal(postscript, refusal="not an image of a known format")
    yield "header-only.png", Animal(saved(picture(), "PNG")[:33], refusal="truncated PNG: its end is missing")
    wide = saved(Image.new("RGB", (10, 10), RED), "WEBP", lossless=True)
    wide = wide[:21] + struct.pack("<I", 16382 | 16382 << 14) + wide[25:]  # width and height less one, 14 bits each
    yield "bomb-268-million.webp", Animal(wide, refusal="more than 100 million")
    gif = bytearray(saved(picture(), "GIF"))
    gif[6:10] = struct.pack("<HH", 65535, 65535)
    yield "bomb-4294-million.gif", Animal(bytes(gif), refusal="more than 100 million")
    words = zlib.compress(bytes(50_000_000))
    rows = [bytes(3 * WIDTH)] * HEIGHT
    for kind, remarks in {b"zTXt": (), b"iCCP": ("unusable color profile ignored",)}.items():
        data = png(rows, 8, 2, [(kind, b"x\0\0" + words)])
        yield f"bomb-in-{kind.decode()}.png", Animal(data, (BLACK,) * 4, remarks=remarks)
    yield "no-end.jpg", Animal(saved(picture(16), "JPEG")[:-2], refusal="truncated")
    yield "drawing.svg", Animal(b'<svg xmlns="http://www.w3.org/2000/svg"/>', refusal="not an image of a known format")
    others = {"icon.ico": "ICO", "old.pcx": "PCX", "film.dds": "DDS", "scan.pdf": "PDF", "old.tga": "TGA"}
    for name, kind in others.items():
        yield name, Animal(saved(picture(16), kind), refusal="not an image of a known format")
