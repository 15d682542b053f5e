"""Output of long tasks on stderr of the main rank: progress bars and the library's log messages.

Text from files goes through `printable`, so that no file name can move the cursor or change the terminal's colors.
"""

import logging
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from hdit_core.errors import UsageError
from hdit_core.launch import is_main_process

SECONDS_TO_FIRST_LINE = 3.0  # of progress, if stderr is not a terminal
SECONDS_BETWEEN_LINES = 30.0
SECONDS_OF_SILENCE = 60.0  # after which a line reports that the task is still running
MIN_BAR_COLUMNS = 6
ECHO_COLUMNS = 3  # right of the bar: an echoed ^C that wraps to the next line would leave the bar's line behind
# The time left is shown after so many updates since the first one, so many seconds, or such a share of the work: the
# first steps are slow.
UPDATES_TO_ESTIMATE, SECONDS_TO_ESTIMATE, SHARE_TO_ESTIMATE = 2, 30.0, 0.1

# Control characters, characters that change the writing direction, and bytes of a file name that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return the text with control characters escaped, as in `\x1b[31m`."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def may_print() -> bool:
    """Return whether this process prints: the main rank does, and any process with an incomplete launch environment."""
    try:
        return is_main_process()
    except UsageError:  # commands that join ranks report this themselves
        return True


def note(message: str) -> None:
    """Print a message on stderr, on the main rank only."""
    if may_print():
        sys.stderr.write(f"hdit: {printable(message)}\n")  # one call: a live bar writes whole lines above itself
        sys.stderr.flush()


class NoteHandler(logging.Handler):
    """Prints the messages of the library's logger `hdit` as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        note(record.getMessage())


def show_log_messages() -> None:
    """Print the library's log messages from level INFO on; further calls have no effect."""
    logger = logging.getLogger("hdit")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, NoteHandler) for handler in logger.handlers):
        logger.addHandler(NoteHandler())


@contextmanager
def showing_log_messages() -> Iterator[None]:
    """Print the library's log messages while the body runs, unless the calling program has logging handlers."""
    logger = logging.getLogger("hdit")
    if logger.hasHandlers():
        yield
        return
    level = logger.level
    show_log_messages()
    try:
        yield
    finally:
        logger.handlers.clear()
        logger.setLevel(level)


class ProgressBar:
    """The progress of a long task; `update` sets and shows it."""

    def __init__(self, label: str, unit: str, total: int | None) -> None:
        self.label, self.unit, self.total = label, unit, total
        self.done = 0
        self.remark = ""
        self.per_s: float | None = None
        self.show: Callable[[], None] = lambda: None
        self._first: tuple[int, float] | None = None  # done and time at the first update: resumed work is not speed
        self._updates = 0  # after the first one

    def update(self, done: int, total: int | None = None, remark: str = "", per_s: float | None = None) -> None:
        """Set the number of finished items.

        Args:
            done: number of finished items.
            total: total number, if it was not known before.
            remark: shown after the progress, such as a loss.
            per_s: throughput; by default measured from the first update on.
        """
        self._updates += self._first is not None and done > self.done
        self.done, self.total, self.remark = done, self.total if total is None else total, remark
        self._first = self._first or (done, time.monotonic())
        self.per_s = per_s
        self.show()

    def text(self, most: int = 1000) -> str:
        """Return `12,000 of 70,000 images, 1,200 images/s, 0:48 left, loss 0.1`, shortened to `most` columns."""
        of = f" of {self.total:,}" if self.total is not None else ""
        long = [f"{self.done:,}{of} {self.unit}"]
        short = [f"{self.done / self.total:.0%}"] if self.total else [f"{self.done:,}"]
        if per_s := self._rate():
            digits = f"{per_s:,.3g}" if per_s < 1000 else f"{per_s:,.0f}"
            seconds_left = None if self.total is None else (self.total - self.done) / per_s
            left = [f"{duration(seconds_left)} left"] if seconds_left is not None and self._can_estimate() else []
            long += [f"{digits} {self.unit}/s", *left]
            short += [f"{digits}/s", *left]
        remarks = self.remark.split(", ") if self.remark else []
        texts = [", ".join([*long, *remarks]), ", ".join([*short, *remarks]), ", ".join([*short, *remarks[-1:]])]
        return next((text for text in texts if len(text) <= most), ", ".join(short))

    def _can_estimate(self) -> bool:
        """Return whether the throughput so far says something about the time left."""
        if self.total is None or self._first is None:
            return False
        is_advanced = self.done - self._first[0] >= SHARE_TO_ESTIMATE * self.total
        is_late = time.monotonic() - self._first[1] >= SECONDS_TO_ESTIMATE
        return is_advanced or is_late or self._updates >= UPDATES_TO_ESTIMATE

    def _rate(self) -> float | None:
        if self.per_s is not None:
            return self.per_s
        first_done, started_at = self._first or (0, 0.0)
        elapsed_s = time.monotonic() - started_at
        return (self.done - first_done) / elapsed_s if self.done > first_done and elapsed_s > 0 else None


def duration(seconds: float) -> str:
    """Return `0:48`, `26:05:09` from an hour on, `3.2 days` from two days on, or `1.4 years`."""
    days = seconds / 86_400
    if days >= 2:
        return f"{days / 365.25:,.1f} years" if days >= 730 else f"{days:,.1f} days"
    minutes, seconds_left = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds_left:02}" if hours else f"{minutes}:{seconds_left:02}"


@contextmanager
def progress(label: str, *, unit: str = "images", total: int | None = None) -> Iterator[ProgressBar]:
    """Show a bar on stderr while the body runs.

    If stderr is not a terminal: a line after 3 s, every 30 s and at the end, and one per minute while there is no
    progress. Other output to stderr appears above the bar. Ranks other than the main one show nothing.
    """
    state = ProgressBar(label, unit, total)
    if not may_print():
        yield state
        return
    with (_bar if sys.stderr.isatty() else _log)(state):
        yield state


@contextmanager
def _bar(state: ProgressBar) -> Iterator[None]:
    from rich.console import Console, ConsoleDimensions
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    class NarrowConsole(Console):
        @property  # type: ignore[misc]  # nothing sets it
        def size(self) -> ConsoleDimensions:
            width, height = super().size
            return ConsoleDimensions(max(width - ECHO_COLUMNS, 1), height)

    console = NarrowConsole(stderr=True)
    text = TextColumn("{task.fields[text]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis"))
    label = TextColumn("{task.description}", markup=False)
    with Bars(label, BarColumn(bar_width=None), text, console=console, expand=True) as bars:
        task = bars.add_task(printable(state.label), total=state.total, text="")
        most = console.width - len(state.label) - MIN_BAR_COLUMNS - 2

        def show() -> None:
            bars.update(task, completed=state.done, total=state.total, text=printable(state.text(most)))

        state.show = show
        yield


@contextmanager
def _log(state: ProgressBar) -> Iterator[None]:
    started_at = time.monotonic()
    next_at, updated_at, last, ended = started_at + SECONDS_TO_FIRST_LINE, started_at, (-1, ""), threading.Event()

    def print_line() -> None:
        nonlocal next_at, last
        next_at = time.monotonic() + SECONDS_BETWEEN_LINES
        if (state.done, state.remark) != last:
            note(f"{state.label}: {state.text()}")
        last = state.done, state.remark

    def show() -> None:
        nonlocal updated_at
        updated_at = time.monotonic()
        if updated_at >= next_at:
            print_line()

    def print_waits() -> None:
        while not ended.wait(SECONDS_OF_SILENCE):
            if (waited_s := time.monotonic() - updated_at) >= SECONDS_OF_SILENCE:
                note(f"{state.label}: {state.text()}; {duration(waited_s)} since the last update")

    state.show = show
    threading.Thread(target=print_waits, daemon=True).start()
    try:
        yield
    finally:
        ended.set()
    print_line()
