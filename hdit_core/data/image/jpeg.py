"""JPEG, strictly: where libjpeg repairs damaged data and only warns, the file is refused."""

import re
import struct
from itertools import islice

import numpy as np
import simplejpeg
from PIL import Image

from hdit_core.data.image.unusable import UnusableImageError

NONSTANDARD = "nonstandard JPEG header"

_MODES = {"L": "GRAY", "RGB": "RGBX", "CMYK": "CMYK"}  # Pillow stores RGB as RGBX
_HARMLESS = ("Invalid SOS parameters", "Unknown Adobe color transform", "unknown JFIF revision")
_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
_SOS, _EOI = 0xDA, 0xD9
_WITHOUT_LENGTH = frozenset({0x01, *range(0xD0, 0xD9)})
_FRAMES = frozenset({0xC0, 0xC1, 0xC2, 0xC3, 0xC9, 0xCA, 0xCB})
_PROGRESSIVE = frozenset({0xC2, 0xCA})
_NOT_SENT = 99
_FIRST_BYTES = b"\xff\xd8\xff"
_MOST_IMAGES, _MOST_MARKERS = 16, 256


class _Scans:
    """Which coefficients of which components the scans of a JPEG hold."""

    def __init__(self) -> None:
        self.is_progressive = False
        self.missing_bits: dict[int, list[int]] = {}  # by component: of each coefficient
        self.headers: list[int] = []  # offsets of Ss, Se, Ah and Al

    def add_frame(self, marker: int, segment: bytes) -> None:
        self.is_progressive = marker in _PROGRESSIVE
        components = segment[6 : 6 + 3 * segment[5] : 3] if len(segment) > 5 else b""
        self.missing_bits = {component: [_NOT_SENT] * 64 for component in components}

    def add_scan(self, segment: bytes, place: int) -> None:
        count = segment[0] if segment else 0
        if len(segment) < 4 + 2 * count:
            return
        first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
        self.headers.append(place + 1 + 2 * count)
        if not self.is_progressive:
            first, last, bits = 0, 63, 0
        for component in segment[1 : 1 + 2 * count : 2]:
            missing = self.missing_bits.get(component)
            if missing is not None and last < 64:
                missing[first : last + 1] = [bits & 15] * (last + 1 - first)

    def are_complete(self) -> bool:
        """Return whether all coefficients came to their last bit."""
        return all(bits == 0 for missing in self.missing_bits.values() for bits in missing)


def _read_scans(data: bytes) -> _Scans:
    """Read the markers of a JPEG up to its end, or up to a sequential scan that completes it."""
    scans, place = _Scans(), 2
    while match := _MARKER.search(data, place):
        marker, place = match[1][0], match.end()
        if marker == _EOI:
            break
        if marker in _WITHOUT_LENGTH or place + 2 > len(data):
            continue
        (length,) = struct.unpack_from(">H", data, place)
        segment = data[place + 2 : place + length]
        if marker in _FRAMES:
            scans.add_frame(marker, segment)
        elif marker == _SOS:
            scans.add_scan(segment, place + 2)
            if not scans.is_progressive and scans.are_complete():
                break
        place += length
    return scans


def _size(data: bytes, place: int) -> tuple[int, int]:
    """Return height and width of the JPEG that begins at an offset, zeros if they are not found."""
    for match in islice(_MARKER.finditer(data, place), _MOST_MARKERS):
        if match[1][0] in _FRAMES and match.end() + 7 <= len(data):
            height, width = struct.unpack_from(">HH", data, match.end() + 3)
            return height, width
    return 0, 0


def _check_later_images(data: bytes, scans: _Scans, height: int, width: int) -> None:
    """Refuse a preview: another JPEG in the file, after the first, is at least twice as wide and high.

    Compressed data never contain the first bytes of a JPEG.
    """
    place = scans.headers[-1] if scans.headers else len(data)
    for _ in range(_MOST_IMAGES):
        place = data.find(_FIRST_BYTES, place) + 1
        if not place:
            return
        later_height, later_width = _size(data, place + 1)
        if later_height >= 2 * height and later_width >= 2 * width:
            raise UnusableImageError(
                f"its first image has {height}x{width} pixels, a later one {later_height}x{later_width}; "
                "export the full image"
            )


def _with_standard_scans(data: bytes, scans: _Scans) -> bytes:
    """Return a sequential JPEG whose scan headers are as the standard wants them, so that other warnings show."""
    fixed = bytearray(data)
    for place in scans.headers:
        fixed[place : place + 3] = b"\x00\x3f\x00"
    return bytes(fixed)


def _pixels(data: bytes, mode: str) -> np.ndarray:
    return simplejpeg.decode_jpeg(data, _MODES[mode], strict=True)


def _repaired_pixels(data: bytes, scans: _Scans, mode: str) -> np.ndarray:
    """Return the pixels of a JPEG after its scan headers were repaired: its first warning had hidden the others."""
    try:
        return _pixels(_with_standard_scans(data, scans), mode)
    except ValueError as problem:
        raise UnusableImageError(f"damaged or truncated JPEG: {problem}") from None


def decode_jpeg(data: bytes, image: Image.Image) -> tuple[Image.Image, list[str]]:
    """Return the pixels of a JPEG and remarks, or refuse it.

    Args:
        data: the file.
        image: the same file, opened by Pillow, which decodes what simplejpeg cannot.

    Raises:
        UnusableImageError: data are missing or damaged.
    """
    scans, remarks = _read_scans(data), list[str]()
    if not scans.are_complete():
        raise UnusableImageError("truncated JPEG: some of its scans are missing")
    _check_later_images(data, scans, image.height, image.width)
    if image.mode not in _MODES:
        raise UnusableImageError(f"JPEG of Pillow's mode {image.mode}")
    pixels: np.ndarray | None = None
    try:
        pixels = _pixels(data, image.mode)
    except ValueError as problem:
        if not any(text in str(problem) for text in _HARMLESS):
            raise UnusableImageError(f"damaged or truncated JPEG: {problem}") from None
        remarks = [NONSTANDARD]
        if not scans.is_progressive:
            pixels = _repaired_pixels(data, scans, image.mode)
    if pixels is None or image.mode == "CMYK":
        image.load()
        return image, remarks
    return Image.frombytes(image.mode, image.size, pixels.data, "raw", "L" if image.mode == "L" else "RGBX"), remarks
