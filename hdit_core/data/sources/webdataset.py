"""Webdataset shards as a source: tars in which a sample is a run of members that share a key.

    00012.jpg    the image; the key is the name up to its first dot
    00012.cls    its class, a number or a name
    00012.json   {"name": ..., "class": ...} as `hdit prepare-data` writes it

Only these are looked at. Whatever else lies in a sample (`.pyd`, `.pkl`, `.pth`, `.npy`: some readers run what is in
them) is never opened. A data set of ours keeps its class numbers, and each image is checked against its index.
"""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, islice
from pathlib import Path

from hdit_core.data.format.manifest import Channels
from hdit_core.data.image.decode import size_problem
from hdit_core.data.sources.archive import TAR_DAMAGE, TarFile
from hdit_core.data.sources.source import IMAGE_SUFFIX, LONGEST_CLASS_NAME, MOST_CLASSES, Entry, class_names
from hdit_core.data.sources.tar import LONGEST_NAME_BYTES, Member
from hdit_core.errors import DataError

LARGEST_LABEL_BYTES = 1 << 20  # of a class or a description

_PASSED_OVER = frozenset({"txt", "text", "caption"})  # text that goes with the images of other people's shards


@dataclass(frozen=True, slots=True)
class ShardImage:
    """An image in a shard, or what stands in its place."""

    name: str
    offset: int = 0
    size_bytes: int = 0
    changed_at: int = 0
    problem: str | None = None
    class_number: int | None = None
    class_name: str | None = None

    def entry(self, classes: Sequence[str]) -> Entry:
        """Return it as an entry of a source; where there are classes, it has to have one."""
        if self.problem is not None:
            return Entry(self.name, self.size_bytes, self.changed_at, self.problem)
        name = self.class_name if self.class_number is None else classes[self.class_number]
        missing = "no class in its shard" if classes and name is None else None
        return Entry(self.name, self.size_bytes, self.changed_at, missing, name)


@dataclass(slots=True)
class _Labels:
    """What the texts of a sample say about its image."""

    cls: str | None = None
    name: str | None = None
    json_class: str | int | None = None
    problem: str | None = None

    def parse_class(self) -> tuple[str | None, int | None, str | None]:
        """Return what is wrong, the class number, and the class name."""
        said = self.json_class if self.cls is None else self.cls
        text = "" if said is None else str(said).strip()
        if said is not None and not 0 < len(text) <= LONGEST_CLASS_NAME:
            return "its class is neither a number nor a name", None, None
        if not text.isdecimal():
            return self.problem, None, text or None
        if len(text) > 7 or int(text) >= MOST_CLASSES:
            return f"its class number is beyond {MOST_CLASSES - 1:,}", None, None
        name = self.json_class if isinstance(self.json_class, str) and self.cls is not None else None
        return self.problem, int(text), name


def _key(member: Member) -> str:
    """Return the name up to the first dot of its last part, as webdataset does; a hidden file stands alone."""
    folder, slash, last = member.name.rpartition("/")
    first, _, _ = last.partition(".")
    return f"{folder}{slash}{first or last}"


def _ending(member: Member) -> str:
    return member.name.removeprefix(_key(member)).removeprefix(".").lower()


def _read_json(notes: _Labels, content: bytes) -> None:
    about = json.loads(content)
    if not isinstance(about, dict):
        return
    name, found = about.get("name"), about.get("class", about.get("label"))
    if isinstance(name, str) and 0 < len(name) <= LONGEST_NAME_BYTES:
        notes.name = name
    if isinstance(found, str | int):
        notes.json_class = found


def _read_cls(notes: _Labels, content: bytes) -> None:
    notes.cls = content.decode()


_READ_NOTE = {"json": _read_json, "cls": _read_cls}


def _note(notes: _Labels, tar: TarFile, member: Member) -> None:
    """Take in a text of a sample."""
    if member.problem or member.size_bytes > LARGEST_LABEL_BYTES:
        notes.problem = f"its .{_ending(member)}: {member.problem or f'{member.size_bytes:,} bytes'}"
        return
    try:
        _READ_NOTE[_ending(member)](notes, tar.read(member.offset, member.size_bytes))
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError):
        notes.problem = f"its .{_ending(member)} cannot be read"


def _images(key: str, images: Sequence[Member], notes: _Labels, shard: str) -> Iterator[ShardImage]:
    """Yield the image of a sample; none and several are problems."""
    if not images:
        yield ShardImage(f"{shard}/{key}", problem="a sample without an image")
    several = f"one of {len(images)} images of one sample" if len(images) > 1 else None
    wrong, class_number, class_name = notes.parse_class()
    for image in images:
        problem = image.problem or size_problem(image.size_bytes) or several or wrong
        name = f"{shard}/{image.name}" if several or notes.name is None else notes.name
        where = (image.offset, image.size_bytes, image.changed_at)
        yield ShardImage(name, *where, problem, class_number, class_name)


def images_of(tar: TarFile, shard: str) -> Iterator[ShardImage]:
    """Yield what a shard holds, in its order; an image is called by its `.json`, else by its place in the shard.

    Raises:
        One of archive.TAR_DAMAGE: the tar is damaged.
    """
    for key, group in groupby(tar.members(), _key):
        images, notes = [], _Labels()
        for member in group:
            ending = _ending(member)
            if IMAGE_SUFFIX.search(member.name):
                images.append(member)
            elif ending in _READ_NOTE:
                _note(notes, tar, member)
            elif ending not in _PASSED_OVER:
                problem = f"a .{ending[:20]} file of a shard, which is never opened"
                yield ShardImage(f"{shard}/{member.name}", problem=problem)
        if images or notes != _Labels():
            yield from _images(key, images, notes, shard)


def is_sharded(tar: TarFile) -> bool:
    """Return whether a tar is a webdataset shard: among its first members an image and its class or description.

    Raises:
        One of archive.TAR_DAMAGE: it is no tar.
    """
    first = list(islice(tar.members(), 64))
    images = {_key(member) for member in first if IMAGE_SUFFIX.search(member.name)}
    return any(_key(member) in images for member in first if _ending(member) in _READ_NOTE)


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
