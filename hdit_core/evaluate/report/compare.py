"""Compares two results: differences of their metrics, and of their provenance, which may make them incomparable."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.report.result import FORMAT, PAIRED_FORMAT
from hdit_core.files import read_json
from hdit_core.recipe.diff import differences, flatten

LARGEST_BYTES = 16 << 20

# Comparable results may differ in the origin and the sampling of the images.
FREE = (
    "images.path",
    "images.kind",
    "images.root",
    "images.fingerprint",
    "images.weights",
    "images.model",
    "images.samples",
    "images.sampling",
    "images.seed",
    "images.guide",
    "images.subset_seed",
    "images.num_grey",
    "images.class_counts",
    "images.class_map",
    "reference.path",
    "reference.kind",
    "reference.images",
    "versions",
    "settings.kernel_seed",
)
LABELS = "images.labels"
SAMPLES = {
    "images.samples.settings.": "images.sampling.",
    "images.samples.seed": "images.seed",
    "images.samples.weights_sha256": "images.weights_sha256",
    "images.samples.guide.": "images.guide.",
}
"""Where a folder of samples has settings, by its samples.json, and where a checkpoint's result has them."""
REFERENCE_HASHES = ("reference.fingerprint", "reference.sha256", "reference.root")


@dataclass(frozen=True)
class Comparison:
    """Two results of `hdit eval-fid --json`.

    Attributes:
        paths: their files.
        names: names of their metrics, with the number of images.
        estimates: by metric, the estimates of both, as in their files.
        unlike: provenance keys, and the values of both, that make the numbers incomparable.
        other: provenance keys that differ and may.
    """

    paths: tuple[str, str]
    names: tuple[str, str]
    estimates: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    unlike: list[tuple[str, Any, Any]]
    other: list[tuple[str, Any, Any]]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each metric: both values, and their difference with its standard error."""
        return [_row(metric, a, b) for metric, (a, b) in self.estimates.items()]

    def to_json(self) -> dict[str, Any]:
        """Return the comparison as JSON values."""
        keys = ("key", "a", "b")
        return {
            "a": self.paths[0],
            "b": self.paths[1],
            "comparable": not self.unlike,
            "unlike": [dict(zip(keys, row, strict=True)) for row in self.unlike],
            "other": [dict(zip(keys, row, strict=True)) for row in self.other],
            "metrics": self.rows(),
        }


def compare_results(a: Path, b: Path, force: bool = False) -> Comparison:
    """Compare two results.

    Args:
        a: a file that `hdit eval-fid --json` printed.
        b: another.
        force: compare despite different settings.

    Raises:
        UsageError: there is no such file, or the results were measured differently and `force` is not set.
        DataError: a file is not such a result.
    """
    results = _load(a), _load(b)
    unlike, other = _differences(*(_provenance(result) for result in results))
    if results[0]["metric"] != results[1]["metric"]:
        unlike.insert(0, ("metric", results[0]["metric"], results[1]["metric"]))
    if unlike and not force:
        first = "; ".join(f"{key}: {_short(x)} and {_short(y)}" for key, x, y in unlike[:3])
        more = f"; and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        raise UsageError(f"{a} and {b} are not comparable: {first}{more}; --force compares them anyway")
    return Comparison((str(a), str(b)), (results[0]["name"], results[1]["name"]), _estimates(*results), unlike, other)


def _provenance(result: dict[str, Any]) -> dict[str, Any]:
    """Return what determines a result as key paths, without settings that have no value.

    PSNR leaves identical pairs out, so that their number is one of them.
    """
    counts = {key: result[key] for key in ("n", "n_identical") if key == "n" or key in result}
    flat = flatten(result["passport"] | counts)
    return {_common_key(key): value for key, value in flat.items() if value not in (None, "none")}


def _common_key(key: str) -> str:
    """Return the key under which a checkpoint's result has a setting that a folder's has from its samples.json."""
    for recorded, own in SAMPLES.items():
        if key.startswith(recorded):
            return own + key.removeprefix(recorded)
    return key


def _short(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _differences(a: dict[str, Any], b: dict[str, Any]) -> tuple[list[tuple[str, Any, Any]], list[tuple[str, Any, Any]]]:
    """Return the differences of two provenances: those that forbid a comparison, and the others."""
    allowed = [*FREE]
    if any(a.get(key) and a.get(key) == b.get(key) for key in REFERENCE_HASHES):
        allowed.append("reference.")
    if a.get("images.fingerprint") == b.get("images.fingerprint") or None in (a.get(LABELS), b.get(LABELS)):
        allowed.append(LABELS)  # the same images, or a folder, which does not say how its classes were chosen
    rows = differences(a, b)
    is_free = [key.startswith(tuple(allowed)) for key, _, _ in rows]
    unlike = [row for row, free in zip(rows, is_free, strict=True) if not free]
    return unlike, [row for row, free in zip(rows, is_free, strict=True) if free]


def _estimates(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return the metrics that both have; the Frechet distance has one name for any numbers of images."""
    tables = []
    for result in (a, b):
        rows = dict(result["estimates"])
        tables.append({result["metric"]: rows.pop(result["name"]), **rows})
    return {metric: (tables[0][metric], tables[1][metric]) for metric in tables[0] if metric in tables[1]}


def _row(metric: str, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    errors = a["standard_error"], b["standard_error"]
    error = None if None in errors else math.hypot(*errors)
    difference = b["value"] - a["value"]
    return {"metric": metric, "a": a["value"], "b": b["value"], "b - a": difference, "standard error": error}


def _load(path: Path) -> dict[str, Any]:
    """Return the result in a file, checked: the file may come from anywhere."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected a result that hdit eval-fid --json printed")
    try:
        result = read_json(path, LARGEST_BYTES)
        if result["format"] not in (FORMAT, PAIRED_FORMAT):
            raise ValueError(f"its format is {result['format']!r}")
        _check_shape(result)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise DataError(
            f"{path}: not a result of hdit eval-fid --json ({type(problem).__name__}: {problem}); score again"
        ) from None
    return result


def _check_shape(result: dict[str, Any]) -> None:
    """Raise if a value has the wrong type."""
    dict(result["passport"]), str(result["metric"]) + str(result["name"])
    for key in ("extractor", "images", "reference"):
        result["passport"][key].items()
    result["estimates"][result["name"]]
    for name, estimate in result["estimates"].items():
        for key in ("value", "standard_error"):
            if not isinstance(estimate[key], int | float) and (estimate[key] is not None or key == "value"):
                raise ValueError(f"{name}: its {key} is not a number")
