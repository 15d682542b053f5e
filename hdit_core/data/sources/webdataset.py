"""Webdataset shards as a source: tars in which the members of a sample share a key.

    00012.jpg         the image; the key is the name up to its first dot; .npy where the sample has no other
    00012.cond.png    its condition image: an image of any kind, or .npy
    00012.cls         its class, a number or a name
    00012.json        {"name": ..., "class": ...} as `hdit prepare-data` writes it; {"caption": ...} without a .txt
    00012.txt         its caption

Members are joined by key over the whole shard, wherever they lie in it. Only these are read; everything else in a
sample (`.pyd`, `.pkl`, `.pth`: some readers execute them) is never opened, and a `.npy` is never unpickled. A prepared
data set keeps its class numbers, and each image is checked against its index.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from hdit_core.data.format.manifest_entries import Channels
from hdit_core.data.sources.attachments import Attachments, Kind
from hdit_core.data.sources.files.tar import TAR_DAMAGE, TarFile, TarListing
from hdit_core.data.sources.labels.text_encoding import decode_text
from hdit_core.data.sources.shard_samples import (
    ShardContents,
    ShardImage,
    ShardPart,
    caption_of,
    is_note,
    read_shard,
)
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


MOST_UNPACKED = 16  # compressed shards of which what was unpacked to list them is kept


def _list_shard(path: Path, listing: TarListing | None) -> tuple[ShardContents, TarFile]:
    name = path.name.split(".", 1)[0]
    try:
        listing = listing or TarFile(path).listing(is_note)
    except TAR_DAMAGE as problem:
        raise DataError(f"{path}: not a complete tar ({problem}); copy or download it again") from None
    if listing.repeated:
        raise DataError(
            f"{path}: holds two files '{listing.repeated[0]}': webdataset reads both, tar keeps the last; "
            "write the shard again with a name for each"
        )
    contents = read_shard(listing, name)
    if _WNID.fullmatch(name) and all(image.class_name is image.class_number is None for image in contents.images):
        contents = replace(contents, images=[replace(image, class_name=name) for image in contents.images])
    return contents, listing.tar


class ShardedSource:
    """The images of shards, shard after shard, as they lie."""

    kind = "shards"
    channels: Channels | None = None

    def __init__(self, name: str, paths: Sequence[Path], listings: Sequence[TarListing] | None = None) -> None:
        """List shards.

        Args:
            name: what to call them.
            paths: of the shards, in their order.
            listings: listings of the shards that have already been listed.

        Raises:
            DataError: one is damaged, or they contradict each other about their classes.
        """
        self.name = name
        self._paths = paths
        self._unpacked: dict[int, TarFile] = {}
        shards = [self._listed(number, listings[number] if listings else None) for number in range(len(paths))]
        _check_joined(name, shards)
        self._places = [(number, image.offset) for number, shard in enumerate(shards) for image in shard.images]
        images = [image for shard in shards for image in shard.images]
        attached: dict[Kind, list[ShardPart | None]] = {
            "condition": [image.condition for image in images],
            "caption": [image.caption for image in images],
        }
        self._attached = {kind: parts for kind, parts in attached.items() if any(parts)}
        self.classes: tuple[str, ...] | None = self._classes(images)
        self.entries = [image.entry(self.classes) for image in images]
        self._open: tuple[int, TarFile] | None = None
        self._read_ahead: set[Kind] = set()
        self._kept: tuple[int, dict[int, bytes]] = (-1, {})

    def _listed(self, number: int, listing: TarListing | None) -> ShardContents:
        contents, tar = _list_shard(self._paths[number], listing)
        if tar.is_compressed and len(self._unpacked) < MOST_UNPACKED:
            self._unpacked[number] = tar
        return contents

    def _classes(self, images: Sequence[ShardImage]) -> tuple[str, ...]:
        return classes_of(images, self.name)

    def _shard(self, number: int) -> TarFile:
        """Return a shard, keeping open the one that was read last."""
        if self._open is None or self._open[0] != number:
            if self._open is not None:
                self._open[1].file.close()
            self._open = number, self._unpacked.pop(number, None) or TarFile(self._paths[number])
        return self._open[1]

    def fetch(self, number: int) -> bytes:
        """Return the encoded image from its shard.

        Raises:
            OSError, ValueError: the shard has changed since it was listed.
        """
        return self._content(number, self._places[number][1], self.entries[number].size_bytes)

    def attachments(self, kind: Kind, column: str | None = None) -> Attachments | None:
        """Return the condition images (`KEY.cond.png`, ...) or the captions (`KEY.txt`); there is no other kind."""
        parts = self._attached.get(kind)
        if column is not None or parts is None:
            return None
        self._read_ahead.add(kind)
        return _ShardAttachments(self, parts)

    def _content(self, number: int, offset: int, size_bytes: int) -> bytes:
        """Return a member of a sample; those of a compressed shard are read together, from front to back."""
        shard = self._shard(self._places[number][0])
        if not shard.is_compressed or not self._read_ahead:
            return _whole(shard.read(offset, size_bytes), size_bytes)
        if self._kept[0] != number:
            parts = [part for kind in self._read_ahead if (part := self._attached[kind][number]) is not None]
            places = {part.offset: part.size_bytes for part in parts}
            places[self._places[number][1]] = self.entries[number].size_bytes
            self._kept = number, {place: shard.read(place, size) for place, size in sorted(places.items())}
        return _whole(self._kept[1][offset], size_bytes)


def _whole(content: bytes, size_bytes: int) -> bytes:
    if len(content) != size_bytes:
        raise ValueError("the shard was cut short while it was read")
    return content


class _ShardAttachments:
    """Condition images or captions of shards."""

    name = "of the shards"

    def __init__(self, source: ShardedSource, parts: Sequence[ShardPart | None]) -> None:
        self._source, self._parts = source, parts

    def fetch(self, number: int) -> bytes | None:
        """Return that of an entry."""
        part = self._parts[number]
        if part is None:
            return None
        content = self._source._content(number, part.offset, part.size_bytes)
        return (caption_of(json.loads(decode_text(content))) or "").encode() if part.in_json else content

    def facts(self, number: int) -> Sequence[object]:
        """Return size and time of that of an entry."""
        part = self._parts[number] if number < len(self._parts) else None
        return () if part is None else (part.size_bytes, part.changed_at)
