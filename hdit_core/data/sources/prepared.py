"""A data set of `hdit prepare-data` as a source."""

import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from hdit_core.data.format.manifest import INDEX, load_rows, read_manifest
from hdit_core.data.format.optional_rows import load_vectors
from hdit_core.data.format.shard import INDEX_DTYPE
from hdit_core.data.sources.attachments import Attachments, Kind
from hdit_core.data.sources.shard_samples import ShardImage
from hdit_core.data.sources.source import Entry
from hdit_core.data.sources.webdataset import ShardedSource
from hdit_core.errors import DataError


class PreparedSource(ShardedSource):
    """The images of a data set of `hdit prepare-data`, for example to be made smaller."""

    kind = "data set"

    def __init__(self, folder: Path) -> None:
        """List a data set.

        Raises:
            DataError: a part is missing, damaged, or differs from its manifest or index.
        """
        self._folder = folder
        self._manifest = read_manifest(folder)
        contents = self._manifest.contents
        self._index = load_rows(folder, INDEX, contents.index, INDEX_DTYPE, contents.samples)
        super().__init__(folder.resolve().name, [folder / shard.name for shard in self._manifest.contents.shards])
        self.channels = self._manifest.contents.channels
        sizes = (entry.size_bytes for entry in self.entries)
        found = [(*place, size) for place, size in zip(self._places, sizes, strict=True)]
        expected = np.stack([self._index[name].astype(np.int64) for name in ("shard", "offset", "length")], 1)
        if not np.array_equal(np.array(found, np.int64).reshape(-1, 3), expected):
            raise DataError(f"{folder}: its shards do not contain the images of its index; copy or prepare it again")
        self.entries = [self._checked(entry, number) for number, entry in enumerate(self.entries)]

    def _classes(self, images: Sequence[ShardImage]) -> tuple[str, ...]:
        classes = self._manifest.contents.classes or ()
        if any(image.class_number is not None and image.class_number >= len(classes) for image in images):
            raise DataError(f"{self._folder}: a class number in its shards is not in its manifest; copy the data again")
        return classes

    def _checked(self, entry: Entry, number: int) -> Entry:
        """Return an entry with its checksum as its time, and a problem if the index has another class."""
        label, classes = int(self._index["label"][number]), self.classes or ()
        if entry.problem is None and entry.class_name != (classes[label] if 0 <= label < len(classes) else None):
            entry = Entry(entry.name, entry.size_bytes, problem="its class is not that of the index: damaged")
        return replace(entry, changed_at=int(self._index["crc32"][number]))

    def attachments(self, kind: Kind, column: str | None = None) -> Attachments | None:
        """Return the condition images, captions or vectors of the data set, None if it has none."""
        if kind != "vector":
            return super().attachments(kind, column)
        vectors = None if column is not None else load_vectors(self._folder, self._manifest.contents)
        return None if vectors is None else _PreparedVectors(vectors)

    def fetch(self, number: int) -> bytes:
        """Return the encoded image from its shard, checked.

        Raises:
            OSError, ValueError: it is damaged.
        """
        content = super().fetch(number)
        if zlib.crc32(content) != self._index["crc32"][number]:
            raise ValueError("does not have the checksum of the index: damaged")
        return content


class _PreparedVectors:
    """The vectors of a prepared data set."""

    name = "of the data set"

    def __init__(self, vectors: Float32[np.ndarray, "N E"]) -> None:
        self._vectors = vectors

    def fetch(self, number: int) -> bytes:
        """Return the vector of an image."""
        return self._vectors[number].tobytes()

    def facts(self, number: int) -> Sequence[object]:
        """Return the checksum of the vector of an image."""
        return (zlib.crc32(self.fetch(number)),) if number < len(self._vectors) else ()
