"""Append-only JSON Lines files, whose last line may be truncated after a crash.

Every line is a JSON object. All other lines (truncated, damaged, not UTF-8) are skipped.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from hdit_core.files import naming, write_atomic

Record = dict[str, Any]


def append(path: Path, record: Record) -> None:
    """Append one record; it is on the disk when this returns."""
    with naming(path), path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read(path: Path) -> list[Record]:
    """Return the records of a file, oldest first; empty if the file does not exist."""
    return [record for _, record in _lines(_content(path) or b"")]


def cut_back(path: Path, keep: Callable[[Record], bool]) -> list[Record]:
    """Remove every line that is not a record or that `keep` rejects, and return the remaining records.

    The bytes of the lines that stay do not change.
    """
    content = _content(path)
    if content is None:
        return []
    kept = [(line, record) for line, record in _lines(content) if keep(record)]
    write_atomic(path, b"".join(line + b"\n" for line, _ in kept))
    return [record for _, record in kept]


def _content(path: Path) -> bytes | None:
    """Return the bytes of a file, None if it does not exist."""
    try:
        with naming(path):
            return path.read_bytes()
    except FileNotFoundError:
        return None


def _lines(content: bytes) -> Iterator[tuple[bytes, Record]]:
    for line in content.split(b"\n"):
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(record, dict):
            yield line, record
