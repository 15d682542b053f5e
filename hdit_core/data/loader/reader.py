"""Random reads from a prepared data set: an image by its number, each read checked against the index.

A shard that is missing, cut short or altered is an error that names it, never a shorter epoch: sizes are compared when
the set is opened, and the CRC-32 of an image each time it is read. Only images are decoded, by `codec`; nothing else in
a shard is looked at, and the label comes from the index. Shards are read by offset and not mapped into memory: one that
is cut short while it is mapped would end the process.

Any number of threads may read from one reader, and processes may fork from it.
"""

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

from hdit_core.data.format.manifest import INDEX, Manifest, ShardEntry, read_manifest
from hdit_core.data.format.shard import INDEX_DTYPE
from hdit_core.data.image.codec import decode
from hdit_core.data.loader.remote_cache import RemoteDataset
from hdit_core.errors import DataError
from hdit_core.files import crc32

CACHE_BYTES = 256 << 20
"""A set whose decoded images fit into this is decoded once: 64 digits take 4 ms to decode, 0.1 ms to look up."""

OPEN_SHARDS = 256  # below the usual limit of 1024 open files

REPAIR_HINT = "prepare or copy the data again"


class DamagedImage(DataError):
    """What lies in a shard is not the image that was put there."""

    def __init__(self, message: str, index: int) -> None:
        super().__init__(message)
        self.index = index

    def __reduce__(self) -> tuple[type, tuple[str, int]]:
        return DamagedImage, (str(self), self.index)


class OpenShard:
    """A shard to read from; closed when nobody reads from it any more, whoever has put it away meanwhile."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def read(self, length: int, offset: int) -> bytes:
        """Return bytes of the shard, fewer where it ends before; one call of the system may give only a part."""
        content = os.pread(self._descriptor, length, offset)
        while len(content) < length and (
            more := os.pread(self._descriptor, length - len(content), offset + len(content))
        ):
            content += more
        return content

    def __del__(self) -> None:
        os.close(self._descriptor)


def _open_shard(place: Path | RemoteDataset, whole: bool, entry: ShardEntry) -> OpenShard:
    """Open a shard; with `whole`, ask the system to read all of it ahead, which it does meanwhile."""
    if isinstance(place, RemoteDataset):
        descriptor = place.open_shard(entry)
    else:
        descriptor = os.open(place / entry.name, os.O_RDONLY | os.O_CLOEXEC)
    if whole and hasattr(os, "posix_fadvise"):
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
    return OpenShard(descriptor)


def _found_bytes(path: Path, expected_bytes: int) -> tuple[int, str | None]:
    """Return how many bytes a file has, and what is wrong with that."""
    try:
        found_bytes = path.stat().st_size
    except OSError as problem:
        return 0, f"{path}: cannot be read ({problem.strerror}); {REPAIR_HINT}"
    if found_bytes == expected_bytes:
        return found_bytes, None
    return found_bytes, (
        f"{path}: has {found_bytes:,} bytes, the manifest says {expected_bytes:,}: cut short or altered; {REPAIR_HINT}"
    )


def _open_index(folder: Path, manifest: Manifest) -> np.ndarray:
    """Map the index into memory after checking that it is the one the manifest means."""
    path, entry = folder / INDEX, manifest.contents.index
    if problem := _found_bytes(path, entry.bytes)[1]:
        raise DataError(problem)
    if crc32(path) != entry.crc32:
        raise DataError(f"{path}: its checksum does not fit the manifest; {REPAIR_HINT}")
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise DataError(f"{path}: not an index ({error}); prepare the data again") from None
    if index.dtype != INDEX_DTYPE or index.shape != (manifest.contents.samples,):
        raise DataError(f"{path}: not the index of {manifest.contents.samples:,} samples; prepare the data again")
    return index.view(np.ndarray)


class ImageReader:
    """A prepared data set; `len(reader)` images, `reader.read(index)` gives one."""

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
            folder: where `hdit prepare-data` put it, or a copy of that on a remote store.
            cache_bytes: decoded images are kept if all of them fit into this.
            max_damaged: a set that lacks no more images than this, in shards cut short or missing, can be opened.
            whole_shards: read a shard ahead as a whole when its first image is wanted.

        Raises:
            DataError: a part is missing, or not what the manifest says.
        """
        place = folder if isinstance(folder, RemoteDataset) else Path(folder)
        self._arguments = {"folder": place, "cache_bytes": cache_bytes, "max_damaged": max_damaged}
        self._arguments["whole_shards"] = whole_shards
        self.folder = place.folder if isinstance(place, RemoteDataset) else place
        self.manifest = read_manifest(self.folder)
        contents = self.manifest.contents
        self._index = _open_index(self.folder, self.manifest)
        if not isinstance(place, RemoteDataset):
            self._check_shards(max_damaged)
        self._open: Callable[[ShardEntry], OpenShard] = lru_cache(OPEN_SHARDS)(
            partial(_open_shard, place, whole_shards)
        )
        self._shapes = [(size.height, size.width, contents.channels) for size in contents.sizes]
        self._bucket_ends = list(accumulate(size.samples for size in contents.sizes))
        pixels = sum(size.samples * size.height * size.width for size in contents.sizes)
        self._keeps = pixels * contents.channels <= cache_bytes
        self._kept: dict[int, UInt8[np.ndarray, "H W C"]] = {}

    def _check_shards(self, max_damaged: int) -> None:
        """Refuse shards of other sizes than the manifest says, unless few enough images are lost with them."""
        lost = first = 0
        for shard in self.manifest.contents.shards:
            found_bytes, problem = _found_bytes(self.folder / shard.name, shard.bytes)
            rows = self._index[first : first + shard.samples]
            first += shard.samples
            if problem:
                lost += int(np.sum(rows["offset"] + rows["length"] > found_bytes))
                if lost > max_damaged or not max_damaged:
                    raise DataError(problem)

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
            DamagedImage: what lies there is not the image that was put there.
        """
        image = self._kept.get(index)
        if image is None:
            image = self._decode(index)
            if self._keeps:
                self._kept[index] = image
        return image, self.label(index)

    def _decode(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        shape = self.shape(index)
        try:
            return decode(self.encoded(index), self.manifest.contents.codec, shape)
        except ValueError as problem:
            raise DamagedImage(f"{self.where(index)}: {problem}; prepare the data again", index) from None

    def encoded(self, index: int) -> bytes:
        """Return an image as it lies in its shard, checked.

        Raises:
            DamagedImage: what lies there is not what was put there.
        """
        shard, offset, length, expected_crc32, _ = self._index[index].item()
        entry = self._shard(index, shard)
        if offset + length > entry.bytes or length > largest_content(self.shape(index)):
            raise DamagedImage(
                f"{self.where(index)}: {length:,} bytes there are no image of the set: damaged index; {REPAIR_HINT}",
                index,
            )
        try:
            content = self._open(entry).read(length, offset)
        except OSError as problem:
            message = f"{self.folder / entry.name}: cannot be read ({problem.strerror}); {REPAIR_HINT}"
            raise DamagedImage(message, index) from None
        if len(content) != length or zlib.crc32(content) != expected_crc32:
            raise DamagedImage(
                f"{self.where(index)}: {len(content):,} bytes do not match the checksum in the index; {REPAIR_HINT}",
                index,
            )
        return content

    def _shard(self, index: int, shard: int) -> ShardEntry:
        shards = self.manifest.contents.shards
        if shard >= len(shards):
            raise DamagedImage(
                f"{self.folder / INDEX}: image {index} lies in shard {shard}, there are {len(shards)}", index
            )
        return shards[shard]

    def where(self, index: int) -> str:
        """Return where an image lies, for people."""
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
    """Return more bytes than any codec takes for an image of this shape, so that no index makes a reader take more."""
    height, width, channels = shape
    return 2 * height * width * channels + (1 << 20)
