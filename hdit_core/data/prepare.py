"""Images of any kind become a verified data set: shards, index and manifest.

Each shard is made from a fixed piece of the inputs, so that its bytes depend on those alone: not on the number of
processes, on the order in which a folder lists its files, nor on where an earlier attempt was killed. What cannot be
used is listed with its reason, and inputs = samples + rejects.
"""

import hashlib
import io
import json
import time
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import PIL

from hdit_core.data.assembly import Progress, Tally, Work, make_shards
from hdit_core.data.codec import JPEG_QUALITY
from hdit_core.data.convert import Rules
from hdit_core.data.framing import Crop, Resize
from hdit_core.data.journal import Journal, ShardRecord, holds_data_set, open_journal
from hdit_core.data.labels import BY_FOLDER, WITHOUT, label_source
from hdit_core.data.manifest import (
    INDEX,
    REJECTS,
    Channels,
    Codec,
    Contents,
    IndexEntry,
    Manifest,
    Origin,
    ShardEntry,
    read_manifest,
    root_of,
    write_manifest,
)
from hdit_core.data.pixels import LARGEST_IMAGE_PIXELS
from hdit_core.data.shard import INDEX_DTYPE, NO_LABEL
from hdit_core.data.source import open_source
from hdit_core.errors import DataError, UsageError
from hdit_core.files import write_whole


@dataclass(frozen=True)
class PrepareSettings:
    """What to make of which images."""

    source: str  # folder, archive or named set
    out: Path
    size: tuple[int, int]  # height, width in pixels
    channels: Channels | None = None  # 1 or 3; None: what the source knows, else 3
    labels: str = "auto"  # "auto": class folders; "none"; or a csv, jsonl or txt file
    classes: str | None = None  # what fixes their numbers: "imagenet", a data set, a file; None: the sorted names
    crop: Crop = "center"
    codec: Codec = "png"
    shard_size: int = 1000  # inputs a shard
    workers: int = 1
    max_bad: str | None = None  # rejects to live with: a number, or a share such as "0.01%"; None: any
    background: tuple[int, int, int] = (255, 255, 255)
    seed: int = 0  # of random crops
    resize: Resize = "lanczos"
    quality: int = JPEG_QUALITY  # of JPEG, 1..100


@dataclass(frozen=True)
class PrepareSummary:
    """What came of it."""

    out: str
    images: int
    rejects: int
    height: int
    width: int
    channels: int
    classes: int
    shards: int
    bytes: int
    root: str
    already_complete: bool
    elapsed_s: float
    remarks: dict[str, int] = field(default_factory=dict)


def _bad_limit(text: str | None, num_inputs: int) -> int:
    """Return how many rejects are tolerated."""
    try:
        if text is None:
            return num_inputs
        limit = float(text[:-1]) / 100 * num_inputs if text.endswith("%") else int(text)
        if limit >= 0:
            return int(limit)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"--max-bad {text}: expected a number of images or a share of them, for example 10 or 0.01%")


def _check_place(settings: PrepareSettings) -> None:
    """Refuse a size or a folder that nothing good can come of, before a million files are listed."""
    (height, width), out, source = settings.size, settings.out, Path(settings.source)
    if height * width > LARGEST_IMAGE_PIXELS:
        raise UsageError(f"--size {height}x{width}: more than {LARGEST_IMAGE_PIXELS // 10**6} million pixels")
    if out.exists() and not out.is_dir():
        raise UsageError(f"--out {out}: is a file; expected a folder, which is made where there is none")
    if source.is_dir() and out.resolve() != source.resolve() and out.resolve().is_relative_to(source.resolve()):
        raise UsageError(
            f"--out {out}: lies inside the source {source}, so that its files would be inputs the next time; "
            "choose a folder outside"
        )


def _plan(settings: PrepareSettings) -> Work:
    """List the source and settle what is made of it."""
    _check_place(settings)
    labels_path = None if settings.labels in (BY_FOLDER, WITHOUT) else Path(settings.labels)
    source = open_source(settings.source, leave_out=labels_path)
    inputs, classes, labels = label_source(source, settings.labels, settings.classes)
    if not inputs:
        raise DataError(f"{settings.source}: holds no files; expected images")
    height, width = settings.size
    channels = settings.channels or source.channels or 3
    rules = Rules(
        height,
        width,
        channels,
        settings.crop,
        settings.codec,
        settings.background,
        settings.seed,
        settings.resize,
        settings.quality,
    )
    return Work(source, inputs, classes, labels, rules, settings.shard_size)


def _index_bytes(records: Sequence[ShardRecord]) -> bytes:
    """Return the index as a .npy file."""
    rows = [(shard, *row) for shard, record in enumerate(records) for row in record.rows]
    buffer = io.BytesIO()
    np.save(buffer, np.array(rows, INDEX_DTYPE), allow_pickle=False)
    return buffer.getvalue()


def _class_counts(work: Work, records: Sequence[ShardRecord]) -> tuple[int, ...] | None:
    if work.classes is None:
        return None
    found = Counter(label for record in records for *_, label in record.rows if label != NO_LABEL)
    return tuple(found[number] for number in range(len(work.classes)))


def _contents(work: Work, records: Sequence[ShardRecord], index: bytes) -> Contents:
    return Contents(
        height=work.rules.height,
        width=work.rules.width,
        channels=work.rules.channels,
        codec=work.rules.codec,
        samples=sum(len(record.rows) for record in records),
        classes=work.classes,
        class_counts=_class_counts(work, records),
        shards=tuple(
            ShardEntry(name=one.name, bytes=one.bytes, crc32=one.crc32, sha256=one.sha256, samples=len(one.rows))
            for one in records
        ),
        index=IndexEntry(bytes=len(index), crc32=zlib.crc32(index), sha256=hashlib.sha256(index).hexdigest()),
    )


def _manifest(work: Work, fingerprint: str, records: Sequence[ShardRecord], contents: Contents) -> Manifest:
    remarks: Counter[str] = Counter()
    for record in records:
        remarks.update(record.remarks)
    return Manifest(
        contents=contents,
        root=root_of(contents),
        origin=Origin(kind=work.source.kind, name=work.source.name, inputs=len(work.inputs), fingerprint=fingerprint),
        settings=work.settings(),
        rejects=sum(len(record.rejects) for record in records),
        remarks=dict(sorted(remarks.items())),
        made_with={"pillow": PIL.__version__},
    )


def _finish(work: Work, fingerprint: str, records: Sequence[ShardRecord], folder: Path) -> Manifest:
    """Write everything beside the shards, the manifest last."""
    used = [record for record in records if record.rows]
    index = _index_bytes(used)
    write_whole(folder / INDEX, index)
    rejects = "".join(f"{line}\n" for record in records for line in record.rejects)
    write_whole(folder / REJECTS, rejects)
    manifest = _manifest(work, fingerprint, records, _contents(work, used, index))
    write_manifest(folder, manifest)
    return manifest


def _make(settings: PrepareSettings, work: Work, journal: Journal, fingerprint: str, tally: Tally) -> Manifest:
    """Make what is missing of a data set."""
    records = make_shards(work, journal, settings.workers, tally)
    if not any(record.rows for record in records):
        journal.remove()
        first = json.loads(next(line for record in records for line in record.rejects))
        raise DataError(
            f"{settings.source}: none of its {len(work.inputs):,} files is a usable image; "
            f"the first is {first['name']}: {first['reason']}"
        )
    manifest = _finish(work, fingerprint, records, settings.out)
    journal.remove()
    return manifest


def _complete_manifest(folder: Path, fingerprint: str) -> Manifest:
    """Return the manifest of a finished data set, if it is the one that is asked for."""
    manifest = read_manifest(folder)
    if manifest.origin.fingerprint != fingerprint:
        raise UsageError(
            f"{folder}: already holds a data set made from other images or with other settings "
            f"({manifest.contents.samples:,} images from '{manifest.origin.name}'); choose another --out"
        )
    return manifest


def _summary(settings: PrepareSettings, manifest: Manifest, complete: bool, started_at: float) -> PrepareSummary:
    contents = manifest.contents
    return PrepareSummary(
        out=str(settings.out),
        images=contents.samples,
        rejects=manifest.rejects,
        height=contents.height,
        width=contents.width,
        channels=contents.channels,
        classes=len(contents.classes or ()),
        shards=len(contents.shards),
        bytes=sum(shard.bytes for shard in contents.shards),
        root=manifest.root,
        already_complete=complete,
        elapsed_s=round(time.monotonic() - started_at, 3),
        remarks=manifest.remarks,
    )


def prepare_data(settings: PrepareSettings, on_progress: Progress | None = None) -> PrepareSummary:
    """Make a data set, go on with an unfinished one, or find that it is complete and write nothing.

    Args:
        settings: what to make of which images.
        on_progress: called after every image with inputs done, inputs in all, rejects so far.

    Raises:
        UsageError: there is no such source, or the folder holds something else.
        DataError: the source cannot be read, no image in it is usable, or more are bad than `max_bad` allows.
    """
    started_at = time.monotonic()
    work = _plan(settings)
    fingerprint = work.fingerprint()
    limit = _bad_limit(settings.max_bad, len(work.inputs))
    complete = holds_data_set(settings.out)
    if complete:
        manifest = _complete_manifest(settings.out, fingerprint)
        Journal(settings.out).remove()  # a kill may have come between the manifest and this
        if on_progress:
            on_progress(len(work.inputs), len(work.inputs), manifest.rejects)
    else:
        with open_journal(settings.out, fingerprint) as journal:
            manifest = _make(settings, work, journal, fingerprint, Tally(len(work.inputs), limit, on_progress))
    return _summary(settings, manifest, complete, started_at)
