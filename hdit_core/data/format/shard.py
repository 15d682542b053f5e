"""One shard: a webdataset tar whose bytes depend only on its samples, and the position of each image in it.

    000000012.png         the image: PNG, WebP or JPEG; .npy for pixels other than 8-bit grayscale and RGB
    000000012.cond.png    its condition image, if there are any: PNG or .npy
    000000012.cls         its class number as text, if there are classes
    000000012.txt         its caption, if it has one
    000000012.json        {"name": its name in the source, "class": ..., "sha256": of the original file}

Keys are numbers and never names: webdataset splits a name at its first dot, so `a.cat.1.jpg` and `a.cat.2.jpg` would
become one sample.
"""

import json
import os
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from hdit_core.files import DigestingWriter, atomic_file

if TYPE_CHECKING:
    from webdataset import TarWriter

INDEX_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4"), ("label", "<i4")])
"""One image: index of its shard in the manifest, offset and length in bytes, CRC-32, class or -1."""

HASHES_DTYPE = np.dtype([("source", "<u8", 2), ("pixels", "<u8", 2)])
"""Hashes for finding duplicates: 128 bits of the SHA-256 of the original file, and of the BLAKE2b of the pixels."""

ROW_DTYPE = np.dtype([*(field for field in INDEX_DTYPE.descr if field[0] != "shard"), *HASHES_DTYPE.descr])
"""One image of a shard: its index row and its hashes."""

_ROW = struct.Struct("<QIIi32s")
assert _ROW.size == ROW_DTYPE.itemsize

CONDITION_ROW_DTYPE = np.dtype([field for field in ROW_DTYPE.descr if field[0] in ("offset", "length", "crc32")])
"""One condition image of a shard; in the same shard as its image."""

_CONDITION_ROW = struct.Struct("<QII")
assert _CONDITION_ROW.size == CONDITION_ROW_DTYPE.itemsize

NO_LABEL = -1


@dataclass(frozen=True, slots=True)
class StoredCondition:
    """An encoded condition image."""

    image: bytes
    suffix: str  # of its file, such as "png"


@dataclass(frozen=True, slots=True)
class Sample:
    """One image and the data stored with it."""

    number: int  # its index among all inputs: the key
    image: bytes  # encoded
    suffix: str  # of the image's file, such as "png"
    label: int  # class number, or NO_LABEL
    about: dict[str, str]  # written to the .json
    size: tuple[int, int]  # height, width in pixels
    hashes: bytes  # a row of HASHES_DTYPE
    condition: StoredCondition | None = None
    vector: bytes = b""  # float32, little-endian
    caption: str | None = None


@dataclass(frozen=True)
class ShardFile:
    """A finished shard."""

    rows: bytes  # of ROW_DTYPE, one per image
    condition_rows: bytes  # of CONDITION_ROW_DTYPE, one per image; empty without condition images
    vectors: bytes  # concatenated; empty without vectors
    captions: int  # images with one
    bytes: int
    crc32: int
    sha256: str


CAPTION_SUFFIX = "txt"


def condition_suffix(suffix: str) -> str:
    """Return the suffix of a condition image: `cond.png` for `png`."""
    return f"cond.{suffix}"


def open_tar(file: DigestingWriter) -> "TarWriter":
    """Return webdataset's tar writer with fixed time, owner and mode, so that the bytes depend only on the members."""
    from webdataset import TarWriter  # imports torch, which the readers of this module do not need

    return TarWriter(file, user="", group="", mode=0o644, mtime=0, encoder=False)


def append_member(tar: "TarWriter", key: str, suffix: str, content: bytes) -> int:
    """Append one member and return the offset of its content. One at a time, since the writer sorts several."""
    offset: int = tar.tarstream.offset + tarfile.BLOCKSIZE
    tar.write({"__key__": key, suffix: content})
    tar.tarstream.members.clear()  # kept for readers: a kilobyte per member
    return offset


class ShardWriter:
    """Appends samples to a shard; `atomic_shard` makes one."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = DigestingWriter(file)
        self._tar = open_tar(self._file)
        self._rows, self._condition_rows, self._vectors = bytearray(), bytearray(), bytearray()
        self._captions = 0

    def add(self, sample: Sample) -> None:
        """Append one sample."""
        key = f"{sample.number:09}"
        offset = append_member(self._tar, key, sample.suffix, sample.image)
        facts = (offset, len(sample.image), zlib.crc32(sample.image), sample.label)
        self._rows += _ROW.pack(*facts, sample.hashes)
        if sample.condition:
            self._add_condition(key, sample.condition)
        self._vectors += sample.vector
        if sample.label != NO_LABEL:
            append_member(self._tar, key, "cls", str(sample.label).encode())
        if sample.caption is not None:
            append_member(self._tar, key, CAPTION_SUFFIX, sample.caption.encode())
            self._captions += 1
        append_member(self._tar, key, "json", json.dumps(sample.about).encode())

    def _add_condition(self, key: str, condition: StoredCondition) -> None:
        offset = append_member(self._tar, key, condition_suffix(condition.suffix), condition.image)
        self._condition_rows += _CONDITION_ROW.pack(offset, len(condition.image), zlib.crc32(condition.image))

    def close(self) -> None:
        """Write the end of the tar."""
        self._tar.close()

    def discard(self) -> None:
        """Discard the shard: write nothing more."""
        self._file.discard()

    @property
    def written(self) -> ShardFile:
        """Rows, size and checksums of the closed shard."""
        digest = self._file.digest()
        rows, condition_rows, vectors = map(bytes, (self._rows, self._condition_rows, self._vectors))
        counts = (self._captions, digest.size_bytes, digest.crc32, digest.sha256)
        return ShardFile(rows, condition_rows, vectors, *counts)


@contextmanager
def atomic_shard(path: Path) -> Iterator[ShardWriter]:
    """Yield a writer whose samples become the shard of this name if the block ends without an error."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        writer = ShardWriter(file)
        try:
            yield writer
            writer.close()
        except BaseException:
            writer.discard()
            raise


def read_all(descriptor: int, length: int, offset: int) -> bytes:
    """Return bytes of a file, fewer at its end; repeats short reads."""
    content = os.pread(descriptor, length, offset)
    while len(content) < length and (more := os.pread(descriptor, length - len(content), offset + len(content))):
        content += more
    return content


LARGEST_MEMBER_BYTES = 1 << 20  # of a .json, .cls or .txt


@dataclass
class ShardSample:
    """The position of one sample in the tar."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)  # suffix: offset and length in bytes

    def read(self, descriptor: int, suffix: str) -> bytes:
        """Return the content of a member.

        Raises:
            KeyError: there is no such member.
        """
        offset, length = self.members[suffix]
        return read_all(descriptor, length, offset)

    def read_text(self, descriptor: int, suffix: str) -> bytes:
        """Return the content of its .json, .cls or .txt.

        Raises:
            KeyError: there is no such member.
        """
        offset, length = self.members[suffix]
        return os.pread(descriptor, min(length, LARGEST_MEMBER_BYTES), offset)

    def read_json(self, descriptor: int) -> dict[str, str]:
        """Return the content of its .json.

        Raises:
            ValueError, KeyError, RecursionError: it is damaged or missing.
        """
        facts = json.loads(self.read_text(descriptor, "json"))
        if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
            raise ValueError("its .json is not that of a sample")
        return facts


def read_shard(path: Path) -> list[ShardSample]:
    """Return the samples of a shard: consecutive members with the same key.

    Raises:
        tarfile.TarError, OSError, ValueError: it is damaged.
    """
    samples: list[ShardSample] = []
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            if not samples or samples[-1].key != key:
                samples.append(ShardSample(key))
            if not member.isreg() or suffix in samples[-1].members:
                raise ValueError(f"{member.name!r} is not a file, or occurs twice")
            samples[-1].members[suffix] = (member.offset_data, member.size)
    return samples


def read_caption(read: Callable[[int, int], bytes], offset: int) -> str | None:
    """Return the caption of the sample whose image is at an offset, None if it has none.

    The members of a sample follow its image; their headers are read one by one.

    Args:
        read: returns bytes of the shard, as `read(length, offset)`.
        offset: offset of the image in bytes.

    Raises:
        ValueError: the tar is damaged there.
    """
    key = None
    while True:
        name, length = _member(read(tarfile.BLOCKSIZE, offset - tarfile.BLOCKSIZE), offset)
        member_key, _, suffix = name.partition(".")
        key = key or member_key
        if member_key != key or suffix == "json":  # the last member of a sample
            return None
        if suffix == CAPTION_SUFFIX:
            return read(min(length, LARGEST_MEMBER_BYTES), offset).decode()
        offset += -(-length // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE + tarfile.BLOCKSIZE


def _member(header: bytes, offset: int) -> tuple[str, int]:
    """Return name and size of the member with this header."""
    try:
        member = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as problem:
        raise ValueError(f"no intact tar header before byte {offset:,} ({problem})") from None
    return member.name, member.size
