"""Images of any kind become a verified data set: shards, index and manifest.

Each shard is made from a fixed piece of the inputs, so that its bytes depend on those alone: not on the number of
processes or machines, on the order in which a folder lists its files, nor on where an earlier attempt was killed. What
cannot be used is listed with its reason, and inputs = samples + rejects.
"""

import json
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from hdit_core.data.format.hashes import HashIndex
from hdit_core.data.format.manifest import Manifest, read_manifest
from hdit_core.data.prepare.array_task import WHOLE_JOB, ArrayTask
from hdit_core.data.prepare.build_shards import Progress, ProgressCounter, bad_limit, build_chunks, verify_chunks
from hdit_core.data.prepare.drop_duplicates import drop_duplicates
from hdit_core.data.prepare.finalize import collect_chunks, write_data_set
from hdit_core.data.prepare.job import PrepareSettings, plan_job
from hdit_core.data.prepare.journal import Journal, holds_data_set, open_journal
from hdit_core.errors import DataError, UsageError


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
    buckets: dict[str, int] = field(default_factory=dict)  # images of each size, where there are several


@dataclass(frozen=True)
class TaskSummary:
    """What came of one task's share."""

    out: str
    task: str  # such as "3/8"
    inputs: int
    rejects: int
    shards: int  # pieces of the inputs
    elapsed_s: float


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
        buckets={f"{bucket.height}x{bucket.width}": bucket.samples for bucket in contents.buckets},
    )


class _Preparation:
    """One run: what is to be made, and how far it is."""

    def __init__(self, settings: PrepareSettings, on_progress: Progress | None) -> None:
        self.settings, self.on_progress = settings, on_progress
        self.started_at = time.monotonic()
        self.work = plan_job(settings)
        self.fingerprint = self.work.fingerprint()
        self.limit = bad_limit(settings.max_bad, len(self.work.inputs))

    def complete(self) -> PrepareSummary | None:
        """Return the summary of a set that is finished, None where it is not."""
        if not holds_data_set(self.settings.out):
            return None
        manifest = _complete_manifest(self.settings.out, self.fingerprint)
        Journal(self.settings.out).remove()  # a kill may have come between the manifest and this
        if self.on_progress:
            self.on_progress(len(self.work.inputs), len(self.work.inputs), manifest.rejects)
        return _summary(self.settings, manifest, True, self.started_at)

    def _tally(self, task: ArrayTask) -> ProgressCounter:
        work = self.work
        total = sum(len(work.inputs_of(piece)) for piece in task.chunks(work.num_chunks))
        return ProgressCounter(total, self.limit, self.on_progress)

    def make(self, journal: Journal, task: ArrayTask) -> ProgressCounter:
        """Make a share, or what is missing of it."""
        work, tally = self.work, self._tally(task)
        known = HashIndex(self.settings.not_in) if self.settings.not_in else None
        build_chunks(work, journal, task.chunks(work.num_chunks), self.settings.workers, tally, known)
        return tally

    def check(self, journal: Journal) -> None:
        """Verify what the tasks made."""
        verify_chunks(self.work, journal, self.settings.workers, self._tally(WHOLE_JOB))

    def finish(self, journal: Journal) -> PrepareSummary:
        """Turn the pieces into a data set."""
        if self.settings.drop_duplicates:
            drop_duplicates(self.work, journal)
        pieces = collect_chunks(journal, self.work.num_chunks)
        if not len(pieces.rows):
            journal.remove()
            first = json.loads(pieces.reject_lines[0])
            raise DataError(
                f"{self.settings.source}: none of its {len(self.work.inputs):,} files is a usable image; "
                f"the first is {first['name']}: {first['reason']}"
            )
        manifest = write_data_set(self.work, self.fingerprint, pieces, self.settings.out)
        journal.remove()
        return _summary(self.settings, manifest, False, self.started_at)

    def journal(self, task: ArrayTask) -> AbstractContextManager[Journal]:
        """Keep others out of a share while it is made."""
        return open_journal(self.settings.out, self.fingerprint, task, self.work.num_chunks)


def prepare_data(settings: PrepareSettings, on_progress: Progress | None = None) -> PrepareSummary:
    """Make a data set, go on with an unfinished one, or find that it is complete and write nothing.

    Args:
        settings: what to make of which images.
        on_progress: called after every image with inputs done, inputs in all, and how many cannot be used.

    Raises:
        UsageError: there is no such source, or the folder holds something else.
        DataError: the source cannot be read, no image in it is usable, or more are bad than `max_bad` allows.
    """
    run = _Preparation(settings, on_progress)
    if summary := run.complete():
        return summary
    with run.journal(WHOLE_JOB) as journal:
        if summary := run.complete():  # another process may have finished it meanwhile
            return summary
        run.make(journal, WHOLE_JOB)
        return run.finish(journal)


def prepare_task(
    settings: PrepareSettings, task: ArrayTask, on_progress: Progress | None = None
) -> TaskSummary | PrepareSummary:
    """Make one task's share of a data set in a folder that all tasks share, or go on with it; `finish_data` follows.

    Args:
        settings: the same for all tasks.
        task: which of them this is.
        on_progress: as for `prepare_data`, of this share's inputs.

    Returns:
        The data set's summary where it is complete already.

    Raises:
        UsageError, DataError: as `prepare_data` does, and where another process is making the same share.
    """
    run = _Preparation(settings, on_progress)
    if summary := run.complete():
        return summary
    with run.journal(task) as journal:
        if summary := run.complete():
            return summary
        tally = run.make(journal, task)
    pieces = task.chunks(run.work.num_chunks)
    elapsed_s = round(time.monotonic() - run.started_at, 3)
    return TaskSummary(str(settings.out), str(task), tally.done, tally.bad, len(pieces), elapsed_s)


def finish_data(settings: PrepareSettings, on_progress: Progress | None = None) -> PrepareSummary:
    """Verify every shard that the tasks made, and turn them into the data set that one process would have made.

    Raises:
        UsageError, DataError: as `prepare_data` does, and where a task is missing or still at work.
    """
    run = _Preparation(settings, on_progress)
    if summary := run.complete():
        return summary
    with run.journal(WHOLE_JOB) as journal:
        if summary := run.complete():
            return summary
        run.check(journal)
        return run.finish(journal)
