"""Random access to a prepared data set: an image by its number, each read checked against the index.

A shard that is missing, truncated or altered is an error that names it, never a shorter epoch: sizes are compared when
the set is opened, and the CRC-32 of an image each time it is read. Only images are decoded, by `codec`; nothing else in
a shard is parsed, and the label comes from the index. Shards are read by offset and not mapped into memory: one that is
truncated while it is mapped would end the process.

Any number of threads may read from one reader, and processes may fork from it.
"""

import errno
import os
import zlib
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.format.manifest import INDEX, REPAIR_HINT, ShardEntry, load_rows, read_manifest, size_problem
from hdit_core.data.format.shard import INDEX_DTYPE
from hdit_core.data.format.transient import never, retry_transient
from hdit_core.data.image.codec import decode
from hdit_core.data.loader.open_files import open_shards_limit
from hdit_core.data.loader.remote_cache import RemoteDataset
from hdit_core.errors import DataError

CACHE_BYTES = 256 << 20
"""A set whose decoded images fit into this is decoded once: 64 digits take 4 ms to decode, 0.1 ms to look up."""


class DamagedImage(DataError):
    """The bytes in a shard are not the image that was stored there."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return DamagedImage, (str(self), self.index)


class OpenShard:
    """An open shard; its descriptor is closed with the last reference, even if the reader evicted it earlier."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, length: int, offset: int) -> bytes:
        """Return bytes of the shard, fewer at its end; one system call may return only some of them."""
        content = os.pread(self._descriptor, length, offset)
        while len(content) < length and (
            more := os.pread(self._descriptor, length - len(content), offset + len(content))
        ):
            content += more
        return content

    def __del__(self) -> None:
        os.close(self._descriptor)


def _open_shard(location: Path | RemoteDataset, read_ahead: bool, entry: ShardEntry) -> OpenShard:
    """Open a shard; with `read_ahead`, ask the system to load all of it in the background."""
    if isinstance(location, RemoteDataset):
        descriptor = location.open_shard(entry)
    else:
        descriptor = os.open(location / entry.name, os.O_RDONLY | os.O_CLOEXEC)
    if read_ahead and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    return OpenShard(descriptor)


class ImageReader:
    """A prepared data set with `len(reader)` images; `reader.read(index)` returns one.

    Attributes:
        folder: that holds the set, or its cached copy.
        manifest: of the set.
        stop_requested: ends the pauses before a read is retried.
    """

    def __init__(
        self,
        folder: Path | RemoteDataset | str,
        cache_bytes: int = CACHE_BYTES,
        *,
        max_damaged: int = 0,
        whole_shards: bool = False,
    ) -> None:
        """Open a data set.

        Args:
            folder: that `hdit prepare-data` wrote, or a copy of it on a remote store.
            cache_bytes: decoded images are kept if all of them fit into this.
            max_damaged: a set that lacks no more images than this, in truncated or missing shards, can be opened.
            whole_shards: read a shard ahead as a whole when its first image is wanted.

        Raises:
            DataError: a part is missing, or not what the manifest says.
        """
        location = folder if isinstance(folder, RemoteDataset) else Path(folder)
        self._arguments = {"folder": location, "cache_bytes": cache_bytes, "max_damaged": max_damaged}
        self._arguments["whole_shards"] = whole_shards
        self.folder = location.folder if isinstance(location, RemoteDataset) else location
        self.manifest = read_manifest(self.folder)
        self.stop_requested: Callable[[], bool] = never
        contents = self.manifest.contents
        self._index = load_rows(self.folder, INDEX, contents.index, INDEX_DTYPE, contents.samples)
        if not isinstance(location, RemoteDataset):
            self._check_shards(max_damaged)
        open_shard = partial(_open_shard, location, whole_shards)
        self._open: Callable[[ShardEntry], OpenShard] = lru_cache(open_shards_limit())(open_shard)
        self._shapes = [(size.height, size.width, contents.channels) for size in contents.sizes]
        self._bucket_ends = list(accumulate(size.samples for size in contents.sizes))
        pixels = sum(size.samples * size.height * size.width for size in contents.sizes)
        self._caches_images = pixels * contents.channels <= cache_bytes
        self._cached: dict[int, UInt8[np.ndarray, "H W C"]] = {}

    def _check_shards(self, max_damaged: int) -> None:
        """Refuse shards of other sizes than the manifest says, unless few enough images are lost with them."""
        lost = first = 0
        for shard in self.manifest.contents.shards:
            size_bytes, problem = size_problem(self.folder / shard.name, shard.bytes)
            rows = self._index[first : first + shard.samples]
            first += shard.samples
            if problem:
                lost += int(np.sum(rows["offset"] + rows["length"] > size_bytes))
                if lost > max_damaged or not max_damaged:
                    raise DataError(f"{self.folder / shard.name}: {problem}; {REPAIR_HINT}")

    def __len__(self) -> int:
        return self.manifest.contents.samples

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 where the images have none."""
        return len(self.manifest.contents.classes or ())

    def label(self, index: int) -> int:
        """Return the class number of an image, -1 without one."""
        return int(self._index["label"][index])

    def shape(self, index: int) -> tuple[int, int, int]:
        """Return height, width and channels of an image."""
        return self._shapes[bisect_right(self._bucket_ends, index)]

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "H W C"], int]:
        """Return an image and its class number (-1 without one).

        Args:
            index: 0 <= index < len(self).

        Raises:
            IndexError: there is no such image.
            DamagedImage: its bytes are not those that were stored.
            StorageUnavailable: the storage did not answer, for longer than the retries take.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: image {index}: expected 0 to {len(self) - 1}")
        image = self._cached.get(index)
        if image is None:
            image = self._decode(index)
            if self._caches_images:
                self._cached[index] = image
        return image, self.label(index)

    def _decode(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        shape = self.shape(index)
        try:
            return decode(self.encoded(index), self.manifest.contents.codec, shape)
        except ValueError as problem:
            raise DamagedImage(f"{self.where(index)}: {problem}; prepare the data again", index) from None

    def encoded(self, index: int) -> bytes:
        """Return the encoded image as it is stored in its shard, checked.

        Raises:
            DamagedImage: its bytes are not those that were stored.
            StorageUnavailable: the storage did not answer, for longer than the retries take.
        """
        shard, offset, length, expected_crc32, _ = self._index[index].item()
        entry = self._shard(index, shard)
        if offset + length > entry.bytes or length > largest_content(self.shape(index)):
            raise DamagedImage(
                f"{self.where(index)}: {length:,} bytes there are no image of the set: damaged index; {REPAIR_HINT}",
                index,
            )
        path = self.folder / entry.name
        try:
            content = retry_transient(
                path, lambda: self._read_bytes(entry, length, offset), self.stop_requested, before_retry=self.close
            )
        except OSError as problem:
            raise DamagedImage(f"{path}: cannot be read ({problem.strerror}); {REPAIR_HINT}", index) from None
        if len(content) != length or zlib.crc32(content) != expected_crc32:
            raise DamagedImage(
                f"{self.where(index)}: {len(content):,} bytes do not match the checksum in the index: damaged; "
                f"{REPAIR_HINT}",
                index,
            )
        return content

    def _read_bytes(self, entry: ShardEntry, length: int, offset: int) -> bytes:
        try:
            return self._open(entry).read(length, offset)
        except FileNotFoundError:
            if self.folder.exists():
                raise
            raise OSError(errno.ENOTCONN, f"{self.folder} is gone: a lost mount?") from None

    def _shard(self, index: int, shard: int) -> ShardEntry:
        shards = self.manifest.contents.shards
        if shard >= len(shards):
            raise DamagedImage(
                f"{self.folder / INDEX}: image {index} is in shard {shard}, expected 0 to {len(shards) - 1}; "
                f"{REPAIR_HINT}",
                index,
            )
        return shards[shard]

    def where(self, index: int) -> str:
        """Return where an image is stored, for people."""
        shard, offset, *_ = self._index[index].item()
        return f"{self.folder / self._shard(index, shard).name}: image {index} at byte {offset:,}"

    def close(self) -> None:
        """Close the shards; a later read opens them again."""
        self._open.cache_clear()  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def largest_content(shape: tuple[int, int, int]) -> int:
    """Return a bound on the bytes of an encoded image, so that no damaged index makes a reader load more."""
    height, width, channels = shape
    return 2 * height * width * channels + (1 << 20)
