"""The output of commands: results on stdout (`emit`), notes and progress on stderr."""

import json
import re
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import typer

from hdit_core.progress_bar import duration as duration  # for the commands, which print through this module
from hdit_core.progress_bar import may_print
from hdit_core.progress_bar import note as note
from hdit_core.progress_bar import printable as printable
from hdit_core.progress_bar import progress as progress
from hdit_core.progress_bar import show_log_messages as show_log_messages


def emit(result: Any, as_json: bool, lines: Iterable[str] | None = None, *, err: bool = False) -> None:
    """Print a command's result on stdout, or on stderr if stdout carries images; on the main rank only.

    Args:
        result: the document for `--json`: mappings, sequences, numbers, text, paths.
        as_json: the value of `--json`.
        lines: the output without `--json`. By default a mapping is printed as one `key  value` per line, a sequence of
            mappings as a table.
        err: print on stderr.
    """
    if not may_print():
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
        return align([(str(key), cell(value)) for key, value in result.items()])
    return table(result)


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table with the keys of the first row as its header; numbers are right-aligned."""
    if not rows:
        return []
    head = list(rows[0])
    return align([head, *([cell(row.get(key)) for key in head] for row in rows)])


def align(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows of cells as lines with aligned columns; columns of numbers are right-aligned.

    A table of three or more columns that is wider than the terminal is printed in blocks of columns, each with the
    first column. If stdout is not a terminal, a table is never split.
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
    """Yield the columns in blocks of at most `most` characters; each starts with the first column."""
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


def cell(value: Any) -> str:
    """Return a value as a table or a list of keys and values shows it."""
    if isinstance(value, list | tuple):
        return ", ".join(map(cell, value)) or "-"
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))


def _is_number(cell: str) -> bool:
    return cell == "-" or re.fullmatch(r"[-+]?[\d,]+(\.\d+)?(e[-+]?\d+)?( ?%)?|nan|inf", cell) is not None
