"""Verifies a prepared data set against its manifest, and reports every damaged part.

- `quick`: the size of every file and the checksum of the index; about a second for a million images.
- `full`: every byte of every file, by SHA-256.
- `deep`: also every image: whether it decodes, and whether tar, index, label and hashes agree.
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
    CONDITION,
    HASHES,
    INDEX,
    MANIFEST,
    REJECTS,
    REPAIR_HINT,
    VECTORS,
    Contents,
    Manifest,
    load_rows,
    read_manifest,
    size_problem,
)
from hdit_core.data.format.manifest_entries import IndexEntry, ShardEntry
from hdit_core.data.format.optional_rows import VECTOR_DTYPE
from hdit_core.data.format.shard import HASHES_DTYPE, INDEX_DTYPE
from hdit_core.data.format.verify_images import ShardRows, image_problems
from hdit_core.errors import DataError
from hdit_core.files import digest, naming

Level = Literal["quick", "full", "deep"]
Progress = Callable[[int, int], None]
"""Called with images done and images in all."""

Rows = Shaped[np.ndarray, " _"]
AnyRows = Shaped[np.ndarray, "_ ..."]


@dataclass(frozen=True)
class Defect:
    """One damaged part."""

    file: str  # name of the file in the data set's folder
    problem: str


@dataclass(frozen=True)
class VerifyReport:
    """What was checked, and the damaged parts."""

    out: str
    level: Level
    root: str | None  # None: the manifest is damaged, so that nothing else can be checked
    images: int
    shards: int
    bytes: int
    defects: tuple[Defect, ...]
    elapsed_s: float


def _file_problem(path: Path, entry: IndexEntry | ShardEntry, full: bool) -> str | None:
    """Return an error message if the size of a file or, with `full`, its SHA-256 is wrong."""
    if problem := size_problem(path, entry.bytes)[1]:
        return problem
    try:
        altered = full and digest(path).sha256 != entry.sha256
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "altered: its SHA-256 differs from the manifest" if altered else None


def _index_problem(index: Rows, contents: Contents) -> str | None:
    """Return how the index contradicts the manifest, or None."""
    counts = np.bincount(np.minimum(index["shard"], len(contents.shards)), minlength=len(contents.shards))
    if (
        counts.tolist() != [shard.samples for shard in contents.shards]
        or (np.diff(index["shard"].astype(int)) < 0).any()
    ):
        return "does not have as many images per shard as the manifest says"
    num_classes = len(contents.classes or ())
    if index["label"].min() < -1 or index["label"].max() >= num_classes:
        return f"has labels that are none of the {num_classes} classes"
    labels = np.bincount(index["label"][index["label"] >= 0], minlength=num_classes)
    if labels.tolist() != list(contents.class_counts or ()):
        return "does not have as many images per class as the manifest says"
    return None


def _rejects_problem(path: Path, expected: int) -> str | None:
    try:
        with naming(path), path.open("rb") as file:
            lines = sum(1 for _ in file)
    except OSError as problem:
        return f"cannot be read ({problem.strerror})"
    return None if lines == expected else f"has {lines:,} lines, the manifest says {expected:,}"


def _unnamed_shards(folder: Path, contents: Contents) -> Iterator[Defect]:
    """Yield shards in the folder that do not belong to the set."""
    named = {shard.name for shard in contents.shards}
    for path in sorted(folder.glob("shard-*.tar")):
        if path.name not in named:
            yield Defect(path.name, "is not part of the data set: the manifest does not name it")


class _Verification:
    """Verifies a data set whose manifest is intact."""

    def __init__(self, folder: Path, manifest: Manifest, level: Level) -> None:
        self.folder, self.manifest, self.contents = folder, manifest, manifest.contents
        self.full, self.deep = level != "quick", level == "deep"
        self.index: Rows | None = None
        self.hashes: Rows | None = None
        self.condition: Rows | None = None
        self._defects: list[Defect] = []
        self._ends = list(accumulate(shard.samples for shard in self.contents.shards))

    def _record(self, file: str, problem: str | None) -> None:
        if problem:
            self._defects.append(Defect(file, problem))

    def _rows(self, name: str, entry: IndexEntry, dtype: np.dtype, *row_shape: int) -> AnyRows | None:
        """Return the rows of a file; None if it has a defect, which is recorded."""
        path = self.folder / name
        problem = _file_problem(path, entry, self.full)
        try:
            if problem is None:
                return load_rows(self.folder, name, entry, dtype, self.contents.samples, *row_shape)
        except DataError as error:
            problem = str(error).removeprefix(f"{path}: ").removesuffix(f"; {REPAIR_HINT}")
        self._record(name, problem)
        return None

    def small_files(self) -> list[Defect]:
        """Return the defects of all files but the shards; keep the rows of intact files."""
        self.index = self._rows(INDEX, self.contents.index, INDEX_DTYPE)
        if self.index is not None:
            self._record(INDEX, _index_problem(self.index, self.contents))
        if self.manifest.hashes:
            self.hashes = self._rows(HASHES, self.manifest.hashes, HASHES_DTYPE)
        self._check_optional_files()
        self._record(REJECTS, _rejects_problem(self.folder / REJECTS, self.manifest.rejects))
        return [*self._defects, *_unnamed_shards(self.folder, self.contents)]

    def _check_optional_files(self) -> None:
        """Record the defects of the index of the condition images and of the vectors."""
        condition, vectors = self.contents.condition, self.contents.vectors
        if condition:
            rows = self.condition = self._rows(CONDITION, condition.index, INDEX_DTYPE)
            if rows is not None and self.index is not None and (rows["shard"] != self.index["shard"]).any():
                self._record(CONDITION, "names other shards than the index")
        if vectors:
            numbers = self._rows(VECTORS, vectors.file, VECTOR_DTYPE, vectors.dim)
            if numbers is not None and self.full and not all(np.isfinite(row).all() for row in numbers):
                self._record(VECTORS, "has values that are NaN or infinite")

    def shard(self, number: int) -> list[Defect]:
        """Return the defects of a shard."""
        entry = self.contents.shards[number]
        path = self.folder / entry.name
        problem = _file_problem(path, entry, self.full)
        defects = [Defect(entry.name, problem)] if problem else []
        if self.deep and self.index is not None and path.is_file():
            rows = slice(self._ends[number] - entry.samples, self._ends[number])
            hashes, condition = (None if each is None else each[rows] for each in (self.hashes, self.condition))
            shard_rows = ShardRows(self.index[rows], hashes, condition)
            problems = image_problems(path, self.contents, rows.start, shard_rows)
            defects += [Defect(entry.name, problem) for problem in problems]
        return defects


def _check_all(verification: _Verification, workers: int, on_progress: Progress | None) -> Iterator[Defect]:
    """Check all files, in threads: hashing and decoding release the GIL."""
    yield from verification.small_files()
    shards, done = verification.contents.shards, 0
    with ThreadPoolExecutor(max(1, workers)) as threads:
        for number, defects in enumerate(threads.map(verification.shard, range(len(shards)))):
            yield from defects
            done += shards[number].samples
            if on_progress:
                on_progress(done, verification.contents.samples)


def verify(folder: Path, level: Level = "full", workers: int = 1, on_progress: Progress | None = None) -> VerifyReport:
    """Compare a data set with its manifest, and return every damaged part.

    Args:
        folder: folder of the data set; it is not modified.
        level: how thorough the check is.
        workers: shards checked in parallel.
        on_progress: called after each shard.
    """
    started_at = time.monotonic()
    report = partial(VerifyReport, out=str(folder), level=level)
    try:
        manifest = read_manifest(folder)
    except DataError as problem:
        defect = Defect(MANIFEST, str(problem).removeprefix(f"{folder / MANIFEST}: "))
        return report(root=None, images=0, shards=0, bytes=0, defects=(defect,), elapsed_s=0.0)
    defects = tuple(_check_all(_Verification(folder, manifest, level), workers, on_progress))
    return report(
        root=manifest.root,
        images=manifest.contents.samples,
        shards=len(manifest.contents.shards),
        bytes=sum(shard.bytes for shard in manifest.contents.shards),
        defects=defects,
        elapsed_s=round(time.monotonic() - started_at, 3),
    )
