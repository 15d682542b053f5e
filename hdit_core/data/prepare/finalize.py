"""Writes a data set from the records of all chunks: index, hashes, list of rejects, and the manifest last."""

import hashlib
import io
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Shaped

from hdit_core.data.format.entries import Bucket, IndexEntry, ShardEntry
from hdit_core.data.format.hashes import first_duplicate
from hdit_core.data.format.manifest import HASHES, INDEX, REJECTS, Contents, Manifest, Origin, root_of, write_manifest
from hdit_core.data.format.pixel_stats import Moments, add_moments, mean_and_std
from hdit_core.data.format.shard import HASHES_DTYPE, INDEX_DTYPE, ROW_DTYPE
from hdit_core.data.prepare.job import PrepareJob
from hdit_core.data.prepare.journal import Journal, ShardRecord
from hdit_core.files import write_atomic

DROPPED = "dropped duplicates"
EXCLUDED = "left out by --min-size or --no-upscale"
DUPLICATES = "exact duplicates of an earlier image"
CONTRADICTING = "exact duplicates of an earlier image of another class"

Rows = Shaped[np.ndarray, " _"]  # of ROW_DTYPE, one per image


@dataclass(frozen=True)
class Chunks:
    """The results of all chunks in the order of the index: bucket by bucket, each in the order of the inputs."""

    shards: tuple[ShardEntry, ...]
    buckets: tuple[Bucket, ...]
    rows: Rows
    reject_lines: tuple[str, ...]
    remarks: Counter[str]
    moments: Moments  # empty if a chunk has none


def _entry(record: ShardRecord, samples: int) -> ShardEntry:
    return ShardEntry(name=record.name, bytes=record.bytes, crc32=record.crc32, sha256=record.sha256, samples=samples)


def _buckets(shards: list[tuple[tuple[int, int], ShardEntry, Rows]]) -> tuple[Bucket, ...]:
    samples: Counter[tuple[int, int]] = Counter()
    for size, entry, _ in shards:
        samples[size] += entry.samples
    return tuple(Bucket(height=size[0], width=size[1], samples=count) for size, count in sorted(samples.items()))


def collect_chunks(journal: Journal, num_chunks: int) -> Chunks:
    """Read the records of all chunks, which are finished."""
    shards: list[tuple[tuple[int, int], ShardEntry, Rows]] = []
    reject_lines: list[str] = []
    records_moments: list[Moments] = []
    remarks: Counter[str] = Counter()
    for number in range(num_chunks):
        record = journal.read(number)
        if record.shards:
            records_moments.append(record.moments)
        shards += [(shard.size, _entry(shard, len(shard.rows)), shard.rows) for shard in record.shards]
        reject_lines += record.rejects
        remarks.update(record.remarks)
        remarks[DROPPED] += record.duplicates
        remarks[EXCLUDED] += record.excluded
    shards.sort(key=lambda shard: shard[0])  # stable: chunks stay in order within a bucket
    rows = np.concatenate([rows for *_, rows in shards]) if shards else np.empty(0, ROW_DTYPE)
    entries = tuple(entry for _, entry, _ in shards)
    moments: Moments = ()
    for more in records_moments if all(records_moments) else []:
        moments = add_moments(moments, more)
    return Chunks(entries, _buckets(shards), rows, tuple(reject_lines), remarks, moments)


def _index(chunks: Chunks) -> Rows:
    index = np.empty(len(chunks.rows), INDEX_DTYPE)
    index["shard"] = np.repeat(np.arange(len(chunks.shards)), [shard.samples for shard in chunks.shards])
    for name in ("offset", "length", "crc32", "label"):
        index[name] = chunks.rows[name]
    return index


def _hashes(chunks: Chunks) -> Rows:
    hashes = np.empty(len(chunks.rows), HASHES_DTYPE)
    for name in HASHES_DTYPE.names or ():
        hashes[name] = chunks.rows[name]
    return hashes


def _write_array(path: Path, array: Rows) -> IndexEntry:
    """Write a .npy file and return its entry of the manifest."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    write_atomic(path, content)
    return IndexEntry(bytes=len(content), crc32=zlib.crc32(content), sha256=hashlib.sha256(content).hexdigest())


def duplicate_remarks(rows: Rows) -> dict[str, int]:
    """Count the images whose file or pixels equal those of an earlier image of the set."""
    indices, labels = np.arange(len(rows)), rows["label"]
    firsts = [first_duplicate(np.ascontiguousarray(rows[kind])) for kind in ("source", "pixels")]
    twice = np.logical_or.reduce([first != indices for first in firsts])
    contrary = np.logical_or.reduce([labels[first] != labels for first in firsts])
    counts = {
        DUPLICATES: int(twice.sum()),
        CONTRADICTING: int(contrary.sum()),
    }
    return {remark: count for remark, count in counts.items() if count}


def _class_counts(job: PrepareJob, rows: Rows) -> tuple[int, ...] | None:
    if job.classes is None:
        return None
    counts = np.bincount(rows["label"][rows["label"] >= 0], minlength=len(job.classes))
    return tuple(map(int, counts))


def _contents(job: PrepareJob, chunks: Chunks, index: IndexEntry) -> Contents:
    sizes = chunks.buckets
    return Contents(
        format_version=2 if job.rules.buckets else 1,
        height=max(size.height for size in sizes),
        width=max(size.width for size in sizes),
        channels=job.rules.channels,
        codec=job.rules.codec,
        samples=len(chunks.rows),
        classes=job.classes,
        class_counts=_class_counts(job, chunks.rows),
        shards=chunks.shards,
        index=index,
        buckets=sizes if job.rules.buckets else (),
    )


def write_data_set(job: PrepareJob, fingerprint: str, chunks: Chunks, folder: Path) -> Manifest:
    """Write all files but the shards, the manifest last."""
    index = _write_array(folder / INDEX, _index(chunks))
    hashes = _write_array(folder / HASHES, _hashes(chunks))
    write_atomic(folder / REJECTS, "".join(f"{line}\n" for line in chunks.reject_lines))
    contents = _contents(job, chunks, index)
    mean, std = mean_and_std(chunks.moments) if chunks.moments else ((), ())
    manifest = Manifest(
        contents=contents,
        root=root_of(contents),
        origin=Origin(kind=job.source.kind, name=job.source.name, inputs=len(job.inputs), fingerprint=fingerprint),
        settings=job.settings(),
        rejects=len(chunks.reject_lines),
        remarks=dict(sorted((chunks.remarks + Counter(duplicate_remarks(chunks.rows))).items())),  # + drops zeros
        made_with={"pillow": PIL.__version__},
        hashes=hashes,
        pixel_mean=mean,
        pixel_std=std,
    )
    write_manifest(folder, manifest)
    return manifest
