"""TIFF: refuses camera raw, reduced-resolution pages, and damaged data that libtiff repairs silently."""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import simplejpeg

from hdit_core.data.image.unusable import UnusableImageError

RAW = "camera raw: only a preview can be read; export it first, for example as TIFF"

_MOST_PAGES = 64
_MOST_VALUES = 1 << 20
_PIECE_BYTES = 1 << 20
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_LETTERS = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 13: "I", 16: "Q", 18: "Q"}

_NEW_SUBFILE, _SUBFILE, _COMPRESSION, _PHOTOMETRIC, _FILL_ORDER = 254, 255, 259, 262, 266
_STRIPS, _STRIP_SIZES, _TILES, _TILE_SIZES, _SUB_IFDS, _JPEG_TABLES, _DNG_VERSION = 273, 279, 324, 325, 330, 347, 50706
_WIDTH, _HEIGHT, _BITS, _SAMPLES = 256, 257, 258, 277
_CFA, _LINEAR_RAW = 32803, 34892
_FAX, _GROUP_4, _JPEG, _DEFLATE = (2, 3, 4), 4, 7, (8, 32946)
_LEAST_ZEROS = 64  # bytes; the codes of fax have no such row of zeros
_END_OF_GROUP_4 = "000000000001" * 2

_RAW_MAGICS = (b"IIU\0", b"IIRO", b"IIRS", b"MMOR", b"FUJIFILMCCD-RAW", b"FOVb", b"\0MRM", b"HEAPCCDR")
_TIFF_MAGICS = {b"II*\0": ("<", False), b"MM\0*": (">", False), b"II+\0": ("<", True), b"MM\0+": (">", True)}


def is_raw_of_own_kind(data: bytes) -> bool:
    """Return whether a file is camera raw in a container of its maker's."""
    head = data[:16]
    return head.startswith(_RAW_MAGICS) or head[6:14] == b"HEAPCCDR" or (head[4:8] == b"ftyp" and head[8:11] == b"crx")


def is_tiff(data: bytes) -> bool:
    """Return whether a file is a TIFF."""
    return data[:4] in _TIFF_MAGICS


@dataclass(frozen=True)
class _Tiff:
    """A file and how its numbers are written."""

    data: bytes
    order: str
    is_big: bool

    def unpack(self, letters: str, place: int) -> tuple[int, ...]:
        return struct.unpack_from(self.order + letters, self.data, place)

    def page(self, place: int) -> tuple["_Page", int]:
        """Return the tags of a page that hold whole numbers, and the place of the next page."""
        count_letter, entry_bytes, inline_bytes, letter = ("Q", 20, 8, "Q") if self.is_big else ("H", 12, 4, "I")
        (count,) = self.unpack(count_letter, place)
        place += 8 if self.is_big else 2
        tags = {}
        for number in range(min(count, 4096)):
            at = place + number * entry_bytes
            tag, kind = self.unpack("HH", at)
            (values,) = self.unpack(letter, at + 4)
            start = at + 4 + inline_bytes
            if kind not in _LETTERS or values > _MOST_VALUES:
                continue
            if values * _SIZES[kind] > inline_bytes:
                (start,) = self.unpack(letter, start)
            if start + values * _SIZES[kind] <= len(self.data):
                tags[tag] = (values, _LETTERS[kind], start)
        (following,) = self.unpack(letter, place + count * entry_bytes)
        return _Page(self, tags), following

    def pages(self) -> Iterator["_Page"]:
        """Yield the pages, each followed by those inside it."""
        (first,) = self.unpack("Q", 8) if self.is_big else self.unpack("I", 4)
        waiting, seen = [first], set[int]()
        while waiting and len(seen) < _MOST_PAGES:
            place = waiting.pop(0)
            if not place or place in seen:
                continue
            seen.add(place)
            try:
                page, following = self.page(place)
            except struct.error:
                continue
            yield page
            waiting += [*page.values(_SUB_IFDS, _MOST_PAGES), following]


@dataclass(frozen=True)
class _Page:
    """The tags of a page, unpacked on demand: many tags of millions of values may lie in the same bytes."""

    tiff: _Tiff
    tags: dict[int, tuple[int, str, int]]  # number of values, their letter for `struct`, and where they begin

    def values(self, tag: int, most: int = _MOST_VALUES) -> tuple[int, ...]:
        """Return the first values of a tag, none if the page does not have it."""
        count, letter, start = self.tags.get(tag, (0, "B", 0))
        return self.tiff.unpack(f"{min(count, most)}{letter}", start)

    def value(self, tag: int, default: int = 0) -> int:
        """Return the first value of a tag."""
        return (self.values(tag, 1) or (default,))[0]


def _parts(page: _Page) -> Iterator[bytes]:
    """Yield the compressed strips or tiles of a page."""
    offsets = page.values(_TILES) or page.values(_STRIPS)
    sizes = page.values(_TILE_SIZES) or page.values(_STRIP_SIZES)
    return (page.tiff.data[offset : offset + size] for offset, size in zip(offsets, sizes, strict=False))


def _check_jpeg(part: bytes, tables: bytes) -> None:
    """Decode a strip, which shares its tables with the others."""
    whole = tables[:-2] + part[2:] if tables.endswith(b"\xff\xd9") and part.startswith(b"\xff\xd8") else part
    space = simplejpeg.decode_jpeg_header(whole)[2]
    simplejpeg.decode_jpeg(whole, "CMYK" if space in ("CMYK", "YCCK") else "GRAY", strict=True)


def _check_group_4(part: bytes, is_reversed: bool) -> None:
    bits = "".join(f"{byte:08b}"[::-1] if is_reversed else f"{byte:08b}" for byte in part[-8:])
    if _END_OF_GROUP_4 not in bits:
        raise ValueError("its end is missing")


def _check_deflate(part: bytes) -> None:
    """Unpack a strip piece by piece: it may expand a thousandfold."""
    unpacker = zlib.decompressobj()
    while part and not unpacker.eof:
        unpacker.decompress(part, _PIECE_BYTES)
        part = unpacker.unconsumed_tail
    if not unpacker.eof:
        raise ValueError("cut short")


def _check_data(page: _Page) -> None:
    compression = page.value(_COMPRESSION, 1)
    try:
        tables = bytes(page.values(_JPEG_TABLES))
        for part in _parts(page):
            if compression == _JPEG:
                _check_jpeg(part, tables)
            elif compression in _DEFLATE:
                _check_deflate(part)
            if compression in _FAX and bytes(_LEAST_ZEROS) in part:
                raise ValueError("filled with zeros in its middle")
            if compression == _GROUP_4:
                _check_group_4(part, page.value(_FILL_ORDER, 1) == 2)
    except (ValueError, zlib.error) as problem:
        raise UnusableImageError(f"damaged or truncated TIFF: {problem}") from None


def check_raw(data: bytes) -> None:
    """Refuse camera raw and a first page of reduced resolution, before anything is decoded.

    Raises:
        UnusableImageError: the file is one of these.
    """
    tiff = _Tiff(data, *_TIFF_MAGICS[data[:4]])
    try:
        pages = list(tiff.pages())
    except struct.error:  # Pillow reports the defect of the first page
        return
    photometric = {page.value(_PHOTOMETRIC, -1) for page in pages}
    is_canon = data[8:10] == b"CR"
    if is_canon or photometric & {_CFA, _LINEAR_RAW} or any(_DNG_VERSION in page.tags for page in pages):
        raise UnusableImageError(RAW)
    if pages and (pages[0].value(_NEW_SUBFILE) & 1 or pages[0].value(_SUBFILE) == 2):
        raise UnusableImageError("its first page is a reduced-resolution copy; export the full image")
    _check_sizes(pages)


def _check_sizes(pages: Sequence[_Page]) -> None:
    """Refuse a first page that is a preview by its size: another one is at least twice as wide and high."""
    sizes = [(page.value(_HEIGHT), page.value(_WIDTH)) for page in pages]
    for height, width in sizes[1:]:
        if height >= 2 * sizes[0][0] and width >= 2 * sizes[0][1]:
            raise UnusableImageError(
                f"its first page has {sizes[0][0]}x{sizes[0][1]} pixels, a later one {height}x{width}; "
                "export the full image"
            )


def is_8_bit_tiff(data: bytes) -> bool:
    """Return whether the first page of a TIFF has at most 8 bits per value and 4 channels, which Pillow decodes."""
    try:
        page = next(_Tiff(data, *_TIFF_MAGICS[data[:4]]).pages(), None)
    except struct.error:  # Pillow reports the defect
        return True
    return page is None or (max(page.values(_BITS), default=1) <= 8 and page.value(_SAMPLES, 1) <= 4)


def check_data(data: bytes, every_page: bool = False) -> None:
    """Refuse damaged data that libtiff would repair, in the first page or in all of them.

    Raises:
        UnusableImageError: the data are damaged.
    """
    tiff = _Tiff(data, *_TIFF_MAGICS[data[:4]])
    try:
        pages = list(islice(tiff.pages(), None if every_page else 1))
    except struct.error:
        return
    for page in pages:
        _check_data(page)
