"""Which class each input has: from the folders they lie in, from a file, or none.

Class numbers are the places of the sorted class names; names that are all whole numbers are sorted as numbers, so that
class 10 of 0..101 has number 10.
"""

import csv
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from hdit_core.data.shard import NO_LABEL
from hdit_core.data.source import Entry
from hdit_core.errors import DataError, UsageError

BY_FOLDER = "auto"
WITHOUT = "none"

_IMAGE_SUFFIX = re.compile(r"\.(png|jpe?g|webp|gif|bmp|tiff?|p[bgpn]m|jp2|avif)$", re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"0|[1-9][0-9]{0,17}")
_NOT_A_CLASS = re.compile(r"(^|/)(\.[^/]*|__MACOSX)/")


@dataclass(frozen=True, slots=True)
class Input:
    """One input of the preparation: it becomes a sample or a reject."""

    name: str
    class_name: str | None = None
    problem: str | None = None


def class_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct names in the order of their class numbers."""
    distinct = set(names)
    as_numbers = all(_WHOLE_NUMBER.fullmatch(name) for name in distinct)
    return tuple(sorted(distinct, key=int if as_numbers else None))


def class_ids(inputs: Sequence[Input]) -> tuple[tuple[str, ...] | None, list[int]]:
    """Return the class names, None without classes, and the class number of each input."""
    classes = class_names(one.class_name for one in inputs if one.class_name is not None)
    numbers = {name: number for number, name in enumerate(classes)}
    return classes or None, [NO_LABEL if one.class_name is None else numbers[one.class_name] for one in inputs]


def _without_labels(entries: Sequence[Entry]) -> list[Input]:
    return [Input(entry.name, problem=entry.problem) for entry in entries]


def _common_folders(names: Sequence[str]) -> str:
    """Return the folders that all names lie in, as `"a/b/"`: an archive often wraps everything in one."""
    folders = [name.split("/")[:-1] for name in (min(names), max(names))]
    shared = 0
    while shared < min(map(len, folders)) and folders[0][shared] == folders[1][shared]:
        shared += 1
    return "".join(f"{folder}/" for folder in folders[0][:shared])


def _by_folder(entries: Sequence[Entry]) -> list[Input]:
    """Take the top folder of each entry for its class, where all images lie in such folders."""
    visible = [entry.name for entry in entries if not _NOT_A_CLASS.search(entry.name)]
    images = [name for name in visible if _IMAGE_SUFFIX.search(name)] or visible
    if not images:
        return _without_labels(entries)
    wrapping = _common_folders(images)
    loose = [name for name in images if "/" not in name.removeprefix(wrapping)]
    if len(loose) == len(images):
        return _without_labels(entries)
    if loose:
        raise DataError(
            f"{len(loose):,} images such as '{loose[0]}' lie beside {len(images) - len(loose):,} in folders: "
            "no class for the former; move them into a class folder, or say --labels none"
        )
    return [_input_in_folder(entry, wrapping) for entry in entries]


def _readable(name: str) -> str:
    r"""Return a name with the bytes that are not UTF-8 written out, as in `caf\xe9`."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _input_in_folder(entry: Entry, wrapping: str) -> Input:
    if _NOT_A_CLASS.search(entry.name):
        return Input(entry.name, problem=entry.problem or "in a hidden folder")
    inside = entry.name.removeprefix(wrapping)
    if "/" not in inside or not entry.name.startswith(wrapping):
        return Input(entry.name, problem=entry.problem or "not in a class folder")
    return Input(entry.name, _readable(inside.split("/")[0]), entry.problem)


def _csv_rows(path: Path) -> Iterator[tuple[int, object, object]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        table = csv.DictReader(file)
        if not {"file", "label"} <= set(table.fieldnames or ()):
            raise DataError(f"{path}: its first line must name the columns file,label; found {table.fieldnames}")
        for row in table:
            yield table.line_num, row["file"], row["label"]


def _jsonl_rows(path: Path) -> Iterator[tuple[int, object, object]]:
    with path.open(encoding="utf-8-sig") as file:
        for line_number, line in enumerate(file, 1):
            if line.strip():
                row = json.loads(line)
                fields = row if isinstance(row, dict) else {}
                yield line_number, fields.get("file"), fields.get("label")


def _read_labels(path: Path) -> dict[str, str]:
    """Return the label of each file name in a csv or jsonl file."""
    read = {".csv": _csv_rows, ".jsonl": _jsonl_rows}.get(path.suffix.lower())
    if read is None or not path.is_file():
        raise UsageError(f"--labels {path}: expected auto, none, or a file that ends in .csv or .jsonl")
    labels: dict[str, str] = {}
    try:
        for line_number, name, label in read(path):
            if not isinstance(name, str) or not name or not isinstance(label, str | int) or label == "":
                raise DataError(f"{path}:{line_number}: expected a file and a label, found {name!r} and {label!r}")
            first = labels.setdefault(str(PurePosixPath(name)), str(label))
            if first != str(label):
                raise DataError(f"{path}:{line_number}: '{name}' has two labels, {first!r} and {str(label)!r}")
    except (ValueError, csv.Error, RecursionError) as problem:
        raise DataError(f"{path}: cannot be read as {path.suffix[1:]} ({problem})") from None
    if not labels:
        raise DataError(f"{path}: names no file")
    return labels


def _by_file(entries: Sequence[Entry], path: Path) -> list[Input]:
    """Take labels from a file; entries that it does not name are rejects, and so are names that are no entry."""
    labels = _read_labels(path)
    unnamed = f"no label in {path.name}"
    found = [
        Input(entry.name, labels.get(entry.name), entry.problem or (None if entry.name in labels else unnamed))
        for entry in entries
    ]
    names = {entry.name for entry in entries}
    return found + [
        Input(name, label, f"named in {path.name}, not found") for name, label in labels.items() if name not in names
    ]


def label_entries(entries: Sequence[Entry], labels: str) -> list[Input]:
    """Return the inputs: the entries in their order, then what the labels name and the source does not hold.

    Args:
        entries: of the source.
        labels: `"auto"` (class folders, where there are), `"none"`, or the path of a csv or jsonl file.

    Raises:
        UsageError, DataError: the labels cannot be read, or leave it open which class an image has.
    """
    if labels == WITHOUT:
        return _without_labels(entries)
    return _by_folder(entries) if labels == BY_FOLDER else _by_file(entries, Path(labels))
