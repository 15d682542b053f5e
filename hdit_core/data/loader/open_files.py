"""Open shards, and the number that a process keeps open, within the system's limit of open files."""

import os
import resource
from pathlib import Path

from hdit_core.data.format.manifest_entries import ShardEntry
from hdit_core.data.format.shard import read_all
from hdit_core.data.remote.cache import RemoteDataset

WANTED_LIMIT = 4096  # open files; some systems start with 256
MOST_OPEN_SHARDS = 256
RESERVED = 64  # for libraries, logs and sockets; half of the rest is for the batches of worker processes


def raise_open_files_limit() -> int:
    """Raise the soft limit of open files to `WANTED_LIMIT`, or as far as the hard limit allows, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return WANTED_LIMIT
    wanted = WANTED_LIMIT if hard == resource.RLIM_INFINITY else min(WANTED_LIMIT, hard)
    if soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError):  # macOS has an additional, lower limit
            return soft
    return max(soft, wanted)


def open_shards_limit() -> int:
    """Return the maximum number of open shards."""
    return min(MOST_OPEN_SHARDS, max(8, (raise_open_files_limit() - RESERVED) // 2))


class OpenShard:
    """An open shard; its descriptor is closed with the last reference, even if the reader evicted it earlier."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, length: int, offset: int) -> bytes:
        """Return bytes of the shard, fewer at its end; repeats short reads."""
        return read_all(self._descriptor, length, offset)

    def __del__(self) -> None:
        os.close(self._descriptor)


def open_shard(location: Path | RemoteDataset, read_ahead: bool, entry: ShardEntry) -> OpenShard:
    """Open a shard; with `read_ahead`, ask the system to load all of it in the background."""
    if isinstance(location, RemoteDataset):
        descriptor = location.open_shard(entry)
    else:
        descriptor = os.open(location / entry.name, os.O_RDONLY | os.O_CLOEXEC)
    if read_ahead and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    return OpenShard(descriptor)
