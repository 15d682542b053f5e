"""The trials of a sweep on disk, one line each, so that an interrupted sweep resumes and another grid reuses them.

{"plan": {...}}                                                        everything that all distances depend on
{"point": {"weights": "ema", "guidance": 1.5}, "n": 4096, "value": 3.21, "standard_error": 0.08}
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdit_core import jsonl
from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.metrics.confidence_intervals import T_QUANTILE
from hdit_core.evaluate.sweep.search_space import Point
from hdit_core.files import read_json, write_atomic
from hdit_core.recipe.diff import describe_differences, differences

NAME = "journal.jsonl"
OLD_KEYS = ("grid", "n", "confirm")  # once part of the plan; trials do not depend on them
LARGEST_BYTES = 64 << 20


@dataclass(frozen=True)
class Trial:
    """The distance of a candidate at a number of images, with its standard error."""

    point: Point
    n: int
    value: float
    standard_error: float | None

    @property
    def margin(self) -> float:
        """Half of the 95 % interval; NaN if the standard error is unknown."""
        return math.nan if self.standard_error is None else T_QUANTILE * self.standard_error

    def to_json(self) -> dict[str, Any]:
        """Return the trial as a line of the journal."""
        named = {"point": self.point.to_json(), "n": self.n}
        return named | {"value": self.value, "standard_error": self.standard_error}


class Journal:
    """The trials of a sweep, on disk."""

    def __init__(self, folder: Path, plan: dict[str, Any]) -> None:
        """Start a journal, or continue that of the same plan; a line truncated by a kill is dropped.

        Raises:
            UsageError: the folder has a journal of another plan, or another file of this name.
        """
        self._path = folder / NAME
        self._plan: dict[str, Any] = json.loads(json.dumps(plan))
        self.trials: dict[tuple[str, int], dict[str, Any]] = {}
        lines = self._read(folder) if self._path.exists() else []
        for line in lines[1:]:
            self.trials[_key(line["point"], line["n"])] = line
        write_atomic(self._path, "".join(json.dumps(line) + "\n" for line in [{"plan": self._plan}, *lines[1:]]))

    def trial(self, point: Point, n: int) -> Trial | None:
        """Return the trial of a candidate at a number of images, if it is there."""
        line = self.trials.get(_key(point.to_json(), n))
        return None if line is None else Trial(point, n, line["value"], line["standard_error"])

    def add(self, trial: Trial) -> None:
        """Append a trial; it is on the disk when this returns."""
        line = trial.to_json()
        self.trials[_key(line["point"], trial.n)] = line
        jsonl.append(self._path, line)

    def _read(self, folder: Path) -> list[dict[str, Any]]:
        if self._path.stat().st_size > LARGEST_BYTES:
            raise UsageError(
                f"{self._path}: more than {LARGEST_BYTES >> 20} MiB, not the journal of a sweep; pass another --out"
            )
        lines = [line for line in jsonl.read(self._path) if _is_valid(line)]
        if not lines or "plan" not in lines[0]:
            raise UsageError(f"{self._path}: not the journal of a sweep; pass another folder by --out")
        plan = {key: value for key, value in lines[0]["plan"].items() if key not in OLD_KEYS}
        if changed := differences(plan, self._plan):
            changes = describe_differences(changed, "there", "now")
            raise UsageError(f"{folder}: has a sweep with other settings: {changes}; remove it, or pass another --out")
        return lines


def read_winner(path: Path, point: Point, n: int) -> dict[str, Any] | None:
    """Return the score of the winner; None if the file does not exist, or is of another candidate or n.

    Raises:
        DataError: the file is damaged.
    """
    if not path.exists():
        return None
    try:
        result = read_json(path, LARGEST_BYTES)
        complete = isinstance(result["value"], float) and "value" in result["estimates"][result["name"]]
    except (ValueError, KeyError, TypeError):
        complete = False
    if not complete:
        raise DataError(f"{path}: not the score of a sweep's winner; remove it to score the winner again")
    return result if (result.get("point"), result.get("n")) == (point.to_json(), n) else None


def _is_valid(line: dict[str, Any]) -> bool:
    """Return whether a line is the plan or a trial."""
    try:
        if "plan" not in line:
            _ = float(line["value"]), int(line["n"]), dict(line["point"]), line["standard_error"]
    except (ValueError, KeyError, TypeError):
        return False
    return True


def _key(point: dict[str, Any], n: int) -> tuple[str, int]:
    return json.dumps(point, sort_keys=True), n
