"""The log of a run, `log.jsonl`, and its scores, `scores.jsonl`: a JSON line at regular intervals of images."""

import json
import math
from pathlib import Path
from typing import Any

from hdit_core import jsonl
from hdit_core.checkpoint.layout import log_file, scores_file

NUMBERS = (
    "lr",
    "elapsed_s",
    "loss",
    "grad_norm",
    "images_per_s",
    "flops_per_s",
    "waiting",
    "utilisation",
    "peak_bytes",
)
LARGEST_COUNT = 1 << 53


def cut_back_log(run: Path, step: int) -> None:
    """Remove the lines of later steps, which a resumed run reaches again."""
    jsonl.cut_back(log_file(run), lambda record: _has_counts(record, "step") and record["step"] <= step)


def read_log(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's log, oldest first, without truncated or corrupt lines and values."""
    records = jsonl.read(log_file(run))
    return [_valid(record) for record in records if _has_counts({"num_images": 0} | record, "step", "num_images")]


def read_scores(run: Path) -> list[dict[str, Any]]:
    """Return the records of a run's scores, oldest first, without truncated or corrupt lines and values."""
    return [_valid(record) for record in jsonl.read(scores_file(run)) if _has_counts(record, "step", "num_images")]


def cut_back_scores(run: Path, step: int) -> list[dict[str, Any]]:
    """Remove the scores of later steps, which a resumed run reaches again, and return the others."""
    return jsonl.cut_back(
        scores_file(run), lambda record: _has_counts(record, "step", "num_images") and record["step"] <= step
    )


def _has_counts(record: dict[str, Any], *names: str) -> bool:
    return all(type(record.get(name)) is int and abs(record[name]) <= LARGEST_COUNT for name in names)


def is_number(value: Any) -> bool:
    """Return whether a value from a file is a finite number."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _valid(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record without values that have another form than in a run's files."""
    return {key: value for key, value in record.items() if _is_valid(key, value)}


def _is_valid(key: str, value: Any) -> bool:
    if key in NUMBERS or isinstance(value, float):
        return is_number(value)
    if key == "loss_by_sigma":
        return isinstance(value, list) and all(map(_is_level, value))
    try:
        json.dumps(value, allow_nan=False)
    except ValueError:
        return False
    return True


def _is_level(row: Any) -> bool:
    """Return whether a row of `loss_by_sigma` has a range of noise levels, a number of images and a loss."""
    try:
        low, high = row["sigma"]
        return all(map(is_number, (low, high, row["images"], row["loss"])))
    except (KeyError, TypeError, ValueError):
        return False
