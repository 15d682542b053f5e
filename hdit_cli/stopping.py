"""Exit code 75 for long tasks that are asked to stop and that the same command resumes.

Training has its own handlers, which finish a step and save. The tasks here write their results as they go, so they can
be interrupted anywhere, as by Ctrl-C. Python runs handlers between its own instructions only: if the main thread waits
in compiled code, as for other ranks, a thread ends the process in its place.
"""

import os
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import FrameType
from typing import NoReturn

from hdit_cli.ranks import main_rank_reports_first, wait_for_main_rank
from hdit_core.data.stop_signals import STOP_SIGNALS
from hdit_core.errors import StoppedEarly
from hdit_core.launch import is_main_process
from hdit_core.progress_bar import note
from hdit_core.train.preemption import watched_signals

SIGNALS: tuple[signal.Signals, ...] = tuple(number for number in STOP_SIGNALS if number != signal.SIGINT)
AGAIN_S = 2.0  # within this time a second signal is the same request: Slurm and torchrun both signal the ranks
PATIENCE_S = 5.0  # from a signal to the end of the process, if the main thread does not get to the handler
POLL_S = 0.05
INTERRUPTED = 130


class _Stopped(BaseException):
    """A signal asked to stop; a BaseException, so `except Exception` does not catch it."""


class _Handler:
    """Raises `_Stopped` in the process that it was made in; child processes end as if there were no handler.

    Args:
        kept: what is on disk, for the message.
    """

    def __init__(self, kept: str | None) -> None:
        self.name = ""
        self.has_run = False
        self._kept = kept
        self._process, self._raised_at_s = os.getpid(), -AGAIN_S

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT:
            self.has_run = True
            raise KeyboardInterrupt
        if os.getpid() != self._process:
            _end_by(number)
        self.has_run = True
        if time.monotonic() - self._raised_at_s >= AGAIN_S:
            self.name, self._raised_at_s = signal.Signals(number).name, time.monotonic()
            raise _Stopped

    def message(self, name: str) -> str:
        """Return the report of a task that was stopped by the signal of this name."""
        kept = "" if self._kept is None else f": kept {self._kept}; rerun the same command to resume"
        return f"{name}{kept}"

    def watch(self, pipe: int, handled: Sequence[signal.Signals]) -> None:
        """End the process if the main thread does not get to the handler; runs in a thread until the pipe is closed.

        The pipe also tells of other signals with a handler in Python, such as the SIGCHLD of torch's data loader.
        """
        numbers: list[int] = []
        while not numbers:
            if not (told := os.read(pipe, 64)):
                return
            numbers = [number for number in told if number in handled]
        end_s = time.monotonic() + PATIENCE_S
        while not self.has_run and time.monotonic() < end_s:
            time.sleep(POLL_S)
        if self.has_run:
            return
        if signal.SIGINT in numbers:
            note(self.message("interrupted"))
            os._exit(INTERRUPTED)
        if not is_main_process():
            wait_for_main_rank()
        note(f"stopped early: {self.message(signal.Signals(numbers[0]).name)}")
        os._exit(StoppedEarly.exit_code)


def _end_by(number: int) -> NoReturn:
    signal.signal(number, signal.SIG_DFL)
    os.kill(os.getpid(), number)
    raise AssertionError(number)  # the default action ends the process


@contextmanager
def stopping_early(kept: str | None) -> Iterator[None]:
    """End the body at SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 with exit code 75; ignored signals stay ignored (nohup).

    Ctrl-C is reported, too.

    Args:
        kept: what is on disk, for the message; None for a task that cannot be resumed, which signals then kill.

    Raises:
        StoppedEarly: a signal came.
    """
    handler = _Handler(kept)
    numbers = [number for number in SIGNALS if kept is not None and signal.getsignal(number) is signal.SIG_DFL]
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        numbers.append(signal.SIGINT)
    try:
        with watched_signals(dict.fromkeys(numbers, handler), partial(handler.watch, handled=numbers)):
            try:
                yield
            finally:
                handler.has_run = True
    except _Stopped:
        with main_rank_reports_first():
            raise StoppedEarly(handler.message(handler.name)) from None
    except KeyboardInterrupt:
        note(handler.message("interrupted"))
        raise
