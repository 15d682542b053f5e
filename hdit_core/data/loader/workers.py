"""Worker processes that read for a run: torch's DataLoader, with workers that always end with the run.

A scheduler signals all processes of a job, so workers ignore the signals that ask a run to stop: the main process needs
them until it has saved. They end at the request of the main process, are killed if they do not (stuck on a dead disk),
and end by themselves when the main process is gone for any reason.

Batches come through shared memory (/dev/shm), of which containers often have only 64 MB. If it is full,
a worker loses its batch without telling the main process, so it is checked at the start, and again whenever no batch
arrives.
"""

import atexit
import errno
import os
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from hdit_core.data.format.retry_reads import StorageUnavailable
from hdit_core.data.stop_signals import STOP_SIGNALS, signals_blocked
from hdit_core.errors import DataError, HditError, WaitInterrupted

TIMEOUT_S = 600.0
"""A worker that takes longer than this for one micro-batch hangs, for instance on a dead disk."""

POLL_S = 1.0
"""Interval between checks for a stop request while no batch arrives."""

GRACE_S = 5.0  # for a worker to finish its current image before it is killed
PARENT_CHECK_S = 1.0
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108
_END = object()


def free_shared_memory() -> int | None:
    """Return the free bytes of shared memory, None if the system has no such folder."""
    try:
        facts = os.statvfs(SHARED_MEMORY)
    except OSError:
        return None
    return facts.f_bavail * facts.f_frsize


def check_shared_memory(needed_bytes: int, for_what: str) -> None:
    """Refuse to continue with less shared memory than batches need.

    Args:
        needed_bytes: size of the batches that are in it at the same time.
        for_what: what needs them, for the message.

    Raises:
        HditError: there is less free memory.
    """
    free_bytes = free_shared_memory()
    if free_bytes is not None and free_bytes < needed_bytes:
        raise HditError(
            f"{SHARED_MEMORY}: {free_bytes / 1e6:,.0f} MB of shared memory are free, the batches of {for_what} need "
            f"{needed_bytes / 1e6:,.0f} MB; start the container with --shm-size={needed_bytes // 10**9 + 1}g or more "
            "(or --ipc=host), or lower data.workers or train.micro_batch_size"
        )


def _end_with_main_process() -> None:
    """Wait until the main process is gone, then end this one in any state."""
    started_by, main = os.getppid(), parent_process()
    while os.getppid() == started_by and (main is None or main.is_alive()):
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


def _begin_worker(worker: int) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_main_process, daemon=True).start()


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()


def _end_workers(batches: Any) -> None:
    """Tell the workers of a DataLoader's iterator to end, and kill those that have not ended after the grace period."""
    if not any(worker.is_alive() for worker in batches._workers):
        return  # the interpreter is shutting down, and no thread can be started
    killer = threading.Timer(GRACE_S, _kill, [batches._workers])
    killer.start()
    with suppress(RuntimeError):  # torch's own report of a killed worker
        batches._shutdown_workers()
    killer.cancel()
    _kill(batches._workers)


def _kill_at_exit(workers: Sequence[BaseProcess]) -> None:
    """End the workers of an iterator that is still referenced: multiprocessing would wait for them forever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise an error
    _kill(workers)
    for worker in workers:
        worker.join()


def _is_timeout(error: RuntimeError) -> bool:
    return str(error).startswith("DataLoader timed out after")


def _failed_worker(error: RuntimeError | OSError) -> HditError | None:
    """Return the error to report for a broken DataLoader, None if it is another error."""
    text = str(error)
    if "items of ancdata" in text or "Too many open files" in text or getattr(error, "errno", None) == errno.EMFILE:
        name = getattr(error, "filename", None)  # errors that come from worker processes have none
        where = (
            f"{name}: too many open files"
            if name
            else "too many open files while batches came from the worker processes"
        )
        return HditError(f"{where}; raise the limit with `ulimit -n 4096`, or lower data.workers")
    if text.startswith("DataLoader") and ("killed by signal" in text or "exited unexpectedly" in text):
        return DataError(
            f"a worker process that reads images died (killed, out of memory?): {text.splitlines()[0]}; "
            "run the same command to resume, with fewer data.workers if memory is short"
        )
    return None


@contextmanager
def translate_worker_errors() -> Iterator[None]:
    """Report in one line that a worker died: torch raises an error in the main thread at any time.

    Raises:
        DataError, HditError: instead of torch's RuntimeError.
    """
    try:
        yield
    except (RuntimeError, OSError) as error:
        raise _failed_worker(error) or error from None


def _unchanged(batch: Any) -> Any:
    return batch


def _next_batch(batches: Iterator[Any], batch_bytes: int) -> Any:
    """Return the next batch, or `_END`; the DataLoader's own timeout is only the interval between checks."""
    started_at = time.monotonic()
    while True:
        try:
            return next(batches, _END)
        except RuntimeError as error:
            if not _is_timeout(error):
                raise
        check_shared_memory(batch_bytes, "one more batch")
        if time.monotonic() - started_at >= TIMEOUT_S:
            raise StorageUnavailable(
                f"no batch was read within {TIMEOUT_S:.0f} s: is the disk or a worker process stuck? Run the same "
                "command to resume"
            )


def _worker_loader(dataset: Dataset[Any], plan: Iterable[Sequence[int]], workers: int) -> DataLoader[Any]:
    """Return torch's DataLoader, which reads each entry of the plan in one of its processes."""
    return DataLoader(
        dataset,
        batch_sampler=map(list, plan),
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=torch.cuda.is_available(),
        timeout=min(POLL_S, TIMEOUT_S),
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # the default one is used by the network's dropout
    )


def read_in_workers(
    dataset: Dataset[Any],
    plan: Iterable[Sequence[int]],
    workers: int,
    *,
    batch_bytes: int = 0,
) -> Generator[Any, None, None]:
    """Yield what a data set's `__getitems__` returns for each entry of the plan, in order, from worker processes.

    Args:
        dataset: the data set; each worker has a copy.
        plan: image numbers of each batch.
        workers: number of processes, at least 1. They end when the iterator is closed, or with this process.
        batch_bytes: size of the tensors of one batch, which pass through shared memory; 0: do not check it.

    Raises:
        DataError: a worker died.
        StorageUnavailable: no batch arrived within `TIMEOUT_S`.
        HditError: there is too little shared memory.
        WaitInterrupted: a stop was requested during a wait.
    """
    loader = _worker_loader(dataset, plan, workers)
    prefetched = loader.prefetch_factor or 2
    check_shared_memory((prefetched * workers + 1) * batch_bytes, f"{workers} worker processes")
    with translate_worker_errors():
        with signals_blocked():
            batches: Any = iter(loader)
        at_exit = partial(_kill_at_exit, batches._workers)
        atexit.register(at_exit)  # called before the exit functions that multiprocessing has registered
        try:
            while (batch := _next_batch(batches, batch_bytes)) is not _END:
                yield batch
        except WaitInterrupted:  # the workers hang, and the run has to save its state
            _kill(batches._workers)
            raise
        finally:
            atexit.unregister(at_exit)
            _end_workers(batches)
