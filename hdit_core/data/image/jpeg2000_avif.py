"""JPEG 2000 and AVIF, whose files consist of ISO boxes: the color space and depth, which Pillow does not read."""

import struct
from collections.abc import Iterator

from hdit_core.data.image.color.cicp import ColorSpace
from hdit_core.data.image.file_facts import FileFacts, check_zero_tail
from hdit_core.data.image.unusable import UnusableImageError

JP2_SIGNATURE, CODESTREAM = b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51"

CROPPED = "clean aperture ignored"

_JP2_SPACES = {12: "CMYK", 15: "bi-level", 16: "sRGB", 17: "grey", 18: "sYCC", 0: "bi-level"}


def _boxes(data: bytes, start: int = 0, end: int | None = None) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each box, and the start and end of its content."""
    end = len(data) if end is None else min(end, len(data))
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", data, start)
        content = start + 8
        if size == 1 and start + 16 <= end:
            (size,) = struct.unpack_from(">Q", data, content)
            content += 8
        size = size or end - start
        if size < content - start:
            return
        yield kind, content, min(start + size, end)
        start += size


def _find(data: bytes, path: list[bytes], start: int = 0, end: int | None = None) -> tuple[int, int] | None:
    """Return the start and end of the content of a nested box."""
    for kind, first, last in _boxes(data, start, end):
        if kind == path[0]:
            first += 4 if kind == b"meta" else 0
            return (first, last) if len(path) == 1 else _find(data, path[1:], first, last)
    return None


def _check_depths(data: bytes, place: int) -> None:
    """Refuse depths that Pillow scales wrongly: colors of 16 bits overflow, and few bits do not reach white."""
    (count,) = struct.unpack_from(">H", data, place + 38)
    sizes = data[place + 40 : place + 40 + 3 * count : 3]
    depths = {(size & 0x7F) + 1 for size in sizes}
    if any(size & 0x80 for size in sizes):
        raise UnusableImageError("JPEG 2000 with signed samples has no defined range")
    if count > 1 and depths != {8}:
        raise UnusableImageError(
            f"JPEG 2000 with colors of {max(depths)} bits, which its decoder cannot scale; convert it to PNG or TIFF"
        )
    if count == 1 and min(depths) < 8:
        raise UnusableImageError(
            f"JPEG 2000 with {min(depths)} bits, which its decoder cannot scale; convert it to PNG"
        )


def read_jpeg2000(data: bytes) -> FileFacts:
    """Return the ICC profile of a JPEG 2000, or refuse its depth or color space.

    Raises:
        UnusableImageError: its pixels would be wrong.
    """
    if data.startswith(CODESTREAM):
        _check_depths(data, 2)
        return FileFacts(data)
    codestream, header = _find(data, [b"jp2c"]), _find(data, [b"jp2h"])
    if codestream and data[codestream[0] : codestream[0] + 4] == CODESTREAM:
        _check_depths(data, codestream[0] + 2)
    for kind, first, last in _boxes(data, *header) if header else ():
        if kind == b"colr" and last > first + 3:
            if data[first] == 2:
                return FileFacts(data, data[first + 3 : last])
            space = int.from_bytes(data[first + 3 : first + 7])
            if data[first] == 1 and space not in _JP2_SPACES:
                raise UnusableImageError(f"JPEG 2000 of color space {space} has no defined look in sRGB here")
    return FileFacts(data)


def _associated(data: bytes, item: int, place: tuple[int, int]) -> list[int]:
    """Return the numbers of the properties of an item (ipma), from 1."""
    first, last = place
    version, flags = data[first], int.from_bytes(data[first + 1 : first + 4])
    (count,) = struct.unpack_from(">I", data, first + 4)
    at, id_bytes, index_bytes = first + 8, 2 if version < 1 else 4, 2 if flags & 1 else 1
    for _ in range(count):
        if at + id_bytes + 1 > last:
            break
        number, of_item = int.from_bytes(data[at : at + id_bytes]), data[at + id_bytes]
        at += id_bytes + 1
        found = [data[at + index_bytes * one : at + index_bytes * (one + 1)] for one in range(of_item)]
        at += index_bytes * of_item
        if number == item:
            return [int.from_bytes(index) & (0x7FFF if index_bytes == 2 else 0x7F) for index in found]
    return []


def _properties(data: bytes) -> list[tuple[bytes, int, int]]:
    """Return the properties of the primary image of an AVIF."""
    main, store, links = (_find(data, [b"meta", *path]) for path in ([b"pitm"], [b"iprp", b"ipco"], [b"iprp", b"ipma"]))
    if not (main and store and links):
        return []
    item = int.from_bytes(data[main[0] + 4 : main[0] + (6 if data[main[0]] == 0 else 8)])
    properties = list(_boxes(data, *store))
    return [properties[number - 1] for number in _associated(data, item, links) if 0 < number <= len(properties)]


def _end_of_data(data: bytes) -> int:
    """Return the end of the last box that is not padding."""
    return max((last for kind, _, last in _boxes(data) if kind not in (b"free", b"skip")), default=len(data))


def read_avif(data: bytes) -> FileFacts:
    """Return the color space of an AVIF.

    Raises:
        UnusableImageError: the file is incomplete.
    """
    check_zero_tail(data, _end_of_data(data))
    space, remarks = None, []
    try:
        for kind, first, last in _properties(data):
            if kind == b"colr" and data[first : first + 4] == b"nclx" and last >= first + 10:
                space = ColorSpace(*struct.unpack_from(">HH", data, first + 4))
            elif kind == b"clap":
                remarks.append(CROPPED)
    except (struct.error, IndexError):  # libavif reports the defect
        pass
    return FileFacts(data, None, space, tuple(remarks))
