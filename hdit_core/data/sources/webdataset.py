"""Webdataset shards as a source: tars in which the members of a sample share a key.

    00012.jpg    the image; the key is the name up to its first dot
    00012.cls    its class, a number or a name
    00012.json   {"name": ..., "class": ...} as `hdit prepare-data` writes it

Members are joined by key over the whole shard, wherever they lie in it. Only these are read; everything else in a
sample (`.pyd`, `.pkl`, `.pth`, `.npy`: some readers execute them) is never opened. A prepared data set keeps its class
numbers, and each image is checked against its index.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hdit_core.data.format.entries import Channels
from hdit_core.data.sources.files.tar import TAR_DAMAGE, TarFile, TarListing
from hdit_core.data.sources.shard_samples import ShardContents, ShardImage, is_note, read_shard
from hdit_core.data.sources.source import class_names
from hdit_core.errors import DataError


def classes_of(images: Sequence[ShardImage], where: str) -> tuple[str, ...]:
    """Return the class names in the order of their numbers; a number of which the name is not known is its name.

    Raises:
        DataError: a class has two names or a name two numbers, or some images have numbers and others only names.
    """
    usable = [image for image in images if image.problem is None]
    named = {image.class_name for image in usable if image.class_number is None and image.class_name is not None}
    numbered = {image.class_number: image.class_name for image in usable if image.class_number is not None}
    if named and numbered:
        raise DataError(f"{where}: some images have class numbers, others only names such as {min(named)!r}")
    for image in usable:
        if image.class_number is not None and numbered[image.class_number] != image.class_name:
            names = f"{numbered[image.class_number]!r} and {image.class_name!r}"
            raise DataError(f"{where}: class {image.class_number} is called {names}; prepare from the originals")
    classes = tuple(numbered.get(number) or str(number) for number in range(max(numbered, default=-1) + 1))
    if len(set(classes)) < len(classes):
        raise DataError(f"{where}: several class numbers have one name; prepare from the originals")
    return classes or class_names(named)


def _check_joined(where: str, shards: Sequence[ShardContents]) -> None:
    """Refuse shards whose labels belong to none of their images."""
    orphans = sum(shard.orphans for shard in shards)
    if orphans and not any(shard.labelled for shard in shards):
        first = next(image.name for shard in shards for image in shard.images if image.offset == 0)
        images = [image.name for shard in shards for image in shard.images if image.size_bytes]
        if images:
            raise DataError(
                f"{where}: its {orphans:,} labels belong to none of its {len(images):,} images: a label such as "
                f"'{first}' needs an image of the same key, up to the first dot, and '{images[0]}' a label"
            )


SHARD_ENDINGS = (".tar", ".tar.gz", ".tgz")


_WNID = re.compile(r"n[0-9]{8}")  # ImageNet's own tars, one a class, are called by it


def _list_shard(path: Path, listing: TarListing | None) -> ShardContents:
    name = path.name.split(".", 1)[0]
    try:
        listing = listing or TarFile(path).listing(is_note)
    except TAR_DAMAGE as problem:
        raise DataError(f"{path}: not a whole tar ({problem}); copy or download it again") from None
    if listing.repeated:
        raise DataError(
            f"{path}: holds two files '{listing.repeated[0]}': webdataset reads both, tar keeps the last; "
            "write the shard again with a name for each"
        )
    contents = read_shard(listing, name)
    if _WNID.fullmatch(name) and all(image.class_name is image.class_number is None for image in contents.images):
        return replace(contents, images=[replace(image, class_name=name) for image in contents.images])
    return contents


class ShardedSource:
    """The images of shards, shard after shard, as they lie."""

    kind = "shards"
    channels: Channels | None = None

    def __init__(self, name: str, paths: Sequence[Path], listings: Sequence[TarListing] | None = None) -> None:
        """List shards.

        Args:
            name: what to call them.
            paths: of the shards, in their order.
            listings: of the shards, where they have been listed before.

        Raises:
            DataError: one is damaged, or they contradict each other about their classes.
        """
        self.name = name
        self._paths = paths
        shards = [_list_shard(path, listings[number] if listings else None) for number, path in enumerate(paths)]
        _check_joined(name, shards)
        self._places = [(number, image.offset) for number, shard in enumerate(shards) for image in shard.images]
        images = [image for shard in shards for image in shard.images]
        self.classes: tuple[str, ...] | None = self._classes(images)
        self.entries = [image.entry(self.classes) for image in images]
        self._open: tuple[int, TarFile] | None = None

    def _classes(self, images: Sequence[ShardImage]) -> tuple[str, ...]:
        return classes_of(images, self.name)

    def _shard(self, number: int) -> TarFile:
        """Return a shard, keeping open the one that was read last."""
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
