"""A prepared data set on a remote store, read through a local cache of the shards in use.

    <cache>/<identity of the set>/manifest.json, index.npy     fetched when the set is opened; likewise condition.npy
                                                               and vectors.npy, if the set has them
    <cache>/<identity of the set>/shard-000007.tar             fetched when its first image is read

Nothing else is fetched. A file gets its final name once it has the size and the SHA-256 of the manifest; processes that
need the same file fetch it once. The shards of all sets together stay below a number of bytes: the least recently
opened are removed, which does not affect processes that read from them. A damaged copy is fetched again.
"""

import hashlib
import logging
import math
import os
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hdit_core.data.format.manifest import CONDITION, INDEX, LARGEST_MANIFEST_BYTES, MANIFEST, VECTORS, read_manifest
from hdit_core.data.format.manifest_entries import IndexEntry, ShardEntry
from hdit_core.data.remote import store
from hdit_core.errors import DataError
from hdit_core.files import TEMPORARY, cache_folder, crc32, write_atomic
from hdit_core.locks import SAY_AFTER_S, LockHeldError, locked

logger = logging.getLogger("hdit")

LOCK_POLL_S = 1.0  # between checks for a stop request while another process fetches
ABANDONED_S = 3600.0  # age of a temporary file that is abandoned


def is_remote(location: Path | str) -> bool:
    """Return whether the location of a data set is the address of a store, not a folder."""
    return "://" in str(location)


def default_cache() -> Path:
    """Return the folder of the cache: `hdit/data` under `$XDG_CACHE_HOME`, or under `~/.cache`."""
    return cache_folder() / "data"


def _not_written(path: Path, problem: OSError) -> DataError:
    return DataError(f"{path}: cannot be written ({problem.strerror}); make room, or lower data.cache_gb")


@contextmanager
def _local_errors(path: Path) -> Iterator[None]:
    """Distinguish errors of the cache's disk from those of the store, which are retried."""
    try:
        yield
    except OSError as problem:
        raise _not_written(path, problem) from None


class RemoteDataset:
    """A data set on a remote store, and the local folder of its cached files."""

    def __init__(self, address: str, cache: Path, cache_bytes: int) -> None:
        """Fetch its manifest and its index.

        Args:
            address: address of the set's folder, such as `s3://bucket/faces`.
            cache: folder for all remote sets; created if missing.
            cache_bytes: maximum size of the shards in it.

        Raises:
            UsageError: the kind of store is unknown, or a package for it is missing.
            DataError: the set is missing, refused or damaged.
            StorageUnavailable: the store did not answer, even after all retries.
        """
        self.address, self.cache, self.cache_bytes = address.rstrip("/"), cache, cache_bytes
        store.open_store(self.address)
        self.folder = self._fetch_manifest()
        contents = read_manifest(self.folder).contents
        self._ensure(INDEX, contents.index)
        if contents.condition:
            self._ensure(CONDITION, contents.condition.index)
        if contents.vectors:
            self._ensure(VECTORS, contents.vectors.file)

    def _fetch_manifest(self) -> Path:
        """Fetch the manifest, which identifies the set, and return the cache folder of that set."""
        address = f"{self.address}/{MANIFEST}"
        content = store.retry(address, lambda: b"".join(store.read_chunks(address, LARGEST_MANIFEST_BYTES)))
        arriving = self.cache / f"{TEMPORARY}manifest-{os.getpid()}-{threading.get_ident()}"
        arriving.mkdir(parents=True, exist_ok=True)
        try:
            write_atomic(arriving / MANIFEST, content)
            try:
                folder = self.cache / read_manifest(arriving).root
            except DataError as problem:
                raise DataError(str(problem).replace(str(arriving / MANIFEST), address)) from None
            folder.mkdir(exist_ok=True)
            (arriving / MANIFEST).replace(folder / MANIFEST)
        finally:
            (arriving / MANIFEST).unlink(missing_ok=True)
            arriving.rmdir()
        return folder

    def open_shard(self, entry: ShardEntry) -> int:
        """Return a descriptor of a shard, fetched if it is not cached; it stays valid when the shard is evicted.

        Raises:
            DataError: it is missing, refused, cannot be stored, or differs from the manifest.
            StorageUnavailable: the store did not answer, or a stop was requested during the wait.
        """
        path = self.folder / entry.name
        while True:
            with suppress(FileNotFoundError):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                if os.fstat(descriptor).st_size == entry.bytes:
                    os.utime(descriptor)
                    return descriptor
                os.close(descriptor)
            self._ensure(entry.name, entry)

    def _ensure(self, name: str, entry: ShardEntry | IndexEntry) -> None:
        """Fetch a file that is not cached, unless another process does."""
        with self._turn(name):
            if not self._is_kept(self.folder / name, entry):
                self._fetch(name, entry)

    @contextmanager
    def _turn(self, name: str) -> Iterator[None]:
        """Wait for other processes that fetch the same file: they lock the same byte."""
        began_at, is_said, byte = time.monotonic(), False, zlib.crc32(name.encode())
        while True:
            with suppress(LockHeldError), locked(self.folder / ".fetching", ((byte, 1),), wait_s=LOCK_POLL_S):
                yield
                return
            if not is_said and time.monotonic() - began_at >= SAY_AFTER_S:
                is_said = True
                logger.info("%s: waiting for another process of hdit that fetches from it", self.address)

    def _is_kept(self, path: Path, entry: ShardEntry | IndexEntry) -> bool:
        """Return whether a file is in the cache; for shards, whose images have checksums, only the size is compared."""
        if not path.exists() or path.stat().st_size != entry.bytes:
            return False
        return isinstance(entry, ShardEntry) or crc32(path) == entry.crc32

    def discard(self, entry: ShardEntry) -> None:
        """Remove a damaged shard from the cache; it is fetched again when it is next opened."""
        (self.folder / entry.name).unlink(missing_ok=True)

    def _fetch(self, name: str, entry: ShardEntry | IndexEntry) -> None:
        """Fetch and check a file, then rename it into place."""
        address, path = f"{self.address}/{name}", self.folder / name
        temporary = path.with_name(f"{TEMPORARY}{name}-{os.getpid()}-{threading.get_ident()}")
        try:
            self._evict(temporary, entry.bytes)
            store.retry(address, lambda: self._download(address, temporary, entry))
            temporary.replace(path)
        except OSError as problem:
            raise _not_written(path, problem) from None
        finally:
            temporary.unlink(missing_ok=True)

    def _download(self, address: str, path: Path, entry: ShardEntry | IndexEntry) -> None:
        hashed, read_bytes = hashlib.sha256(), 0
        with path.open("rb+") as file:
            for chunk in store.read_chunks(address, entry.bytes):
                hashed.update(chunk)
                read_bytes += len(chunk)
                with _local_errors(path):
                    file.write(chunk)
            with _local_errors(path):
                file.flush()
                os.fsync(file.fileno())
        if hashed.hexdigest() != entry.sha256:
            raise store.WrongContentError(
                f"its {read_bytes:,} bytes do not match the checksum of the manifest for {entry.bytes:,} bytes"
            )

    def _evict(self, temporary: Path, needed_bytes: int) -> None:
        """Reserve space for a file in the cache, and remove the least recently opened shards."""
        with locked(self.cache / ".making-room", wait_s=math.inf):
            kept = []
            for path in self.cache.glob("*/*.tar*"):
                with suppress(FileNotFoundError):
                    facts = path.stat()
                    kept.append((facts.st_mtime, facts.st_size, path))
            left = self.cache_bytes - needed_bytes - sum(size for _, size, _ in kept)
            for used_at, size, path in sorted(kept):
                unfinished = path.name.startswith(TEMPORARY) and time.time() - used_at < ABANDONED_S
                if left < 0 and not unfinished:
                    path.unlink(missing_ok=True)
                    left += size
            if left < 0:
                raise DataError(
                    f"{self.cache}: data.cache_gb = {self.cache_bytes / 1e9:g} is too small for the shards that are "
                    f"fetched at once, the next of {needed_bytes:,} bytes; raise it"
                )
            with temporary.open("wb") as file:
                file.truncate(needed_bytes)  # counts in the cache's size from now on
