"""What a sweep has found so far, one line a point, so that a killed one goes on.

{"plan": {...}}                                                        everything that the scores depend on
{"point": {"weights": "ema", "guidance": 1.5}, "n": 4096, "value": 3.21, "standard_error": 0.08}
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdit_core import jsonl
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.sweep.search_space import Point
from hdit_core.files import read_json, write_atomic
from hdit_core.recipe.diff import describe_differences, differences

NAME = "journal.jsonl"
LARGEST_BYTES = 64 << 20


@dataclass(frozen=True)
class Trial:
    """A point's distance at a number of images, with its standard error."""

    point: Point
    n: int
    value: float
    standard_error: float | None

    def to_json(self) -> dict[str, Any]:
        """Return it as a line of the journal."""
        named = {"point": self.point.to_json(), "n": self.n}
        return named | {"value": self.value, "standard_error": self.standard_error}


class Journal:
    """The trials of one sweep, on disk."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        """Begin a journal, or go on with that of the same plan; a line that a kill cut short is dropped.

        Raises:
            UsageError: the folder holds another sweep, or something else.
        """
        self._path = folder / NAME
        self._plan: dict[str, Any] = json.loads(json.dumps(plan))
        self.trials: dict[tuple[str, int], dict[str, Any]] = {}
        lines = self._read(folder) if self._path.exists() else []
        for line in lines[1:]:
            self.trials[_key(line["point"], line["n"])] = line
        write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in [{"plan": self._plan}, *lines[1:]]))

    def value(self, point: Point, n: int) -> Trial | None:
        """Return what was found of a point at a number of images."""
        line = self.trials.get(_key(point.to_json(), n))
        return None if line is None else Trial(point, n, line["value"], line["standard_error"])

    def add(self, trial: Trial) -> None:
        """Write down a trial; it is on the disk when this returns."""
        line = trial.to_json()
        self.trials[_key(line["point"], trial.n)] = line
        jsonl.append(self._path, line)

    def _read(self, folder: Path) -> list[dict[str, Any]]:
        if self._path.stat().st_size > LARGEST_BYTES:
            raise UsageError(
                f"{self._path}: more than {LARGEST_BYTES >> 20} MiB, which no sweep has; give another --out"
            )
        lines = [line for line in jsonl.read(self._path) if _is_valid(line)]
        if not lines or "plan" not in lines[0]:
            raise UsageError(f"{self._path}: not the journal of a sweep; give another folder with --out")
        if found := differences(lines[0]["plan"], self._plan):
            changes = describe_differences(found, "there", "now")
            raise UsageError(f"{folder}: holds another sweep: {changes}; remove it, or give another folder with --out")
        return lines


def read_winner(path: Path) -> dict[str, Any]:
    """Return the score that a sweep confirmed its best with.

    Raises:
        DataError: the file is damaged.
    """
    try:
        found = read_json(path, LARGEST_BYTES)
        whole = isinstance(found["value"], float) and "value" in found["estimates"][found["name"]]
    except (ValueError, KeyError, TypeError):
        whole = False
    if not whole:
        raise DataError(f"{path}: not the score that a sweep writes; remove it, and the best is scored again")
    return found


def _is_valid(line: dict[str, Any]) -> bool:
    """Return whether a line holds the plan or a trial."""
    try:
        if "plan" not in line:
            _ = float(line["value"]), int(line["n"]), dict(line["point"]), line["standard_error"]
    except (ValueError, KeyError, TypeError):
        return False
    return True


def _key(point: dict[str, Any], n: int) -> tuple[str, int]:
    return json.dumps(point, sort_keys=True), n
