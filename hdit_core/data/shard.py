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
import tarfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from hdit_core.files import new_file

INDEX_DTYPE = np.dtype([("shard", "<u4"), ("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4"), ("label", "<i4")])
"""One image: its shard's place in the manifest, first byte and number of bytes there, their CRC-32, class or -1."""

NO_LABEL = -1


@dataclass(frozen=True, slots=True)
class Sample:
    """What is stored of one image."""

    number: int  # its place among all inputs: the key
    image: bytes  # encoded
    suffix: str  # of the image's file, such as "png"
    label: int  # class number, or NO_LABEL
    about: dict[str, str]  # goes into the .json


@dataclass(frozen=True)
class ShardFile:
    """A finished shard."""

    bytes: int
    crc32: int
    sha256: str
    rows: list[tuple[int, int, int, int]]  # offset, length, crc32, label of each image


class _Hashed:
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


def _append_sample(tar: tarfile.TarFile, sample: Sample) -> tuple[int, int, int, int]:
    """Append one sample and return its row of the index."""
    offset = _append(tar, f"{sample.number:09}.{sample.suffix}", sample.image)
    if sample.label != NO_LABEL:
        _append(tar, f"{sample.number:09}.cls", str(sample.label).encode())
    _append(tar, f"{sample.number:09}.json", json.dumps(sample.about).encode())
    return offset, len(sample.image), zlib.crc32(sample.image), sample.label


def write_shard(path: Path, samples: Iterable[Sample]) -> ShardFile:
    """Write a shard; it takes its name when all samples are in it."""
    with new_file(path) as temporary, temporary.open("wb") as file:
        hashed = _Hashed(file)
        with tarfile.open(fileobj=hashed, mode="w", format=tarfile.USTAR_FORMAT) as tar:  # type: ignore[call-overload]
            rows = [_append_sample(tar, sample) for sample in samples]
    return ShardFile(hashed.bytes, hashed.crc32, hashed.sha256, rows)
