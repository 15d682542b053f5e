"""Sizes and checksums of files and of bytes that arrive in chunks."""

import hashlib
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from hdit_core.files.content import naming

CHUNK_BYTES = 1 << 20


@dataclass(frozen=True)
class Digest:
    """Size and checksums of a file."""

    size_bytes: int
    crc32: int
    sha256: str

    def to_json(self) -> dict[str, int | str]:
        """Return it as a JSON object."""
        return asdict(self)


class Digester:
    """Computes the digest of bytes that arrive in chunks."""

    def __init__(self) -> None:
        self._size_bytes, self._crc32, self._sha256 = 0, 0, hashlib.sha256()

    def add(self, chunk: bytes | memoryview) -> None:
        """Add the next bytes."""
        self._crc32 = zlib.crc32(chunk, self._crc32)
        self._sha256.update(chunk)
        self._size_bytes += len(chunk)

    def digest(self) -> Digest:
        """Return the digest of all bytes so far."""
        return Digest(self._size_bytes, self._crc32, self._sha256.hexdigest())


@runtime_checkable
class Writable(Protocol):
    """Anything that takes bytes: a file, a pipe, or a buffer."""

    def write(self, content: Any, /) -> object:
        """Write bytes."""


class DigestingWriter:
    """Writes to a file and computes its digest on the way."""

    def __init__(self, file: Writable) -> None:
        self._file: Writable | None = file
        self._digester = Digester()
        self.digest = self._digester.digest

    def write(self, content: bytes | memoryview) -> None:
        """Write bytes, in chunks that stay in the processor's cache."""
        if self._file is None:
            return
        for begin in range(0, len(content), CHUNK_BYTES):
            chunk = content[begin : begin + CHUNK_BYTES]
            self._file.write(chunk)
            self._digester.add(chunk)

    def discard(self) -> None:
        """Discard further writes: the file is abandoned, and may already be closed."""
        self._file = None


def digest(path: Path) -> Digest:
    """Read a file once and return its size and checksums."""
    digester = Digester()
    for chunk in _chunks(path):
        digester.add(chunk)
    return digester.digest()


def crc32(path: Path) -> int:
    """Return a file's crc32, which is ten times as fast as its sha256."""
    crc = 0
    for chunk in _chunks(path):
        crc = zlib.crc32(chunk, crc)
    return crc


def _chunks(path: Path) -> Iterator[bytes]:
    with naming(path), path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk
