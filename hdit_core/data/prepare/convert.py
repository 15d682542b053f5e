"""Converts each input to a sample of a shard, or to a reject with its reason; in this process or in several."""

import os
import signal
import threading
from collections import deque
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context, parent_process

from hdit_core.data.image.unusable import UnusableImageError
from hdit_core.data.prepare.transform import (
    ConvertedImage,
    ExcludedError,
    InputImage,
    TransformSettings,
    transform_input,
)
from hdit_core.data.stop_signals import STOP_SIGNALS, signals_blocked
from hdit_core.errors import DataError

BATCH_INPUTS = 8  # inputs sent to a process at a time
BATCH_BYTES = 32 << 20  # fewer inputs if they are large: those of an archive are sent with content
MOST_WAITING_BYTES = 256 << 20  # in all batches in progress
START_METHOD = "spawn"  # a fork would inherit the threads of the progress bar, and their locks
LEFT_TO_PARENT = [number for number in STOP_SIGNALS if number != signal.SIGTERM]  # by which a pool ends its workers


@dataclass(frozen=True, slots=True)
class RejectedInput:
    """An input without a sample."""

    number: int
    name: str
    reason: str
    is_bad: bool = True  # False: a usable image that is excluded by the settings


_Future = Future[list[ConvertedImage | RejectedInput]]


def convert(task: InputImage, transform: TransformSettings) -> ConvertedImage | RejectedInput:
    """Return the sample of an input, or the reason why there is none.

    Raises:
        StorageUnavailable, OSError: the storage fails; the input may be intact.
    """
    if isinstance(task.content, str):
        return RejectedInput(task.number, task.name, task.content)
    try:
        return transform_input(task, task.content, transform)
    except ExcludedError as reason:
        return RejectedInput(task.number, task.name, str(reason), is_bad=False)
    except UnusableImageError as problem:
        return RejectedInput(task.number, task.name, str(problem))


def _convert_batch(tasks: list[InputImage], transform: TransformSettings) -> list[ConvertedImage | RejectedInput]:
    return [convert(task, transform) for task in tasks]


def _end_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _begin_worker() -> None:
    """Leave signals to the parent, and exit when the parent is killed; otherwise a worker would wait forever."""
    for number in LEFT_TO_PARENT:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _size_bytes(task: InputImage) -> int:
    return sum(len(content) for content in (task.content, task.condition) if isinstance(content, bytes))


def _input_batches(tasks: Iterable[InputImage]) -> Iterator[list[InputImage]]:
    batch: list[InputImage] = []
    for task in tasks:
        batch.append(task)
        if len(batch) == BATCH_INPUTS or sum(map(_size_bytes, batch)) >= BATCH_BYTES:
            yield batch
            batch = []
    if batch:
        yield batch


def _is_full(waiting: Collection[tuple[object, list[InputImage]]], workers: int) -> bool:
    """Return whether enough inputs are in progress, by number or size."""
    size_bytes = sum(_size_bytes(task) for _, batch in waiting for task in batch)
    return len(waiting) > 2 * workers or (len(waiting) > 1 and size_bytes > MOST_WAITING_BYTES)


def _died(batch: list[InputImage]) -> DataError:
    return DataError(
        f"a worker process died (killed, out of memory?) at or after one of the {len(batch)} images from "
        f"'{batch[0].name}' on; run the same command to resume, with fewer --workers if memory is short"
    )


def _submitted(pool: ProcessPoolExecutor, batch: list[InputImage], transform: TransformSettings) -> _Future:
    try:
        with signals_blocked(LEFT_TO_PARENT, START_METHOD):
            return pool.submit(_convert_batch, batch, transform)
    except BrokenProcessPool:
        raise _died(batch) from None


def _results(future: _Future, batch: list[InputImage]) -> list[ConvertedImage | RejectedInput]:
    try:
        return future.result()
    except BrokenProcessPool:
        raise _died(batch) from None


def convert_all(
    tasks: Iterable[InputImage], transform: TransformSettings, workers: int
) -> Iterator[ConvertedImage | RejectedInput]:
    """Convert inputs, and yield the result of each in order.

    Args:
        tasks: the inputs; only a few are taken in advance, so that memory is bounded.
        transform: how they are transformed.
        workers: number of processes; 0 and 1 convert in this one.

    Raises:
        DataError: a process died.
    """
    if workers <= 1:
        yield from (convert(task, transform) for task in tasks)
        return
    with signals_blocked(LEFT_TO_PARENT, START_METHOD):  # starts the resource tracker
        executor = ProcessPoolExecutor(workers, get_context(START_METHOD), _begin_worker)
    with executor as pool:
        waiting: deque[tuple[_Future, list[InputImage]]] = deque()
        try:
            for batch in _input_batches(tasks):
                waiting.append((_submitted(pool, batch, transform), batch))
                while _is_full(waiting, workers):
                    yield from _results(*waiting.popleft())
            while waiting:
                yield from _results(*waiting.popleft())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
