"""`--drop-duplicates`: when all pieces are made, the shards that hold an image for the second time are written again.

Only now is it known which image came first, whichever task was done first. A kill between a shard and its record leaves
a piece that counts as not made, as any other kill does.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from hdit_core.data.format.hashes import KINDS, first_duplicate
from hdit_core.data.format.shard import HASHES_DTYPE, ROW_DTYPE, Sample, ShardSample, atomic_shard, read_shard
from hdit_core.data.image.codec import SUFFIXES
from hdit_core.data.prepare.job import PrepareJob
from hdit_core.data.prepare.journal import ChunkRecord, Journal, ShardRecord

Rows = Shaped[np.ndarray, " _"]


@dataclass(frozen=True)
class _DuplicateOf:
    """Why an image is left out."""

    kind: str  # of the hash that is the same
    first: int  # row of the image that stays


def find_duplicates(rows: Rows) -> dict[int, _DuplicateOf]:
    """Return the rows that equal an earlier one that stays, by their file or by their pixels."""
    firsts = {kind: first_duplicate(np.ascontiguousarray(rows[kind])) for kind in KINDS}
    several = np.logical_or.reduce([np.bincount(first, minlength=len(rows))[first] > 1 for first in firsts.values()])
    staying: dict[str, dict[int, int]] = {kind: {} for kind in KINDS}
    twins: dict[int, _DuplicateOf] = {}
    for row in np.flatnonzero(several).tolist():
        groups = {kind: int(first[row]) for kind, first in firsts.items()}
        same = [_DuplicateOf(kind, staying[kind][group]) for kind, group in groups.items() if group in staying[kind]]
        if same:
            twins[row] = same[0]
        else:
            for kind, group in groups.items():
                staying[kind][group] = row
    return twins


def _number(path: Path, row: np.void) -> int:
    """Return the number of the input that an image was made from: the key in its tar header, a block before it."""
    with path.open("rb") as file:
        file.seek(int(row["offset"]) - 512)
        return int(file.read(100).split(b".")[0])


def _sample(
    job: PrepareJob, stored: ShardSample, descriptor: int, image: bytes, row: np.void, size: tuple[int, int]
) -> Sample:
    hashes = b"".join(row[name].tobytes() for name in HASHES_DTYPE.names or ())
    suffix, about = SUFFIXES[job.rules.codec], stored.read_json(descriptor)
    return Sample(int(stored.key), image, suffix, int(row["label"]), about, size, hashes)


def _rewrite_without(job: PrepareJob, path: Path, shard: ShardRecord, left_out: set[int]) -> ShardRecord | None:
    """Write a shard again without some of its samples; None, and no file, if none is left."""
    if len(left_out) == len(shard.rows):
        return None
    samples = read_shard(path)
    with path.open("rb") as file, atomic_shard(path) as writer:
        for place, (stored, row) in enumerate(zip(samples, shard.rows, strict=True)):
            if place not in left_out:
                file.seek(int(row["offset"]))
                image = file.read(int(row["length"]))
                writer.add(_sample(job, stored, file.fileno(), image, row, shard.size))
    return ShardRecord.of(shard.name, shard.size, writer.written)


class _Places:
    """Where each row lies: rows are counted through all pieces and their shards."""

    def __init__(self, journal: Journal, num_pieces: int) -> None:
        self.folder = journal.folder
        self.shards: list[tuple[int, int, str]] = []  # first row, piece, name of each shard
        found = [np.empty(0, ROW_DTYPE)]
        first = 0
        for number in range(num_pieces):
            for shard in journal.read(number).shards:
                self.shards.append((first, number, shard.name))
                found.append(shard.rows)
                first += len(shard.rows)
        self.rows = np.concatenate(found)
        self._firsts = np.array([first for first, *_ in self.shards], np.int64)

    def of(self, row: int) -> tuple[int, str, int]:
        """Return piece, shard and place in the shard of a row."""
        first, number, name = self.shards[int(np.searchsorted(self._firsts, row, "right")) - 1]
        return number, name, row - first

    def input(self, row: int) -> int:
        """Return the number of the input that a row was made from."""
        return _number(self.folder / self.of(row)[1], self.rows[row])


def _lines(job: PrepareJob, places: _Places, twins: dict[int, _DuplicateOf]) -> dict[int, list[str]]:
    """Return the lines of rejects.jsonl of each piece, read before anything is written again."""
    lines: dict[int, list[str]] = {}
    for row, twin in twins.items():
        number, first = places.input(row), places.input(twin.first)
        reason = f"the same {KINDS[twin.kind]} as {job.inputs[first].name}"
        line = json.dumps({"number": number, "name": job.inputs[number].name, "reason": reason})
        lines.setdefault(places.of(row)[0], []).append(line)
    return lines


def _rewrite_chunk(
    job: PrepareJob, journal: Journal, record: ChunkRecord, left_out: dict[str, set[int]], lines: Sequence[str]
) -> None:
    """Write the shards of a piece again, then its record."""
    shards: list[ShardRecord] = []
    for shard in record.shards:
        path = journal.folder / shard.name
        kept = _rewrite_without(job, path, shard, left_out[shard.name]) if shard.name in left_out else shard
        shards += [kept] if kept else []
    rejects = sorted([*record.rejects, *lines], key=lambda line: json.loads(line)["number"])
    duplicates = record.duplicates + len(lines)
    changed = {"shards": tuple(shards), "rejects": tuple(rejects), "duplicates": duplicates}
    journal.add(record.model_copy(update=changed))


def drop_duplicates(job: PrepareJob, journal: Journal) -> None:
    """Leave out every image that is the same as an earlier one, once all pieces are made."""
    places = _Places(journal, job.num_chunks)
    twins = find_duplicates(places.rows)
    left_out: dict[int, dict[str, set[int]]] = {}
    for row in twins:
        number, name, place = places.of(row)
        left_out.setdefault(number, {}).setdefault(name, set()).add(place)
    lines = _lines(job, places, twins)
    for number in sorted(left_out):
        _rewrite_chunk(job, journal, journal.read(number), left_out[number], lines[number])
    _remove_emptied(journal, job.num_chunks)


def _remove_emptied(journal: Journal, num_pieces: int) -> None:
    """Remove shards of which nothing is left, also where a kill came between the record and this."""
    named = {shard.name for number in range(num_pieces) for shard in journal.read(number).shards}
    for path in journal.folder.glob("shard-*.tar"):
        if path.name not in named:
            path.unlink()
