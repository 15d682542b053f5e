"""The journal of a preparation in progress: records of finished chunks, and a one-byte lock per chunk.

Tasks share a folder; the locks ensure that no two tasks process the same chunk.
"""

import base64
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped
from pydantic import BaseModel, ConfigDict, ValidationError

from hdit_core.data.format.manifest import MANIFEST
from hdit_core.data.format.manifest_entries import ShardName
from hdit_core.data.format.optional_rows import VECTOR_DTYPE
from hdit_core.data.format.shard import CONDITION_ROW_DTYPE, ROW_DTYPE, ShardFile
from hdit_core.data.prepare.array_task import ArrayTask
from hdit_core.errors import UsageError
from hdit_core.files import TEMPORARY, digest, flush_folder, read_bytes, write_atomic
from hdit_core.locks import LockHeldError, locked

UNFINISHED = ".unfinished"
LOCK = "lock"

_OF_CHUNK = re.compile(re.escape(TEMPORARY) + r"(?:shard-)?([0-9]{6,})[.-]")
_PLAN_NAME = re.compile(r"plan-([0-9]+)-of-([0-9]+)\.json")


def _ranges(chunks: range) -> list[tuple[int, int]]:
    """Return the offset and the length of each lock; contiguous chunks share a lock."""
    return [(chunks.start, max(1, len(chunks)))] if chunks.step == 1 else [(number, 1) for number in chunks]


@contextmanager
def _locked_chunks(folder: Path, chunks: range) -> Iterator[None]:
    """Lock chunks of a data set against other processes while the body runs; create the journal's folder.

    Raises:
        UsageError: another process holds one of them.
    """
    try:
        with locked(folder / UNFINISHED / LOCK, _ranges(chunks)):
            yield
    except LockHeldError:
        raise UsageError(
            f"{folder}: another hdit prepare-data is writing the same images to it; wait for it, choose another "
            "--out, or give each process its own part with --task I/N"
        ) from None


def shard_name(number: int, size: tuple[int, int] | None = None) -> str:
    """Return the file name of a chunk's shard, including its height and width if images have several sizes."""
    return f"shard-{number:06}{'-{}x{}'.format(*size) if size else ''}.tar"


def reject_line(number: int, name: str, reason: str) -> str:
    """Return the line of an input in rejects.jsonl."""
    return json.dumps({"number": number, "name": name, "reason": reason})


class ShardRecord(BaseModel):
    """The record of a finished shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ShardName
    size: tuple[int, int]  # of its images: height, width in pixels
    bytes: int
    crc32: int
    sha256: str
    rows_base64: str  # ROW_DTYPE; thirty times smaller than Python numbers, and smaller than numbers in JSON
    condition_rows_base64: str = ""  # of CONDITION_ROW_DTYPE
    vectors_base64: str = ""  # float32, concatenated
    captions: int = 0  # images with a caption

    @classmethod
    def of(cls, name: str, size: tuple[int, int], file: ShardFile) -> "ShardRecord":
        """Return the record of a shard that was written."""
        return cls(
            name=name,
            size=size,
            bytes=file.bytes,
            crc32=file.crc32,
            sha256=file.sha256,
            rows_base64=base64.b64encode(file.rows).decode(),
            condition_rows_base64=base64.b64encode(file.condition_rows).decode(),
            vectors_base64=base64.b64encode(file.vectors).decode(),
            captions=file.captions,
        )

    @property
    def rows(self) -> Shaped[np.ndarray, " N"]:
        """The rows of ROW_DTYPE, one per image."""
        return np.frombuffer(base64.b64decode(self.rows_base64), ROW_DTYPE)

    @property
    def condition_rows(self) -> Shaped[np.ndarray, " N"]:
        """The rows of CONDITION_ROW_DTYPE, one per image; empty without condition images."""
        return np.frombuffer(base64.b64decode(self.condition_rows_base64), CONDITION_ROW_DTYPE)

    def vectors(self, dim: int) -> Float32[np.ndarray, "N E"]:
        """Return the vectors, one of length `dim` per image; empty if that is 0."""
        return np.frombuffer(base64.b64decode(self.vectors_base64), VECTOR_DTYPE).reshape(-1, dim or 1)


class ChunkRecord(BaseModel):
    """The result of processing one chunk of the inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    inputs: int
    shards: tuple[ShardRecord, ...]  # one per image size; empty if no input was usable
    rejects: tuple[str, ...]  # lines of rejects.jsonl
    duplicates: int  # number of rejects that are usable images dropped as duplicates
    remarks: dict[str, int]
    excluded: int = 0  # number of rejects that are usable images excluded by --min-size or --no-upscale
    moments: tuple[int, ...] = ()  # of the stored pixels, see `pixel_stats`

    @property
    def bad(self) -> int:
        """Number of unusable inputs."""
        return len(self.rejects) - self.duplicates - self.excluded


class _Plan(BaseModel):
    fingerprint: str


def _plans(folder: Path) -> list[Path]:
    return [path for path in sorted((folder / UNFINISHED).iterdir()) if _PLAN_NAME.fullmatch(path.name)]


class Journal:
    """The records of an unfinished data set; see `open_journal`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, number: int) -> Path:
        return self.folder / UNFINISHED / f"{number:06}.json"

    def read(self, number: int) -> ChunkRecord:
        """Return the record of a finished chunk.

        Raises:
            OSError, ValidationError: there is no valid record of the chunk.
        """
        return ChunkRecord.model_validate_json(read_bytes(self._path(number)))

    def finished(self, number: int) -> ChunkRecord | None:
        """Return the record of a chunk, or None if it has no valid record or a shard does not match its checksum."""
        try:
            record = self.read(number)
            valid = all(digest(self.folder / shard.name).sha256 == shard.sha256 for shard in record.shards)
        except (OSError, ValidationError):
            return None
        return record if valid else None

    def add(self, record: ChunkRecord) -> None:
        """Record a finished chunk, whose shards have been written."""
        write_atomic(self._path(record.number), record.model_dump_json())

    def task_counts(self) -> set[int]:
        """Return the numbers of tasks (the N of --task I/N) of all processes that worked on this data set."""
        names = (path.name for path in _plans(self.folder))
        return {int(match[2]) for match in map(_PLAN_NAME.fullmatch, names) if match}

    def remove(self) -> None:
        """Remove the journal: the data set is complete, or its preparation failed."""
        with suppress(FileNotFoundError):  # another process that found the set complete may remove it at the same time
            shutil.rmtree(self.folder / UNFINISHED)


def _check_plans(folder: Path, fingerprint: str) -> None:
    """Refuse to resume a preparation that was started with other images or settings."""
    for path in _plans(folder):
        try:
            plan = _Plan.model_validate_json(read_bytes(path))
        except ValidationError:
            raise UsageError(f"{folder / UNFINISHED}: damaged; delete {folder} or choose another --out") from None
        if plan.fingerprint != fingerprint:
            raise UsageError(
                f"{folder}: contains an unfinished data set made from other images or with other settings; "
                "delete it or choose another --out"
            )


def _begin(folder: Path, fingerprint: str, task: ArrayTask) -> None:
    """Start a preparation in an empty or new folder, or join one with the same images and settings."""
    # In this order: another task that starts now writes its plan before its first shard.
    names = sorted(path.name for path in folder.iterdir() if path.name != UNFINISHED)
    if names and not _plans(folder):
        raise UsageError(f"{folder}: is not empty (contains '{names[0]}') and not a data set; choose another --out")
    _check_plans(folder, fingerprint)
    own_plan = folder / UNFINISHED / f"plan-{task.index}-of-{task.count}.json"
    if own_plan.exists():
        return
    write_atomic(own_plan, _Plan(fingerprint=fingerprint).model_dump_json())
    try:
        _check_plans(folder, fingerprint)  # again: two tasks may have started at the same time
    except UsageError:
        own_plan.unlink()
        raise


def _remove_leftovers(folder: Path, chunks: range) -> None:
    """Remove temporary files that killed writers of these chunks left behind, but not those of other tasks."""
    for parent in (folder, folder / UNFINISHED):
        for path in parent.glob(f"{TEMPORARY}*"):
            match = _OF_CHUNK.match(path.name)
            if chunks.step == 1 or (match and int(match[1]) in chunks):
                path.unlink(missing_ok=True)


@contextmanager
def open_journal(folder: Path, fingerprint: str, task: ArrayTask, num_chunks: int) -> Iterator[Journal]:
    """Start or resume a preparation, with the task's chunks locked while the body runs.

    Raises:
        UsageError: the folder contains something else, or another process is processing some of the same chunks.
    """
    chunks = task.chunks(num_chunks)
    with _locked_chunks(folder, chunks):
        flush_folder(folder.parent)
        try:
            if not holds_data_set(folder):  # another process may have finished it in the meantime
                _begin(folder, fingerprint, task)
                _remove_leftovers(folder, chunks)
            yield Journal(folder)
        finally:
            _drop_empty(folder)


def _drop_empty(folder: Path) -> None:
    """Remove empty folders if no chunk was started."""
    unfinished = folder / UNFINISHED
    if unfinished.is_dir() and [path.name for path in unfinished.iterdir()] == [LOCK]:
        shutil.rmtree(unfinished)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def holds_data_set(folder: Path) -> bool:
    """Return whether a folder contains a finished data set."""
    return (folder / MANIFEST).exists()
