"""Being asked to stop: a signal, a file or the clock raises a flag, the loop looks at it after every step."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from hdit_core.train.deadline import Deadline

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
def listen(stop_file: Path, deadline: Deadline) -> Iterator[StopRequest]:
    """Listen for SIGTERM, SIGINT, SIGHUP, SIGUSR1 and SIGUSR2, the stop file and the clock while the body runs."""
    request = StopRequest(stop_file, deadline)
    before = {number: signal.signal(number, request._note) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
