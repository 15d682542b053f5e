"""Label files that are given by `--labels` and `--classes`.

.csv, .tsv  columns of file names and labels, such as file,label; or ImageNet's ImageId,PredictionString
.parquet    the same columns
.jsonl      one {"file": ..., "label": ...} per line
.json       StyleGAN's and EDM's dataset.json, {"labels": [["00000/img00000000.png", 6], ...]}
.txt        one label per line, in the order of the files' names, as in ImageNet's lists for its validation images;
            or the name of a file and its label per line, as in Caffe's lists
"""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from hdit_core.data.format.manifest import MANIFEST, read_manifest
from hdit_core.data.sources.labels.label_notation import as_names
from hdit_core.data.sources.labels.name_index import AmbiguousNameError, NameIndex
from hdit_core.data.sources.labels.tables import Row, join, read_rows, unique_labels
from hdit_core.data.sources.labels.text_encoding import decode_text
from hdit_core.errors import DataError, UsageError
from hdit_core.files import read_bytes

LARGEST_LABEL_FILE_BYTES = 1 << 30

_GROUND_TRUTH = "ILSVRC2012_validation_ground_truth"
"""Its numbers refer to ImageNet's own list, not to the sorted wnids: a model would learn the wrong names."""

_TABLES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
_INDEX_AND_LABEL = re.compile(r"[0-9]+[\s,;]+[0-9]+")  # as in image_class_labels.txt of CUB-200
_SEPARATOR = re.compile(r"[\s,;]+")


def _lines(text: str) -> list[str]:
    """Return the lines of a list from any system, without empty lines at its end."""
    lines = [line.strip() for line in re.split("\r\n|\n|\r", text)]
    while lines and not lines[-1]:
        lines.pop()
    return lines


def _is_file(name: str, index: NameIndex) -> bool:
    try:
        return index.find(name) is not None
    except AmbiguousNameError:
        return True


def _pair(line: str, index: NameIndex) -> tuple[str, str] | None:
    """Return the name of a file with which a line begins, and the rest as its label; None if it begins with none.

    Names and labels may contain spaces; a label of one word is the most frequent.
    """
    separators = list(_SEPARATOR.finditer(line))
    for separator in separators[-1:] + separators[:-1]:
        if _is_file(line[: separator.start()], index):
            return line[: separator.start()], line[separator.end() :]
    return None


def _pairs(lines: Sequence[str], names: Sequence[str], where: str) -> dict[str, str] | None:
    """Return the label of each name if any line begins with the name of a file, as in Caffe's lists; otherwise None."""
    index = NameIndex(names)
    pairs = [_pair(line, index) for line in lines]
    if not any(pairs):
        return None
    rows: list[Row] = []
    for number, (line, pair) in enumerate(zip(lines, pairs, strict=True), 1):
        name, label = pair or (*_SEPARATOR.split(line, maxsplit=1), "")[:2]
        if line:
            rows.append((number, name, label))
    return join(unique_labels(rows, where), names, where)


def _in_order(path: Path, content: bytes, names: Sequence[str]) -> dict[str, str]:
    """Return the label of each file from a list with one label per line."""
    if path.stem == _GROUND_TRUTH:
        raise DataError(
            f"{path}: its numbers are not indices of the sorted class names; "
            "take LOC_val_solution.csv, or a list with one wnid such as n01440764 per line"
        )
    lines = _lines(decode_text(content))
    if (pairs := _pairs(lines, names, str(path))) is not None:
        return pairs
    if len(lines) != len(names):
        raise DataError(
            f"{path}: has {len(lines):,} lines, the source {len(names):,} files; "
            "expected one label per line, in the order of the files' names"
        )
    if "" in lines:
        raise DataError(f"{path}:{lines.index('') + 1}: expected a label, found an empty line")
    if all(map(_INDEX_AND_LABEL.fullmatch, lines)):
        raise DataError(
            f"{path}:1: expected one label per line, found two numbers, {lines[0]!r}; write a table file,label"
        )
    return dict(zip(sorted(names), lines, strict=True))


def read_labels(path: Path, names: Sequence[str]) -> dict[str, str]:
    """Return the label of each file name in a label file, including names that are not in the source.

    Raises:
        UsageError: there is no such file, or its name has another suffix.
        DataError: it cannot be read, contradicts itself, is empty, or names no file of the source.
    """
    ending = path.suffix.lower()
    if ending not in (*_TABLES, ".txt") or not path.is_file():
        raise UsageError(
            f"--labels {path}: expected auto, none, or a file that ends in .csv, .tsv, .jsonl, .json, .parquet or .txt"
        )
    if path.stat().st_size > LARGEST_LABEL_FILE_BYTES:
        raise DataError(f"{path}: larger than {LARGEST_LABEL_FILE_BYTES >> 20} MiB, too large for a list of labels")
    content = read_bytes(path)
    if ending == ".txt":
        try:
            labels = as_names(_in_order(path, content, names))
        except ValueError as problem:
            raise DataError(f"{path}: cannot be read as txt ({problem})") from None
    else:
        labels = join(read_rows(content, ending, str(path)), names, str(path))
    if not labels:
        raise DataError(f"{path}: has no labels")
    return labels


IMAGENET = "imagenet"
IMAGENET_LIST = Path(__file__).with_name("imagenet_classes.txt")
LARGEST_LIST_BYTES = 1 << 26

_WNID_LINE = re.compile(r"(n[0-9]{8})(\s|$)")


def _of_text(path: Path) -> list[str]:
    """Return the classes of a list with one per line: its first word if each line starts with a wnid, else the line."""
    lines = [line for line in _lines(decode_text(read_bytes(path))) if line]
    wnids = [match[1] for line in lines if (match := _WNID_LINE.match(line))]
    return wnids if len(wnids) == len(lines) else lines


def _of_json(path: Path) -> list[str]:
    """Return the classes of a JSON list, or of Keras's object {"0": ["n01440764", "tench"], ...}."""
    document = json.loads(decode_text(read_bytes(path)))
    if isinstance(document, dict):
        document = [document.get(str(number)) for number in range(len(document))]
    first = [name[0] if isinstance(name, list) and name else name for name in document] if document else []
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
        raise DataError(f"{path}: larger than {LARGEST_LIST_BYTES >> 20} MiB, too large for a list of classes")
    try:
        return _of_json(path) if path.suffix.lower() == ".json" else _of_text(path)
    except (ValueError, TypeError, RecursionError) as problem:
        raise DataError(f"{path}: cannot be read as a list of classes ({problem})") from None


def read_classes(location: str) -> tuple[str, ...]:
    """Return class names in index order.

    Args:
        location: `imagenet`; a prepared data set; or a file: one class per line, or JSON.

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
        raise DataError(f"{location}: has no classes")
    if len(set(classes)) != len(classes):
        twice = Counter(classes).most_common(1)[0][0]
        raise DataError(f"{location}: has the class {twice!r} twice")
    return tuple(classes)
