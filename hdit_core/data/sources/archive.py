"""Archives as sources: zip and tar (plain or compressed), read member by member and never unpacked to disk.

Members of a zip or a plain tar come sorted by name, as a folder's files do, so that a folder and its archive give the
same data set. A compressed tar can only be read from front to back: its members come as they lie. A tar inside a tar is
a folder of its name, as in ImageNet's `ILSVRC2012_img_train.tar`.
"""

import bz2
import gzip
import lzma
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from io import BufferedIOBase
from pathlib import Path

from hdit_core.data.format.manifest import Channels
from hdit_core.data.image.decode import size_problem
from hdit_core.data.sources.source import Entry
from hdit_core.data.sources.tar import DamagedTarError, Member, members
from hdit_core.errors import DataError

# How a file begins: what opens it. Anything else is read as it is.
_OPENERS: dict[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}

_MOST_EXPANSION = 200  # images are compressed already; a file of zeros shrinks to a thousandth
_LARGE_BYTES = 64 << 20  # of one file, and
_ALWAYS_ALLOWED_BYTES = 1 << 30  # of a whole tar, whatever it expands from

TAR_DAMAGE = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)
"""What reading a damaged tar raises."""


class ZipSource:
    """The members of a zip file."""

    kind = "zip"
    channels: Channels | None = None
    classes: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        """List a zip file.

        Raises:
            DataError: it is damaged or cut short.
        """
        self.name = path.name
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as problem:
            raise DataError(f"{path}: not a whole zip file ({problem}); copy or download it again") from None
        self._members = sorted((m for m in self._zip.infolist() if not m.is_dir()), key=lambda member: member.filename)
        self.entries = [
            Entry(member.filename, member.file_size, member.CRC, self._problem(member)) for member in self._members
        ]

    @staticmethod
    def _problem(member: zipfile.ZipInfo) -> str | None:
        kind = stat.S_IFMT(member.external_attr >> 16)
        if kind not in (0, stat.S_IFREG):
            return "not a regular file of the archive"
        if member.flag_bits & 1:
            return "encrypted"
        if member.file_size > _LARGE_BYTES and member.file_size > _MOST_EXPANSION * member.compress_size:
            return f"expands to {member.file_size:,} bytes, as no image does"
        return size_problem(member.file_size)

    def fetch(self, number: int) -> bytes:
        """Return the content of a member; its checksum and size are checked.

        Raises:
            ValueError: it is damaged.
        """
        member = self._members[number]
        try:
            with self._zip.open(member) as file:
                content = file.read(member.file_size + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, zlib.error, lzma.LZMAError) as problem:
            raise ValueError(f"damaged in the archive: {problem}") from None
        if len(content) != member.file_size:
            raise ValueError("damaged in the archive: another size than its header says")
        return content


class TarFile:
    """A tar, plain or compressed, opened for reading from front to back."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with path.open("rb") as file:
            head = file.read(6)
        opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
        self.is_compressed = opener is not None
        self.file: BufferedIOBase = opener(path) if opener else path.open("rb")

    def members(self) -> Iterator[Member]:
        """Yield the members, those of a tar in it under its name.

        Raises:
            One of TAR_DAMAGE: it is no tar, damaged, or expands without end.
        """
        end = _ALWAYS_ALLOWED_BYTES + _MOST_EXPANSION * self.path.stat().st_size if self.is_compressed else 1 << 62
        for member in members(self.file, end=end):
            if member.problem is None and member.name.endswith(".tar"):
                yield from self._inner(member)
            else:
                yield member

    def _inner(self, outer: Member) -> Iterator[Member]:
        """Yield the members of a tar in this one, or the file itself where only its name says that it is a tar."""
        folder, count = outer.name.removesuffix(".tar"), 0
        try:
            for member in members(self.file, outer.offset, outer.offset + outer.size_bytes):
                count += 1
                yield replace(member, name=f"{folder}/{member.name}")
        except DamagedTarError:
            if count or self.read(outer.offset, 512)[257:262] == b"ustar":
                raise
            yield outer

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return a content; the next one asked for should lie behind it."""
        self.file.seek(offset)
        return self.file.read(size_bytes)


def entry_of(member: Member) -> Entry:
    """Return a member of a tar as an entry."""
    problem = member.problem or size_problem(member.size_bytes)
    return Entry(member.name, member.size_bytes, member.changed_at, problem)


class TarSource:
    """The members of a tar, plain or compressed."""

    kind = "tar"
    channels: Channels | None = None
    classes: tuple[str, ...] | None = None

    def __init__(self, path: Path) -> None:
        """List a tar.

        Raises:
            DataError: it is neither a zip nor a tar, or cut short.
        """
        self.name = path.name
        self._tar = TarFile(path)
        try:
            members = list(self._tar.members())
        except TAR_DAMAGE as problem:
            raise DataError(f"{path}: not a whole zip or tar archive ({problem}); copy or download it again") from None
        if not self._tar.is_compressed:
            members.sort(key=lambda member: member.name)
        self._offsets = [member.offset for member in members]
        self.entries = [entry_of(member) for member in members]

    def fetch(self, number: int) -> bytes:
        """Return the content of a member."""
        return self._tar.read(self._offsets[number], self.entries[number].size_bytes)


def is_zip(path: Path) -> bool:
    """Return whether a file begins as a zip does; one at the end is a tar's last member, or stands behind a picture."""
    with path.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"PK\5\6")
