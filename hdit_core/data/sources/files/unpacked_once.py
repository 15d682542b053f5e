"""Compressed files that are unpacked once, although they are read twice: for the listing, and for the contents.

The unpacked data are kept in an unnamed temporary file (`$TMPDIR`), which disappears with the process. Without enough
space there, the file is unpacked again for each pass.
"""

import io
import os
import shutil
import tempfile
from io import BufferedIOBase
from pathlib import Path

CHUNK_BYTES = 1 << 20
RESERVE_BYTES = 1 << 30  # bytes to leave free
MOST_EXPANSION = 3  # images are already compressed; data that expand further are not kept


class UnpackedOnce(io.BufferedIOBase):
    """The decompressed content of a file; each part is kept when it is first read."""

    def __init__(self, compressed: BufferedIOBase, most_bytes: int) -> None:
        """Keep the data that are read from a decompressing file.

        Args:
            compressed: decompresses when it is read; it is read sequentially.
            most_bytes: if it expands further, nothing is kept.
        """
        self._compressed, self._most_bytes = compressed, most_bytes
        self._kept: int | None = _unnamed_file()
        self._kept_bytes = self._position = 0

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        """Set the position from the start, and return it."""
        self._position = offset
        return offset

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def read(self, size: int | None = -1, /) -> bytes:
        """Return the next bytes, fewer at the end."""
        size = 0 if size is None else max(0, size)
        self._keep(self._position + size)
        if self._kept is None:
            self._compressed.seek(self._position)
            content = self._compressed.read(size)
        else:
            content = os.pread(self._kept, size, self._position)
        self._position += len(content)
        return content

    def close(self) -> None:
        """Close the file, and discard the kept data."""
        self._drop()
        self._compressed.close()
        super().close()

    def _keep(self, end: int) -> None:
        """Unpack up to a position."""
        while self._kept is not None and self._kept_bytes < end and (chunk := self._compressed.read(CHUNK_BYTES)):
            try:
                rest = memoryview(chunk)
                while rest:
                    rest = rest[os.write(self._kept, rest) :]
            except OSError:  # the disk is full: the next pass unpacks again
                self._drop()
            self._kept_bytes += len(chunk)
            if self._kept_bytes > self._most_bytes:
                self._drop()

    def _drop(self) -> None:
        if self._kept is not None:
            os.close(self._kept)
            self._kept = None


def _unnamed_file() -> int:
    with tempfile.TemporaryFile(buffering=0) as file:
        return os.dup(file.fileno())


def open_once(compressed: BufferedIOBase, path: Path) -> BufferedIOBase:
    """Return a decompressing file that keeps its data, if there is enough space for them.

    Args:
        compressed: decompresses when it is read.
    """
    size_bytes = path.stat().st_size
    try:
        free_bytes = shutil.disk_usage(tempfile.gettempdir()).free
        if free_bytes >= RESERVE_BYTES + (MOST_EXPANSION + 1) * size_bytes:
            return UnpackedOnce(compressed, min(free_bytes - RESERVE_BYTES, MOST_EXPANSION * size_bytes + (64 << 20)))
    except OSError:  # no folder for temporary files
        pass
    return compressed
