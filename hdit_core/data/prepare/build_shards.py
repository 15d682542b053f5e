"""How far a preparation has come, and whether too much of its input is bad."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import groupby
from pathlib import Path

from hdit_core.data.format.hashes import HashIndex
from hdit_core.data.format.shard import Sample, ShardWriter, atomic_shard
from hdit_core.data.image.resize import ImageSize
from hdit_core.data.prepare.convert import ConvertedImage, RejectedInput, convert_all
from hdit_core.data.prepare.job import PrepareJob
from hdit_core.data.prepare.journal import ChunkRecord, Journal, ShardRecord, shard_name
from hdit_core.errors import DataError, UsageError

Progress = Callable[[int, int, int], None]
"""Called with inputs done, inputs in all, and how many of those cannot be used."""


def bad_limit(text: str | None, num_inputs: int) -> int:
    """Return how many inputs may be bad, from `--max-bad`: a number, a share such as "0.01%", or None for any.

    Raises:
        UsageError: it is neither.
    """
    try:
        if text is None:
            return num_inputs
        limit = float(text[:-1]) / 100 * num_inputs if text.endswith("%") else int(text)
        if limit >= 0:
            return int(limit)
    except (ValueError, OverflowError):
        pass
    raise UsageError(f"--max-bad {text}: expected a number of images or a share of them, for example 10 or 0.01%")


class ProgressCounter:
    """Counts inputs and those that cannot be used, reports them, and ends the run when there are too many."""

    def __init__(self, total: int, limit: int, on_progress: Progress | None) -> None:
        self.total, self.limit, self.on_progress = total, limit, on_progress
        self.done = self.bad = 0

    def add(self, inputs: int, bad: int = 0, last_reject: str = "") -> None:
        """Count what is done.

        Args:
            inputs: more of them.
            bad: how many of these cannot be used.
            last_reject: the line of rejects.jsonl of the last of those.

        Raises:
            DataError: more are bad than allowed.
        """
        self.done += inputs
        self.bad += bad
        if self.bad > self.limit:
            last = json.loads(last_reject)
            raise DataError(
                f"more than {self.limit:,} of {self.total:,} inputs cannot be used, as --max-bad allows; the last: "
                f"{last['name']}: {last['reason']}"
            )
        if self.on_progress:
            self.on_progress(self.done, self.total, self.bad)


def _line(number: int, name: str, reason: str) -> str:
    return json.dumps({"number": number, "name": name, "reason": reason})


class _Chunk:
    """The shards of one piece of the inputs, one a size, while they are being written."""

    def __init__(self, job: PrepareJob, folder: Path, number: int, known: HashIndex | None) -> None:
        self.work, self.folder, self.number, self.known = job, folder, number, known
        self.writers: dict[ImageSize, ShardWriter] = {}
        self.rejects: list[str] = []
        self.duplicates = 0
        self.remarks: Counter[str] = Counter()
        self.open_files = ExitStack()

    def _name(self, size: ImageSize) -> str:
        return shard_name(self.number, size if self.work.rules.buckets else None)

    def reject(self, reject: RejectedInput) -> str:
        self.rejects.append(_line(reject.number, reject.name, reject.reason))
        return self.rejects[-1]

    def _is_known(self, sample: Sample) -> bool:
        """Return whether a sample is left out, because another data set has it.

        Raises:
            DataError: another has it, and nothing was said of leaving it out.
        """
        where = self.known.find(sample.hashes) if self.known else None
        if where is None:
            return False
        if not self.work.drop_duplicates:
            raise DataError(
                f"{sample.about['name']}: {where}, as --not-in forbids: a model that trains on what it is judged by "
                "is judged too well; leave such images out with --drop-duplicates, or prepare them without --not-in"
            )
        self.rejects.append(_line(sample.number, sample.about["name"], where))
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

    def record(self) -> ChunkRecord:
        """Return what became of it, when the files are closed."""
        return ChunkRecord(
            number=self.number,
            inputs=len(self.work.inputs_of(self.number)),
            shards=tuple(
                ShardRecord.of(self._name(size), size, writer.written) for size, writer in sorted(self.writers.items())
            ),
            rejects=tuple(self.rejects),
            duplicates=self.duplicates,
            remarks=dict(sorted(self.remarks.items())),
        )


def _build_chunk(
    piece: _Chunk, results: Iterator[ConvertedImage | RejectedInput], progress: ProgressCounter
) -> ChunkRecord:
    """Write the shards of one piece from what became of its inputs."""
    with piece.open_files:
        for result in results:
            if isinstance(result, RejectedInput):
                progress.add(1, 1, piece.reject(result))
            else:
                piece.add(result)
                progress.add(1)
    return piece.record()


def _missing(journal: Journal, pieces: range, workers: int, progress: ProgressCounter) -> list[int]:
    """Return the pieces that are not done, and count the others; several threads hash their shards."""
    missing = []
    with ThreadPoolExecutor(max(1, workers)) as threads:
        try:
            for number, record in zip(pieces, threads.map(journal.finished, pieces), strict=True):
                if record is None:
                    missing.append(number)
                else:
                    last_reject = record.rejects[-1] if record.rejects else ""
                    progress.add(record.inputs, len(record.rejects) - record.duplicates, last_reject)
        finally:
            threads.shutdown(cancel_futures=True)
    return missing


def build_chunks(
    job: PrepareJob,
    journal: Journal,
    pieces: range,
    workers: int,
    progress: ProgressCounter,
    known: HashIndex | None = None,
) -> None:
    """Make those of the pieces that are not done yet.

    Args:
        job: what to make of which inputs.
        journal: where it is noted what is done.
        pieces: their numbers.
        workers: processes beside this one; 0 and 1 mean none.
        progress: counts all of their inputs.
        known: images that must not be among them.

    Raises:
        DataError: too many inputs are bad, one is known, or a process died.
    """
    missing = _missing(journal, pieces, workers, progress)
    inputs = (number for piece in missing for number in job.inputs_of(piece))
    results = convert_all(map(job.task, inputs), job.rules, workers)
    for number, group in groupby(results, key=lambda result: _number(result) // job.shard_size):
        journal.add(_build_chunk(_Chunk(job, journal.folder, number, known), group, progress))


def _whose(missing: Sequence[int], task_counts: set[int]) -> str:
    """Return which tasks have something left to do, and how to have it done."""
    counts = task_counts - {1}
    if len(counts) != 1:
        return "run the same command without --finish, which makes what is missing"
    count = counts.pop()
    tasks = sorted({number % count for number in missing})
    shown = ", ".join(f"{task}/{count}" for task in tasks[:20]) + (", ..." if len(tasks) > 20 else "")
    return f"run again: --task {shown}"


def verify_chunks(job: PrepareJob, journal: Journal, workers: int, progress: ProgressCounter) -> None:
    """Verify that all pieces are made, and every byte of them.

    Raises:
        DataError: some are missing or damaged; the message names the tasks whose they are.
    """
    missing = _missing(journal, range(job.num_chunks), workers, progress)
    if missing:
        raise DataError(
            f"{journal.folder}: {len(missing):,} of {job.num_chunks:,} shards are missing or damaged, the first is "
            f"{shard_name(missing[0])}; {_whose(missing, journal.task_counts())}"
        )


def _number(result: ConvertedImage | RejectedInput) -> int:
    return result.number if isinstance(result, RejectedInput) else result.sample.number
