"""Is a prepared data set still what it was? Every part that is not is named.

- `quick`: the size of every file and the checksum of the index; a second for a million images.
- `full`: every byte of every file, by SHA-256.
- `deep`: also every image: whether it decodes, and whether tar, index, label and hashes say the same of it.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Shaped

from hdit_core.data.format.manifest import (
    HASHES,
    INDEX,
    MANIFEST,
    REJECTS,
    Contents,
    IndexEntry,
    Manifest,
    ShardEntry,
    read_manifest,
)
from hdit_core.data.format.shard import HASHES_DTYPE, INDEX_DTYPE
from hdit_core.data.format.verify_images import image_problems
from hdit_core.errors import DataError
from hdit_core.files import crc32, digest

Level = Literal["quick", "full", "deep"]
Progress = Callable[[int, int], None]
"""Called with images done and images in all."""

Rows = Shaped[np.ndarray, " _"]


@dataclass(frozen=True)
class Defect:
    """One thing that is not as it was."""

    file: str  # its name in the data set's folder
    problem: str


@dataclass(frozen=True)
class VerifyReport:
    """What was looked at, and what is wrong with it."""

    out: str
    level: Level
    root: str | None  # None: the manifest is damaged, and with it the word on everything else
    images: int
    shards: int
    bytes: int
    defects: tuple[Defect, ...]
    elapsed_s: float


def _size_problem(path: Path, expected_bytes: int) -> str | None:
    try:
        found_bytes = path.stat().st_size
    except OSError as problem:
        return f"cannot be read ({problem.strerror})"
    if found_bytes == expected_bytes:
        return None
    return f"has {found_bytes:,} bytes, the manifest says {expected_bytes:,}"


def _file_problem(path: Path, entry: IndexEntry | ShardEntry, whole: bool) -> str | None:
    """Return what is wrong with a file by its size and, with `whole`, by its bytes."""
    if problem := _size_problem(path, entry.bytes):
        return problem
    try:
        found = digest(path) if whole else None
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "altered: its SHA-256 is not the manifest's" if found and found.sha256 != entry.sha256 else None


def _rows_problem(path: Path, entry: IndexEntry, dtype: np.dtype, samples: int, whole: bool) -> str | None:
    """Return what is wrong with a file of rows."""
    if problem := _file_problem(path, entry, whole):
        return problem
    try:
        if crc32(path) != entry.crc32:
            return "altered: its checksum is not the manifest's"
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as problem:
        return f"cannot be read ({problem})"
    return None if rows.dtype == dtype and rows.shape == (samples,) else f"not the rows of {samples:,} images"


def _index_problem(index: Rows, contents: Contents) -> str | None:
    """Return what in the index contradicts the manifest."""
    counts = np.bincount(np.minimum(index["shard"], len(contents.shards)), minlength=len(contents.shards))
    if (
        counts.tolist() != [shard.samples for shard in contents.shards]
        or (np.diff(index["shard"].astype(int)) < 0).any()
    ):
        return "its images do not lie in the shards as the manifest says"
    num_classes = len(contents.classes or ())
    if index["label"].min() < -1 or index["label"].max() >= num_classes:
        return f"has labels outside of the {num_classes} classes"
    labels = np.bincount(index["label"][index["label"] >= 0], minlength=num_classes)
    if labels.tolist() != list(contents.class_counts or ()):
        return "its classes do not have as many images as the manifest says"
    return None


def _rejects_problem(path: Path, expected: int) -> str | None:
    try:
        with path.open("rb") as file:
            found = sum(1 for _ in file)
    except OSError as problem:
        return f"cannot be read ({problem.strerror})"
    return None if found == expected else f"has {found:,} lines, the manifest says {expected:,}"


def _unnamed_shards(folder: Path, contents: Contents) -> Iterator[Defect]:
    """Yield shards that a pattern such as `shard-*.tar` would find, and that do not belong to the set."""
    named = {shard.name for shard in contents.shards}
    for path in sorted(folder.glob("shard-*.tar")):
        if path.name not in named:
            yield Defect(path.name, "is no part of the data set: the manifest does not name it")


class _Verification:
    """A data set whose manifest is whole, being looked at."""

    def __init__(self, folder: Path, manifest: Manifest, level: Level) -> None:
        self.folder, self.manifest, self.contents = folder, manifest, manifest.contents
        self.whole, self.deep = level != "quick", level == "deep"
        self.index: Rows | None = None
        self.hashes: Rows | None = None
        self._ends = list(accumulate(shard.samples for shard in self.contents.shards))

    def small_files(self) -> Iterator[Defect]:
        """Yield what is wrong with everything but the shards; keep the rows that are whole."""
        samples, hashes = self.contents.samples, self.manifest.hashes
        if problem := _rows_problem(self.folder / INDEX, self.contents.index, INDEX_DTYPE, samples, self.whole):
            yield Defect(INDEX, problem)
        else:
            self.index = np.load(self.folder / INDEX, mmap_mode="r", allow_pickle=False)
            if problem := _index_problem(self.index, self.contents):
                yield Defect(INDEX, problem)
        if hashes and (problem := _rows_problem(self.folder / HASHES, hashes, HASHES_DTYPE, samples, self.whole)):
            yield Defect(HASHES, problem)
        elif hashes:
            self.hashes = np.load(self.folder / HASHES, mmap_mode="r", allow_pickle=False)
        if problem := _rejects_problem(self.folder / REJECTS, self.manifest.rejects):
            yield Defect(REJECTS, problem)
        yield from _unnamed_shards(self.folder, self.contents)

    def _rows_of(self, number: int) -> slice:
        return slice(self._ends[number] - self.contents.shards[number].samples, self._ends[number])

    def shard(self, number: int) -> list[Defect]:
        """Return what is wrong with a shard."""
        entry = self.contents.shards[number]
        path = self.folder / entry.name
        problem = _file_problem(path, entry, self.whole)
        defects = [Defect(entry.name, problem)] if problem else []
        if self.deep and self.index is not None and path.is_file():
            rows = self._rows_of(number)
            hashes = None if self.hashes is None else self.hashes[rows]
            found = image_problems(path, self.contents, rows.start, self.index[rows], hashes)
            defects += [Defect(entry.name, problem) for problem in found]
        return defects


def _check_all(found: _Verification, workers: int, on_progress: Progress | None) -> Iterator[Defect]:
    """Look at everything; hashing and decoding leave Python's lock to the other threads."""
    yield from found.small_files()
    shards, done = found.contents.shards, 0
    with ThreadPoolExecutor(max(1, workers)) as threads:
        for number, defects in enumerate(threads.map(found.shard, range(len(shards)))):
            yield from defects
            done += shards[number].samples
            if on_progress:
                on_progress(done, found.contents.samples)


def verify(folder: Path, level: Level = "full", workers: int = 1, on_progress: Progress | None = None) -> VerifyReport:
    """Compare a data set with its manifest, and find everything that is not as it was.

    Args:
        folder: of the data set; nothing in it is written.
        level: how closely it is looked at.
        workers: shards that are looked at side by side.
        on_progress: called after each shard.
    """
    started_at = time.monotonic()
    verdict = partial(VerifyReport, out=str(folder), level=level)
    try:
        manifest = read_manifest(folder)
    except DataError as problem:
        defect = Defect(MANIFEST, str(problem).removeprefix(f"{folder / MANIFEST}: "))
        return verdict(root=None, images=0, shards=0, bytes=0, defects=(defect,), elapsed_s=0.0)
    defects = tuple(_check_all(_Verification(folder, manifest, level), workers, on_progress))
    return verdict(
        root=manifest.root,
        images=manifest.contents.samples,
        shards=len(manifest.contents.shards),
        bytes=sum(shard.bytes for shard in manifest.contents.shards),
        defects=defects,
        elapsed_s=round(time.monotonic() - started_at, 3),
    )
