"""Tables of labels: file names and labels in CSV (comma, semicolon, tab), JSON lines, Parquet, or dataset.json."""

import csv
import io
import json
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hdit_core.data.sources.labels.label_notation import as_names
from hdit_core.data.sources.labels.name_index import AmbiguousNameError, NameIndex, normalize
from hdit_core.data.sources.labels.text_encoding import decode_text
from hdit_core.data.sources.parquet import pyarrow_of
from hdit_core.data.sources.parquet_columns import VALUES_AT_ONCE, short_values
from hdit_core.errors import DataError, first_line

Row = tuple[int, object, object]  # line, file, label

FILE_COLUMNS = (
    *("file", "file_name", "filename", "image", "image_name", "image_id", "imageid", "img"),
    *("path", "filepath", "file_path", "image_path", "name", "id"),
)
LABEL_COLUMNS = (
    "label",
    "class",
    "category",
    "target",
    "class_name",
    "label_name",
    "class_id",
    "label_id",
    "predictionstring",
)

_SEPARATORS = ",;\t|"


def _known(fields: Sequence[str], known: Sequence[str], preferred: Sequence[str]) -> list[str]:
    """Return the columns with the first preferred name that occurs, else those with any known name."""
    found = [field for field in fields if field.strip().lower() in known]
    named = ([field for field in found if field.strip().lower() == name] for name in preferred)
    return next(filter(None, named), found)


def find_columns(fields: Sequence[str], where: str) -> tuple[str, str] | None:
    """Return the columns of files and labels, None if the table has none of either.

    Raises:
        DataError: several columns could be either.
    """
    files, labels = _known(fields, FILE_COLUMNS, ("file_name", "file")), _known(fields, LABEL_COLUMNS, ("label",))
    if not files or not labels:
        return None
    for found, what, name in ((files, "names of files", "file_name"), (labels, "classes", "label")):
        if len(found) > 1:
            raise DataError(
                f"{where}: {what} in several columns, {', '.join(found)}; rename the right one to '{name}', or give "
                "--labels a table of two columns, file,label"
            )
    return files[0], labels[0]


def _header(line: str, where: str) -> tuple[str, list[str], tuple[str, str]] | None:
    """Return the separator of a table, its columns, and those of files and labels, from its first line."""
    for separator in _SEPARATORS:
        fields = next(csv.reader([line], delimiter=separator), [])
        if len(fields) > 1 and (columns := find_columns(fields, where)):
            return separator, fields, columns
    return None


def first_word(prediction: str) -> str:
    """Return the class of `n03995372 85 1 499 272 ...`, a class and its box, repeated if there are several boxes."""
    words = prediction.split()
    return words[0] if words else ""


def _split_header(text: str) -> tuple[str, str]:
    """Return a table from its header on, and the header."""
    text = text.lstrip("\n\r")
    if text.lower().startswith("sep=") and "\n" in text:  # Excel's first line
        text = text.split("\n", 1)[1]
    return text, text.splitlines()[0] if text else ""


def csv_has_labels(text: str, where: str) -> bool:
    """Return whether the header of a table names a column of files and one of labels.

    Raises:
        DataError: it names several of either.
        csv.Error: it cannot be read.
    """
    return _header(_split_header(text)[1], where) is not None


def csv_rows(text: str, where: str) -> Iterator[Row]:
    """Yield the rows of a table with the columns file and label; the separator is that of its first line.

    Raises:
        DataError: its columns are ambiguous, or the number of fields in a line differs from the number of columns.
    """
    text, first = _split_header(text)
    header = _header(first, where)
    if header is None:
        raise DataError(f"{where}: its first line must name the columns file,label; found {first[:200]!r}")
    separator, fields, (file, label) = header
    at = fields.index(file), fields.index(label)
    table = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
    next(table)
    for row in table:
        if not any(field.strip() for field in row):
            continue
        if len(row) != len(fields):
            raise DataError(
                f"{where}:{table.line_num}: has {len(row)} fields where the first line names {len(fields)} columns; "
                "put names with a separator in quotes"
            )
        is_prediction = label.strip().lower() == "predictionstring"
        yield table.line_num, row[at[0]], first_word(row[at[1]]) if is_prediction else row[at[1]]


def jsonl_rows(text: str, where: str) -> Iterator[Row]:
    """Yield the rows of JSON lines such as {"file": ..., "label": ...}.

    Raises:
        ValueError: a line is not JSON.
    """
    for line_number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            row = json.loads(line)
            columns = find_columns(list(row), f"{where}:{line_number}") if isinstance(row, dict) else None
            yield line_number, *((row[columns[0]], row[columns[1]]) if columns else _unclear(row))


def _open_parquet(content: bytes, where: str) -> Any:
    arrow = pyarrow_of(Path(where))
    try:
        return arrow.parquet.ParquetFile(io.BytesIO(content))
    except arrow.ArrowException as problem:
        raise DataError(f"{where}: not a whole Parquet file ({first_line(problem)}); write it again") from None


def parquet_has_labels(content: bytes, where: str) -> bool:
    """Return whether a Parquet table has a column of files and one of labels.

    Raises:
        DataError: several columns could be either, it is damaged, or pyarrow is not installed.
    """
    return find_columns(_open_parquet(content, where).schema_arrow.names, where) is not None


def parquet_rows(content: bytes, where: str) -> Iterator[Row]:
    """Yield the rows of a Parquet table with the columns file and label, some at a time.

    Raises:
        DataError: it has no such columns, a value is too long, it is damaged, or pyarrow is not installed.
    """
    file, arrow, number = _open_parquet(content, where), pyarrow_of(Path(where)), 0
    columns = find_columns(file.schema_arrow.names, where)
    if columns is None:
        raise DataError(f"{where}: expected the columns file and label; found {', '.join(file.schema_arrow.names)}")
    try:
        for batch in file.iter_batches(VALUES_AT_ONCE, columns=list(columns)):
            for row in zip(*(short_values(batch.column(name), arrow, where) for name in columns), strict=True):
                number += 1
                yield number, *row
    except arrow.ArrowException as problem:
        raise DataError(f"{where}: row {number + 1}: cannot be read ({first_line(problem)})") from None


def _unclear(row: object) -> tuple[object, object]:
    return (row.get("file"), row.get("label")) if isinstance(row, dict) else (None, None)


def _without_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
    """Return a JSON object; JSON readers keep only the last of several values of a name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = Counter(name for name, _ in pairs).most_common(1)[0][0]
        raise ValueError(f"'{twice}' occurs twice")
    return found


def read_json(text: str) -> object:
    """Return a JSON document.

    Raises:
        ValueError: it is not JSON, or an object in it has a name twice.
    """
    return json.loads(text, object_pairs_hook=_without_repeats)


def dataset_rows(document: object, where: str) -> Iterator[Row]:
    """Yield the rows of `dataset.json` as StyleGAN and EDM write it: {"labels": [["00000/img00000000.png", 6], ...]}.

    Raises:
        DataError: a label is a vector, or the labels are not a list.
    """
    labels = document.get("labels", document) if isinstance(document, dict) else document
    pairs = list(labels.items()) if isinstance(labels, dict) else labels
    if not isinstance(pairs, list) or not all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        raise DataError(f'{where}: expected {{"labels": [["00000/img00000000.png", 6], ...]}}')
    for number, (name, label) in enumerate(pairs, 1):
        if isinstance(label, list) and len(label) != 1:
            raise DataError(
                f"{where}: the label of '{name}' is a vector of {len(label)}, expected a class; use --labels"
            )
        yield number, name, label[0] if isinstance(label, list) else label


def read_rows(content: bytes, ending: str, where: str) -> dict[str, str]:
    """Return the label of each file name in a table.

    Args:
        content: content of the file.
        ending: ".csv", ".tsv", ".jsonl", ".json" or ".parquet".
        where: name of the file in messages.

    Raises:
        DataError: it cannot be read, or contradicts itself.
    """
    if ending == ".parquet":
        return unique_labels(parquet_rows(content, where), where)
    try:
        text = decode_text(content)
        if ending == ".json":
            rows = dataset_rows(read_json(text), where)
        else:
            rows = jsonl_rows(text, where) if ending == ".jsonl" else csv_rows(text, where)
        return unique_labels(rows, where)
    except (ValueError, csv.Error, RecursionError) as problem:
        raise DataError(f"{where}: cannot be read as {ending[1:]} ({problem})") from None


def unique_labels(rows: Iterable[Row], where: str) -> dict[str, str]:
    """Return the labels by name.

    Raises:
        DataError: a row is not a name and a label, or a name has two labels.
    """
    labels: dict[str, object] = {}
    shown: dict[str, str] = {}
    for line_number, name, label in rows:
        usable = isinstance(label, str | int | float) and not isinstance(label, bool)
        if isinstance(label, float) and not label.is_integer():
            usable = False
        if not isinstance(name, str) or not name.strip() or not usable or not str(label).strip():
            raise DataError(f"{where}:{line_number}: expected a file and a label, found {name!r} and {label!r}")
        key = normalize(name)
        first = labels.setdefault(key, label)
        if _same(first) != _same(label):
            raise DataError(f"{where}:{line_number}: '{name}' has two labels, {str(first)!r} and {str(label)!r}")
        shown.setdefault(key, name)
    try:
        return as_names(labels)
    except ValueError as problem:
        raise DataError(f"{where}: {problem}") from None


def _same(label: object) -> str:
    return unicodedata.normalize("NFC", str(label)).strip()


def join(labels: dict[str, str], names: Sequence[str], where: str) -> dict[str, str]:
    """Return the labels by the names of a source's files; a name without a file is unchanged.

    Raises:
        DataError: a name matches several files, two names match one file with two labels, or no name matches a file.
    """
    index = NameIndex(names)
    joined: dict[str, str] = {}
    found_any = False
    for name, label in labels.items():
        try:
            file = index.find(name)
        except AmbiguousNameError as problem:
            raise DataError(f"{where}: {problem}; write the folder and the ending of each name") from None
        found_any = found_any or file is not None
        if joined.setdefault(file or name, label) != label:
            raise DataError(f"{where}: '{file or name}' has two labels, {joined[file or name]!r} and {label!r}")
    if labels and names and not found_any:
        raise DataError(
            f"{where}: none of its {len(labels):,} names is a file of the source: it has names such as "
            f"'{next(iter(labels))}', the source '{names[0]}'"
        )
    return joined
