"""All inputs of a data set become its shards: what is done stays, the rest is converted, counted and written."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import chain, groupby
from pathlib import Path

from hdit_core.data.convert import Converted, Reject, Rules, Task, convert_all
from hdit_core.data.journal import Journal, ShardRecord, shard_name
from hdit_core.data.labels import Input
from hdit_core.data.shard import Sample, ShardFile, write_shard
from hdit_core.data.source import Source
from hdit_core.errors import DataError

Progress = Callable[[int, int, int], None]
"""Called with inputs done, inputs in all, and rejects so far."""


@dataclass(frozen=True)
class Work:
    """Everything that decides the result."""

    source: Source
    inputs: Sequence[Input]
    classes: tuple[str, ...] | None
    labels: Sequence[int]
    rules: Rules
    shard_size: int

    @property
    def num_shards(self) -> int:
        return -(-len(self.inputs) // self.shard_size)

    def settings(self) -> dict[str, str | int]:
        """What the manifest records beside the contents."""
        background = "#{:02x}{:02x}{:02x}".format(*self.rules.background)
        seed = {"seed": self.rules.seed} if self.rules.crop == "random" else {}
        quality = {"quality": self.rules.quality} if self.rules.codec == "jpeg" else {}
        return {
            "crop": self.rules.crop,
            "resize": self.rules.resize,
            "background": background,
            "shard_size": self.shard_size,
            **seed,
            **quality,
        }

    def fingerprint(self) -> str:
        """Return a hash of the names, sizes, times and classes of all inputs and of the settings."""
        hashed = hashlib.sha256(
            json.dumps([asdict(self.rules), self.settings(), self.source.kind, self.classes]).encode()
        )
        for number, one in enumerate(self.inputs):
            entry = self.source.entries[number] if number < len(self.source.entries) else None
            facts = (entry.size_bytes, entry.changed_at) if entry else ()
            hashed.update(json.dumps([one.name, one.class_name, one.problem, *facts]).encode())
        return hashed.hexdigest()

    def task(self, number: int) -> Task:
        """Return one input with its file."""
        one = self.inputs[number]
        return Task(number, one.name, self.labels[number], one.class_name, one.problem or self._content(number))

    def _content(self, number: int) -> bytes | Path | str:
        try:
            return self.source.fetch(number)
        except (OSError, ValueError) as problem:
            return str(problem)


def _reject_line(reject: Reject) -> str:
    return json.dumps({"number": reject.number, "name": reject.name, "reason": reject.reason})


class Tally:
    """Counts inputs and rejects, reports them, and ends the run when there are too many of the latter."""

    def __init__(self, total: int, limit: int, on_progress: Progress | None) -> None:
        self.total, self.limit, self.on_progress = total, limit, on_progress
        self.done = self.bad = 0

    def add(self, inputs: int, rejects: Sequence[str]) -> None:
        """Count what is done.

        Raises:
            DataError: more rejects than allowed.
        """
        self.done += inputs
        self.bad += len(rejects)
        if self.bad > self.limit:
            last = json.loads(rejects[-1])
            raise DataError(
                f"more than {self.limit:,} of {self.total:,} inputs cannot be used, as --max-bad allows; the last: "
                f"{last['name']}: {last['reason']}"
            )
        if self.on_progress:
            self.on_progress(self.done, self.total, self.bad)


def _make_shard(folder: Path, number: int, results: Iterator[Converted | Reject], tally: Tally) -> ShardRecord:
    """Write one shard from what became of its inputs."""
    rejects: list[str] = []
    remarks: Counter[str] = Counter()

    def samples() -> Iterator[Sample]:
        for result in results:
            if isinstance(result, Reject):
                rejects.append(_reject_line(result))
                tally.add(1, rejects[-1:])
            else:
                remarks.update(result.remarks)
                tally.add(1, ())
                yield result.sample

    stream = samples()
    first = next(stream, None)
    path = folder / shard_name(number)
    file = ShardFile(0, 0, "", []) if first is None else write_shard(path, chain([first], stream))
    return ShardRecord(
        number=number,
        bytes=file.bytes,
        crc32=file.crc32,
        sha256=file.sha256,
        rows=tuple(file.rows),
        rejects=tuple(rejects),
        remarks=dict(sorted(remarks.items())),
    )


def make_shards(work: Work, journal: Journal, workers: int, tally: Tally) -> list[ShardRecord]:
    """Make the shards that are not done yet, and return the records of all."""
    records = {number: record for number in range(work.num_shards) if (record := journal.finished(number))}
    for record in records.values():
        tally.add(len(record.rows) + len(record.rejects), record.rejects)
    missing = (number for number in range(len(work.inputs)) if number // work.shard_size not in records)
    results = convert_all(map(work.task, missing), work.rules, workers)
    numbered = groupby(results, key=lambda result: _number(result) // work.shard_size)
    for number, group in numbered:
        records[number] = _make_shard(journal.folder, number, group, tally)
        journal.add(records[number])
    return [records[number] for number in sorted(records)]


def _number(result: Converted | Reject) -> int:
    return result.number if isinstance(result, Reject) else result.sample.number
