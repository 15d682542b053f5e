"""The records of all pieces become a data set: index, hashes, list of rejects, and the manifest last."""

import hashlib
import io
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Shaped

from hdit_core.data.format.hashes import first_duplicate
from hdit_core.data.format.manifest import (
    HASHES,
    INDEX,
    REJECTS,
    Bucket,
    Contents,
    IndexEntry,
    Manifest,
    Origin,
    ShardEntry,
    root_of,
    write_manifest,
)
from hdit_core.data.format.shard import HASHES_DTYPE, INDEX_DTYPE, ROW_DTYPE
from hdit_core.data.prepare.job import PrepareJob
from hdit_core.data.prepare.journal import Journal, ShardRecord
from hdit_core.files import write_atomic

Rows = Shaped[np.ndarray, " _"]  # of ROW_DTYPE, one an image


@dataclass(frozen=True)
class Chunks:
    """What all pieces together gave, in the order of the index: bucket by bucket, in each as the inputs come."""

    shards: tuple[ShardEntry, ...]
    buckets: tuple[Bucket, ...]
    rows: Rows
    reject_lines: tuple[str, ...]
    remarks: Counter[str]


def _entry(record: ShardRecord, samples: int) -> ShardEntry:
    return ShardEntry(name=record.name, bytes=record.bytes, crc32=record.crc32, sha256=record.sha256, samples=samples)


def _buckets(found: list[tuple[tuple[int, int], ShardEntry, Rows]]) -> tuple[Bucket, ...]:
    samples: Counter[tuple[int, int]] = Counter()
    for size, entry, _ in found:
        samples[size] += entry.samples
    return tuple(Bucket(height=size[0], width=size[1], samples=count) for size, count in sorted(samples.items()))


def collect_chunks(journal: Journal, num_pieces: int) -> Chunks:
    """Read the records of all pieces, each of which is done."""
    found: list[tuple[tuple[int, int], ShardEntry, Rows]] = []
    reject_lines: list[str] = []
    remarks: Counter[str] = Counter()
    for number in range(num_pieces):
        record = journal.read(number)
        found += [(shard.size, _entry(shard, len(shard.rows)), shard.rows) for shard in record.shards]
        reject_lines += record.rejects
        remarks.update(record.remarks)
        remarks["left out, the same as another image"] += record.duplicates
    found.sort(key=lambda one: one[0])  # stable: within a bucket the pieces stay in order
    rows = np.concatenate([rows for *_, rows in found]) if found else np.empty(0, ROW_DTYPE)
    shards = tuple(entry for _, entry, _ in found)
    return Chunks(shards, _buckets(found), rows, tuple(reject_lines), remarks)


def _index(pieces: Chunks) -> Rows:
    index = np.empty(len(pieces.rows), INDEX_DTYPE)
    index["shard"] = np.repeat(np.arange(len(pieces.shards)), [shard.samples for shard in pieces.shards])
    for name in ("offset", "length", "crc32", "label"):
        index[name] = pieces.rows[name]
    return index


def _hashes(pieces: Chunks) -> Rows:
    hashes = np.empty(len(pieces.rows), HASHES_DTYPE)
    for name in HASHES_DTYPE.names or ():
        hashes[name] = pieces.rows[name]
    return hashes


def _write_array(path: Path, array: Rows) -> IndexEntry:
    """Write a .npy file and return what the manifest says of it."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    write_atomic(path, content)
    return IndexEntry(bytes=len(content), crc32=zlib.crc32(content), sha256=hashlib.sha256(content).hexdigest())


def duplicate_remarks(rows: Rows) -> dict[str, int]:
    """Count the images whose file or pixels came before in the same set."""
    numbers, labels = np.arange(len(rows)), rows["label"]
    firsts = [first_duplicate(np.ascontiguousarray(rows[kind])) for kind in ("source", "pixels")]
    twice = np.logical_or.reduce([first != numbers for first in firsts])
    contrary = np.logical_or.reduce([labels[first] != labels for first in firsts])
    counts = {
        "the same as an earlier image": int(twice.sum()),
        "the same as an earlier image of another class": int(contrary.sum()),
    }
    return {remark: count for remark, count in counts.items() if count}


def _class_counts(job: PrepareJob, rows: Rows) -> tuple[int, ...] | None:
    if job.classes is None:
        return None
    counts = np.bincount(rows["label"][rows["label"] >= 0], minlength=len(job.classes))
    return tuple(map(int, counts))


def _contents(job: PrepareJob, pieces: Chunks, index: IndexEntry) -> Contents:
    sizes = pieces.buckets
    return Contents(
        format_version=2 if job.rules.buckets else 1,
        height=max(size.height for size in sizes),
        width=max(size.width for size in sizes),
        channels=job.rules.channels,
        codec=job.rules.codec,
        samples=len(pieces.rows),
        classes=job.classes,
        class_counts=_class_counts(job, pieces.rows),
        shards=pieces.shards,
        index=index,
        buckets=sizes if job.rules.buckets else (),
    )


def write_data_set(job: PrepareJob, fingerprint: str, pieces: Chunks, folder: Path) -> Manifest:
    """Write everything beside the shards, the manifest last."""
    index = _write_array(folder / INDEX, _index(pieces))
    hashes = _write_array(folder / HASHES, _hashes(pieces))
    write_atomic(folder / REJECTS, "".join(f"{line}\n" for line in pieces.reject_lines))
    contents = _contents(job, pieces, index)
    manifest = Manifest(
        contents=contents,
        root=root_of(contents),
        origin=Origin(kind=job.source.kind, name=job.source.name, inputs=len(job.inputs), fingerprint=fingerprint),
        settings=job.settings(),
        rejects=len(pieces.reject_lines),
        remarks=dict(sorted((pieces.remarks + Counter(duplicate_remarks(pieces.rows))).items())),  # + drops zeros
        made_with={"pillow": PIL.__version__},
        hashes=hashes,
    )
    write_manifest(folder, manifest)
    return manifest
