"""Benchmark of opening a large data set: time and memory, with a real index and sparse shards."""

import hashlib
import time
import zlib
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from hdit_core.bench.child_process import in_child_process
from hdit_core.data.format.manifest import INDEX, Contents, Manifest, Origin, root_of, write_manifest
from hdit_core.data.format.manifest_entries import IndexEntry, ShardEntry
from hdit_core.data.format.shard import INDEX_DTYPE
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.loader.order import images_at

IMAGE_BYTES = 100_000
SHARD_IMAGES = 1000


@dataclass(frozen=True)
class OpeningFigures:
    """The measurements of opening a data set.

    Attributes:
        images: size of the data set.
        open_s: time to construct a reader, the minimum of five runs.
        peak_bytes: peak memory of opening the set and looking up a thousand images; None if unknown.
    """

    images: int
    open_s: float
    peak_bytes: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as JSON."""
        return asdict(self)


def make_hollow_set(folder: Path, images: int) -> None:
    """Write the manifest and the index of a data set; its shards have the right size but contain zeros."""
    numbers = np.arange(images)
    index = np.zeros(images, INDEX_DTYPE)
    index["shard"], positions = np.divmod(numbers, SHARD_IMAGES)
    index["offset"], index["length"] = positions * IMAGE_BYTES, IMAGE_BYTES
    index["label"] = numbers % 1000
    np.save(folder / INDEX, index)
    content = (folder / INDEX).read_bytes()

    shards = []
    for number in range(-(-images // SHARD_IMAGES)):
        samples = min(SHARD_IMAGES, images - number * SHARD_IMAGES)
        name, size_bytes = f"shard-{number:06}.tar", samples * IMAGE_BYTES
        with (folder / name).open("wb") as file:
            file.truncate(size_bytes)
        shards.append(ShardEntry(name=name, bytes=size_bytes, crc32=0, sha256="0" * 64, samples=samples))
    contents = Contents(
        height=256,
        width=256,
        channels=3,
        codec="png",
        samples=images,
        classes=tuple(map(str, range(1000))),
        class_counts=tuple(np.bincount(index["label"], minlength=1000).tolist()),
        shards=tuple(shards),
        index=IndexEntry(bytes=len(content), crc32=zlib.crc32(content), sha256=hashlib.sha256(content).hexdigest()),
    )
    origin = Origin(kind="folder", name="hollow", inputs=images, fingerprint="0" * 64)
    manifest = Manifest(
        contents=contents, root=root_of(contents), origin=origin, settings={}, rejects=0, remarks={}, made_with={}
    )
    write_manifest(folder, manifest)


def _open(folder: Path, images: int) -> float:
    """Open a data set, look up images all over it, and return the time that opening took, in seconds."""
    began_at = time.perf_counter()
    reader = ImageReader(folder)
    open_s = time.perf_counter() - began_at
    for image in images_at(0, np.arange(1000), images):
        reader.label(int(image))
    return open_s


def bench_opening(images: int = 1_300_000) -> OpeningFigures:
    """Measure how long it takes to open a data set of this many images, each time in a new process."""
    with TemporaryDirectory(prefix="hdit-bench-") as name:
        make_hollow_set(Path(name), images)
        opened = [in_child_process(_open, Path(name), images, threads=1) for _ in range(5)]
    peaks = [peak_bytes for _, peak_bytes in opened if peak_bytes is not None]
    return OpeningFigures(images, min(open_s for open_s, _ in opened), max(peaks) if peaks else None)
