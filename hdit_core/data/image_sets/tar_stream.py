"""A tar as it comes through a pipe, of the webdataset kind: its images one by one, in bounded memory."""

import io
from collections.abc import Callable, Iterator

from hdit_core.data.sources.archive import TAR_DAMAGE, entry_of
from hdit_core.data.sources.tar import members
from hdit_core.errors import DataError

CHUNK_BYTES = 1 << 20


class ForwardFile(io.BufferedIOBase):
    """A stream of bytes that can be read on and skipped, never set back."""

    def __init__(self, take: Callable[[int], bytes]) -> None:
        """Begin at what is now the front; `take` gives up to so many bytes more, and none at the end."""
        self._take, self._place = take, 0

    def read(self, size: int | None = -1, /) -> bytes:
        """Return so many bytes, fewer at the end only."""
        assert size is not None and size >= 0  # nobody wants all of a stream
        parts, missing = [], size
        while missing and (part := self._take(min(missing, CHUNK_BYTES))):
            parts.append(part)
            missing -= len(part)
        self._place += size - missing
        return b"".join(parts)

    def tell(self) -> int:
        """Return how many bytes have been read or skipped."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Skip to a place ahead, or to the end where that comes before."""
        assert whence == io.SEEK_SET and offset >= self._place
        while self._place < offset and self.read(min(offset - self._place, CHUNK_BYTES)):
            pass
        return self._place


def read_tar(take: Callable[[int], bytes], wanted: Callable[[str], bool], where: str) -> Iterator[tuple[str, bytes]]:
    """Yield name and content of the wanted files of a tar, as they come.

    Args:
        take: gives up to so many bytes more of the uncompressed tar, such as `sys.stdin.buffer.read`.
        wanted: says by its name whether a member is.
        where: what the stream is called in messages.

    Raises:
        DataError: it is no tar, damaged or cut short, or a wanted member is a link or too large.
    """
    file = ForwardFile(take)
    try:
        for member in members(file):
            if not wanted(member.name):
                continue
            if problem := entry_of(member).problem:
                raise DataError(f"{where}: {member.name}: {problem}; leave it out")
            file.seek(member.offset)
            content = file.read(member.size_bytes)
            if len(content) < member.size_bytes:
                raise ValueError(f"cut short at byte {file.tell():,}")
            yield member.name, content
    except TAR_DAMAGE as problem:
        raise DataError(f"{where}: not a whole tar ({problem}); send it whole and uncompressed") from None
