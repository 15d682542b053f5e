"""The log of a run, `log.jsonl`, and its scores, `scores.jsonl`: a JSON line at regular intervals of images."""

from pathlib import Path
from typing import Any

from hdit_core import jsonl
from hdit_core.checkpoint.layout import log_file, scores_file


class Log:
    """`log.jsonl` of a run. A resumed run continues the log of the step it resumes from; later lines are removed."""

    def __init__(self, run: Path, step: int) -> None:
        self._path = log_file(run)
        jsonl.cut_back(self._path, lambda record: _has_counts(record, "step") and record["step"] <= step)

    def write(self, record: dict[str, Any]) -> None:
        """Append a record; it is on the disk when this returns."""
        jsonl.append(self._path, record)


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's log, oldest first, without truncated or corrupt lines."""
    return [record for record in jsonl.read(log_file(run)) if _has_counts(record, "step")]


def read_scores(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's scores, oldest first, without truncated or corrupt lines."""
    return [record for record in jsonl.read(scores_file(run)) if _has_counts(record, "step", "num_images")]


def cut_back_scores(run: Path, step: int) -> list[dict[str, Any]]:
    """Remove the scores of later steps, which a resumed run reaches again, and return the others."""
    return jsonl.cut_back(
        scores_file(run), lambda record: _has_counts(record, "step", "num_images") and record["step"] <= step
    )


def _has_counts(record: dict[str, Any], *names: str) -> bool:
    return all(type(record.get(name)) is int for name in names)
