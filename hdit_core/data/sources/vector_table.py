"""Vectors for the images of a source in one file: CSV, Parquet, or .npy with the names in a text file next to it."""

import csv
import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from hdit_core.data.image.arrays.npy import read_npy
from hdit_core.data.sources.labels.name_index import AmbiguousNameError, NameIndex
from hdit_core.data.sources.labels.tables import FILE_COLUMNS
from hdit_core.data.sources.labels.text_encoding import decode_text
from hdit_core.data.sources.parquet import pyarrow_of
from hdit_core.errors import DataError, UsageError, first_line
from hdit_core.files import read_bytes

LARGEST_FILE_BYTES = 8 << 30
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
        table = arrow.parquet.read_table(io.BytesIO(content))
    except arrow.ArrowException as problem:
        raise DataError(f"{path}: not a whole Parquet file ({first_line(problem)}); write it again") from None
    files = [name for name in table.column_names if name.strip().lower() in FILE_COLUMNS]
    numbers = [name for name in table.column_names if name not in files]
    names: list[Any] = table.column(files[0]).to_pylist() if len(files) == 1 else [None]
    if not numbers or not all(isinstance(name, str) for name in names):
        raise DataError(
            f"{path}: has the columns {', '.join(table.column_names)}; expected one column 'file' of texts, and a "
            "column of lists or one for each number"
        )
    columns = [table.column(name) for name in numbers]
    if len(columns) == 1 and "list<" in str(columns[0].type):
        return names, _of_lists(path, columns[0])
    by_number = [_numbers(path, name, column) for name, column in zip(numbers, columns, strict=True)]
    return names, np.stack(by_number, axis=1)


def _of_lists(path: Path, column: Any) -> Rows:
    """Return the vectors of a column of lists, all of one length."""
    lists = [row for chunk in column.chunks for row in chunk.to_numpy(zero_copy_only=False)]
    lengths = [-1 if row is None else len(row) for row in lists]
    place = next((place for place, length in enumerate(lengths) if length != lengths[0]), 0)
    if not lists or lengths[place] < 1 or lengths[place] != lengths[0]:
        found = "none" if not lists or lengths[place] < 0 else f"of {lengths[place]} numbers"
        raise DataError(f"{path}: row {place}: the vector is {found}; expected vectors of one length")
    return np.stack([np.asarray(row, np.float64).astype(np.float32) for row in lists])


def _numbers(path: Path, name: str, column: Any) -> Float32[np.ndarray, " N"]:
    """Return a column of numbers; a missing one is NaN, which is refused for its image."""
    try:
        numbers: Float32[np.ndarray, " N"] = np.asarray(column.to_numpy(), np.float64).astype(np.float32)
    except (TypeError, ValueError):
        raise DataError(f"{path}: column '{name}' is {column.type}, expected numbers") from None
    return numbers


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
