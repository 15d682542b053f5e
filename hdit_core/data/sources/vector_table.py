"""Vectors for the images of a source in one file: CSV, Parquet, or .npy with the names in a text file next to it."""

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64

from hdit_core.data.image.arrays.npy import read_npy
from hdit_core.data.sources.labels.name_index import AmbiguousNameError, NameIndex
from hdit_core.data.sources.labels.tables import FILE_COLUMNS
from hdit_core.data.sources.labels.text_encoding import decode_text
from hdit_core.data.sources.parquet import pyarrow_of
from hdit_core.data.sources.parquet_columns import VALUES_AT_ONCE, short_values
from hdit_core.errors import DataError, UsageError, first_line
from hdit_core.files import read_bytes

LARGEST_FILE_BYTES = 8 << 30  # also of names and vectors of a Parquet file, in memory
ROWS_AT_ONCE = 1024
NAME_BYTES = 64  # of a short name in Python
_SEPARATORS = {".csv": ",", ".tsv": "\t"}

Rows = Float32[np.ndarray, "N E"]


def _of_csv(path: Path, content: bytes) -> tuple[list[str], Rows]:
    """Return names and vectors of a table: the first line names the columns, a column of files and one per number."""
    lines = csv.reader(io.StringIO(decode_text(content), newline=""), delimiter=_SEPARATORS[path.suffix.lower()])
    header = [field.strip().lower() for field in next(lines, [])]
    files = [number for number, field in enumerate(header) if field in FILE_COLUMNS]
    if len(files) != 1 or len(header) < 2:
        raise DataError(f"{path}:1: expected a column 'file' and a column for each number, such as file,v0,v1,v2")
    names, rows = [], []
    for fields in lines:
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            raise DataError(
                f"{path}:{lines.line_num}: a vector of {len(fields) - 1} numbers, expected {len(header) - 1} as the "
                "first line has columns"
            )
        names.append(fields.pop(files[0]))
        try:
            rows.append(np.array(fields, np.float64).astype(np.float32))
        except ValueError:
            raise DataError(f"{path}:{lines.line_num}: expected numbers, found {','.join(fields)[:80]!r}") from None
    return names, np.stack(rows) if rows else np.empty((0, len(header) - 1), np.float32)


def _of_npy(path: Path, content: bytes) -> tuple[list[str], Rows]:
    """Return names and vectors of an array [N, E], whose names are in a text file, one a line."""
    array, listed = read_npy(content), path.with_suffix(".txt")
    if array.ndim != 2 or min(array.shape) < 1:
        raise DataError(f"{path}: an array {array.shape}, expected [images, numbers]")
    if not listed.is_file():
        raise UsageError(f"--vectors {path}: needs the names of its rows, one a line, in {listed}")
    names = decode_text(read_bytes(listed)).splitlines()
    if len(names) != len(array):
        raise DataError(f"{path}: has {len(array):,} rows, {listed.name} {len(names):,} names; expected as many")
    return names, array.astype(np.float32)


def _of_parquet(path: Path, content: bytes) -> tuple[list[str], Rows]:
    """Return names and vectors of a table with a column of files, and a column of lists or one for each number."""
    arrow = pyarrow_of(path)
    try:
        table = arrow.parquet.ParquetFile(io.BytesIO(content))
        columns = {field.name: field.type for field in table.schema_arrow}
        files = [name for name in columns if name.strip().lower() in FILE_COLUMNS]
        is_clear = len(files) == 1 < len(columns) == len(table.schema_arrow.names)
        if not is_clear or not _is_text(arrow, columns[files[0]]):
            raise DataError(_unclear(path, table.schema_arrow.names))
        numbers = [name for name in columns if name not in files]
        for name in numbers:
            _check_number(path, arrow, name, columns[name], is_only=len(numbers) == 1)
        _check_expansion(path, table.metadata, files[0])
        batches = table.iter_batches(VALUES_AT_ONCE, columns=files)
        names: list[Any] = [name for batch in batches for name in short_values(batch.column(0), arrow, str(path))]
        if not all(isinstance(name, str) for name in names):
            raise DataError(_unclear(path, table.schema_arrow.names))
        return names, _rows_of_parquet(path, table, numbers)
    except arrow.ArrowException as problem:
        raise DataError(f"{path}: not a whole Parquet file ({first_line(problem)}); write it again") from None


def _unclear(path: Path, columns: Sequence[str]) -> str:
    return (
        f"{path}: has the columns {', '.join(columns)}; expected one column 'file' of texts, and a column of lists or "
        "one for each number"
    )


def _is_text(arrow: Any, kind: Any) -> bool:
    value = kind.value_type if arrow.types.is_dictionary(kind) else kind
    return bool(arrow.types.is_string(value) or arrow.types.is_large_string(value))


def _is_list(kind: Any) -> bool:
    return str(kind).startswith(("list<", "large_list<", "fixed_size_list<"))


def _check_number(path: Path, arrow: Any, name: str, kind: Any, is_only: bool) -> None:
    """Refuse, before a value is read, a column that contains neither numbers nor, as the only one, lists of them."""
    value, types = kind.value_type if is_only and _is_list(kind) else kind, arrow.types
    if not any(is_one(value) for is_one in (types.is_integer, types.is_floating, types.is_boolean, types.is_decimal)):
        raise DataError(f"{path}: column '{name}' is {kind}, expected numbers")


def _check_expansion(path: Path, metadata: Any, files: str) -> None:
    """Refuse a table that would fill the memory: values that repeat take no space in a file."""
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    parts = [group.column(number) for group in groups for number in range(group.num_columns)]
    _check_size(path, metadata.num_rows, sum(part.num_values for part in parts if part.path_in_schema != files))


def _check_size(path: Path, num_rows: int, num_values: int) -> None:
    size_bytes = NAME_BYTES * num_rows + 4 * num_values
    if size_bytes > LARGEST_FILE_BYTES:
        raise DataError(
            f"{path}: its {num_rows:,} names and {num_values:,} numbers take {size_bytes:,} bytes of memory, more than "
            f"{LARGEST_FILE_BYTES >> 30} GiB"
        )


def _rows_of_parquet(path: Path, table: Any, columns: list[str]) -> Rows:
    """Return the vectors of a table, read some rows at a time."""
    count, place = table.metadata.num_rows, 0
    rows = np.empty((0, len(columns)), np.float32)
    for batch in table.iter_batches(ROWS_AT_ONCE, columns=columns):
        if _is_list(batch.schema[0].type):
            part = _of_lists(path, batch.column(0), place, rows.shape[1] if place else None)
        else:
            part = np.stack([np.asarray(column.to_numpy(zero_copy_only=False), np.float64) for column in batch], axis=1)
        if not place:
            _check_size(path, count, count * part.shape[1])
            rows = np.empty((count, part.shape[1]), np.float32)
        if place + len(part) > count:
            break
        rows[place : place + len(part)] = part
        place += len(part)
    if place != count:
        raise DataError(f"{path}: does not have the {count:,} rows of its metadata; write it again")
    return rows


def _of_lists(path: Path, column: Any, place: int, length: int | None) -> Float64[np.ndarray, "N E"]:
    """Return the vectors in a part of a column of lists, all of one length.

    Args:
        path: of the file, for messages.
        column: the part.
        place: of its first row in the whole column.
        length: of the vectors before; None for the first part.
    """
    lists = column.to_numpy(zero_copy_only=False)
    for row, vector in enumerate(lists, place):
        found = -1 if vector is None else len(vector)
        length = found if length is None else length
        if found < 1 or found != length:
            reason = "none" if found < 0 else f"of {found} numbers"
            raise DataError(f"{path}: row {row}: the vector is {reason}; expected vectors of one length")
    return np.stack([np.asarray(vector, np.float64) for vector in lists])


def _rows_of_entries(path: Path, table: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the row of each entry of the source, -1 without one."""
    index, rows = NameIndex(names), dict.fromkeys(names, -1)
    for row, name in enumerate(table):
        try:
            file = index.find(name)
        except AmbiguousNameError as problem:
            raise DataError(f"{path}: {problem}; write the folder and the ending of each name") from None
        if file is not None and rows[file] >= 0:
            raise DataError(f"{path}: '{file}' has two vectors")
        if file is not None:
            rows[file] = row
    if names and max(rows.values()) < 0:
        first = table[0] if table else "none"
        raise DataError(f"{path}: names no file of the source: it has names such as '{first}', the source '{names[0]}'")
    return [rows[name] for name in names]


_READERS: dict[str, Callable[[Path, bytes], tuple[list[str], Rows]]] = {
    ".npy": _of_npy,
    ".csv": _of_csv,
    ".tsv": _of_csv,
    ".parquet": _of_parquet,
}


class VectorTable:
    """The vectors of a file, joined to the entries of a source by their names."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """Read a file of vectors.

        Args:
            path: of the .npy, .csv, .tsv or .parquet file.
            names: of the entries of the source.

        Raises:
            UsageError: there is no such file, or its name has another ending.
            DataError: it cannot be read, contradicts itself, or names no file of the source.
        """
        ending = path.suffix.lower()
        read = _READERS.get(ending)
        if read is None or not path.is_file():
            raise UsageError(
                f"--vectors {path}: expected a .npy file with a .txt file of names next to it, a .csv, .tsv or "
                ".parquet file, or the name of a column of a Parquet SOURCE"
            )
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise DataError(f"{path}: larger than {LARGEST_FILE_BYTES >> 30} GiB")
        content = read_bytes(path)
        try:
            table, self._vectors = read(path, content)
        except (ValueError, csv.Error, OSError) as problem:
            raise DataError(f"{path}: cannot be read as vectors ({first_line(problem)})") from None
        self.name = path.name
        self._rows = _rows_of_entries(path, table, names)
        digest = hashlib.sha256(content)
        digest.update("\n".join(table).encode())  # the names of a .npy file are in another file
        self._sha256 = digest.hexdigest()

    def fetch(self, number: int) -> bytes:
        """Return the vector of an entry.

        Raises:
            ValueError: the file has none.
        """
        row = self._rows[number] if number < len(self._rows) else -1
        if row < 0:
            raise ValueError(f"no vector in {self.name}")
        return self._vectors[row].astype("<f4").tobytes()

    def facts(self, number: int) -> Sequence[object]:
        """Return the checksum of the file and its names, with the first entry."""
        return (self._sha256,) if number == 0 else ()
