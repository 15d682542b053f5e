"""Files that are whole or not there: written to a temporary sibling, flushed to the disk, renamed; and their checksums.

A kill at any moment leaves the old file or the new one, and at worst a sibling whose name begins with `.tmp-`.
"""

import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO

TEMPORARY = ".tmp-"
CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Digest:
    """What a file has to be, byte for byte."""

    size_bytes: int
    crc32: int
    sha256: str

    def to_json(self) -> dict[str, int | str]:
        return asdict(self)


def cache_folder() -> Path:
    """Return where hdit keeps what it downloads or compiles: `hdit` under `$XDG_CACHE_HOME`, or under `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hdit"


class Digester:
    """The digest of bytes that come one piece after the other."""

    def __init__(self) -> None:
        self._size_bytes, self._crc32, self._sha256 = 0, 0, hashlib.sha256()

    def add(self, piece: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._crc32 = zlib.crc32(piece, self._crc32)
        self._sha256.update(piece)
        self._size_bytes += len(piece)

    def digest(self) -> Digest:
        """Return the digest of all bytes so far."""
        return Digest(self._size_bytes, self._crc32, self._sha256.hexdigest())


class DigestingWriter:
    """Writes to a file what it digests: nothing has to be read again."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digester = file, Digester()
        self.digest = self._digester.digest

    def write(self, content: bytes | memoryview) -> None:
        """Write bytes, in pieces while they are in the processor's cache."""
        for begin in range(0, len(content), CHUNK_BYTES):
            piece = content[begin : begin + CHUNK_BYTES]
            self._file.write(piece)
            self._digester.add(piece)


def digest(path: Path) -> Digest:
    """Read a file once and return its size and checksums."""
    digester = Digester()
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            digester.add(chunk)
    return digester.digest()


def crc32(path: Path) -> int:
    """Return a file's crc32, ten times as fast as its sha256."""
    crc = 0
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            crc = zlib.crc32(chunk, crc)
    return crc


def read_json(path: Path, largest_bytes: int) -> dict[str, Any]:
    """Return the JSON object in a file that anybody may have written.

    Raises:
        ValueError: the file is larger, or is not a JSON object; the message is the reason, without the path.
        OSError: the file is missing or cannot be read.
    """
    with path.open("rb") as file:
        content = file.read(largest_bytes + 1)
    if len(content) > largest_bytes:
        raise ValueError(f"larger than {largest_bytes:,} bytes")
    try:
        record = json.loads(content, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    except ValueError as error:
        raise ValueError(f"not JSON ({error})") from None
    if not isinstance(record, dict):
        raise ValueError("not a JSON object")
    return record


def _refuse_constant(name: str) -> float:
    raise ValueError(f"it contains {name}, which JSON does not have")


def flush_folder(folder: Path) -> None:
    """Make the names in a folder survive a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def forget_cached(path: Path) -> None:
    """Ask the system to read a flushed file from the disk when it is read next, and not from memory."""
    if hasattr(os, "posix_fadvise"):
        with path.open("rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _temporary(path: Path) -> Path:
    return path.with_name(f"{TEMPORARY}{path.name}-{os.getpid()}")


def _flush_file(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Give a temporary path: what the block writes there becomes `path`, whole, or is removed when it fails.

    An older file of the name is replaced.
    """
    temporary = _temporary(path)
    temporary.unlink(missing_ok=True)  # a link that somebody put there would be written through
    try:
        yield temporary
        _flush_file(temporary)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    flush_folder(path.parent)


def write_atomic(path: Path, content: bytes | str) -> None:
    """Write a file so that it is never seen half; an older one of the name is replaced."""
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_temporaries(folder: Path, name: str = "") -> None:
    """Remove what killed writers of this name (default: any) left behind in a folder."""
    for left in folder.glob(f"{TEMPORARY}{name}*"):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink(missing_ok=True)


@contextmanager
def atomic_folder(final: Path) -> Iterator[Path]:
    """Give a temporary folder that becomes `final`, whole, when the block ends well, and is removed when it does not.

    Raises:
        FileExistsError: `final` is there already.
    """
    if final.exists():
        raise FileExistsError(final)
    temporary = _temporary(final)
    remove_temporaries(final.parent, final.name)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in temporary.iterdir():
            _flush_file(file)
        flush_folder(temporary)
        temporary.rename(final)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    flush_folder(final.parent)
