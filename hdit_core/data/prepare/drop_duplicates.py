"""`--drop-duplicates`: once all chunks are finished, the shards that contain duplicates are rewritten.

Only then it is known which image is the first one, independent of the order of the tasks. A kill between a shard and
its record leaves an unfinished chunk, like any other kill.
"""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from hdit_core.data.format.duplicates import KINDS, first_duplicate
from hdit_core.data.format.pixel_stats import Moments, add_moments, picture_moments
from hdit_core.data.format.shard import (
    CAPTION_SUFFIX,
    HASHES_DTYPE,
    ROW_DTYPE,
    Sample,
    ShardSample,
    StoredCondition,
    atomic_shard,
    condition_suffix,
    read_shard,
)
from hdit_core.data.image.arrays.picture import as_picture
from hdit_core.data.image.codec import SUFFIXES, decode
from hdit_core.data.prepare.job import PrepareJob
from hdit_core.data.prepare.journal import ChunkRecord, Journal, ShardRecord, reject_line
from hdit_core.data.prepare.transform import TransformSettings
from hdit_core.files import naming

Rows = Shaped[np.ndarray, " _"]


@dataclass(frozen=True)
class _DuplicateOf:
    """The reason why an image is dropped."""

    kind: str  # kind of the equal hash
    first: int  # row of the image that is kept


def find_duplicates(rows: Rows) -> dict[int, _DuplicateOf]:
    """Return the rows that equal an earlier, kept row by file or by pixels."""
    firsts = {kind: first_duplicate(np.ascontiguousarray(rows[kind])) for kind in KINDS}
    several = np.logical_or.reduce([np.bincount(first, minlength=len(rows))[first] > 1 for first in firsts.values()])
    kept: dict[str, dict[int, int]] = {kind: {} for kind in KINDS}
    duplicates: dict[int, _DuplicateOf] = {}
    for row in np.flatnonzero(several).tolist():
        groups = {kind: int(first[row]) for kind, first in firsts.items()}
        same = [_DuplicateOf(kind, kept[kind][group]) for kind, group in groups.items() if group in kept[kind]]
        if same:
            duplicates[row] = same[0]
        else:
            for kind, group in groups.items():
                kept[kind][group] = row
    return duplicates


def _number(path: Path, row: np.void) -> int:
    """Return the index of the input of an image: the key in its tar header, one block before it."""
    with naming(path), path.open("rb") as file:
        file.seek(int(row["offset"]) - 512)
        return int(file.read(100).split(b".")[0])


def _sample(
    rules: TransformSettings, stored: ShardSample, descriptor: int, row: np.void, size: tuple[int, int]
) -> Sample:
    """Return a stored sample without its vector."""
    suffix = SUFFIXES[rules.codec]
    condition = None
    if rules.condition:
        own = SUFFIXES[rules.condition.codec]
        condition = StoredCondition(stored.read(descriptor, condition_suffix(own)), own)
    has_caption = CAPTION_SUFFIX in stored.members
    return Sample(
        number=int(stored.key),
        image=stored.read(descriptor, suffix),
        suffix=suffix,
        label=int(row["label"]),
        about=stored.read_json(descriptor),
        size=size,
        hashes=b"".join(row[name].tobytes() for name in HASHES_DTYPE.names or ()),
        condition=condition,
        caption=stored.read_text(descriptor, CAPTION_SUFFIX).decode() if has_caption else None,
    )


def _rewrite_without(job: PrepareJob, path: Path, shard: ShardRecord, left_out: set[int]) -> ShardRecord | None:
    """Rewrite a shard without some of its samples; return None and write nothing if none is left."""
    if len(left_out) == len(shard.rows):
        return None
    samples, vectors = read_shard(path), shard.vectors(job.rules.vector_dim)
    with naming(path), path.open("rb") as file, atomic_shard(path) as writer:
        for position, (stored, row) in enumerate(zip(samples, shard.rows, strict=True)):
            if position not in left_out:
                sample = _sample(job.rules, stored, file.fileno(), row, shard.size)
                writer.add(replace(sample, vector=vectors[position].tobytes()) if len(vectors) else sample)
    return ShardRecord.of(shard.name, shard.size, writer.written)


class _RowPositions:
    """Finds the chunk and shard of each row of the whole set."""

    def __init__(self, journal: Journal, num_chunks: int) -> None:
        self.folder = journal.folder
        self.shards: list[tuple[int, int, str]] = []  # first row, chunk, name of each shard
        rows = [np.empty(0, ROW_DTYPE)]
        first = 0
        for number in range(num_chunks):
            for shard in journal.read(number).shards:
                self.shards.append((first, number, shard.name))
                rows.append(shard.rows)
                first += len(shard.rows)
        self.rows = np.concatenate(rows)
        self._firsts = np.array([first for first, *_ in self.shards], np.int64)

    def of(self, row: int) -> tuple[int, str, int]:
        """Return the chunk, shard and position in the shard of a row."""
        first, number, name = self.shards[int(np.searchsorted(self._firsts, row, "right")) - 1]
        return number, name, row - first

    def input(self, row: int) -> int:
        """Return the index of the input of a row."""
        return _number(self.folder / self.of(row)[1], self.rows[row])


def _lines(job: PrepareJob, positions: _RowPositions, duplicates: dict[int, _DuplicateOf]) -> dict[int, list[str]]:
    """Return the new lines of rejects.jsonl of each chunk, before any shard is rewritten."""
    lines: dict[int, list[str]] = {}
    for row, duplicate in duplicates.items():
        number, first = positions.input(row), positions.input(duplicate.first)
        reason = f"the same {KINDS[duplicate.kind]} as {job.inputs[first].name}"
        lines.setdefault(positions.of(row)[0], []).append(reject_line(number, job.inputs[number].name, reason))
    return lines


def _moments_of(job: PrepareJob, path: Path, shard: ShardRecord, left_out: Collection[int]) -> Moments:
    """Return the moments of some images of a shard."""
    moments: Moments = ()
    shape, codec, pixels = (*shard.size, job.rules.channels), job.rules.codec, job.rules.pixels
    with naming(path), path.open("rb") as file:
        for row in shard.rows[sorted(left_out)]:
            file.seek(int(row["offset"]))
            picture = as_picture(decode(file.read(int(row["length"])), codec, shape, pixels.dtype), pixels)
            moments = add_moments(moments, picture_moments(picture, pixels))
    return moments


def _rewrite_chunk(
    job: PrepareJob, journal: Journal, record: ChunkRecord, left_out: dict[str, set[int]], lines: Sequence[str]
) -> None:
    """Rewrite the shards of a chunk, then its record."""
    moments = record.moments
    shards: list[ShardRecord] = []
    for shard in record.shards:
        path = journal.folder / shard.name
        if moments:
            moments = add_moments(moments, _moments_of(job, path, shard, left_out.get(shard.name, ())), -1)
        kept = _rewrite_without(job, path, shard, left_out[shard.name]) if shard.name in left_out else shard
        shards += [kept] if kept else []
    rejects = sorted([*record.rejects, *lines], key=lambda line: json.loads(line)["number"])
    duplicates = record.duplicates + len(lines)
    changed = {"shards": tuple(shards), "rejects": tuple(rejects), "duplicates": duplicates, "moments": moments}
    journal.add(record.model_copy(update=changed))


def drop_duplicates(job: PrepareJob, journal: Journal) -> None:
    """Drop every image that equals an earlier one, once all chunks are finished."""
    positions = _RowPositions(journal, job.num_chunks)
    duplicates = find_duplicates(positions.rows)
    left_out: dict[int, dict[str, set[int]]] = {}
    for row in duplicates:
        number, name, position = positions.of(row)
        left_out.setdefault(number, {}).setdefault(name, set()).add(position)
    lines = _lines(job, positions, duplicates)
    for number in sorted(left_out):
        _rewrite_chunk(job, journal, journal.read(number), left_out[number], lines[number])
    _remove_emptied(journal, job.num_chunks)


def _remove_emptied(journal: Journal, num_chunks: int) -> None:
    """Remove shards without any image left, also after a kill between the record and this step."""
    named = {shard.name for number in range(num_chunks) for shard in journal.read(number).shards}
    for path in journal.folder.glob("shard-*.tar"):
        if path.name not in named:
            path.unlink()
