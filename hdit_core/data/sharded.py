"""Webdataset shards as a source: tars in which a sample is a run of members that share a key.

    00012.jpg    the image; the key is the name up to its first dot
    00012.cls    its class, a number or a name
    00012.json   {"name": ..., "class": ...} as `hdit prepare-data` writes it

Only these are looked at. Whatever else lies in a sample (`.pyd`, `.pkl`, `.pth`, `.npy`: some readers run what is in
them) is never opened. A data set of ours keeps its class numbers, and each image is checked against its index.
"""

import re
import zlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from hdit_core.data.archive import TAR_DAMAGE, TarFile
from hdit_core.data.manifest import INDEX, MANIFEST, Channels, read_manifest
from hdit_core.data.shard_samples import ShardImage, classes_of, images_of
from hdit_core.data.source import Entry
from hdit_core.errors import DataError
from hdit_core.files import crc32

SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz")


_WNID = re.compile(r"n[0-9]{8}")  # ImageNet's own tars, one a class, are called by it


def _list_shard(path: Path) -> list[ShardImage]:
    name = path.name.split(".", 1)[0]
    try:
        images = list(images_of(TarFile(path), name))
    except TAR_DAMAGE as problem:
        raise DataError(f"{path}: not a whole tar ({problem}); copy or download it again") from None
    if _WNID.fullmatch(name) and all(image.class_name is image.class_number is None for image in images):
        return [replace(image, class_name=name) for image in images]
    return images


class ShardedSource:
    """The images of shards, shard after shard, as they lie."""

    kind = "shards"
    channels: Channels | None = None

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        """List shards.

        Args:
            name: what to call them.
            paths: of the shards, in their order.

        Raises:
            DataError: one is damaged, or they contradict each other about their classes.
        """
        self.name = name
        self._paths = paths
        found = [(shard, image) for shard, path in enumerate(paths) for image in _list_shard(path)]
        self._places = [(shard, image.offset) for shard, image in found]
        images = [image for _, image in found]
        self.classes: tuple[str, ...] | None = self._classes(images)
        self.entries = [image.entry(self.classes) for image in images]
        self._open: tuple[int, TarFile] | None = None

    def _classes(self, images: Sequence[ShardImage]) -> tuple[str, ...]:
        return classes_of(images, self.name)

    def _shard(self, number: int) -> TarFile:
        """Return a shard, keeping open the one that was asked for last."""
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                self._open[1].file.close()
            self._open = number, TarFile(self._paths[number])
        return self._open[1]

    def fetch(self, number: int) -> bytes:
        """Return an image as it lies in its shard.

        Raises:
            OSError, ValueError: the shard has changed since it was listed.
        """
        shard, offset = self._places[number]
        content = self._shard(shard).read(offset, self.entries[number].size_bytes)
        if len(content) != self.entries[number].size_bytes:
            raise ValueError("the shard was cut short while it was read")
        return content


class PreparedSource(ShardedSource):
    """The images of a data set that `hdit prepare-data` made, for example to be made smaller."""

    kind = "data set"

    def __init__(self, folder: Path) -> None:
        """List a data set.

        Raises:
            DataError: a part is missing, damaged, or not what its manifest and index say.
        """
        self._folder = folder
        self._manifest = read_manifest(folder)
        self._index = self._read_index()
        super().__init__(folder.resolve().name, [folder / shard.name for shard in self._manifest.contents.shards])
        self.channels = self._manifest.contents.channels
        sizes = (entry.size_bytes for entry in self.entries)
        found = [(*place, size) for place, size in zip(self._places, sizes, strict=True)]
        expected = np.stack([self._index[name].astype(np.int64) for name in ("shard", "offset", "length")], 1)
        if not np.array_equal(np.array(found, np.int64).reshape(-1, 3), expected):
            raise DataError(f"{folder}: its shards do not hold the images of its index; copy or prepare the data again")
        self.entries = [self._checked(entry, number) for number, entry in enumerate(self.entries)]

    def _read_index(self) -> np.ndarray:
        path, expected = self._folder / INDEX, self._manifest.contents.index
        try:
            if path.stat().st_size != expected.bytes or crc32(path) != expected.crc32:
                raise ValueError("not the one the manifest was written with")
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as problem:
            raise DataError(f"{path}: cannot be used ({problem}); copy or prepare the data again") from None

    def _classes(self, images: Sequence[ShardImage]) -> tuple[str, ...]:
        classes = self._manifest.contents.classes or ()
        if any(image.class_number is not None and image.class_number >= len(classes) for image in images):
            raise DataError(f"{self._folder}: a class number in its shards is not in its manifest; copy the data again")
        return classes

    def _checked(self, entry: Entry, number: int) -> Entry:
        return replace(entry, changed_at=int(self._index["crc32"][number]))

    def fetch(self, number: int) -> bytes:
        """Return an image as it lies in its shard, checked.

        Raises:
            OSError, ValueError: it is damaged.
        """
        content = super().fetch(number)
        if zlib.crc32(content) != self._index["crc32"][number]:
            raise ValueError("does not have the checksum of the index: damaged")
        return content


def open_shards(path: Path, shards: Sequence[Path]) -> ShardedSource:
    """Open a prepared data set, or a folder of shards that somebody else made.

    Raises:
        DataError: a shard is damaged.
    """
    return PreparedSource(path) if (path / MANIFEST).is_file() else ShardedSource(path.resolve().name, shards)
