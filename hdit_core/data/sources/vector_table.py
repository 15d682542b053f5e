"""Vectors for the images of a source in one file: CSV, or .npy with the names in a text file beside it."""

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float32

from hdit_core.data.image.arrays.npy import read_npy
from hdit_core.data.sources.labels.name_index import AmbiguousNameError, NameIndex
from hdit_core.data.sources.labels.tables import FILE_COLUMNS
from hdit_core.data.sources.labels.text_encoding import decode_text
from hdit_core.errors import DataError, UsageError

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
    names = decode_text(listed.read_bytes()).splitlines()
    if len(names) != len(array):
        raise DataError(f"{path}: has {len(array):,} rows, {listed.name} {len(names):,} names; expected as many")
    return names, array.astype(np.float32)


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


class VectorTable:
    """The vectors of a file, joined to the entries of a source by their names."""

    def __init__(self, path: Path, names: Sequence[str]) -> None:
        """Read a file of vectors.

        Args:
            path: of the .npy, .csv or .tsv file.
            names: of the entries of the source.

        Raises:
            UsageError: there is no such file, or its name has another ending.
            DataError: it cannot be read, contradicts itself, or names no file of the source.
        """
        ending = path.suffix.lower()
        if ending not in (".npy", *_SEPARATORS) or not path.is_file():
            raise UsageError(
                f"--vectors {path}: expected a .npy file with a .txt file of names beside it, a .csv or .tsv file, or "
                "the name of a column of a Parquet SOURCE"
            )
        if path.stat().st_size > LARGEST_FILE_BYTES:
            raise DataError(f"{path}: larger than {LARGEST_FILE_BYTES >> 30} GiB")
        content = path.read_bytes()
        try:
            table, self._vectors = (_of_npy if ending == ".npy" else _of_csv)(path, content)
        except (ValueError, csv.Error, OSError) as problem:
            raise DataError(f"{path}: cannot be read as vectors ({problem})") from None
        self.name = path.name
        self._rows = _rows_of_entries(path, table, names)
        self._sha256 = hashlib.sha256(content).hexdigest()

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
        """Return the checksum of the file, with the first entry."""
        return (self._sha256,) if number == 0 else ()
