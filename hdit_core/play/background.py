"""Computations in a thread of their own, which report intermediate results and can be stopped."""

import threading
from collections.abc import Callable, Hashable, Iterator
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

    def __init__(self, stop: threading.Event, unread: threading.Event, results: SimpleQueue) -> None:
        self._stop, self._unread, self._results = stop, unread, results

    def check(self) -> None:
        """Raise `Stopped` if the computation is to stop."""
        if self._stop.is_set() or self._unread.is_set():
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
    unread = threading.Event()  # `stop` may also be that of the computation that follows

    def run() -> None:
        try:
            work(Report(stop, unread, results))
            results.put(_Ended(None))
        except BaseException as problem:
            results.put(_Ended(problem))

    thread = threading.Thread(target=run, name="hdit play", daemon=True)
    thread.start()
    try:
        yield from _newest(results)
    finally:
        unread.set()
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


class _Running:
    """A computation that runs.

    Attributes:
        owner: the button that stops it.
        stop: set to stop it.
        ended: set at its end.
    """

    def __init__(self, owner: Hashable) -> None:
        self.owner, self.stop, self.ended = owner, threading.Event(), threading.Event()


class Sessions:
    """The running computation of each session of a browser, so that it can be stopped."""

    def __init__(self) -> None:
        self._running: dict[str, _Running] = {}
        self._waiting: set[tuple[str, Hashable]] = set()

    def ask(self, visitor: str | None, owner: Hashable) -> None:
        """Note that the visitor has asked for a computation, which may have to wait for those of others."""
        self._waiting.add((visitor or "", owner))

    def begin(self, visitor: str | None, owner: Hashable) -> bool:
        """Return whether the computation that the visitor asked for is still wanted: it was not stopped meanwhile."""
        is_wanted = (visitor or "", owner) in self._waiting
        self._waiting.discard((visitor or "", owner))
        return is_wanted

    @contextmanager
    def running(self, visitor: str | None, owner: Hashable = None) -> Iterator[None]:
        """Let `stop` stop the body, the visitor's computation, from its first moment on, and `wait` wait for its end.

        Args:
            visitor: whose computation it is.
            owner: the button that stops it.
        """
        own = self._running[visitor or ""] = _Running(owner)
        try:
            yield
        finally:
            own.ended.set()
            if self._running.get(visitor or "") is own:
                del self._running[visitor or ""]

    def stop_event(self, visitor: str | None) -> threading.Event:
        """Return the event that stops the visitor's running computation."""
        return self._running.setdefault(visitor or "", _Running(None)).stop

    def stop(self, visitor: str | None, owner: Hashable = None) -> None:
        """Stop the visitor's computation, if one is running or waiting that this button stops; None: any."""
        self._waiting = {
            asked for asked in self._waiting if asked[0] != (visitor or "") or owner not in (None, asked[1])
        }
        if (found := self._of(visitor, owner)) is not None:
            found.stop.set()

    def wait(self, visitor: str | None, owner: Hashable = None) -> None:
        """Wait for the end of the visitor's computation, if one is running that this button stops."""
        if (found := self._of(visitor, owner)) is not None:
            found.ended.wait(LONGEST_STEP_S)

    def _of(self, visitor: str | None, owner: Hashable) -> _Running | None:
        found = self._running.get(visitor or "")
        return found if found is not None and owner in (None, found.owner) else None
