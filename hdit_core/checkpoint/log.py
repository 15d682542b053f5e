"""The record of a run: one JSON line each so many images."""

import json
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.layout import log_file
from hdit_core.files import write_atomic


class Log:
    """`log.jsonl` of a run. A resumed run continues the log of the step it resumes from: later lines are taken off."""

    def __init__(self, run: Path, step: int) -> None:
        self._path = log_file(run)
        if self._path.exists():
            lines = self._path.read_bytes().splitlines()
            kept = [line for line in lines if (at := _step_of(line)) is not None and at <= step]
            write_atomic(self._path, b"".join(line + b"\n" for line in kept))

    def write(self, record: dict[str, Any]) -> None:
        """Append a line, at once on its way to the disk."""
        with self._path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run, oldest first; a line that a crash cut short or spoilt is left out."""
    path = log_file(run)
    lines = path.read_bytes().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if _step_of(line) is not None]


def _step_of(line: bytes) -> int | None:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return None


SCORES = "scores.jsonl"


def read_scores(run: Path) -> list[dict[str, Any]]:
    """Return the lines of RUN/scores.jsonl, oldest first; a line that a crash cut short or spoilt is left out."""
    path = run / SCORES
    lines = [_table(line) for line in path.read_bytes().splitlines()] if path.exists() else []
    return [line for line in lines if "num_images" in line]


def _table(text: bytes) -> dict[str, Any]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
