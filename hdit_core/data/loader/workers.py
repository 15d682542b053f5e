"""Processes that read for a run: torch's DataLoader, with workers that live as long as the run needs them, no longer.

A scheduler signals all processes of a job, so workers ignore what asks a run to stop: the main process needs them until
it has saved. They end by its word, are killed where they do not (stuck on a dead disk), and see by themselves when it
is gone, whatever it died of.
"""

import atexit
import os
import signal
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing import parent_process
from multiprocessing.process import BaseProcess
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from hdit_core.errors import DataError

TIMEOUT_S = 600.0
"""A worker that has not read one micro-batch in this time hangs, on a dead disk for instance."""

GRACE_S = 5.0  # for a worker to finish the image that it is at when it is told to end
PARENT_CHECK_S = 1.0


def _end_with_the_main_process() -> None:
    """Wait until the main process is gone, and go as well, wherever the reading stands."""
    started_by, main = os.getppid(), parent_process()
    while os.getppid() == started_by and (main is None or main.is_alive()):
        time.sleep(PARENT_CHECK_S)
    os._exit(1)


def _begin_worker(worker: int) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with_the_main_process, daemon=True).start()


def _kill(workers: Iterable[BaseProcess]) -> None:
    for worker in workers:
        worker.kill()


def _end_workers(batches: Any) -> None:
    """Tell the workers of a DataLoader's iterator to end, and kill those that have not within the grace."""
    if not any(worker.is_alive() for worker in batches._workers):
        return  # the interpreter is ending, where no thread can begin
    killer = threading.Timer(GRACE_S, _kill, [batches._workers])
    killer.start()
    with suppress(RuntimeError):  # torch's own report of a worker that was killed
        batches._shutdown_workers()
    killer.cancel()
    _kill(batches._workers)


def _kill_at_exit(workers: Sequence[BaseProcess]) -> None:
    """End the workers of an iterator that is still referenced: multiprocessing would wait for them for ever."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch would raise an error
    _kill(workers)
    for worker in workers:
        worker.join()


def _failed_worker(problem: RuntimeError) -> DataError | None:
    """Return what a broken DataLoader means, None where the error is another."""
    text = str(problem)
    if not text.startswith("DataLoader"):
        return None
    if "killed by signal" in text or "exited unexpectedly" in text:
        return DataError(
            f"a process that reads images died (killed, out of memory?): {text.splitlines()[0]}; "
            "run the same command again to go on, with fewer data.workers if memory is short"
        )
    if "timed out after" in text:
        return DataError(
            f"no batch was read within {TIMEOUT_S:.0f} s: is the disk or a process that reads images stuck?"
        )
    return None


@contextmanager
def translate_worker_errors() -> Iterator[None]:
    """Say in one line that a worker died: torch raises it in the main thread, at whatever that is doing just then.

    Raises:
        DataError: instead of torch's RuntimeError.
    """
    try:
        yield
    except RuntimeError as problem:
        raise _failed_worker(problem) or problem from None


def _unchanged(batch: Any) -> Any:
    return batch


def read_in_workers(dataset: Dataset[Any], plan: Iterable[Sequence[int]], workers: int) -> Generator[Any, None, None]:
    """Yield what a data set's `__getitems__` makes of each entry of the plan, in its order, made in other processes.

    Args:
        dataset: what is read; each worker has a copy.
        plan: image numbers.
        workers: processes, at least 1. They end when the iterator is closed, and at the latest with this process.

    Raises:
        DataError: a worker died, or nothing came within `TIMEOUT_S`.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=map(list, plan),
        num_workers=workers,
        collate_fn=_unchanged,
        pin_memory=torch.cuda.is_available(),
        timeout=TIMEOUT_S,
        worker_init_fn=_begin_worker,
        generator=torch.Generator(),  # else it draws from torch's own stream, which is the network's dropout
    )
    with translate_worker_errors():
        batches: Any = iter(loader)
        at_exit = partial(_kill_at_exit, batches._workers)
        atexit.register(at_exit)  # called before what multiprocessing registered earlier
        try:
            yield from batches
        finally:
            atexit.unregister(at_exit)
            _end_workers(batches)
