"""Writes a data set from the records of all chunks: index, hashes, list of rejects, and the manifest last."""

import hashlib
import io
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import Float32, Shaped

from hdit_core.data.format.duplicates import KINDS, first_duplicate
from hdit_core.data.format.manifest import (
    CONDITION,
    HASHES,
    INDEX,
    REJECTS,
    VECTORS,
    Contents,
    Manifest,
    Origin,
    root_of,
    write_manifest,
)
from hdit_core.data.format.manifest_entries import Bucket, ConditionEntry, IndexEntry, ShardEntry, VectorsEntry
from hdit_core.data.format.pixel_stats import Moments, add_moments, mean_and_std, top_level
from hdit_core.data.format.shard import CONDITION_ROW_DTYPE, HASHES_DTYPE, INDEX_DTYPE, ROW_DTYPE
from hdit_core.data.prepare.job import PrepareJob
from hdit_core.data.prepare.journal import ChunkRecord, Journal, ShardRecord
from hdit_core.files import write_atomic

DROPPED = "dropped duplicates"
EXCLUDED = "left out by --min-size or --no-upscale"
DUPLICATES = "exact duplicates of an earlier image"
CONTRADICTING = "exact duplicates of an earlier image of another class"

Rows = Shaped[np.ndarray, " _"]  # of ROW_DTYPE, one per image


@dataclass(frozen=True)
class Chunks:
    """The results of all chunks in the order of the index: grouped by bucket, each in the order of the inputs."""

    shards: tuple[ShardEntry, ...]
    buckets: tuple[Bucket, ...]
    rows: Rows
    condition_rows: Rows  # of CONDITION_ROW_DTYPE; none without condition images
    vectors: Float32[np.ndarray, "N E"]  # none without vectors
    captions: int  # images with one
    reject_lines: tuple[str, ...]
    remarks: Counter[str]
    moments: Moments  # empty if a chunk has none


def _entry(record: ShardRecord) -> ShardEntry:
    samples = len(record.rows)
    return ShardEntry(name=record.name, bytes=record.bytes, crc32=record.crc32, sha256=record.sha256, samples=samples)


def _buckets(shards: Sequence[ShardRecord]) -> tuple[Bucket, ...]:
    samples: Counter[tuple[int, int]] = Counter()
    for shard in shards:
        samples[shard.size] += len(shard.rows)
    return tuple(Bucket(height=size[0], width=size[1], samples=count) for size, count in sorted(samples.items()))


def _remarks(records: Sequence[ChunkRecord]) -> Counter[str]:
    remarks: Counter[str] = Counter()
    for record in records:
        remarks.update(record.remarks)
        remarks[DROPPED] += record.duplicates
        remarks[EXCLUDED] += record.excluded
    return remarks


def _moments(records: Sequence[ChunkRecord]) -> Moments:
    """Return the moments of all chunks; none if a chunk of an early version of hdit lacks them."""
    parts = [record.moments for record in records if record.shards]
    moments: Moments = ()
    for part in parts if all(parts) else []:
        moments = add_moments(moments, part)
    return moments


def collect_chunks(journal: Journal, num_chunks: int, vector_dim: int = 0) -> Chunks:
    """Read the records of all chunks, which are finished.

    Args:
        vector_dim: length of the vectors, 0 without any.
    """
    records = [journal.read(number) for number in range(num_chunks)]
    shards = [shard for record in records for shard in record.shards]
    shards.sort(key=lambda shard: shard.size)  # stable: chunks stay in order within a bucket
    none = np.empty((0, vector_dim or 1), np.float32)
    return Chunks(
        shards=tuple(map(_entry, shards)),
        buckets=_buckets(shards),
        rows=np.concatenate([np.empty(0, ROW_DTYPE), *(shard.rows for shard in shards)]),
        condition_rows=np.concatenate([np.empty(0, CONDITION_ROW_DTYPE), *(shard.condition_rows for shard in shards)]),
        vectors=np.concatenate([none, *(shard.vectors(vector_dim) for shard in shards)]),
        captions=sum(shard.captions for shard in shards),
        reject_lines=tuple(line for record in records for line in record.rejects),
        remarks=_remarks(records),
        moments=_moments(records),
    )


def _index(chunks: Chunks) -> Rows:
    index = np.empty(len(chunks.rows), INDEX_DTYPE)
    index["shard"] = np.repeat(np.arange(len(chunks.shards)), [shard.samples for shard in chunks.shards])
    for name in ("offset", "length", "crc32", "label"):
        index[name] = chunks.rows[name]
    return index


def _condition_index(chunks: Chunks) -> Rows:
    index = _index(chunks)
    for name in CONDITION_ROW_DTYPE.names or ():
        index[name] = chunks.condition_rows[name]
    return index


def _write_condition(job: PrepareJob, chunks: Chunks, folder: Path) -> ConditionEntry | None:
    if job.rules.condition is None:
        return None
    pixels, codec = job.rules.condition.pixels, job.rules.condition.codec
    return ConditionEntry(
        channels=pixels.channels,
        dtype=pixels.dtype,
        value_range=pixels.value_range,
        codec=codec,
        index=_write_array(folder / CONDITION, _condition_index(chunks)),
    )


def _write_vectors(job: PrepareJob, chunks: Chunks, folder: Path) -> VectorsEntry | None:
    if not job.rules.vector_dim:
        return None
    return VectorsEntry(dim=job.rules.vector_dim, file=_write_array(folder / VECTORS, chunks.vectors))


def _hashes(chunks: Chunks) -> Rows:
    hashes = np.empty(len(chunks.rows), HASHES_DTYPE)
    for name in HASHES_DTYPE.names or ():
        hashes[name] = chunks.rows[name]
    return hashes


def _write_array(path: Path, array: Shaped[np.ndarray, "_ ..."]) -> IndexEntry:
    """Write a .npy file and return its entry of the manifest."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    content = buffer.getvalue()
    write_atomic(path, content)
    return IndexEntry(bytes=len(content), crc32=zlib.crc32(content), sha256=hashlib.sha256(content).hexdigest())


def duplicate_remarks(rows: Rows) -> dict[str, int]:
    """Count the images whose file or pixels equal those of an earlier image of the set."""
    indices, labels = np.arange(len(rows)), rows["label"]
    firsts = [first_duplicate(np.ascontiguousarray(rows[kind])) for kind in KINDS]
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


def _contents(job: PrepareJob, chunks: Chunks, folder: Path) -> Contents:
    """Write the array files that a reader needs, and return the contents."""
    sizes = chunks.buckets
    contents = Contents(
        height=max(size.height for size in sizes),
        width=max(size.width for size in sizes),
        channels=job.rules.channels,
        codec=job.rules.codec,
        samples=len(chunks.rows),
        classes=job.classes,
        class_counts=_class_counts(job, chunks.rows),
        shards=chunks.shards,
        index=_write_array(folder / INDEX, _index(chunks)),
        buckets=sizes if job.rules.buckets else (),
        dtype=job.rules.dtype,
        value_range=job.rules.value_range,
        condition=_write_condition(job, chunks, folder),
        vectors=_write_vectors(job, chunks, folder),
        captions=chunks.captions > 0,
    )
    return contents.model_copy(update={"format_version": contents.lowest_version})


def write_data_set(job: PrepareJob, fingerprint: str, chunks: Chunks, folder: Path) -> Manifest:
    """Write all files but the shards, the manifest last."""
    hashes = _write_array(folder / HASHES, _hashes(chunks))
    write_atomic(folder / REJECTS, "".join(f"{line}\n" for line in chunks.reject_lines))
    contents = _contents(job, chunks, folder)
    mean, std = mean_and_std(chunks.moments, top_level(job.rules.pixels)) if chunks.moments else ((), ())
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
