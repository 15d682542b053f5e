"""Computations in a thread of their own, which report intermediate results and can be stopped."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Generic, TypeVar

Result = TypeVar("Result")

LONGEST_STEP_S = 60.0  # after which a stopped computation is not waited for any longer


class Stopped(Exception):
    """The computation was stopped."""


class _Ended:
    """Marks the end of the results, with the error that ended them if there was one."""

    def __init__(self, problem: BaseException | None) -> None:
        self.problem = problem


class Report(Generic[Result]):
    """What a computation calls: `check` often, and itself with each intermediate result."""

    def __init__(self, stop: threading.Event, results: SimpleQueue) -> None:
        self._stop, self._results = stop, results

    def check(self) -> None:
        """Raise `Stopped` if the computation is to stop."""
        if self._stop.is_set():
            raise Stopped

    def __call__(self, result: Result) -> None:
        """Pass a result on."""
        self.check()
        self._results.put(result)


def newest_results(work: Callable[[Report[Result]], None], stop: threading.Event) -> Iterator[Result]:
    """Yield what a computation reports while it runs; results that are overtaken by newer ones are left out.

    When the caller stops reading, the computation is stopped and waited for.

    Args:
        work: the computation.
        stop: set to stop it.

    Raises:
        Stopped: it was stopped.
        Exception: what the computation raises.
    """
    results: SimpleQueue = SimpleQueue()

    def run() -> None:
        try:
            work(Report(stop, results))
            results.put(_Ended(None))
        except BaseException as problem:
            results.put(_Ended(problem))

    thread = threading.Thread(target=run, name="hdit play", daemon=True)
    thread.start()
    try:
        yield from _newest(results)
    finally:
        stop.set()
        thread.join()


def _newest(results: SimpleQueue) -> Iterator:
    while True:
        waiting = [results.get(), *_without_waiting(results)]
        ended = waiting.pop() if isinstance(waiting[-1], _Ended) else None
        if waiting:
            yield waiting[-1]
        if ended is not None:
            if ended.problem is not None:
                raise ended.problem
            return


def _without_waiting(results: SimpleQueue) -> Iterator:
    while True:
        try:
            yield results.get_nowait()
        except Empty:
            return


class Sessions:
    """The running computation of each session of a browser, so that it can be stopped."""

    def __init__(self) -> None:
        self._stops: dict[str, threading.Event] = {}
        self._ended: dict[str, threading.Event] = {}

    @contextmanager
    def running(self, visitor: str | None) -> Iterator[None]:
        """Let `wait` wait for the end of the body, the visitor's computation."""
        ended = self._ended[visitor or ""] = threading.Event()
        try:
            yield
        finally:
            ended.set()

    def begin(self, visitor: str | None) -> threading.Event:
        """Return the event that stops the visitor's next computation."""
        self._stops[visitor or ""] = stop = threading.Event()
        return stop

    def stop(self, visitor: str | None) -> None:
        """Stop the visitor's computation, if one is running."""
        if (stop := self._stops.pop(visitor or "", None)) is not None:
            stop.set()

    def wait(self, visitor: str | None) -> None:
        """Wait for the end of the visitor's computation, if one is running."""
        if (ended := self._ended.pop(visitor or "", None)) is not None:
            ended.wait(LONGEST_STEP_S)
