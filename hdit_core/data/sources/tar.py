"""The members of a tar, header by header, in memory that no archive can make grow.

Python's own reader takes a damaged header for the end of the archive, reads a name as long as the archive says, and can
be led in circles. Here a header is right or the archive is damaged; nothing is followed, and nothing written.

A header is 512 bytes, and the content follows in blocks of 512: name 0:100, size 124:136, time 136:148, checksum
148:156, kind 156, magic 257:265, first part of the name 345:500 (POSIX.1-1988 ustar; with the long names of pax and
GNU). Two blocks of zeros are the end; one is enough here.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase

BLOCK_BYTES = 512
LONGEST_EXTENSION_BYTES = 1 << 20  # of a long name or of pax records
LONGEST_NAME_BYTES = 4096  # as Linux has it

_FILE, _FOLDER, _SPARSE = (b"0", b"\0", b"7"), b"5", b"S"
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes, whatever size they declare
_LONG_NAME, _LONG_LINK, _PAX, _PAX_OF_ALL = b"L", b"K", (b"x", b"X"), b"g"
_EXTENDS = (_LONG_NAME, _LONG_LINK, *_PAX, _PAX_OF_ALL)
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")


class DamagedTarError(ValueError):
    """Not a tar, or not a whole one; the message says where."""


@dataclass(frozen=True, slots=True)
class Member:
    """One member that is no folder."""

    name: str
    offset: int  # of its content
    size_bytes: int
    changed_at: int
    problem: str | None  # why it is nothing to read


@dataclass(slots=True)
class _Extension:
    """What headers before a member's own say about it."""

    name: bytes | None = None
    size_bytes: int | None = None
    is_sparse: bool = False


@dataclass(frozen=True, slots=True)
class _Header:
    block: bytes
    kind: bytes
    content: int  # where it begins
    size_bytes: int

    @property
    def end(self) -> int:
        return self.content + -(-self.size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _number(field: bytes, place: int) -> int:
    """Return an octal number, or a binary one where the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise DamagedTarError(f"damaged header at byte {place:,}")
    return int(match[1] or b"0", 8)


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _check_sum(header: bytes, place: int) -> None:
    """Raise where a header is not what was written; old programs added its bytes as signed numbers."""
    said = _number(header[148:156], place)
    spaces = 8 * ord(" ")
    if said == sum(header) - sum(header[148:156]) + spaces:
        return
    signed = struct.unpack("148b8x356b", header)
    if said != sum(signed) + spaces:
        raise DamagedTarError(f"damaged header at byte {place:,}")


def _read(file: BufferedIOBase, place: int, count: int) -> bytes:
    file.seek(place)
    content = file.read(count)
    if len(content) < count:
        raise DamagedTarError(f"cut short at byte {place + len(content):,}")
    return content


def _add_pax(extension: _Extension, content: bytes, place: int) -> None:
    """Read records `25 path=folder/name.png\\n`, the number being the length of the whole record."""
    while content.rstrip(b"\0"):
        length, _, _ = content.partition(b" ")
        if not length.isdigit() or len(length) > 7 or not len(length) + 2 < int(length) <= len(content):
            raise DamagedTarError(f"damaged header at byte {place:,}")
        record, content = content[len(length) + 1 : int(length) - 1], content[int(length) :]
        key, _, value = record.partition(b"=")
        if key == b"path":
            extension.name = value
        elif key == b"size" and value.isdigit() and len(value) < 20:
            extension.size_bytes = int(value)
        elif key.startswith(b"GNU.sparse."):
            extension.is_sparse = True


def _extend(extension: _Extension, file: BufferedIOBase, header: _Header) -> None:
    """Take in a header that only says something about the next one."""
    if header.kind in (_LONG_LINK, _PAX_OF_ALL):
        return
    if header.size_bytes > LONGEST_EXTENSION_BYTES:
        raise DamagedTarError(f"a name of {header.size_bytes:,} bytes at byte {header.content:,}")
    content = _read(file, header.content, header.size_bytes)
    if header.kind == _LONG_NAME:
        extension.name = _text(content)
    else:
        _add_pax(extension, content, header.content)


def _name(header: _Header, extension: _Extension) -> bytes:
    if extension.name is not None:
        return extension.name
    first = _text(header.block[345:500]) if header.block[257:263] == b"ustar\0" else b""  # GNU keeps times there
    return b"/".join(part for part in (first, _text(header.block[:100])) if part)


def _content_start(file: BufferedIOBase, block: bytes, place: int) -> int:
    """Return where a content begins: after the map of a GNU sparse file, which goes on while a byte says so."""
    more, place = block[156:157] == _SPARSE and block[482], place + BLOCK_BYTES
    while more:
        more, place = _read(file, place, BLOCK_BYTES)[504], place + BLOCK_BYTES
    return place


def _header(file: BufferedIOBase, place: int, extension: _Extension) -> _Header | None:
    """Return the header at a place, None for the end of the archive."""
    block = _read(file, place, BLOCK_BYTES)
    if block == bytes(BLOCK_BYTES):
        return None
    _check_sum(block, place)
    kind, size_bytes = block[156:157], _number(block[124:136], place)
    if kind not in _EXTENDS and extension.size_bytes is not None:
        size_bytes = extension.size_bytes
    content = _content_start(file, block, place)
    return _Header(block, kind, content, 0 if kind in _WITHOUT_CONTENT else size_bytes)


def _headers(file: BufferedIOBase, start: int, end: int) -> Iterator[tuple[_Header, _Extension]]:
    """Yield the header of each member, and what the headers before it say about it."""
    place, extension = start, _Extension()
    while header := _header(file, place, extension):
        if header.end > end:
            raise DamagedTarError(f"reaches beyond byte {end:,}")
        if header.kind in _EXTENDS:
            _extend(extension, file, header)
        else:
            yield header, extension
            extension = _Extension()
        place = header.end


def _problem(header: _Header, name: bytes, extension: _Extension) -> str | None:
    if header.kind not in _FILE or extension.is_sparse:
        return "not a regular file of the archive"
    return f"a name of {len(name):,} bytes" if len(name) > LONGEST_NAME_BYTES else None


def _check_rest(file: BufferedIOBase, end: int) -> None:
    """Raise where something follows the end; reading on also checks the sum at the end of a compressed file."""
    while content := file.read(max(0, min(1 << 20, end - file.tell()))):
        if content.count(0) != len(content):
            raise DamagedTarError(f"something follows its end before byte {file.tell():,}; two archives in one file?")


def members(file: BufferedIOBase, start: int = 0, end: int = 1 << 62) -> Iterator[Member]:
    """Yield the members of a tar that are no folders; they may be read in between.

    Args:
        file: where it lies; it is read from front to back.
        start: the archive's first byte.
        end: the byte after its last, or how far a compressed one may expand.

    Raises:
        DamagedTarError: it is no tar, cut short, damaged, too large, or followed by something.
    """
    for header, extension in _headers(file, start, end):
        name = _name(header, extension)
        if header.kind == _FOLDER or (
            header.kind == b"\0" and name.endswith(b"/")
        ):  # the latter by the oldest programs
            continue
        shown = name[:LONGEST_NAME_BYTES].decode(errors="surrogateescape").removeprefix("./")
        changed_at = int.from_bytes(header.block[136:148])  # as it stands: it only has to differ when the file does
        problem = _problem(header, name, extension)
        yield Member(shown, header.content, header.size_bytes, changed_at, problem)
    _check_rest(file, end)
