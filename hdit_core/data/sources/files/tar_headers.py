"""Reads the members of a tar, header by header, in bounded memory.

Python's tarfile takes a damaged header for the end of the archive, reads names of any length, and can be made to loop.
Here a header is valid, or the archive is damaged.

A header is 512 bytes, and the content follows in blocks of 512: name 0:100, size 124:136, time 136:148, checksum
148:156, kind 156, target of a link 157:257, magic 257:265, first part of the name 345:500 (POSIX.1-1988 ustar; with the
long names of pax and GNU). Two blocks of zeros are the end; one is enough here.
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedIOBase

from hdit_core.data.sources.files.archive_members import Member

BLOCK_BYTES = 512
LONGEST_EXTENSION_BYTES = 1 << 20  # of a long name or of pax records
LONGEST_NAME_BYTES = 4096  # as in Linux

_HARD_LINK, _SYMBOLIC_LINK, _FOLDER, _SPARSE = b"1", b"2", b"5", b"S"
_WITHOUT_CONTENT = (b"1", b"2", b"3", b"4", b"5", b"6")  # links, devices, folders, pipes
_NO_FILE = (b"3", b"4", b"6", _SPARSE, b"D", b"M", b"N", b"V")  # any other kind is a file, according to POSIX
_ABOUT = (b"D", b"V")  # GNU's lists of the files of a folder, and the name of the archive
_LONG_NAME, _LONG_LINK, _PAX, _PAX_OF_ALL = b"L", b"K", (b"x", b"X"), b"g"
_EXTENDS = (_LONG_NAME, _LONG_LINK, *_PAX, _PAX_OF_ALL)
_OCTAL = re.compile(rb"[ \0]*([0-7]*)[ \0]*")


class DamagedTarError(ValueError):
    """Not a tar, or incomplete; the message has the position."""


@dataclass(slots=True)
class _Extension:
    """The properties of a member from the headers before its own."""

    name: bytes | None = None
    link: bytes | None = None
    size_bytes: int | None = None
    is_sparse: bool = False
    sparse_name: bytes | None = None


@dataclass(frozen=True, slots=True)
class _Header:
    block: bytes
    kind: bytes
    content: int  # its offset
    size_bytes: int

    @property
    def end(self) -> int:
        return self.content + _whole_blocks(self.size_bytes)


def _whole_blocks(size_bytes: int) -> int:
    return -(-size_bytes // BLOCK_BYTES) * BLOCK_BYTES


def _number(field: bytes, place: int) -> int:
    """Return an octal number, or a binary one if the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise DamagedTarError(f"damaged header at byte {place:,}")
    return int(match[1] or b"0", 8)


def _text(field: bytes) -> bytes:
    return field.split(b"\0", 1)[0]


def _check_sum(header: bytes, place: int) -> None:
    """Raise an error if the checksum of a header is wrong; old programs added its bytes as signed numbers."""
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
        raise DamagedTarError(f"truncated at byte {place + len(content):,}")
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
        elif key == b"GNU.sparse.name":  # `path` is a name for programs that do not know sparse files
            extension.sparse_name, extension.is_sparse = value, True
        elif key == b"linkpath":
            extension.link = value
        elif key == b"size" and value.isdigit() and len(value) < 20:
            extension.size_bytes = int(value)
        elif key.startswith(b"GNU.sparse."):
            extension.is_sparse = True


def _extend(extension: _Extension, file: BufferedIOBase, header: _Header) -> None:
    """Read a header that only describes the next one."""
    if header.kind == _PAX_OF_ALL:
        return
    if header.size_bytes > LONGEST_EXTENSION_BYTES:
        raise DamagedTarError(f"a name of {header.size_bytes:,} bytes at byte {header.content:,}")
    content = _read(file, header.content, header.size_bytes)
    if header.kind == _LONG_NAME:
        extension.name = _text(content)
    elif header.kind == _LONG_LINK:
        extension.link = _text(content)
    else:
        _add_pax(extension, content, header.content)


def _name(header: _Header, extension: _Extension) -> bytes:
    given = extension.name if extension.sparse_name is None else extension.sparse_name
    if given is not None:
        return given
    first = _text(header.block[345:500]) if header.block[257:263] == b"ustar\0" else b""  # GNU keeps times there
    return b"/".join(part for part in (first, _text(header.block[:100])) if part)


def _content_start(file: BufferedIOBase, block: bytes, place: int) -> int:
    """Return the offset of a content: after the map of a GNU sparse file, which continues while a byte is set."""
    more, place = block[156:157] == _SPARSE and block[482], place + BLOCK_BYTES
    while more:
        more, place = _read(file, place, BLOCK_BYTES)[504], place + BLOCK_BYTES
    return place


def _header(file: BufferedIOBase, place: int, extension: _Extension) -> _Header | None:
    """Return the header at an offset, None for the end of the archive."""
    block = _read(file, place, BLOCK_BYTES)
    if block == bytes(BLOCK_BYTES):
        return None
    _check_sum(block, place)
    kind, size_bytes = block[156:157], _number(block[124:136], place)
    if kind not in _EXTENDS and extension.size_bytes is not None:
        size_bytes = extension.size_bytes
    content = _content_start(file, block, place)
    return _Header(block, kind, content, 0 if kind in _WITHOUT_CONTENT else size_bytes)


def _link_size(header: _Header) -> int:
    """Return the size of a hard link's content: a copy in the pax format, nothing in GNU's."""
    return _number(header.block[124:136], header.content) if header.kind == _HARD_LINK else 0


def _headers(file: BufferedIOBase, start: int, end: int) -> Iterator[tuple[_Header, _Extension]]:
    """Yield the header of each member, and its properties from the headers before it."""
    place, extension, copy_bytes = start, _Extension(), 0
    while True:
        try:
            header = _header(file, place, extension)
        except DamagedTarError:
            if not copy_bytes:
                raise
            header = _header(file, place + _whole_blocks(copy_bytes), extension)
        if header is None:
            return
        if header.end > end:
            raise DamagedTarError(f"reaches beyond byte {end:,}")
        copy_bytes = _link_size(header)
        if header.kind in _EXTENDS:
            _extend(extension, file, header)
        else:
            yield header, extension
            extension = _Extension()
        place = header.end


def _problem(header: _Header, name: bytes, extension: _Extension) -> str | None:
    if header.kind == _SPARSE or extension.is_sparse:
        return "a sparse file; unpack the archive and give the folder"
    if header.kind in _NO_FILE:
        return "not a regular file of the archive"
    return f"a name of {len(name):,} bytes" if len(name) > LONGEST_NAME_BYTES else None


def _is_folder(header: _Header, name: bytes) -> bool:
    """Return whether a member is a folder; the oldest programs mark it only by a slash, which GNU tar still reads."""
    return header.kind == _FOLDER or (header.kind not in _NO_FILE and name.endswith(b"/"))


def _shown(name: bytes) -> str:
    return name[:LONGEST_NAME_BYTES].decode(errors="surrogateescape").removeprefix("./")


def _member(header: _Header, extension: _Extension, name: bytes) -> Member:
    changed_at = int.from_bytes(header.block[136:148])  # not decoded: it only has to differ for different files
    problem = _problem(header, name, extension)
    link = extension.link if extension.link is not None else _text(header.block[157:257])
    return Member(
        _shown(name),
        header.content,
        header.size_bytes,
        changed_at,
        problem,
        hard_link=_shown(link) if header.kind == _HARD_LINK else None,
        symbolic_link=link.decode(errors="surrogateescape") if header.kind == _SYMBOLIC_LINK else None,
    )


def _check_rest(file: BufferedIOBase, end: int) -> None:
    """Raise an error if something follows the end; reading on also checks the checksum of a compressed file."""
    while content := file.read(max(0, min(1 << 20, end - file.tell()))):
        if content.count(0) != len(content):
            raise DamagedTarError(f"something follows its end before byte {file.tell():,}; two archives in one file?")


def members(file: BufferedIOBase, start: int = 0, end: int = 1 << 62, may_continue: bool = False) -> Iterator[Member]:
    """Yield the members of a tar except folders; their contents may be read in between.

    Args:
        file: the tar, which is read sequentially.
        start: offset of the archive.
        end: end of the archive, or the maximum size of a decompressed one.
        may_continue: ignore data after the end of the archive.

    Raises:
        DamagedTarError: it is not a tar, truncated, damaged, too large, or followed by something.
    """
    for header, extension in _headers(file, start, end):
        name = _name(header, extension)
        if header.kind not in _ABOUT and not _is_folder(header, name):
            yield _member(header, extension, name)
    if not may_continue:
        _check_rest(file, end)
