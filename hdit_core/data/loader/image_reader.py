"""Random access to a prepared data set: images by index; each read is checked against the index file.

Condition images, vectors and captions are read in the same way, if the set has them.

A shard that is missing, truncated or altered is an error that names it, never a shorter epoch: sizes are compared when
the set is opened, and the CRC-32 of an image each time it is read. Only images are decoded, by `codec`; nothing else in
a shard is parsed, and the label comes from the index. Shards are read by offset and not mapped into memory: one that is
truncated while it is mapped would end the process.

Any number of threads may read from one reader, and processes may fork from it.
"""

import errno
import zlib
from bisect import bisect_right
from collections.abc import Callable
from functools import lru_cache, partial
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Shaped

from hdit_core.data.format.manifest import INDEX, REPAIR_HINT, load_rows, read_manifest, size_problem
from hdit_core.data.format.manifest_entries import ShardEntry
from hdit_core.data.format.optional_rows import load_condition_index, load_vectors
from hdit_core.data.format.retry_reads import retry_transient
from hdit_core.data.format.shard import INDEX_DTYPE, read_caption
from hdit_core.data.image.codec import decode
from hdit_core.data.loader.open_files import OpenShard, open_shard, open_shards_limit
from hdit_core.data.remote.cache import RemoteDataset
from hdit_core.errors import DataError

CACHE_BYTES = 256 << 20
"""A set whose decoded images fit into this is decoded only once: 64 digits take 4 ms to decode, 0.1 ms to look up."""


Pixels = Shaped[np.ndarray, "H W C"]  # has the data type of the set
Rows = Shaped[np.ndarray, " _"]  # of INDEX_DTYPE


class DamagedImage(DataError):
    """The bytes in a shard are not the image that was stored there."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return DamagedImage, (str(self), self.index)


class ImageReader:
    """A prepared data set with `len(reader)` images; `reader.read(index)` returns one.

    Attributes:
        folder: folder of the set, or of its cached copy.
        manifest: manifest of the set.
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
            folder: a folder written by `hdit prepare-data`, or a copy of it on a remote store.
            cache_bytes: decoded images are kept in memory if all of them fit into this.
            max_damaged: a set can be opened if truncated or missing shards have at most this many images.
            whole_shards: read the whole shard ahead when its first image is read.

        Raises:
            DataError: a part is missing, or differs from the manifest.
        """
        location = folder if isinstance(folder, RemoteDataset) else Path(folder)
        self._arguments = {"folder": location, "cache_bytes": cache_bytes, "max_damaged": max_damaged}
        self._arguments["whole_shards"] = whole_shards
        self.folder = location.folder if isinstance(location, RemoteDataset) else location
        self.manifest = read_manifest(self.folder)
        self._location = location
        contents = self.manifest.contents
        self._index = load_rows(self.folder, INDEX, contents.index, INDEX_DTYPE, contents.samples)
        self._condition_index = load_condition_index(self.folder, contents)
        self._vectors = load_vectors(self.folder, contents)
        if not isinstance(location, RemoteDataset):
            self._check_shards(max_damaged)
        opener = partial(open_shard, location, whole_shards)
        self._open: Callable[[ShardEntry], OpenShard] = lru_cache(open_shards_limit())(opener)
        self._shapes = [(size.height, size.width, contents.channels) for size in contents.sizes]
        self._bucket_ends = list(accumulate(size.samples for size in contents.sizes))
        self._caches_images = contents.decoded_bytes <= cache_bytes
        self._cached: dict[int, Pixels] = {}
        self._cached_conditions: dict[int, Pixels] = {}

    def _check_shards(self, max_damaged: int) -> None:
        """Refuse shards whose size differs from the manifest, unless few enough images are lost with them."""
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
        """Number of classes, 0 if the images have none."""
        return len(self.manifest.contents.classes or ())

    def label(self, index: int) -> int:
        """Return the class of an image, -1 without one."""
        return int(self._index["label"][index])

    def shape(self, index: int) -> tuple[int, int, int]:
        """Return height, width and channels of an image."""
        return self._shapes[bisect_right(self._bucket_ends, index)]

    def read(self, index: int) -> tuple[Pixels, int]:
        """Return an image and its class (-1 without one).

        Args:
            index: 0 <= index < len(self).

        Raises:
            IndexError: there is no such image.
            DamagedImage: its bytes have changed since they were stored.
            StorageUnavailable: the storage did not answer, even after all retries.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.folder}: image {index}: expected 0 to {len(self) - 1}")
        image = self._cached.get(index)
        if image is None:
            image = self._decode(index)
            if self._caches_images:
                self._cached[index] = image
        return image, self.label(index)

    @property
    def condition_channels(self) -> int:
        """Channels of the condition images, 0 if the set has none."""
        condition = self.manifest.contents.condition
        return condition.channels if condition else 0

    @property
    def vector_dim(self) -> int:
        """Length of the vectors, 0 if the set has none."""
        vectors = self.manifest.contents.vectors
        return vectors.dim if vectors else 0

    def condition(self, index: int) -> Pixels | None:
        """Return the condition image of an image, None if the set has none.

        Raises:
            DamagedImage, StorageUnavailable: as `read`.
        """
        if self._condition_index is None:
            return None
        condition = self._cached_conditions.get(index)
        if condition is None:
            condition = self._decode_condition(index)
            if self._caches_images:
                self._cached_conditions[index] = condition
        return condition

    def vector(self, index: int) -> Float32[np.ndarray, " E"] | None:
        """Return the vector of an image, None if the set has none."""
        return None if self._vectors is None else np.array(self._vectors[index])

    def caption(self, index: int) -> str | None:
        """Return the caption of an image, None if it has none.

        Raises:
            DamagedImage: the shard is damaged there.
        """
        if not self.manifest.contents.captions:
            return None
        shard, offset, *_ = self._index[index].item()
        entry = self._shard(index, shard)
        try:
            return read_caption(lambda length, offset: self._read_retried(entry, length, offset), offset)
        except (ValueError, OSError) as problem:
            raise DamagedImage(f"{self.where(index)}: its caption: {problem}; {REPAIR_HINT}", index) from None

    def _decode(self, index: int) -> Pixels:
        contents = self.manifest.contents
        try:
            return decode(self.encoded(index), contents.codec, self.shape(index), contents.dtype)
        except ValueError as problem:
            raise DamagedImage(f"{self.where(index)}: {problem}; prepare the data again", index) from None

    def _decode_condition(self, index: int) -> Pixels:
        condition = self.manifest.contents.condition
        assert condition is not None and self._condition_index is not None
        shape = (*self.shape(index)[:2], condition.channels)
        content = self._checked_content(self._condition_index, index, largest_content(shape, condition.pixels.itemsize))
        try:
            return decode(content, condition.codec, shape, condition.dtype)
        except ValueError as problem:
            raise DamagedImage(f"{self.where(index)}: its condition image: {problem}; {REPAIR_HINT}", index) from None

    def encoded(self, index: int) -> bytes:
        """Return the encoded image from its shard, checked.

        Raises:
            DamagedImage: its bytes have changed since they were stored.
            StorageUnavailable: the storage did not answer, even after all retries.
        """
        itemsize = self.manifest.contents.pixels.itemsize
        return self._checked_content(self._index, index, largest_content(self.shape(index), itemsize))

    def _checked_content(self, rows: Rows, index: int, most_bytes: int) -> bytes:
        """Return the bytes that an index row points to, after comparison with its checksum."""
        shard, offset, length, expected_crc32, _ = rows[index].item()
        entry = self._shard(index, shard)
        if offset + length > entry.bytes or length > most_bytes:
            raise DamagedImage(
                f"{self.where(index)}: {length:,} bytes cannot be an image of the set: damaged index; {REPAIR_HINT}",
                index,
            )
        try:
            content = self._read_retried(entry, length, offset)
            if zlib.crc32(content) != expected_crc32 and isinstance(self._location, RemoteDataset):
                self.close()
                self._location.discard(entry)  # the original had the manifest's checksum: the copy is damaged
                content = self._read_retried(entry, length, offset)
        except OSError as problem:
            path = self.folder / entry.name
            raise DamagedImage(f"{path}: cannot be read ({problem.strerror}); {REPAIR_HINT}", index) from None
        if len(content) != length or zlib.crc32(content) != expected_crc32:
            wrong = f"{len(content):,} bytes do not match the checksum in the index: damaged"
            raise DamagedImage(f"{self.where(index)}: {wrong}; {REPAIR_HINT}", index)
        return content

    def _read_retried(self, entry: ShardEntry, length: int, offset: int) -> bytes:
        path = self.folder / entry.name
        return retry_transient(path, lambda: self._read_bytes(entry, length, offset), before_retry=self.close)

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
        """Return a description of where an image is stored, for messages."""
        shard, offset, *_ = self._index[index].item()
        return f"{self.folder / self._shard(index, shard).name}: image {index} at byte {offset:,}"

    def close(self) -> None:
        """Close the shards; a later read opens them again."""
        self._open.cache_clear()  # type: ignore[attr-defined]

    def __getstate__(self) -> dict[str, Any]:
        return self._arguments

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]


def largest_content(shape: tuple[int, int, int], itemsize: int = 1) -> int:
    """Return an upper bound of the size of an encoded image, so that a damaged index cannot exhaust the memory.

    Args:
        shape: height, width and channels.
        itemsize: bytes per value.
    """
    height, width, channels = shape
    return 2 * height * width * channels * itemsize + (1 << 20)
