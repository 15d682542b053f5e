"""One shard: an ordinary webdataset tar whose bytes depend on its samples alone, and where each image lies in it.

    000000012.png     the image
    000000012.cls     its class number as text, where there are classes
    000000012.json    {"name": its name in the source, "class": ..., "sha256": of the original file}

Keys are numbers and never names: webdataset cuts a name at its first dot, so that `a.cat.1.jpg` and `a.cat.2.jpg` would
become one sample.
"""

import hashlib
import io
import json
import os
import struct
import tarfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hdit_core.files import atomic_file

INDEX_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4"), ("label", "<i4")])
"""One image: its shard's place in the manifest, first byte and number of bytes there, their CRC-32, class or -1."""

HASHES_DTYPE = np.dtype([("source", "<u8", 2), ("pixels", "<u8", 2)])
"""What tells duplicates: the first 128 bits of the SHA-256 of the original file, and of the pixels' BLAKE2b."""

ROW_DTYPE = np.dtype([*(field for field in INDEX_DTYPE.descr if field[0] != "shard"), *HASHES_DTYPE.descr])
"""One image of a shard: what the index and the hashes say of it."""

_ROW = struct.Struct("<QIIi32s")
assert _ROW.size == ROW_DTYPE.itemsize

NO_LABEL = -1


@dataclass(frozen=True, slots=True)
class Sample:
    """What is stored of one image."""

    number: int  # its place among all inputs: the key
    image: bytes  # encoded
    suffix: str  # of the image's file, such as "png"
    label: int  # class number, or NO_LABEL
    about: dict[str, str]  # goes into the .json
    size: tuple[int, int]  # height, width in pixels
    hashes: bytes  # a row of HASHES_DTYPE


@dataclass(frozen=True)
class ShardFile:
    """A finished shard."""

    rows: bytes  # of ROW_DTYPE, one an image
    bytes: int
    crc32: int
    sha256: str


class _HashingFile:
    """Passes on what is written and hashes it on the way."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._sha256 = hashlib.sha256()
        self.bytes = self.crc32 = 0

    def write(self, content: bytes) -> int:
        self._file.write(content)
        self._sha256.update(content)
        self.crc32 = zlib.crc32(content, self.crc32)
        self.bytes += len(content)
        return len(content)

    def tell(self) -> int:
        return self.bytes

    @property
    def sha256(self) -> str:
        return self._sha256.hexdigest()


def _append(tar: tarfile.TarFile, name: str, content: bytes) -> int:
    """Append one member and return where its content begins."""
    member = tarfile.TarInfo(name)  # time 0, owner 0 without a name
    member.size = len(content)
    offset = tar.offset + tarfile.BLOCKSIZE
    tar.addfile(member, io.BytesIO(content))
    return offset


class ShardWriter:
    """Appends samples to a shard; `atomic_shard` makes one."""

    def __init__(self, file: BinaryIO) -> None:
        self._hashed = _HashingFile(file)
        self._tar = tarfile.TarFile(fileobj=self._hashed, mode="w", format=tarfile.USTAR_FORMAT)  # type: ignore[arg-type]
        self._rows = bytearray()

    def add(self, sample: Sample) -> None:
        """Append one sample."""
        offset = _append(self._tar, f"{sample.number:09}.{sample.suffix}", sample.image)
        if sample.label != NO_LABEL:
            _append(self._tar, f"{sample.number:09}.cls", str(sample.label).encode())
        _append(self._tar, f"{sample.number:09}.json", json.dumps(sample.about).encode())
        facts = (offset, len(sample.image), zlib.crc32(sample.image), sample.label)
        self._rows += _ROW.pack(*facts, sample.hashes)

    def close(self) -> None:
        """Write the end of the tar."""
        self._tar.close()

    @property
    def written(self) -> ShardFile:
        """What was written, once it is closed."""
        return ShardFile(bytes(self._rows), self._hashed.bytes, self._hashed.crc32, self._hashed.sha256)


@contextmanager
def atomic_shard(path: Path) -> Iterator[ShardWriter]:
    """Give a writer; what it is given becomes the shard of this name, whole, when the block ends well."""
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        writer = ShardWriter(file)
        yield writer
        writer.close()


LARGEST_MEMBER_BYTES = 1 << 20  # of a .json or .cls


@dataclass
class ShardSample:
    """One sample as it lies in the tar."""

    key: str
    members: dict[str, tuple[int, int]] = field(default_factory=dict)  # suffix: first byte, number of bytes

    def read_text(self, descriptor: int, suffix: str) -> bytes:
        """Return the content of its .json or .cls.

        Raises:
            KeyError: it has none.
        """
        offset, length = self.members[suffix]
        return os.pread(descriptor, min(length, LARGEST_MEMBER_BYTES), offset)

    def read_json(self, descriptor: int) -> dict[str, str]:
        """Return what its .json says.

        Raises:
            ValueError, KeyError, RecursionError: it is damaged or missing.
        """
        facts = json.loads(self.read_text(descriptor, "json"))
        if not isinstance(facts, dict) or not all(isinstance(value, str) for value in facts.values()):
            raise ValueError("its .json is not that of a sample")
        return facts


def read_shard(path: Path) -> list[ShardSample]:
    """Return the samples of a shard: members that lie side by side and share a key.

    Raises:
        tarfile.TarError, OSError, ValueError: it is damaged.
    """
    found: list[ShardSample] = []
    with tarfile.open(path, "r:") as tar:
        for member in tar:
            key, _, suffix = member.name.partition(".")
            if not found or found[-1].key != key:
                found.append(ShardSample(key))
            if not member.isreg() or suffix in found[-1].members:
                raise ValueError(f"{member.name!r} is no file, or is there twice")
            found[-1].members[suffix] = (member.offset_data, member.size)
    return found
