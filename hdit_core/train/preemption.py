"""Requests to stop: signals, the stop file, and the time limit of a Slurm job, before which a run saves."""

import logging
import os
import re
import select
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

from hdit_core.data.stop_signals import STOP_SIGNALS
from hdit_core.errors import WaitInterrupted

logger = logging.getLogger("hdit")

MARGIN_S = 60.0
SLOWEST_SAVES = 2.0  # time reserved, as a multiple of the slowest save so far
SQUEUE_TIMEOUT_S = 10.0
Handler = Callable[[int, FrameType | None], None]
POLL_S = 1.0
FIRST_LINE_S = 3.0  # from a request to the first message about the cause of a wait; the next ones after twice the time
STEP_S = 2.0  # after which a step that one rank computes is given up between two micro-batches
AGAIN_S = 0.5  # a second SIGINT after this time is another Ctrl-C: launchers forward the first one
END_S = 2.0  # from a second Ctrl-C to the end of the process
INTERRUPTED = 130


class Deadline:
    """When a run has to start its last save: the end, less two of the slowest saves so far and a minute."""

    def __init__(self, end_s: float | None, slowest_save_s: Callable[[], float], now: Callable[[], float] = time.time):
        """
        Args:
            end_s: seconds since 1970; None: there is no end.
            slowest_save_s: returns the duration of the slowest save so far.
            now: the clock.
        """
        self._end_s, self._slowest_save_s, self._now = end_s, slowest_save_s, now

    def passed(self) -> bool:
        """Return whether the last save has to start now."""
        if self._end_s is None:
            return False
        return self._now() >= self._end_s - SLOWEST_SAVES * self._slowest_save_s() - MARGIN_S


def job_end_s(environment: Mapping[str, str]) -> float | None:
    """Return when the Slurm job of this process ends, in seconds since 1970; None without a job or a time limit.

    Newer versions of Slurm set it in the environment; otherwise squeue is called. An end in the past belongs to an
    earlier job, from whose shell this process was started.
    """
    if text := environment.get("SLURM_JOB_END_TIME"):
        if not re.fullmatch(r"[0-9]{1,12}", text):
            return None
        if float(text) > time.time():
            return float(text)
        logger.info("SLURM_JOB_END_TIME is in the past and is ignored; is this a shell of a Slurm job that has ended?")
    job = environment.get("SLURM_JOB_ID", "")
    return _ask_squeue(job) if re.fullmatch(r"[0-9]{1,12}", job) else None


def _ask_squeue(job: str) -> float | None:
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]  # the time that is left; job is digits
    try:
        done = subprocess.run(  # noqa: S603
            command, capture_output=True, text=True, timeout=SQUEUE_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    left_s = seconds_left(done.stdout.strip())
    return None if left_s is None else time.time() + left_s


def seconds_left(text: str) -> float | None:
    """Read a time as squeue writes it, `[[days-]hours:]minutes:seconds`; None for anything else, such as UNLIMITED."""
    match = re.fullmatch(r"(?:(?:([0-9]+)-)?([0-9]+):)?([0-9]+):([0-9]+)", text)
    if match is None:
        return None
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return float(((days * 24 + hours) * 60 + minutes) * 60 + seconds)


class StopRequest:
    """Whether this process was asked to stop, by what, and what it waits for before it can.

    Attributes:
        reason: of the first request; None: there is none.
        patience_s: returns the maximum duration of a wait after a request, in seconds.
        announce: called in a thread, once, with the reason of a request.
        abandon: called in a thread, every second, if the patience ends during an activity that can be abandoned.
        gives_up_steps: whether a step may end between two micro-batches, since no other rank computes it too.
    """

    def __init__(self, stop_file: Path, deadline: Deadline) -> None:
        self.reason: str | None = None
        self.patience_s: Callable[[], float] = lambda: 0.0
        self.announce: Callable[[str], object] = lambda reason: None
        self.abandon: Callable[[], object] = lambda: None
        self.gives_up_steps = True
        self._stop_file = stop_file
        self._deadline = deadline
        self._requested_at_s = 0.0
        self._activity, self._can_abandon = "the run to start", False
        self._is_waiting = self._is_announced = False
        self._next_line_s = FIRST_LINE_S
        self._interrupted_at_s: float | None = None

    def request(self, reason: str) -> None:
        """Ask the process to stop."""
        if self.reason is None:
            self._requested_at_s = time.monotonic()
            self.reason = reason

    def raised(self) -> bool:
        """Check the stop file and the clock, and return whether there is any request."""
        if self.reason is None and self._stop_file.exists():
            self.request(f"the file {self._stop_file}")
        if self.reason is None and self._deadline.passed():
            self.request("the end of the Slurm job's time")
        return self.reason is not None

    @contextmanager
    def interrupting(self) -> Iterator[None]:
        """Let a request interrupt the body, which waits for the data of a micro-batch, once the patience ends.

        Raises:
            WaitInterrupted: in the body, when a request comes; or before it, if the step goes on too long after one.
        """
        if self.gives_up_steps and self.reason is not None and self._waited_s() >= STEP_S:
            raise WaitInterrupted
        self._is_waiting = True
        try:
            yield
        finally:
            self._is_waiting = False

    @contextmanager
    def during(self, activity: str, can_abandon: bool = False) -> Iterator[None]:
        """Name what the body does, for the message of a run that does not stop at once.

        Args:
            activity: continues the words "waiting for".
            can_abandon: whether `abandon` is called once the patience ends.
        """
        before = self._activity, self._can_abandon
        self._activity, self._can_abandon = activity, can_abandon
        try:
            yield
        finally:
            self._activity, self._can_abandon = before

    def _handle(self, number: int, frame: FrameType | None) -> None:
        # sets a flag only: to save inside a handler could start in the middle of a step, or of a save
        now_s = time.monotonic()
        if number == signal.SIGINT and self._interrupted_at_s is not None and now_s - self._interrupted_at_s > AGAIN_S:
            raise KeyboardInterrupt
        if number == signal.SIGINT and self._interrupted_at_s is None:
            self._interrupted_at_s = now_s
        self.request(signal.Signals(number).name)
        if self._is_waiting and self._is_overdue():
            self._is_waiting = False
            raise WaitInterrupted

    def _waited_s(self) -> float:
        """Return how long ago the request came."""
        return time.monotonic() - self._requested_at_s

    def _is_overdue(self) -> bool:
        return self._waited_s() >= self.patience_s()

    def _watch(self, pipe: int) -> None:
        """Look for requests while the main thread waits or computes; runs in a thread until the pipe is closed."""
        interrupts: list[float] = []
        while True:
            if select.select([pipe], [], [], POLL_S)[0]:
                numbers = os.read(pipe, 64)
                if not numbers:
                    return
                interrupts += [time.monotonic()] * (signal.SIGINT in numbers)
                for number in sorted(set(numbers).intersection(STOP_SIGNALS)):
                    self.request(signal.Signals(number).name)  # `_handle` has to wait for compiled code to end
            if self.raised():
                self._expedite()
            if interrupts and interrupts[-1] - interrupts[0] > AGAIN_S and time.monotonic() - interrupts[-1] > END_S:
                os._exit(INTERRUPTED)  # the main thread does not get to the KeyboardInterrupt

    def _expedite(self) -> None:
        """Tell the other ranks about a request, report the cause of a wait, and end the wait if possible."""
        if not self._is_announced:
            self._is_announced = True
            self.announce(str(self.reason))
        if (waited_s := self._waited_s()) >= self._next_line_s:
            self._next_line_s *= 2
            logger.info(
                "stopping (%s): waiting for %s, for %.0f s so far; a second Ctrl-C ends the run without saving",
                self.reason,
                "data" if self._is_waiting else self._activity,
                waited_s,
            )
        if self._is_waiting and self._is_overdue():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR2)
        elif self._can_abandon and self._is_overdue():
            self.abandon()


def _forget_pipe() -> None:
    """Keep signals of a forked child from its parent's thread, whose pipe it has inherited."""
    with suppress(ValueError):
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_pipe)


@contextmanager
def watched_signals(handlers: Mapping[signal.Signals, Handler], watch: Callable[[int], None]) -> Iterator[None]:
    """Install handlers while the body runs, and `watch` in a thread.

    Args:
        handlers: of each signal.
        watch: gets a pipe with a byte for each signal that has a handler in Python, others than these included (SIGCHLD
            of torch's data loader); has to return when the pipe is closed.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    old_writer = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=watch, args=(reader,), name="stop requests", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(old_writer)
        for number, action in before.items():
            signal.signal(number, action)
        os.close(writer)
        watcher.join()
        os.close(reader)


@contextmanager
def stop_signals(stop_file: Path, deadline: Deadline) -> Iterator[StopRequest]:
    """Listen for SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2, the stop file and the clock while the body runs.

    A second Ctrl-C ends the process at once, without saving.
    """
    request = StopRequest(stop_file, deadline)
    ignored = {signal.SIGHUP} if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else set()  # by nohup
    with watched_signals(dict.fromkeys(set(STOP_SIGNALS) - ignored, request._handle), request._watch):
        yield request
