"""An unfinished preparation: what is done already, so that the same command goes on after a kill.

`.unfinished/` in the data set's folder holds what is being made (`plan.json`) and one record a finished shard. A shard
is done if its record is there and its bytes still have the recorded hash; everything else is made again.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from hdit_core.data.manifest import MANIFEST
from hdit_core.errors import UsageError
from hdit_core.files import digest, flush_folder, remove_temporaries, write_whole

UNFINISHED = ".unfinished"


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:06}.tar"


class ShardRecord(BaseModel):
    """What became of one shard's worth of inputs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    bytes: int  # 0: no input was usable, there is no file
    crc32: int
    sha256: str
    rows: tuple[tuple[int, int, int, int], ...]  # offset, length, crc32 and label of each image
    rejects: tuple[str, ...]  # their lines of rejects.jsonl
    remarks: dict[str, int]

    @property
    def name(self) -> str:
        """The shard's file name."""
        return shard_name(self.number)


class _Plan(BaseModel):
    fingerprint: str


class Journal:
    """The records of one data set in the making; `open_journal` makes one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _path(self, number: int) -> Path:
        return self.folder / UNFINISHED / f"{number:06}.json"

    def finished(self, number: int) -> ShardRecord | None:
        """Return the record of a shard, None if there is none or the shard is not what it says."""
        try:
            record = ShardRecord.model_validate_json(self._path(number).read_bytes())
            whole = not record.bytes or digest(self.folder / record.name).sha256 == record.sha256
        except (OSError, ValidationError):
            return None
        return record if whole else None

    def add(self, record: ShardRecord) -> None:
        """Note that a shard is done; its file must be in its place."""
        write_whole(self._path(record.number), record.model_dump_json())

    def remove(self) -> None:
        """Forget everything: the set is complete, or nothing came of it."""
        if (self.folder / UNFINISHED).exists():
            shutil.rmtree(self.folder / UNFINISHED)


def _start(folder: Path, fingerprint: str) -> None:
    """Begin a preparation in a folder that is empty or not there yet."""
    found = sorted(path.name for path in folder.iterdir() if path.name != UNFINISHED)
    if found:
        raise UsageError(f"{folder}: is not empty (holds '{found[0]}') and no data set; choose another --out")
    write_whole(folder / UNFINISHED / "plan.json", _Plan(fingerprint=fingerprint).model_dump_json())


def _check_plan(folder: Path, fingerprint: str) -> None:
    """Refuse to go on with what was begun from other images or settings; begin if nothing was."""
    try:
        plan = _Plan.model_validate_json((folder / UNFINISHED / "plan.json").read_bytes())
    except FileNotFoundError:
        return _start(folder, fingerprint)
    except (OSError, ValidationError):
        raise UsageError(f"{folder / UNFINISHED}: damaged; delete {folder} or choose another --out") from None
    if plan.fingerprint != fingerprint:
        raise UsageError(
            f"{folder}: holds an unfinished data set made from other images or with other settings; "
            "delete it or choose another --out"
        )
    return None


@contextmanager
def open_journal(folder: Path, fingerprint: str) -> Iterator[Journal]:
    """Begin or go on with a preparation; one process at a time.

    Raises:
        UsageError: the folder holds something else, or another process is writing into it.
    """
    (folder / UNFINISHED).mkdir(parents=True, exist_ok=True)
    flush_folder(folder.parent)
    descriptor = os.open(folder / UNFINISHED, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UsageError(
            f"{folder}: another hdit prepare-data is writing into it; wait, or choose another --out"
        ) from None
    try:
        _check_plan(folder, fingerprint)
        remove_temporaries(folder)
        remove_temporaries(folder / UNFINISHED)
        yield Journal(folder)
    finally:
        _drop_empty(folder)
        os.close(descriptor)


def _drop_empty(folder: Path) -> None:
    """Leave no empty folders behind where nothing was begun."""
    for path in (folder / UNFINISHED, folder):
        if path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def holds_data_set(folder: Path) -> bool:
    """Return whether a finished data set lies in a folder."""
    return (folder / MANIFEST).exists()
