"""Builds the shards of each chunk of the inputs, and counts progress and unusable inputs."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

from hdit_core.data.format.duplicates import HashIndex
from hdit_core.data.format.pixel_stats import Moments, add_moments
from hdit_core.data.format.shard import Sample, ShardWriter, atomic_shard
from hdit_core.data.image.resize import ImageSize
from hdit_core.data.prepare.convert import RejectedInput, convert_all
from hdit_core.data.prepare.job import PrepareJob
from hdit_core.data.prepare.journal import ChunkRecord, Journal, ShardRecord, reject_line, shard_name
from hdit_core.data.prepare.transform import ConvertedImage
from hdit_core.errors import DataError, UsageError

Progress = Callable[[int, int, int], None]
"""Called with the numbers of finished inputs, all inputs, and unusable ones."""


def bad_limit(text: str | None, num_inputs: int) -> int:
    """Return how many inputs may be unusable: `--max-bad` is a number, a share such as "0.01%", or None for all.

    Raises:
        UsageError: the text is neither.
    """
    try:
        if text is None:
            return num_inputs
        limit = float(text[:-1]) / 100 * num_inputs if text.endswith("%") else int(text)
        if limit >= 0:
            return int(limit)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"--max-bad {text}: expected a number of inputs or a percentage, for example 10 or 0.01%")


class ProgressCounter:
    """Counts inputs and unusable ones, reports progress, and ends the run when too many are unusable."""

    def __init__(self, total: int, limit: int, on_progress: Progress | None) -> None:
        self.total, self.limit, self.on_progress = total, limit, on_progress
        self.done = self.bad = 0

    def add(self, inputs: int, bad: int = 0, last_reject: str = "") -> None:
        """Count finished inputs and report progress.

        Args:
            inputs: number of further finished inputs.
            bad: number of these that are unusable.
            last_reject: the line in rejects.jsonl of the last unusable one.

        Raises:
            DataError: more are unusable than allowed.
        """
        self.done += inputs
        self.bad += bad
        if self.bad > self.limit:
            last = json.loads(last_reject)
            raise DataError(
                f"{self.bad:,} of {self.total:,} inputs are unusable, more than --max-bad {self.limit:,}; the last: "
                f"{last['name']}: {last['reason']}"
            )
        self.report()

    def report(self) -> None:
        """Report progress; called before the first input too, to start the clock of a progress bar."""
        if self.on_progress:
            self.on_progress(self.done, self.total, self.bad)


class _Chunk:
    """The shards of one chunk of the inputs, one per size, while they are being written."""

    def __init__(self, job: PrepareJob, folder: Path, number: int, known: HashIndex | None) -> None:
        self.job, self.folder, self.number, self.known = job, folder, number, known
        self.writers: dict[ImageSize, ShardWriter] = {}
        self.rejects: list[str] = []
        self.duplicates = self.excluded = 0
        self.moments: Moments = ()
        self.remarks: Counter[str] = Counter()
        self.open_files = ExitStack()

    def _name(self, size: ImageSize) -> str:
        return shard_name(self.number, size if self.job.rules.buckets else None)

    def reject(self, reject: RejectedInput) -> str:
        self.excluded += not reject.is_bad
        self.rejects.append(reject_line(reject.number, reject.name, reject.reason))
        return self.rejects[-1]

    def _is_known(self, sample: Sample) -> bool:
        """Return whether a sample is dropped because it is in another data set.

        Raises:
            DataError: it is in another data set, and duplicates are not dropped.
        """
        where = self.known.find(sample.hashes) if self.known else None
        if where is None:
            return False
        if not self.job.drop_duplicates:
            raise DataError(
                f"{sample.about['name']}: {where}, which --not-in forbids: scores of a model that trains on its "
                "evaluation images are too good; drop such images with --drop-duplicates, or leave out --not-in"
            )
        self.rejects.append(reject_line(sample.number, sample.about["name"], where))
        self.duplicates += 1
        return True

    def add(self, converted: ConvertedImage) -> None:
        sample = converted.sample
        if self._is_known(sample):
            return
        if sample.size not in self.writers:
            path = self.folder / self._name(sample.size)
            self.writers[sample.size] = self.open_files.enter_context(atomic_shard(path))
        self.writers[sample.size].add(sample)
        self.remarks.update(converted.remarks)
        self.moments = add_moments(self.moments, converted.moments)

    def record(self) -> ChunkRecord:
        """Return the record of the chunk, once the files are closed."""
        return ChunkRecord(
            number=self.number,
            inputs=len(self.job.inputs_of(self.number)),
            shards=tuple(
                ShardRecord.of(self._name(size), size, writer.written) for size, writer in sorted(self.writers.items())
            ),
            rejects=tuple(self.rejects),
            duplicates=self.duplicates,
            remarks=dict(sorted(self.remarks.items())),
            excluded=self.excluded,
            moments=self.moments,
        )


def _build_chunk(
    chunk: _Chunk, results: Iterator[ConvertedImage | RejectedInput], progress: ProgressCounter
) -> ChunkRecord:
    """Write the shards of one chunk from the results of its inputs."""
    with chunk.open_files:
        for result in results:
            if isinstance(result, RejectedInput):
                progress.add(1, int(result.is_bad), chunk.reject(result))
            else:
                chunk.add(result)
                progress.add(1)
    return chunk.record()


def _missing(journal: Journal, chunks: range, workers: int, progress: ProgressCounter) -> list[int]:
    """Return the unfinished chunks, and count the others; several threads hash their shards."""
    missing = []
    with ThreadPoolExecutor(max(1, workers)) as threads:
        try:
            for number, record in zip(chunks, threads.map(journal.finished, chunks), strict=True):
                if record is None:
                    missing.append(number)
                else:
                    last_reject = record.rejects[-1] if record.rejects else ""
                    progress.add(record.inputs, record.bad, last_reject)
        finally:
            threads.shutdown(cancel_futures=True)
    return missing


def build_chunks(
    job: PrepareJob,
    journal: Journal,
    chunks: range,
    workers: int,
    progress: ProgressCounter,
    known: HashIndex | None = None,
) -> None:
    """Build the chunks that are not finished yet.

    Args:
        job: the inputs and how they are transformed.
        journal: records finished chunks.
        chunks: indices of the chunks.
        workers: number of processes; 0 and 1 convert in this one.
        progress: counts their inputs.
        known: images that must not occur.

    Raises:
        DataError: too many inputs are unusable, one is known, or a process died.
    """
    missing = _missing(journal, chunks, workers, progress)
    if not progress.done:
        progress.report()
    inputs = (number for chunk in missing for number in job.inputs_of(chunk))
    results = convert_all(map(job.task, inputs), job.rules, workers)
    for number, group in groupby(results, key=lambda result: _number(result) // job.shard_size):
        journal.add(_build_chunk(_Chunk(job, journal.folder, number, known), group, progress))


def _repair_hint(missing: Sequence[int], task_counts: set[int]) -> str:
    """Return the advice on how to build the missing chunks: which tasks to run again."""
    counts = task_counts - {1}
    if len(counts) != 1:
        return "run the same command without --finish, which builds them"
    count = counts.pop()
    tasks = sorted({number % count for number in missing})
    shown = ", ".join(f"{task}/{count}" for task in tasks[:20]) + (", ..." if len(tasks) > 20 else "")
    return f"run again: --task {shown}"


def verify_chunks(job: PrepareJob, journal: Journal, workers: int, progress: ProgressCounter) -> None:
    """Verify that all chunks are finished, and every byte of their shards.

    Raises:
        DataError: some are missing or damaged; the message names the tasks to run again.
    """
    missing = _missing(journal, range(job.num_chunks), workers, progress)
    if missing:
        raise DataError(
            f"{journal.folder}: {len(missing):,} of {job.num_chunks:,} shards are missing or damaged, the first is "
            f"{shard_name(missing[0])}; {_repair_hint(missing, journal.task_counts())}"
        )


def _number(result: ConvertedImage | RejectedInput) -> int:
    return result.number if isinstance(result, RejectedInput) else result.sample.number
