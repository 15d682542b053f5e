"""Labels that come in a file of their own beside the images.

.csv     columns file,label; or ImageId,PredictionString, as ImageNet's LOC_val_solution.csv has them
.jsonl   one {"file": ..., "label": ...} a line
.txt     one label a line, in the order of the files' names, as ImageNet's lists for its validation images
"""

import csv
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath

from hdit_core.data.format.manifest import MANIFEST, read_manifest
from hdit_core.errors import DataError, UsageError

LARGEST_LABEL_FILE_BYTES = 1 << 30

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth"
"""Its numbers follow a list of ImageNet's own, not the sorted wnids: a model would learn the wrong names."""

Row = tuple[int, object, object]  # line, file, label


def _csv_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        columns = set(table.fieldnames or ())
        if {"ImageId", "PredictionString"} <= columns:
            yield from ((table.line_num, row["ImageId"], _first_word(row["PredictionString"])) for row in table)
        elif {"file", "label"} <= columns:
            yield from ((table.line_num, row["file"], row["label"]) for row in table)
        else:
            raise DataError(f"{path}: its first line must name the columns file,label; found {table.fieldnames}")


def _first_word(prediction: str | None) -> str | None:
    """Return the class of `n03995372 85 1 499 272 ...`, a class and its box, repeated where there are several boxes."""
    words = (prediction or "").split()
    return words[0] if words else None


def _jsonl_rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, 1):
            if line.strip():
                row = json.loads(line)
                fields = row if isinstance(row, dict) else {}
                yield line_number, fields.get("file"), fields.get("label")


_ROWS: dict[str, Callable[[Path], Iterator[Row]]] = {".csv": _csv_rows, ".jsonl": _jsonl_rows}


def _named(path: Path) -> dict[str, str]:
    """Return the label of each file name in a csv or jsonl file."""
    labels: dict[str, str] = {}
    for line_number, name, label in _ROWS[path.suffix.lower()](path):
        if not isinstance(name, str) or not name or not isinstance(label, str | int) or label == "":
            raise DataError(f"{path}:{line_number}: expected a file and a label, found {name!r} and {label!r}")
        first = labels.setdefault(str(PurePosixPath(name)), str(label))
        if first != str(label):
            raise DataError(f"{path}:{line_number}: '{name}' has two labels, {first!r} and {str(label)!r}")
    return labels


def _in_order(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the label of each file where the list has one label a line."""
    if path.stem == _GROUND_TRUTH:
        raise DataError(
            f"{path}: its numbers are not places among the sorted class names; "
            "take LOC_val_solution.csv, or a list with one wnid such as n01440764 a line"
        )
    lines = path.read_text(encoding="utf-8-sig").split("\n")
    labels = [line.strip() for line in (lines[:-1] if lines[-1] == "" else lines)]
    if len(labels) != len(names):
        raise DataError(
            f"{path}: has {len(labels):,} lines, the source {len(names):,} files; "
            "expected one label a line, in the order of the files' names"
        )
    if "" in labels:
        raise DataError(f"{path}:{labels.index('') + 1}: expected a label, found an empty line")
    return dict(zip(sorted(names), labels, strict=True))


def _whole_names(labels: dict[str, str], names: Sequence[str]) -> dict[str, str]:
    """Give labels that name files without folder and ending, as ImageNet's do, the names that the source has."""
    known = set(names)
    stems = {PurePosixPath(name).stem: name for name in names}
    return {name if name in known else stems.get(name, name): label for name, label in labels.items()}


def read_labels(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the label of each file name that the labels name, whether the source has it or not.

    Args:
        path: of the labels.
        names: of the files of the source.

    Raises:
        UsageError: there is no such file, or its name ends in something else.
        DataError: it cannot be read, contradicts itself, or names nothing.
    """
    if path.suffix.lower() not in (*_ROWS, ".txt") or not path.is_file():
        raise UsageError(f"--labels {path}: expected auto, none, or a file that ends in .csv, .jsonl or .txt")
    if path.stat().st_size > LARGEST_LABEL_FILE_BYTES:
        raise DataError(f"{path}: larger than {LARGEST_LABEL_FILE_BYTES >> 20} MiB, which no list of labels is")
    try:
        labels = _named(path) if path.suffix.lower() in _ROWS else _in_order(path, names)
    except (ValueError, csv.Error, RecursionError) as problem:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]} ({problem})") from None
    if not labels:
        raise DataError(f"{path}: names no file")
    return _whole_names(labels, names)


IMAGENET = "imagenet"
IMAGENET_LIST = Path(__file__).with_name("imagenet_classes.txt")
LARGEST_LIST_BYTES = 1 << 26

_WNID_LINE = re.compile(r"(n[0-9]{8})(\s|$)")


def _of_text(path: Path) -> list[str]:
    """Return the classes of a list with one a line: its first word where each line begins with a wnid, else all."""
    lines = [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    wnids = [match[1] for line in lines if (match := _WNID_LINE.match(line))]
    return wnids if len(wnids) == len(lines) else lines


def _of_json(path: Path) -> list[str]:
    """Return the classes of a JSON list, or of an object {"0": ["n01440764", "tench"], ...} such as Keras has."""
    document = json.loads(path.read_text(encoding="utf-8-sig"))
    if isinstance(document, dict):
        document = [document.get(str(number)) for number in range(len(document))]
    first = [one[0] if isinstance(one, list) and one else one for one in document] if document else []
    if not isinstance(document, list) or not all(isinstance(name, str) for name in first):
        raise DataError(f'{path}: expected a list of class names, or {{"0": ["n01440764", "tench"], "1": ...}}')
    return first


def _of_data_set(folder: Path) -> list[str]:
    classes = read_manifest(folder).contents.classes
    if classes is None:
        raise DataError(f"{folder}: is a data set without classes; leave --classes out, or name one with classes")
    return list(classes)


def _of_file(path: Path) -> list[str]:
    if path.stat().st_size > LARGEST_LIST_BYTES:
        raise DataError(f"{path}: larger than {LARGEST_LIST_BYTES >> 20} MiB, which no list of classes is")
    try:
        return _of_json(path) if path.suffix.lower() == ".json" else _of_text(path)
    except (ValueError, TypeError, RecursionError) as problem:
        raise DataError(f"{path}: cannot be read as a list of classes ({problem})") from None


def read_classes(location: str) -> tuple[str, ...]:
    """Return class names in the order of their numbers.

    Args:
        location: `imagenet`; a prepared data set; or a file: one class a line, or JSON.

    Raises:
        UsageError: there is nothing of this name.
        DataError: it cannot be read, is empty, or has a class twice.
    """
    path = Path(location)
    if location == IMAGENET:
        classes = _of_file(IMAGENET_LIST)
    elif (path / MANIFEST).is_file():
        classes = _of_data_set(path)
    elif path.is_file():
        classes = _of_file(path)
    else:
        raise UsageError(f"--classes {location}: expected imagenet, a prepared data set, or a file of class names")
    if not classes:
        raise DataError(f"{location}: names no class")
    if len(set(classes)) != len(classes):
        twice = next(name for number, name in enumerate(classes) if name in classes[:number])
        raise DataError(f"{location}: has the class {twice!r} twice")
    return tuple(classes)
