"""Two results side by side: what is unlike in their passports, and whether their numbers may be compared at all."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hdit_core.errors import DataError, UsageError
from hdit_core.evaluate.report.result import FORMAT
from hdit_core.files import read_json
from hdit_core.recipe.diff import differences, flatten

LARGEST_BYTES = 16 << 20

# What two results may differ in, and are usually compared for: where the images came from, and who drew them how.
FREE = (
    "images.path",
    "images.kind",
    "images.root",
    "images.fingerprint",
    "images.weights",
    "images.sampling",
    "images.seed",
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
REFERENCE_HASHES = ("reference.fingerprint", "reference.sha256", "reference.root")


@dataclass(frozen=True)
class Comparison:
    """Two results of `hdit eval-fid --json`.

    Attributes:
        paths: their files.
        names: of their metrics, with the number of images.
        estimates: by metric, the estimates of both, as in their files.
        unlike: keys of the passports, and values on both sides, which make the numbers incomparable.
        other: those that differ and may.
    """

    paths: tuple[str, str]
    names: tuple[str, str]
    estimates: dict[str, tuple[dict[str, Any], dict[str, Any]]]
    unlike: list[tuple[str, Any, Any]]
    other: list[tuple[str, Any, Any]]

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each metric: both values and their difference with its standard error."""
        return [_row(metric, a, b) for metric, (a, b) in self.estimates.items()]

    def to_json(self) -> dict[str, Any]:
        """Return all of it as JSON knows it."""
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
        force: compare results whose passports are unlike.

    Raises:
        UsageError: there is no such file, or the passports are unlike and nobody forced it.
        DataError: a file is no such result.
    """
    results = _load(a), _load(b)
    passports = [result["passport"] | {"n": result["n"]} for result in results]
    unlike, other = _differences(*passports)
    if results[0]["metric"] != results[1]["metric"]:
        unlike.insert(0, ("metric", results[0]["metric"], results[1]["metric"]))
    if unlike and not force:
        first = "; ".join(f"{key} is {_short(x)} and {_short(y)}" for key, x, y in unlike[:3])
        more = f"; and {len(unlike) - 3} more" if len(unlike) > 3 else ""
        raise UsageError(f"{a} and {b} are not comparable: {first}{more}; --force compares them all the same")
    return Comparison((str(a), str(b)), (results[0]["name"], results[1]["name"]), _estimates(*results), unlike, other)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _differences(a: dict[str, Any], b: dict[str, Any]) -> tuple[list[tuple[str, Any, Any]], list[tuple[str, Any, Any]]]:
    """Return in what two passports differ: what forbids a comparison, and what does not."""
    flat_a, flat_b = flatten(a), flatten(b)
    same_reference = any(flat_a.get(key) and flat_a.get(key) == flat_b.get(key) for key in REFERENCE_HASHES)
    unlike: list[tuple[str, Any, Any]] = []
    other: list[tuple[str, Any, Any]] = []
    for row in differences(a, b):
        free = row[0].startswith(FREE) or (same_reference and row[0] in REFERENCE_HASHES)
        (other if free else unlike).append(row)
    return unlike, other


def _estimates(a: dict[str, Any], b: dict[str, Any]) -> dict[str, tuple[dict[str, Any], dict[str, Any]]]:
    """Return the estimates that both have; the Frechet distance's under one name, whatever the numbers of images."""
    found = []
    for result in (a, b):
        rows = dict(result["estimates"])
        found.append({result["metric"]: rows.pop(result["name"]), **rows})
    return {metric: (found[0][metric], found[1][metric]) for metric in found[0] if metric in found[1]}


def _row(metric: str, a: dict[str, Any], b: dict[str, Any]) -> dict[str, Any]:
    errors = a["standard_error"], b["standard_error"]
    error = None if None in errors else math.hypot(*errors)
    difference = b["value"] - a["value"]
    return {"metric": metric, "a": a["value"], "b": b["value"], "b - a": difference, "standard error": error}


def _load(path: Path) -> dict[str, Any]:
    """Read a result, whoever wrote the file."""
    if not path.is_file():
        raise UsageError(f"{path}: no such file; expected a result that hdit eval-fid --json printed")
    try:
        result = read_json(path, LARGEST_BYTES)
        if result["format"] != FORMAT:
            raise ValueError(f"its format is {result['format']!r}")
        _check_shape(result)
    except (ValueError, TypeError, KeyError, AttributeError) as problem:
        raise DataError(
            f"{path}: not a result of hdit eval-fid --json ({type(problem).__name__}: {problem}); score again"
        ) from None
    return result


def _check_shape(result: dict[str, Any]) -> None:
    """Raise where something is not of its kind."""
    dict(result["passport"]), str(result["metric"]) + str(result["name"])
    for key in ("extractor", "images", "reference"):
        result["passport"][key].items()
    result["estimates"][result["name"]]
    for name, found in result["estimates"].items():
        for key in ("value", "standard_error"):
            if not isinstance(found[key], int | float) and (found[key] is not None or key == "value"):
                raise ValueError(f"{name}: its {key} is no number")
