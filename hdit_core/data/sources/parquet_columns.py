"""Finds the columns of a Parquet file by its schema and Hugging Face's metadata, and reads one of them row by row."""

import json
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hdit_core.data.sources.labels.label_notation import MOST_CLASSES, parse_label
from hdit_core.errors import DataError

_BYTES = ("binary", "large_binary")
_TEXT = ("string", "large_string")
LONGEST_VALUE_BYTES = 1 << 16  # of a label, or of the name of a file
VALUES_AT_ONCE = (
    16  # before their length is known: a value that fills memory takes a few bytes, however often it occurs
)


@dataclass(frozen=True)
class Columns:
    """Where the images and their classes are."""

    content: str  # the image's bytes: a column, or a field of it
    path: str | None  # the image's name, if it has one
    label: str | None
    classes: tuple[str, ...] | None  # names of the numbers in `label`, if the file has them


def _features(schema: Any) -> dict[str, dict[str, Any]]:
    """Return Hugging Face's metadata of each column; nothing if they cannot be read."""
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return {name: about for name, about in features.items() if isinstance(about, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _of_type(features: dict[str, dict[str, Any]], kind: str) -> list[str]:
    return [name for name, about in features.items() if about.get("_type") == kind]


def _only(found: list[str], preferred: tuple[str, ...]) -> str | None:
    """Return the column of a preferred name, else the only one."""
    named = [name for name in preferred if name in found]
    return named[0] if named else found[0] if len(found) == 1 else None


def _class_names(features: dict[str, dict[str, Any]], label: str | None, path: Path) -> tuple[str, ...] | None:
    names = features.get(label or "", {}).get("names")
    if names is None:
        return None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) < len(names):
        raise DataError(f"{path}: its metadata does not give each class of the column '{label}' one name")
    return tuple(names)


def image_column(schema: Any, name: str) -> str | None:
    """Return the column, or its field, with the bytes of an image; None if it contains no images."""
    parts = {part.name: part.type for part in schema.field(name).flatten()}
    return next((each for each in (f"{name}.bytes", name) if str(parts.get(each)) in _BYTES), None)


def text_column(schema: Any, names: Sequence[str]) -> str | None:
    """Return the first of these columns that contains text, None if there is none."""
    return next((name for name in names if name in schema.names and str(schema.field(name).type) in _TEXT), None)


class ColumnReader:
    """One column of a file, whose rows are read in ascending order."""

    def __init__(self, values_of: Callable[[int], Iterator[Any]], starts: Sequence[int]) -> None:
        """Read nothing yet.

        Args:
            values_of: returns the values of a row group.
            starts: the first row of each row group, then the number of rows.
        """
        self._values_of, self._starts = values_of, starts
        self._values: Iterator[Any] = iter(())
        self._group, self._next_row = -1, 0

    def value(self, row: int) -> Any:
        """Return pyarrow's value of a row.

        Raises:
            StopIteration: the file has fewer rows than in its metadata.
        """
        group = bisect_right(self._starts, row) - 1
        if group != self._group or row < self._next_row:
            self._group, self._next_row = group, self._starts[group]
            self._values = self._values_of(group)
        try:
            value = next(islice(self._values, row - self._next_row, None))
        except Exception:
            self._group = -1
            raise
        self._next_row = row + 1
        return value


def short_values(column: Any, arrow: Any, where: str) -> list[object]:
    """Return some values of a column of labels or names.

    Args:
        column: pyarrow's array.
        arrow: the package pyarrow.
        where: name of the file in messages.

    Raises:
        DataError: a value is too long.
    """
    values = column.dictionary if arrow.types.is_dictionary(column.type) else column
    is_text = str(values.type) in (*_BYTES, *_TEXT)
    longest = arrow.compute.max(arrow.compute.binary_length(values)).as_py() if is_text else None
    if longest is not None and longest > LONGEST_VALUE_BYTES:
        raise DataError(
            f"{where}: a label or name of {longest:,} bytes, expected at most {LONGEST_VALUE_BYTES:,}; shorten it"
        )
    found: list[object] = column.to_pylist()
    return found


def find_columns(schema: Any, path: Path) -> Columns:
    """Return the columns of a Parquet file with images and classes.

    Args:
        path: path of the file, for errors.

    Raises:
        DataError: no column contains images, or several may contain classes.
    """
    features = _features(schema)
    fields = {field.name: field for field in schema}
    images = [name for name in fields if name in ("image", "img", *_of_type(features, "Image"))]
    labels = [name for name in fields if name in ("label", "labels", *_of_type(features, "ClassLabel"))]
    image, label = _only(images, ("image", "img")), _only(labels, ("label", "labels", "fine_label"))
    parts = {} if image is None else {part.name: part.type for part in fields[image].flatten()}
    content = next((name for name in (f"{image}.bytes", image) if str(parts.get(name)) in _BYTES), None)
    if image is None or content is None:
        raise DataError(
            f"{path}: no images in its columns {', '.join(fields)}; expected 'image', bytes or {{bytes, path}}"
        )
    if labels and label is None:
        raise DataError(f"{path}: classes in several columns, {', '.join(labels)}; rename the right one to 'label'")
    name = f"{image}.path" if str(parts.get(f"{image}.path")) in _TEXT else None
    return Columns(content, name, label, _class_names(features, label, path))


def class_of(label: object, classes: Sequence[str] | None) -> tuple[str | None, str | None]:
    """Return the class name and its problem; Hugging Face writes -1 for an unknown class."""
    if label is None or (label == -1 and not isinstance(label, str)) or label != label:
        return None, None
    try:
        parsed = parse_label(label)
    except ValueError as problem:
        return None, str(problem)
    if isinstance(parsed, str) and (classes is None or parsed in classes):
        return parsed, None
    if isinstance(parsed, int) and 0 <= parsed < (MOST_CLASSES if classes is None else len(classes)):
        raw = label if isinstance(label, str) and label.isdecimal() else str(parsed)
        return raw if classes is None else classes[parsed], None
    return None, "its class is none of the file's classes" if classes else "its class is neither a number nor a name"
