"""Exit code 75 for long tasks that are asked to stop and that the same command resumes.

Training has its own handlers, which finish a step and save. The tasks here write their results as they go, so they can
be interrupted anywhere, as by Ctrl-C.
"""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from hdit_cli.ranks import main_rank_reports_first
from hdit_core.errors import StoppedEarly

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
AGAIN_S = 2.0  # within this time a second signal is the same request: Slurm and torchrun both signal the ranks


class _Stopped(BaseException):
    """A signal asked to stop; a BaseException, so `except Exception` does not catch it."""


class _Handler:
    """Raises `_Stopped` in the process that it was made in; child processes end as if there were no handler."""

    def __init__(self) -> None:
        self.name = ""
        self._process, self._raised_at_s = os.getpid(), -AGAIN_S

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            _end_by(number)
        if time.monotonic() - self._raised_at_s >= AGAIN_S:
            self.name, self._raised_at_s = signal.Signals(number).name, time.monotonic()
            raise _Stopped


def _end_by(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise AssertionError(number)  # the default action ends the process


@contextmanager
def stopping_early(kept: str | None) -> Iterator[None]:
    """End the body at SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 with exit code 75; ignored signals stay ignored (nohup).

    Args:
        kept: what is on disk, for the message; None for a task that cannot be resumed, which signals then kill.

    Raises:
        StoppedEarly: a signal came.
    """
    if kept is None:
        yield
        return
    handler = _Handler()
    before = {number: signal.getsignal(number) for number in SIGNALS if signal.getsignal(number) is signal.SIG_DFL}
    for number in before:
        signal.signal(number, handler)
    try:
        yield
    except _Stopped:
        with main_rank_reports_first():
            raise StoppedEarly(f"{handler.name}: kept {kept}; rerun the same command to resume") from None
    finally:
        for number, action in before.items():
            signal.signal(number, action)
