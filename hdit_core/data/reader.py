"""Random reads from a prepared data set: an image by its number, each read checked against the index.

A shard that is missing, cut short or altered is an error that names it, never a shorter epoch: sizes are compared when
the set is opened, and the CRC-32 of an image each time it is read. Only images are decoded, by `codec`; nothing else in
a shard is looked at, and the label comes from the index.
"""

import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from hdit_core.data.codec import decode
from hdit_core.data.manifest import INDEX, Manifest, read_manifest
from hdit_core.data.shard import INDEX_DTYPE
from hdit_core.errors import DataError

CACHE_BYTES = 256 << 20
"""A set whose decoded images fit into this is decoded once: 64 digits take 4 ms to decode, 0.1 ms to look up."""

OPEN_SHARDS = 256  # below the usual limit of 1024 open files


def _crc32_of(path: Path) -> int:
    crc32 = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            crc32 = zlib.crc32(piece, crc32)
    return crc32


def _check_size(path: Path, expected_bytes: int) -> None:
    try:
        found_bytes = path.stat().st_size
    except OSError as problem:
        raise DataError(f"{path}: cannot be read ({problem.strerror}); prepare or copy the data again") from None
    if found_bytes != expected_bytes:
        raise DataError(
            f"{path}: has {found_bytes:,} bytes, the manifest says {expected_bytes:,}: cut short or altered; "
            "prepare or copy the data again"
        )


def _open_index(folder: Path, manifest: Manifest) -> np.ndarray:
    """Map the index into memory after checking that it is the one the manifest means."""
    path, entry = folder / INDEX, manifest.contents.index
    _check_size(path, entry.bytes)
    if _crc32_of(path) != entry.crc32:
        raise DataError(f"{path}: its checksum does not fit the manifest; prepare or copy the data again")
    try:
        index = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as problem:
        raise DataError(f"{path}: not an index ({problem}); prepare the data again") from None
    if index.dtype != INDEX_DTYPE or index.shape != (manifest.contents.samples,):
        raise DataError(f"{path}: not the index of {manifest.contents.samples:,} samples; prepare the data again")
    return index.view(np.ndarray)


class ImageReader:
    """A prepared data set; `len(reader)` images, `reader.read(index)` gives one."""

    def __init__(self, folder: Path | str, cache_bytes: int = CACHE_BYTES) -> None:
        """Open a data set.

        Args:
            folder: where `hdit prepare-data` put it.
            cache_bytes: decoded images are kept if all of them fit into this.

        Raises:
            DataError: a part is missing, or not what the manifest says.
        """
        self._files: dict[int, int] = {}
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self._index = _open_index(self.folder, self.manifest)
        for shard in self.manifest.contents.shards:
            _check_size(self.folder / shard.name, shard.bytes)
        self._cache_bytes = cache_bytes
        self._cache: dict[int, UInt8[np.ndarray, "H W C"]] = {}

    def __len__(self) -> int:
        return self.manifest.contents.samples

    @property
    def num_classes(self) -> int:
        """Number of classes, 0 where the images have none."""
        return len(self.manifest.contents.classes or ())

    def label(self, index: int) -> int:
        """Return the class number of an image, -1 without one."""
        return int(self._index["label"][index])

    def read(self, index: int) -> tuple[UInt8[np.ndarray, "H W C"], int]:
        """Return an image and its class number (-1 without one).

        Args:
            index: 0 <= index < len(self).

        Raises:
            DataError: what lies there is not the image that was put there.
        """
        image = self._cache.get(index)
        if image is None:
            image = self._decode(index)
            if len(self) * image.nbytes <= self._cache_bytes:
                self._cache[index] = image
        return image, self.label(index)

    def _decode(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        contents = self.manifest.contents
        try:
            return decode(self._content(index), contents.codec, self.manifest.image_shape)
        except ValueError as problem:
            raise DataError(f"{self._where(index)}: {problem}; prepare the data again") from None

    def _content(self, index: int) -> bytes:
        """Return the encoded image, checked."""
        row = self._index[index]
        content = os.pread(self._file(index), int(row["length"]), int(row["offset"]))
        if len(content) != row["length"] or zlib.crc32(content) != row["crc32"]:
            raise DataError(
                f"{self._where(index)}: {len(content):,} bytes do not have the checksum of the index: damaged; "
                "prepare or copy the data again"
            )
        return content

    def _shard_name(self, index: int) -> str:
        shards, shard = self.manifest.contents.shards, int(self._index["shard"][index])
        if shard >= len(shards):
            raise DataError(f"{self.folder / INDEX}: image {index} lies in shard {shard}, there are {len(shards)}")
        return shards[shard].name

    def _where(self, index: int) -> str:
        return f"{self.folder / self._shard_name(index)}: image {index} at byte {self._index['offset'][index]:,}"

    def _file(self, index: int) -> int:
        """Return the open shard of an image; reading by offset shares no position, so that forks may share it."""
        shard = int(self._index["shard"][index])
        if shard not in self._files:
            path = self.folder / self._shard_name(index)
            if len(self._files) >= OPEN_SHARDS:
                os.close(self._files.pop(next(iter(self._files))))
            try:
                self._files[shard] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as problem:
                raise DataError(f"{path}: cannot be opened ({problem.strerror})") from None
        return self._files[shard]

    def close(self) -> None:
        """Close the shards; a later read opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"folder": self.folder, "cache_bytes": self._cache_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]
