"""The end of a Slurm job's time, before which a run saves by itself: a signal may not come, or come too late."""

import logging
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

logger = logging.getLogger("hdit")

MARGIN_S = 60.0
SLOWEST_SAVES = 2.0  # room for so many saves as the slowest one so far
PATIENCE_S = 10.0


class Deadline:
    """When a run has to begin its last save: the end, less two of the slowest saves so far and a minute."""

    def __init__(self, end_s: float | None, slowest_save_s: Callable[[], float], now: Callable[[], float] = time.time):
        """
        Args:
            end_s: seconds since 1970; None: there is no end.
            slowest_save_s: tells how long the slowest save has taken so far.
            now: the clock.
        """
        self._end_s, self._slowest_save_s, self._now = end_s, slowest_save_s, now

    def passed(self) -> bool:
        """Return whether it is time."""
        if self._end_s is None:
            return False
        return self._now() >= self._end_s - SLOWEST_SAVES * self._slowest_save_s() - MARGIN_S


def job_end_s(environment: Mapping[str, str]) -> float | None:
    """Return when the Slurm job of this process ends, in seconds since 1970; None without a job or a time limit.

    Newer versions of Slurm set it in the environment, older ones are asked. An end in the past belongs to an earlier
    job, whose shell this process was started from.
    """
    if text := environment.get("SLURM_JOB_END_TIME"):
        if not re.fullmatch(r"[0-9]{1,12}", text):
            return None
        if float(text) > time.time():
            return float(text)
        logger.info("SLURM_JOB_END_TIME is in the past and is ignored; is this a shell of a Slurm job that has ended?")
    job = environment.get("SLURM_JOB_ID", "")
    return _asked(job) if re.fullmatch(r"[0-9]{1,12}", job) else None


def _asked(job: str) -> float | None:
    command = ["squeue", "--noheader", "--jobs", job, "--format", "%L"]  # the time that is left; job is digits
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)  # noqa: S603
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


SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Whether this process was asked to stop, and by what."""

    def __init__(self, stop_file: Path, deadline: Deadline) -> None:
        self.reason: str | None = None
        self._stop_file = stop_file
        self._deadline = deadline

    def raised(self) -> bool:
        """Look for the stop file and at the clock, and return whether there is any request."""
        if self.reason is None and self._stop_file.exists():
            self.reason = f"the file {self._stop_file}"
        if self.reason is None and self._deadline.passed():
            self.reason = "the end of the Slurm job's time"
        return self.reason is not None

    def _note(self, number: int, frame: FrameType | None) -> None:
        # nothing but a flag: saving inside a handler could begin in the middle of a step, or of a save
        self.reason = signal.Signals(number).name


@contextmanager
def stop_signals(stop_file: Path, deadline: Deadline) -> Iterator[StopRequest]:
    """Listen for SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2, the stop file and the clock while the body runs."""
    request = StopRequest(stop_file, deadline)
    before = {number: signal.signal(number, request._note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
