"""What a command prints: results on stdout (`emit`), notes and progress on stderr (`note`, `progress`).

Text that comes from files goes through `printable`, so that no name can move the cursor or recolour the terminal.
"""

import json
import logging
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import typer

from hdit_core.errors import UsageError
from hdit_core.launch import is_main_process

SECONDS_TO_FIRST_LINE = 3.0  # of progress, where stderr is no terminal
SECONDS_BETWEEN_LINES = 30.0
SECONDS_OF_SILENCE = 60.0  # after which a line says that the task still runs
MIN_BAR_COLUMNS = 6

# Control characters, the marks that turn the writing direction, and bytes of a file name that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    r"""Return the text with everything that a terminal would act on written out, as in `\x1b[31m`."""
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def _speaks() -> bool:
    """Return whether this process prints: the main rank does, and any process whose launcher left half a rank."""
    try:
        return is_main_process()
    except UsageError:  # only commands that join ranks have to refuse that
        return True


def note(message: str) -> None:
    """Print a remark on stderr; on the main rank only, like everything here."""
    if _speaks():
        sys.stderr.write(f"hdit: {printable(message)}\n")  # not typer.echo, which would write into a live bar
        sys.stderr.flush()


class NoteHandler(logging.Handler):
    """Prints the messages of the library's logger `hdit` as notes on stderr."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        note(record.getMessage())


def show_log_messages() -> None:
    """Print what the library logs, from INFO up, once per message however often this is called."""
    logger = logging.getLogger("hdit")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, NoteHandler) for handler in logger.handlers):
        logger.addHandler(NoteHandler())


def emit(result: Any, as_json: bool, lines: Iterable[str] | None = None, *, err: bool = False) -> None:
    """Print a command's result on stdout, or on stderr where stdout carries images; on the main rank only.

    Args:
        result: what `--json` prints as one document: mappings, sequences, numbers, text, paths.
        as_json: the value of `--json`.
        lines: what is printed otherwise. By default a mapping is printed as one `key  value` a line, a sequence of
            mappings as a table.
        err: print on stderr.
    """
    if not _speaks():
        return
    if as_json:
        typer.echo(json.dumps(result, indent=2, default=str, allow_nan=False), err=err)
        return
    for line in _lines_of(result) if lines is None else lines:
        typer.echo(printable(line), err=err)


def emit_line(record: Mapping[str, Any]) -> None:
    """Print one of many results on stdout, as a line of JSON."""
    typer.echo(json.dumps(record, allow_nan=False))


def _lines_of(result: Any) -> Iterable[str]:
    if isinstance(result, Mapping):
        return align([(str(key), _cell(value)) for key, value in result.items()])
    return table(result)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table, its head from the keys of the first row; numbers stand to the right."""
    if not rows:
        return []
    head = list(rows[0])
    return align([head, *([_cell(row.get(key)) for key in head] for row in rows)])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns; a column of numbers, whatever its head, to the right.

    A table of three or more columns that is wider than the terminal is printed in blocks of columns, each with the
    first column. Where stdout is not a terminal, a table is never split.
    """
    columns = [_padded(column) for column in zip(*rows, strict=True)]
    most = shutil.get_terminal_size().columns if sys.stdout.isatty() and len(columns) > 2 else None
    lines: list[str] = []
    for block in _blocks(columns, most):
        lines += [""] * bool(lines) + ["  ".join(cells).rstrip() for cells in zip(*block, strict=True)]
    return lines


def _padded(column: Sequence[str]) -> list[str]:
    width, is_numeric = max(map(len, column)), len(column) > 1 and all(map(_is_number, column[1:]))
    return [cell.rjust(width) if is_numeric else cell.ljust(width) for cell in column]


def _blocks(columns: list[list[str]], most: int | None) -> Iterator[list[list[str]]]:
    """Yield the columns in blocks of at most `most` characters; each begins with the first column."""
    if most is None or not columns:
        yield columns
        return
    first, block = columns[0], columns[:1]
    for column in columns[1:]:
        if len(block) > 1 and sum(len(kept[0]) + 2 for kept in block) + len(column[0]) > most:
            yield block
            block = [first]
        block.append(column)
    yield block


def _cell(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))


def _is_number(cell: str) -> bool:
    return cell == "-" or re.fullmatch(r"[-+]?[\d,]+(\.\d+)?(e[-+]?\d+)?( ?%)?|nan|inf", cell) is not None


class Progress:
    """The progress of a long task; `update` sets and shows it."""

    def __init__(self, label: str, unit: str, total: int | None) -> None:
        self.label, self.unit, self.total = label, unit, total
        self.done = 0
        self.remark = ""
        self.per_s: float | None = None
        self.show: Callable[[], None] = lambda: None
        self._first: tuple[int, float] | None = None  # done and time at the first update: resumed work is not speed

    def update(self, done: int, total: int | None = None, remark: str = "", per_s: float | None = None) -> None:
        """Set how many are done.

        Args:
            done: so far.
            total: if it is only known now.
            remark: shown with it, e.g. a loss.
            per_s: throughput; by default it is measured from the first update on.
        """
        self.done, self.total, self.remark = done, self.total if total is None else total, remark
        self._first = self._first or (done, time.monotonic())
        self.per_s = per_s
        self.show()

    def text(self, most: int = 1000) -> str:
        """Return `12,000 of 70,000 images, 1,200 images/s, 0:48 left, loss 0.1`, or less if `most` columns are few."""
        of = f" of {self.total:,}" if self.total is not None else ""
        long = [f"{self.done:,}{of} {self.unit}"]
        short = [f"{self.done / self.total:.0%}"] if self.total else [f"{self.done:,}"]
        if per_s := self._rate():
            digits = f"{per_s:,.3g}" if per_s < 1000 else f"{per_s:,.0f}"
            left = [f"{duration((self.total - self.done) / per_s)} left"] if self.total is not None else []
            long += [f"{digits} {self.unit}/s", *left]
            short += [f"{digits}/s", *left]
        remarks = self.remark.split(", ") if self.remark else []
        texts = [", ".join([*long, *remarks]), ", ".join([*short, *remarks]), ", ".join([*short, *remarks[-1:]])]
        return next((text for text in texts if len(text) <= most), ", ".join(short))

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
def progress(label: str, *, unit: str = "images", total: int | None = None) -> Iterator[Progress]:
    """Show a bar on stderr while the body runs.

    Where stderr is no terminal: a line every half minute and at the end, and one a minute while there is no progress.
    What is printed to stderr meanwhile appears above the bar. Ranks other than the main one show nothing.
    """
    state = Progress(label, unit, total)
    if not _speaks():
        yield state
        return
    with (_bar if sys.stderr.isatty() else _log)(state):
        yield state


@contextmanager
def _bar(state: Progress) -> Iterator[None]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bars
    from rich.table import Column

    console = Console(stderr=True)
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
def _log(state: Progress) -> Iterator[None]:
    started_at = time.monotonic()
    next_at, updated_at, last, ended = started_at + SECONDS_TO_FIRST_LINE, started_at, "", threading.Event()

    def print_line() -> None:
        nonlocal next_at, last
        next_at = time.monotonic() + SECONDS_BETWEEN_LINES
        line = f"{state.label}: {state.text()}"
        if line != last:
            note(line)
        last = line

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
