"""The signals that ask a job to stop, while processes start: a scheduler sends them to all processes of the job."""

import signal
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from multiprocessing import get_start_method, resource_tracker

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


@contextmanager
def signals_blocked(numbers: Collection[int] = STOP_SIGNALS, start_method: str | None = None) -> Iterator[None]:
    """Block signals while processes start; they inherit it, this process handles a signal that came afterwards.

    A signal would otherwise kill the fork server, which starts workers from Python 3.14 on, and with it the workers, or
    the resource tracker, which would then print a traceback for each lock of theirs.

    Args:
        numbers: the signals.
        start_method: of the processes; None: the default.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    if (start_method or get_start_method()) != "fork":
        resource_tracker.ensure_running()  # unblocks some of them when it starts
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
