"""Archives as sources: zip and tar (plain or compressed), read member by member and never unpacked to disk.

Members of a zip or a plain tar come sorted by name, as a folder's files do, so that a folder and its archive give the
same data set. A compressed tar can only be read from front to back: its members come as they lie.
"""

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from io import BufferedIOBase
from pathlib import Path

from hdit_core.data.folder import size_problem
from hdit_core.data.manifest import Channels
from hdit_core.data.source import Entry, Source
from hdit_core.errors import DataError

# How a file begins: what opens it. Anything else is read as it is.
_OPENERS: dict[bytes, Callable[[Path], BufferedIOBase]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\x00": lzma.LZMAFile,
}

_DAMAGE = (tarfile.TarError, OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)


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
        return "encrypted" if member.flag_bits & 1 else size_problem(member.file_size)

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


@dataclass(frozen=True, slots=True)
class _Member:
    offset: int  # of its content, in the uncompressed tar
    entry: Entry


def _members(tar: tarfile.TarFile) -> Iterator[_Member]:
    """Yield every member but folders, and forget each: a tar of a million images must not fill the memory."""
    while (member := tar.next()) is not None:
        tar.members.clear()  # type: ignore[attr-defined]
        if member.isdir():
            continue
        regular = member.isreg() and not member.issparse()
        problem = size_problem(member.size) if regular else "not a regular file of the archive"
        yield _Member(member.offset_data, Entry(member.name, member.size, int(member.mtime), problem))


def _check_end(file: BufferedIOBase, end: int) -> None:
    """Raise where a tar ends without its mark of 512 zeros: Python takes a damaged header for the end."""
    file.seek(end)
    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"no end mark at byte {end:,}")
    while file.read(1 << 20):  # a compressed file carries its checksum at the end
        pass


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
        with path.open("rb") as file:
            head = file.read(6)
        opener = next((opener for magic, opener in _OPENERS.items() if head.startswith(magic)), None)
        self._file = opener(path) if opener else path.open("rb")
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                members = list(_members(tar))
                _check_end(self._file, tar.offset)
        except _DAMAGE as problem:
            raise DataError(f"{path}: not a whole zip or tar archive ({problem}); copy or download it again") from None
        self._members = members if opener else sorted(members, key=lambda member: member.entry.name)
        self.entries = [member.entry for member in self._members]

    def fetch(self, number: int) -> bytes:
        """Return the content of a member."""
        member = self._members[number]
        self._file.seek(member.offset)
        return self._file.read(member.entry.size_bytes)


def open_archive(path: Path) -> Source:
    """Open a zip or tar by its content.

    Raises:
        DataError: it is neither, or damaged.
    """
    return ZipSource(path) if zipfile.is_zipfile(path) else TarSource(path)
