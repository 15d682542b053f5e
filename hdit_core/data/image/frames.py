"""Checks of GIF and WebP (first frame, end of the data), and the color space of BMP."""

import struct

from hdit_core.data.image.color.cicp import UNKNOWN
from hdit_core.data.image.file_facts import FileFacts, check_first_frame, check_zero_tail

_PROFILE_IN_FILE = b"DEBM"  # "MBED" in little-endian order


def _skip_blocks(data: bytes, place: int) -> int:
    """Return the offset after a chain of blocks, each of which begins with its length."""
    while place < len(data) and data[place]:
        place += data[place] + 1
    return place + 1


def check_gif(data: bytes) -> None:
    """Refuse an animation whose first frame covers only a part of the picture.

    Raises:
        UnusableImageError: it does.
    """
    frames: list[tuple[int, int, int, int]] = []
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place = 13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0)
    while place + 10 < len(data) and len(frames) < 2:
        if data[place] == 0x21:
            place = _skip_blocks(data, place + 2)
        elif data[place] == 0x2C:
            *frame, flags = struct.unpack_from("<HHHHB", data, place + 1)
            frames.append((frame[0], frame[1], frame[2], frame[3]))
            place = _skip_blocks(data, place + 10 + (3 << (flags & 7) + 1 if flags & 0x80 else 0) + 1)
        else:
            break
    if len(frames) > 1:
        check_first_frame(frames[0], width, height)


def check_webp(data: bytes) -> None:
    """Refuse a WebP whose data end in zeros, or whose first frame covers only a part of the picture.

    Raises:
        UnusableImageError: one of these is the case.
    """
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    check_zero_tail(data, end)
    place, canvas = 12, None
    while place + 24 <= end:
        kind, size = data[place : place + 4], int.from_bytes(data[place + 4 : place + 8], "little")
        numbers = [int.from_bytes(data[place + 8 + at : place + 11 + at], "little") for at in (0, 3, 4, 6, 7, 9)]
        if kind == b"VP8X":
            canvas = numbers[2] + 1, numbers[4] + 1
        if kind == b"ANMF" and canvas:
            check_first_frame((2 * numbers[0], 2 * numbers[1], numbers[3] + 1, numbers[5] + 1), *canvas)
            return
        place += 8 + size + size % 2


def read_bmp(data: bytes) -> FileFacts:
    """Return the ICC profile embedded in a BMP of version 5; colors calibrated otherwise are a remark."""
    if len(data) > 138 and data[14] >= 124 and data[70:74] == _PROFILE_IN_FILE:
        place, size = struct.unpack_from("<II", data, 126)
        return FileFacts(data, data[14 + place : 14 + place + size])
    is_calibrated = len(data) > 122 and data[14] >= 108 and not any(data[70:74]) and any(data[74:122])
    return FileFacts(data, remarks=(UNKNOWN,) if is_calibrated else ())
