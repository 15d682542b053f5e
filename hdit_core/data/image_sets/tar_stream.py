"""A tar that comes through a pipe, in the webdataset layout: its images one by one, in bounded memory."""

import io
import sys
from collections.abc import Callable, Iterator

from hdit_core.data.sources.files.tar import TAR_DAMAGE, entry_of
from hdit_core.data.sources.files.tar_headers import BLOCK_BYTES, members
from hdit_core.errors import DataError, UsageError

CHUNK_BYTES = 1 << 20


class ForwardFile(io.BufferedIOBase):
    """A stream of bytes that can be read and skipped, but not rewound."""

    def __init__(self, take: Callable[[int], bytes]) -> None:
        """Start at the current position; `take` returns up to so many bytes, and none at the end."""
        self._take, self._place, self._unread = take, 0, b""

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, fewer at the end only."""
        assert size is not None and size >= 0  # never read a stream to its end
        parts, missing = [self._unread[:size]], size - len(self._unread[:size])
        self._unread = self._unread[size:]
        while missing and (part := self._take(min(missing, CHUNK_BYTES))):
            parts.append(part)
            missing -= len(part)
        self._place += size - missing
        return b"".join(parts)

    def tell(self) -> int:
        """Return how many bytes have been read or skipped."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Skip to a place ahead, or to the end if that comes first."""
        assert whence == io.SEEK_SET and offset >= self._place
        while self._place < offset and self.read(min(offset - self._place, CHUNK_BYTES)):
            pass
        return self._place

    def skip_zeros(self) -> int | None:
        """Skip blocks of zeros, which end a tar; return where something else begins, None at the end of the stream."""
        while block := self.read(BLOCK_BYTES):
            if any(block):
                self._unread, self._place = block + self._unread, self._place - len(block)
                return self._place
        return None


def stdin_bytes() -> Callable[[int], bytes]:
    """Return the function that reads stdin.

    Raises:
        UsageError: it is closed.
    """
    if sys.stdin is None:
        raise UsageError("-: stdin is closed; pipe a tar into this command")
    return sys.stdin.buffer.read


def read_tar(take: Callable[[int], bytes], wanted: Callable[[str], bool], where: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the wanted files of one tar or several concatenated ones, in order.

    Args:
        take: reads up to a number of bytes of the uncompressed tar, for example `stdin_bytes()`.
        wanted: whether to yield a member of this name.
        where: name of the stream in messages.

    Raises:
        DataError: it is not a tar, damaged or truncated, or a wanted member is a link or too large.
    """
    file = ForwardFile(take)
    start: int | None = 0
    try:
        while start is not None:
            yield from _read_one(file, start, wanted, where)
            start = file.skip_zeros()
    except TAR_DAMAGE as problem:
        raise DataError(f"{where}: not a complete tar ({problem}); send it complete and uncompressed") from None


def _read_one(file: ForwardFile, start: int, wanted: Callable[[str], bool], where: str) -> Iterator[tuple[str, bytes]]:
    for member in members(file, start, may_continue=True):
        if not wanted(member.name):
            continue
        is_link = member.hard_link is not None or member.symbolic_link is not None
        if problem := "a link, and a stream cannot be read twice" if is_link else entry_of(member).problem:
            raise DataError(f"{where}: {member.name}: {problem}; leave it out")
        file.seek(member.offset)
        content = file.read(member.size_bytes)
        if len(content) < member.size_bytes:
            raise ValueError(f"truncated at byte {file.tell():,}")
        yield member.name, content
