"""Tars as sources, plain or compressed, read member by member.

The members of a plain tar are sorted by name, like a folder's files, so that a folder and its archive give the same
data set. The members of a compressed tar keep their order, and it is unpacked once. A tar inside a tar is treated as a
folder of the same name, as in ImageNet's `ILSVRC2012_img_train.tar`.
"""

import bz2
import gzip
import logging
import lzma
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from io import BufferedIOBase
from pathlib import Path

from hdit_core.data.image.decode import size_problem
from hdit_core.data.sources.files.archive_members import Member, unpacked
from hdit_core.data.sources.files.file_source import FileSource
from hdit_core.data.sources.files.tar_headers import DamagedTarError, members
from hdit_core.data.sources.files.unpacked_once import open_once
from hdit_core.data.sources.labels.sidecars import is_label_file
from hdit_core.data.sources.source import IMAGE_SUFFIX, Entry
from hdit_core.errors import DataError
from hdit_core.files import naming

logger = logging.getLogger("hdit")

# First bytes of a file, and the function that opens it. Other files are read unchanged.
_OPENERS: dict[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}

_MOST_EXPANSION = 200  # images are already compressed; a file of zeros shrinks to a thousandth
_ALWAYS_ALLOWED_BYTES = 1 << 30  # of a whole tar, after decompression
LARGEST_NOTE_BYTES = 1 << 20  # of a label in a tar; it is kept in memory after the first reading
MOST_NOTES_BYTES = 1 << 30  # of all labels in a tar

TAR_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)
"""The exceptions of reading a damaged tar."""

_OTHER_ARCHIVES = {
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!": "a RAR archive",
    b"\x28\xb5\x2f\xfd": "compressed by Zstandard",
    b"\x04\x22\x4d\x18": "compressed by LZ4",
    b"\x1f\x9d": "compressed by compress",
    b"LZIP": "compressed by lzip",
    b"MSCF": "a cabinet file",
}


@dataclass(frozen=True)
class TarListing:
    """The contents of a tar as after unpacking, in the order in which they can be read."""

    tar: "TarFile"
    members: list[Member]
    repeated: list[str]  # names that occur several times
    notes: dict[int, bytes]  # requested small files, by the offset of their content


class TarFile:
    """A tar, plain or compressed, opened for sequential reading."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with naming(path), path.open("rb") as file:
            head = file.read(6)
        opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
        self.is_compressed = opener is not None
        self.file: BufferedIOBase = open_once(opener(path), path) if opener else path.open("rb")
        self._last: tuple[int, bytes] = (-1, b"")

    def members(self) -> Iterator[Member]:
        """Yield the members; those of a nested tar are under its name.

        Raises:
            One of TAR_DAMAGE: it is not a tar, damaged, or expands without limit.
        """
        end = _ALWAYS_ALLOWED_BYTES + _MOST_EXPANSION * self.path.stat().st_size if self.is_compressed else 1 << 62
        for member in members(self.file, end=end):
            if (
                member.problem is None
                and member.name.endswith(".tar")
                and member.hard_link is member.symbolic_link is None
            ):
                yield from self._inner(member)
            else:
                yield member

    def _inner(self, outer: Member) -> Iterator[Member]:
        """Yield the members of a nested tar, or the file itself if it is a tar by its name only."""
        folder, count = outer.name.removesuffix(".tar"), 0
        try:
            for member in members(self.file, outer.offset, outer.offset + outer.size_bytes):
                count += 1
                link = None if member.hard_link is None else f"{folder}/{member.hard_link}"
                yield replace(member, name=f"{folder}/{member.name}", hard_link=link)
        except DamagedTarError:
            if count or self.read(outer.offset, 512)[257:262] == b"ustar":
                raise
            yield outer

    def has_header(self) -> bool:
        """Return whether the file starts like a tar, compressed or not."""
        try:
            next(iter(members(self.file)), None)
        except TAR_DAMAGE:
            return self.is_compressed
        return True

    def listing(self, is_wanted: Callable[[str], bool]) -> TarListing:
        """Return the contents as after unpacking, with the content of the small files whose names are wanted.

        Raises:
            One of TAR_DAMAGE: it is not a tar, or damaged.
            DataError: the requested files are too large in total.
        """
        notes: dict[int, bytes] = {}

        def seen() -> Iterable[Member]:
            left_bytes = MOST_NOTES_BYTES
            for member in self.members():
                if member.problem is None and member.size_bytes <= LARGEST_NOTE_BYTES and is_wanted(member.name):
                    left_bytes -= member.size_bytes
                    if left_bytes < 0:
                        raise DataError(
                            f"{self.path}: its labels (.cls, .json) have more than {MOST_NOTES_BYTES:,} bytes in "
                            "total, which are kept in memory; split the archive, or unpack it and give the folder"
                        )
                    notes[member.offset] = self.read(member.offset, member.size_bytes)
                yield member

        found, repeated = unpacked(seen())
        if self.is_compressed:
            found.sort(key=lambda member: member.offset)  # a link is read with its target
        return TarListing(self, found, repeated, notes)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return a content; the next call should be for the same content or a later one."""
        if (offset, size_bytes) != (self._last[0], len(self._last[1])):
            self.file.seek(offset)
            self._last = offset, self.file.read(size_bytes)
        return self._last[1]


def entry_of(member: Member) -> Entry:
    """Return a member of a tar as an entry."""
    problem = member.problem or size_problem(member.size_bytes)
    return Entry(member.name, member.size_bytes, member.changed_at, problem)


def damaged(path: Path, problem: Exception) -> DataError:
    """Return the error for a file that is neither a zip nor a complete tar, with the kind of file if it is known."""
    with naming(path), path.open("rb") as file:
        head = file.read(8)
    if not head:
        return DataError(f"{path}: is empty; copy or download it again")
    other = next((what for magic, what in _OTHER_ARCHIVES.items() if head.startswith(magic)), None)
    if other:
        return DataError(f"{path}: is {other}, which cannot be read in place; unpack it and give the folder")
    if IMAGE_SUFFIX.search(path.name):
        return DataError(f"{path}: is no image, although it is called one, and no archive; copy or download it again")
    return DataError(f"{path}: not a complete zip or tar archive ({problem}); copy or download it again")


class TarSource(FileSource):
    """The members of a tar, plain or compressed."""

    kind = "tar"

    def __init__(self, path: Path, listing: TarListing | None = None, read_labels: bool = True) -> None:
        """List a tar.

        Args:
            listing: its listing, if it has already been listed.
            read_labels: take the classes from label files in it.

        Raises:
            DataError: it is neither a zip nor a tar, or truncated, or the labels in it cannot be used.
        """
        self._tar = listing.tar if listing else TarFile(path)
        try:
            listing = listing or self._tar.listing(is_label_file)
        except TAR_DAMAGE as problem:
            raise damaged(path, problem) from None
        if listing.repeated:
            count, first = len(listing.repeated), listing.repeated[0]
            logger.warning("%s: %s names occur twice, such as %r; the later file is used", path, count, first)
        found = listing.members
        if not self._tar.is_compressed:
            found = sorted(found, key=lambda member: member.name)
        self._offsets, self._notes = array("q", (member.offset for member in found)), listing.notes
        super().__init__(path.name, map(entry_of, found), str(path), read_labels)
        self._notes = {}

    def _read(self, number: int) -> bytes:
        offset = self._offsets[number]
        note = self._notes.get(offset)
        return self._tar.read(offset, self._files[number].size_bytes) if note is None else note
