"""Zip files as sources, read member by member and never unpacked to disk."""

import logging
import stat
import struct
import zipfile
import zlib
from pathlib import Path

from hdit_core.data.format.retry_reads import is_storage_error
from hdit_core.data.image.decode import size_problem
from hdit_core.data.sources.files.archive_members import Member, unpacked
from hdit_core.data.sources.files.file_source import FileSource
from hdit_core.data.sources.source import Entry
from hdit_core.errors import DataError
from hdit_core.files import is_bounded, naming

logger = logging.getLogger("hdit")

MOST_EXPANSION = 200  # images are already compressed; a file of zeros shrinks to a thousandth
LARGE_BYTES = 64 << 20  # of one file
LONGEST_LINK_BYTES = 4096  # as in Linux

_UNICODE_PATH, _UTF_8 = 0x7075, 0x800
_FAT = 0  # the system recorded by programs for Windows
_METHODS = {
    1: "Shrink",
    6: "Implode",
    9: "Deflate64",
    12: "bzip2",
    14: "LZMA",
    93: "Zstandard",
    95: "XZ",
    96: "JPEG",
    97: "WavPack",
    98: "PPMd",
    99: "AES",
}
_DAMAGE = (zipfile.BadZipFile, NotImplementedError, RuntimeError, EOFError, OSError, zlib.error, ValueError)


def _unicode_name(member: zipfile.ZipInfo) -> str | None:
    """Return the name in a member's field "Unicode Path" (0x7075), if it belongs to the present name."""
    extra = member.extra
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<HH", extra)
        field, extra = extra[4 : 4 + size], extra[4 + size :]
        if kind == _UNICODE_PATH and field[:1] == b"\1" and len(field) > 5 and not member.flag_bits & _UTF_8:
            is_present = int.from_bytes(field[1:5], "little") == zlib.crc32(member.orig_filename.encode("cp437"))
            return field[5:].decode(errors="surrogateescape") if is_present else None
    return None


def _name(member: zipfile.ZipInfo) -> str:
    """Return the name that `unzip` gives to a member: in archives from Windows, backslashes separate folders."""
    name = _unicode_name(member) or member.filename
    return name.replace("\\", "/") if member.create_system == _FAT and "/" not in name else name


def _problem(member: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFLNK):
        return "not a regular file of the archive"
    if member.flag_bits & 1:
        return "encrypted; decrypt the archive first"
    if not is_bounded(member):
        method = _METHODS.get(member.compress_type, f"method {member.compress_type}")
        return f"compressed by {method}; expected Deflate or none: unpack the archive and give the folder"
    if member.file_size > LARGE_BYTES and member.file_size > MOST_EXPANSION * member.compress_size:
        return f"expands to {member.file_size:,} bytes, too many for an image"
    return size_problem(member.file_size)


class ZipSource(FileSource):
    """The members of a zip file, sorted by name like a folder's files."""

    kind = "zip"

    def __init__(self, path: Path, read_labels: bool = True) -> None:
        """List a zip file.

        Raises:
            DataError: it is damaged or truncated, or the labels in it cannot be used.
        """
        try:
            self._zip = zipfile.ZipFile(path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as problem:
            raise DataError(f"{path}: not a complete zip file ({problem}); copy or download it again") from None
        self._members = self._zip.infolist()
        files, repeated = unpacked(
            self._member(number, member)
            for number, member in enumerate(self._members)
            if not _name(member).endswith("/")
        )
        if repeated:
            logger.warning(
                "%s: %s names occur twice, such as %r; the later file is used", path, len(repeated), repeated[0]
            )
        files.sort(key=lambda file: file.name)
        self._in_zip = [file.offset for file in files]
        entries = [Entry(file.name, file.size_bytes, file.changed_at, file.problem) for file in files]
        super().__init__(path.name, entries, str(path), read_labels)

    def _member(self, number: int, member: zipfile.ZipInfo) -> Member:
        problem = _problem(member)
        link = None
        if stat.S_ISLNK(member.external_attr >> 16) and problem is None:
            link, problem = self._link(member)
        return Member(_name(member), number, member.file_size, member.CRC, problem, symbolic_link=link)

    def _link(self, member: zipfile.ZipInfo) -> tuple[str | None, str | None]:
        """Return the target of a symbolic link, and its problem."""
        if member.file_size > LONGEST_LINK_BYTES:
            return None, "not a regular file of the archive"
        try:
            with self._zip.open(member) as file:
                return file.read(LONGEST_LINK_BYTES + 1).decode(errors="surrogateescape"), None
        except _DAMAGE as problem:
            if is_storage_error(problem):
                raise
            return None, f"damaged in the archive: {problem}"

    def _read(self, number: int) -> bytes:
        """Return the content of a member; its checksum and size are checked.

        Raises:
            ValueError: it is damaged.
        """
        member = self._members[self._in_zip[number]]
        try:
            with naming(Path(self._zip.filename or self.name)), self._zip.open(member) as file:
                content = file.read(member.file_size + 1)
        except _DAMAGE as problem:
            if is_storage_error(problem):
                raise
            raise ValueError(f"damaged in the archive: {problem}") from None
        if len(content) != member.file_size:
            raise ValueError("damaged in the archive: its size differs from its header")
        return content


def is_zip(path: Path) -> bool:
    """Return whether a file starts like a zip; a zip at the end is a tar's last member, or appended to a picture."""
    with naming(path), path.open("rb") as file:
        return file.read(4) in (b"PK\3\4", b"PK\5\6")
