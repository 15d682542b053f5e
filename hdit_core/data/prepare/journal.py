"""The journal of a preparation in progress: which chunks are finished, and a lock of one byte for each chunk.

Tasks share a folder, and no two process the same chunk.
"""

import base64
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Shaped
from pydantic import BaseModel, ConfigDict, ValidationError

from hdit_core.data.format.entries import ShardName
from hdit_core.data.format.manifest import MANIFEST
from hdit_core.data.format.optional_rows import VECTOR_DTYPE
from hdit_core.data.format.shard import CONDITION_ROW_DTYPE, ROW_DTYPE, ShardFile
from hdit_core.data.prepare.array_task import ArrayTask
from hdit_core.errors import UsageError
from hdit_core.files import TEMPORARY, digest, flush_folder, write_atomic
from hdit_core.locks import LockHeldError, locked

LOCK = "lock"


def _ranges(chunks: range) -> list[tuple[int, int]]:
    """Return first byte and number of bytes of each lock: one lock for chunks that lie together."""
    return [(chunks.start, max(1, len(chunks)))] if chunks.step == 1 else [(number, 1) for number in chunks]


@contextmanager
def locked_chunks(folder: Path, journal: Path, chunks: range) -> Iterator[None]:
    """Keep other processes off these chunks while the body runs.

    Args:
        folder: of the data set, for the message.
        journal: the folder of the lock file; created if missing.
        chunks: their indices.

    Raises:
        UsageError: another process holds one of them.
    """
    try:
        with locked(journal / LOCK, _ranges(chunks)):
            yield
    except LockHeldError:
        raise UsageError(
            f"{folder}: another hdit prepare-data is writing the same images to it; wait for it, choose another "
            "--out, or give each process its own part with --task I/N"
        ) from None


UNFINISHED = ".unfinished"

_OF_CHUNK = re.compile(re.escape(TEMPORARY) + r"(?:shard-)?([0-9]{6,})[.-]")
_PLAN_NAME = re.compile(r"plan-([0-9]+)-of-([0-9]+)\.json")


def shard_name(number: int, size: tuple[int, int] | None = None) -> str:
    """Return the file name of a chunk's shard, with its height and width where images have several sizes."""
    return f"shard-{number:06}{'-{}x{}'.format(*size) if size else ''}.tar"


class ShardRecord(BaseModel):
    """A finished shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: ShardName
    size: tuple[int, int]  # of its images: height, width in pixels
    bytes: int
    crc32: int
    sha256: str
    rows_base64: str  # of ROW_DTYPE: thirty times smaller than as Python's numbers, and as JSON
    condition_rows_base64: str = ""  # of CONDITION_ROW_DTYPE
    vectors_base64: str = ""  # float32, one after another
    captions: int = 0  # images with one

    @classmethod
    def of(cls, name: str, size: tuple[int, int], file: ShardFile) -> "ShardRecord":
        """Return the record of what was written."""
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
        """One row of ROW_DTYPE an image."""
        return np.frombuffer(base64.b64decode(self.rows_base64), ROW_DTYPE)

    @property
    def condition_rows(self) -> Shaped[np.ndarray, " N"]:
        """One row of CONDITION_ROW_DTYPE an image; none without condition images."""
        return np.frombuffer(base64.b64decode(self.condition_rows_base64), CONDITION_ROW_DTYPE)

    def vectors(self, dim: int) -> Float32[np.ndarray, "N E"]:
        """Return one vector of this length an image; none where it is 0."""
        return np.frombuffer(base64.b64decode(self.vectors_base64), VECTOR_DTYPE).reshape(-1, dim or 1)


class ChunkRecord(BaseModel):
    """What became of one chunk of the inputs, a shard's worth."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    inputs: int
    shards: tuple[ShardRecord, ...]  # one a size; none where no input was usable
    rejects: tuple[str, ...]  # their lines of rejects.jsonl
    duplicates: int  # how many of those are usable images that were dropped as duplicates
    remarks: dict[str, int]
    excluded: int = 0  # how many rejects are usable images that --min-size or --no-upscale leaves out
    moments: tuple[int, ...] = ()  # of the stored pixels, see `pixel_stats`

    @property
    def bad(self) -> int:
        """How many inputs are unusable."""
        return len(self.rejects) - self.duplicates - self.excluded


class _Plan(BaseModel):
    fingerprint: str


def _plans(folder: Path) -> list[Path]:
    return [path for path in sorted((folder / UNFINISHED).iterdir()) if _PLAN_NAME.fullmatch(path.name)]


class Journal:
    """The records of one data set in the making; `open_journal` makes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, number: int) -> Path:
        return self.folder / UNFINISHED / f"{number:06}.json"

    def read(self, number: int) -> ChunkRecord:
        """Return the record of a chunk that is done.

        Raises:
            OSError, ValidationError: it is not.
        """
        return ChunkRecord.model_validate_json(self._path(number).read_bytes())

    def finished(self, number: int) -> ChunkRecord | None:
        """Return the record of a chunk, None if there is none or a shard is not what it says."""
        try:
            record = self.read(number)
            whole = all(digest(self.folder / shard.name).sha256 == shard.sha256 for shard in record.shards)
        except (OSError, ValidationError):
            return None
        return record if whole else None

    def add(self, record: ChunkRecord) -> None:
        """Note that a chunk is done; its files must be in their places."""
        write_atomic(self._path(record.number), record.model_dump_json())

    def task_counts(self) -> set[int]:
        """Return into how many tasks those who worked at it took it to be divided."""
        names = (path.name for path in _plans(self.folder))
        return {int(match[2]) for match in map(_PLAN_NAME.fullmatch, names) if match}

    def remove(self) -> None:
        """Forget everything: the set is complete, or nothing came of it."""
        with suppress(FileNotFoundError):  # another process that found the set complete may be at it too
            shutil.rmtree(self.folder / UNFINISHED)


def _check_plans(folder: Path, fingerprint: str) -> None:
    """Refuse to go on with what was begun from other images or settings."""
    for path in _plans(folder):
        try:
            plan = _Plan.model_validate_json(path.read_bytes())
        except (OSError, ValidationError):
            raise UsageError(f"{folder / UNFINISHED}: damaged; delete {folder} or choose another --out") from None
        if plan.fingerprint != fingerprint:
            raise UsageError(
                f"{folder}: holds an unfinished data set made from other images or with other settings; "
                "delete it or choose another --out"
            )


def _begin(folder: Path, fingerprint: str, task: ArrayTask) -> None:
    """Begin a preparation in a folder that is empty or not there yet, or join one of the same images and settings."""
    # In this order: another task that begins now writes its plan before it writes a shard.
    found = sorted(path.name for path in folder.iterdir() if path.name != UNFINISHED)
    if found and not _plans(folder):
        raise UsageError(f"{folder}: is not empty (holds '{found[0]}') and no data set; choose another --out")
    _check_plans(folder, fingerprint)
    own = folder / UNFINISHED / f"plan-{task.index}-of-{task.count}.json"
    if own.exists():
        return
    write_atomic(own, _Plan(fingerprint=fingerprint).model_dump_json())
    try:
        _check_plans(folder, fingerprint)  # once more: two may have begun at the same time
    except UsageError:
        own.unlink()
        raise


def _remove_leftovers(folder: Path, chunks: range) -> None:
    """Remove what killed writers of these chunks left behind; others may be at work on theirs."""
    for place in (folder, folder / UNFINISHED):
        for left in place.glob(f"{TEMPORARY}*"):
            match = _OF_CHUNK.match(left.name)
            if chunks.step == 1 or (match and int(match[1]) in chunks):
                left.unlink(missing_ok=True)


@contextmanager
def open_journal(folder: Path, fingerprint: str, task: ArrayTask, num_chunks: int) -> Iterator[Journal]:
    """Begin or go on with a preparation; one process at a time may make a chunk.

    Raises:
        UsageError: the folder holds something else, or another process makes some of the same chunks.
    """
    chunks = task.chunks(num_chunks)
    with locked_chunks(folder, folder / UNFINISHED, chunks):
        flush_folder(folder.parent)
        try:
            if not holds_data_set(folder):  # another may have finished it since this one looked
                _begin(folder, fingerprint, task)
                _remove_leftovers(folder, chunks)
            yield Journal(folder)
        finally:
            _drop_empty(folder)


def _drop_empty(folder: Path) -> None:
    """Leave no empty folders behind where nothing was begun."""
    unfinished = folder / UNFINISHED
    if unfinished.is_dir() and [path.name for path in unfinished.iterdir()] == [LOCK]:
        shutil.rmtree(unfinished)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def holds_data_set(folder: Path) -> bool:
    """Return whether a finished data set lies in a folder."""
    return (folder / MANIFEST).exists()
