"""Prepares images of any kind as a verified data set: shards, index and manifest.

Each shard is made from a fixed chunk of the inputs, so its bytes depend only on these: not on the number of processes
or machines, the order in which a folder lists its files, or earlier interruptions. Unusable inputs are
listed with the reason, and inputs = samples + rejects.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TypeVar

from hdit_core.data.format.duplicates import HashIndex
from hdit_core.data.format.manifest import Contents, Manifest, read_manifest, sigma_data
from hdit_core.data.prepare.array_task import WHOLE_JOB, ArrayTask
from hdit_core.data.prepare.build_shards import Progress, ProgressCounter, bad_limit, build_chunks, verify_chunks
from hdit_core.data.prepare.class_assignment import BY_FOLDER
from hdit_core.data.prepare.drop_duplicates import drop_duplicates
from hdit_core.data.prepare.finalize import collect_chunks, write_data_set
from hdit_core.data.prepare.job import PrepareSettings, plan_job
from hdit_core.data.prepare.journal import Journal, holds_data_set, open_journal
from hdit_core.errors import DataError, UsageError

Result = TypeVar("Result")
FIRST_CLASSES = 4

logger = logging.getLogger("hdit")


@dataclass(frozen=True)
class PrepareSummary:
    """The result of a preparation."""

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
    buckets: dict[str, int] = field(default_factory=dict)  # images of each size, if there are several
    classes_from_folders: bool = False
    first_classes: dict[str, int] = field(default_factory=dict)  # number of images of each, at most FIRST_CLASSES
    pixel_mean: tuple[float, ...] = ()  # per channel, of pixels in [-1, 1]
    pixel_std: tuple[float, ...] = ()
    sigma_data: float | None = None  # standard deviation over all channels
    condition_channels: int = 0
    vector_dim: int = 0
    captions: bool = False  # whether any image has one


@dataclass(frozen=True)
class TaskSummary:
    """The result of one task's part."""

    out: str
    task: str  # such as "3/8"
    inputs: int
    rejects: int
    shards: int  # chunks of the inputs
    elapsed_s: float


def _complete_manifest(folder: Path, fingerprint: str) -> Manifest:
    """Return the manifest of a finished data set if it was made from the same images with the same settings."""
    manifest = read_manifest(folder)
    if manifest.origin.fingerprint != fingerprint:
        raise UsageError(
            f"{folder}: already contains a data set made from other images or with other settings "
            f"({manifest.contents.samples:,} images from '{manifest.origin.name}'); choose another --out"
        )
    return manifest


def _warn_of_empty_classes(contents: Contents) -> None:
    """Warn about classes without images, such as those of a `--classes` list that the labels do not use."""
    counted_classes = zip(contents.classes or (), contents.class_counts or (), strict=True)
    empty = [name for name, count in counted_classes if not count]
    if empty:
        names = ", ".join(map(repr, empty[:FIRST_CLASSES])) + (", ..." if len(empty) > FIRST_CLASSES else "")
        logger.warning(f"{len(empty):,} of {len(contents.classes or ()):,} classes have no image: {names}")


class _Preparation:
    """One run of a preparation: its job and its progress."""

    def __init__(self, settings: PrepareSettings, on_progress: Progress | None) -> None:
        self.settings, self.on_progress = settings, on_progress
        self.started_at = time.monotonic()
        self.job = plan_job(settings)
        self.fingerprint = self.job.fingerprint()
        self.limit = bad_limit(settings.max_bad, len(self.job.inputs))

    def complete(self) -> PrepareSummary | None:
        """Return the summary of a finished set, None if it is not finished."""
        if not holds_data_set(self.settings.out):
            return None
        manifest = _complete_manifest(self.settings.out, self.fingerprint)
        Journal(self.settings.out).remove()  # left by a kill between the manifest and this step
        if self.on_progress:
            self.on_progress(len(self.job.inputs), len(self.job.inputs), manifest.rejects)
        return self.summary(manifest, True)

    def summary(self, manifest: Manifest, already_complete: bool) -> PrepareSummary:
        """Return the summary of the finished set."""
        contents, by_folder = manifest.contents, self.settings.labels == BY_FOLDER and self.job.source.classes is None
        _warn_of_empty_classes(contents)
        classes = zip(contents.classes or (), contents.class_counts or (), strict=True)
        return PrepareSummary(
            out=str(self.settings.out),
            images=contents.samples,
            rejects=manifest.rejects,
            height=contents.height,
            width=contents.width,
            channels=contents.channels,
            classes=len(contents.classes or ()),
            shards=len(contents.shards),
            bytes=sum(shard.bytes for shard in contents.shards),
            root=manifest.root,
            already_complete=already_complete,
            elapsed_s=round(time.monotonic() - self.started_at, 3),
            remarks=manifest.remarks,
            buckets={f"{bucket.height}x{bucket.width}": bucket.samples for bucket in contents.buckets},
            classes_from_folders=by_folder and bool(contents.classes),
            first_classes=dict(islice(classes, FIRST_CLASSES)),
            pixel_mean=manifest.pixel_mean,
            pixel_std=manifest.pixel_std,
            sigma_data=sigma_data(manifest),
            condition_channels=contents.condition.channels if contents.condition else 0,
            vector_dim=contents.vectors.dim if contents.vectors else 0,
            captions=contents.captions,
        )

    def _counter(self, task: ArrayTask) -> ProgressCounter:
        total = sum(len(self.job.inputs_of(chunk)) for chunk in task.chunks(self.job.num_chunks))
        return ProgressCounter(total, self.limit, self.on_progress)

    def build(self, journal: Journal, task: ArrayTask) -> ProgressCounter:
        """Build the unfinished chunks of a task."""
        counter = self._counter(task)
        known = HashIndex(self.settings.not_in) if self.settings.not_in else None
        build_chunks(self.job, journal, task.chunks(self.job.num_chunks), self.settings.workers, counter, known)
        return counter

    def verify(self, journal: Journal) -> None:
        """Verify the chunks of all tasks."""
        verify_chunks(self.job, journal, self.settings.workers, self._counter(WHOLE_JOB))

    def finish(self, journal: Journal) -> PrepareSummary:
        """Merge the chunks into a data set."""
        if self.settings.drop_duplicates:
            drop_duplicates(self.job, journal)
        chunks = collect_chunks(journal, self.job.num_chunks, self.job.rules.vector_dim)
        if not len(chunks.rows):
            journal.remove()
            first = json.loads(chunks.reject_lines[0])
            raise DataError(
                f"{self.settings.source}: none of its {len(self.job.inputs):,} files is a usable image; "
                f"the first is {first['name']}: {first['reason']}"
            )
        manifest = write_data_set(self.job, self.fingerprint, chunks, self.settings.out)
        journal.remove()
        return self.summary(manifest, False)

    def with_journal(self, task: ArrayTask, act: Callable[[Journal], Result]) -> Result | PrepareSummary:
        """Return the result of `act`, which runs with the task locked, or the summary of a finished set."""
        if summary := self.complete():
            return summary
        with open_journal(self.settings.out, self.fingerprint, task, self.job.num_chunks) as journal:
            return self.complete() or act(journal)  # another process may have finished it in the meantime


def prepare_data(settings: PrepareSettings, on_progress: Progress | None = None) -> PrepareSummary:
    """Prepare a data set or resume an unfinished one; writes nothing if it is complete.

    Args:
        settings: the source, and how it is prepared.
        on_progress: called after every image with the numbers of finished inputs, all inputs, and unusable ones.

    Raises:
        UsageError: there is no such source, or the folder contains something else.
        DataError: the source cannot be read, no image is usable, or more are unusable than `max_bad` allows.
    """
    run = _Preparation(settings, on_progress)

    def act(journal: Journal) -> PrepareSummary:
        run.build(journal, WHOLE_JOB)
        return run.finish(journal)

    return run.with_journal(WHOLE_JOB, act)


def prepare_task(
    settings: PrepareSettings, task: ArrayTask, on_progress: Progress | None = None
) -> TaskSummary | PrepareSummary:
    """Prepare or resume one task's part of a data set in a folder that all tasks share; `finish_data` follows.

    Args:
        settings: the same for all tasks.
        task: this task.
        on_progress: as for `prepare_data`, for this task's inputs.

    Returns:
        The summary of the data set if it is already complete.

    Raises:
        UsageError, DataError: as `prepare_data`, and if another process works on the same part.
    """
    run = _Preparation(settings, on_progress)

    def act(journal: Journal) -> TaskSummary:
        counter, chunks = run.build(journal, task), task.chunks(run.job.num_chunks)
        elapsed_s = round(time.monotonic() - run.started_at, 3)
        return TaskSummary(str(settings.out), str(task), counter.done, counter.bad, len(chunks), elapsed_s)

    return run.with_journal(task, act)


def finish_data(settings: PrepareSettings, on_progress: Progress | None = None) -> PrepareSummary:
    """Verify the shards of all tasks, and merge them into the same data set that a single process makes.

    Raises:
        UsageError, DataError: as `prepare_data`, and if a part is missing or a task is still running.
    """
    run = _Preparation(settings, on_progress)

    def act(journal: Journal) -> PrepareSummary:
        run.verify(journal)
        return run.finish(journal)

    return run.with_journal(WHOLE_JOB, act)
