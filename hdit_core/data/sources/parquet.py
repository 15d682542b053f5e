"""Parquet files in the layout of Hugging Face image data sets, read a few rows at a time.

A row has an image, bytes or a struct {bytes, path}, and may have a class, whose names are in the file's metadata.
Paths in rows are never opened.
"""

import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate, repeat
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from hdit_core.data.format.manifest_entries import Channels
from hdit_core.data.image.decode import LARGEST_FILE_BYTES
from hdit_core.data.sources.attachments import Attachments, Kind
from hdit_core.data.sources.labels.label_notation import MOST_CLASSES
from hdit_core.data.sources.parquet_columns import (
    VALUES_AT_ONCE,
    ColumnReader,
    class_of,
    find_columns,
    image_column,
    short_values,
    text_column,
)
from hdit_core.data.sources.source import Entry, class_names
from hdit_core.errors import DataError, UsageError, first_line
from hdit_core.files import naming

PARQUET_ENDING = ".parquet"
MAGIC = b"PAR1"
ROWS_AT_ONCE = 8  # of images; a row group has hundreds

_SPLIT = re.compile(r"(.+)-[0-9]{5}-of-[0-9]{5}\.parquet")  # train-00000-of-00012.parquet


def pyarrow_of(path: Path) -> Any:
    """Return the package pyarrow, for a file.

    Raises:
        DataError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError:
        raise DataError(
            f"{path}: Parquet needs pyarrow, which is not installed; run: pip install 'hdit-toolkit[parquet]'"
        ) from None
    return pyarrow


def _flat(batch: Any) -> dict[str, Any]:
    """Return the columns of a batch by name; a field of a struct is `image.bytes`."""
    found: dict[str, Any] = {}
    for field, column in zip(batch.schema, batch.columns, strict=True):
        parts = field.flatten()
        arrays = column.flatten() if str(field.type).startswith("struct<") else [column]
        found |= {part.name: array for part, array in zip(parts, arrays, strict=True)}
    return found


def _footer_crc32(path: Path) -> int:
    """Return the checksum of a file's metadata: position and statistics of each column."""
    with naming(path), path.open("rb") as file:
        size_bytes = file.seek(0, 2)
        file.seek(max(0, size_bytes - 8))
        length = int.from_bytes(file.read(4), "little")
        file.seek(max(0, size_bytes - 8 - length))
        return zlib.crc32(file.read(length))


class ParquetFile:
    """One file, whose rows are read in ascending order."""

    def __init__(self, path: Path) -> None:
        """Open a file.

        Raises:
            DataError: it is damaged, or contains no images.
        """
        self.path = path
        self._arrow = pyarrow_of(path)
        try:
            # Reads one page of a column at a time; the default is a whole row group.
            self._file = self._arrow.parquet.ParquetFile(path, pre_buffer=False, buffer_size=1 << 20)
            groups = [self._file.metadata.row_group(number) for number in range(self._file.num_row_groups)]
            self.columns = find_columns(self._file.schema_arrow, path)
            self._footer_crc32 = _footer_crc32(path)
        except (self._arrow.ArrowException, OSError) as problem:
            raise DataError(f"{path}: not a complete Parquet file ({first_line(problem)}); download it again") from None
        self._starts = [0, *accumulate(group.num_rows for group in groups)]
        self.num_rows = self._starts[-1]
        if self.num_rows > path.stat().st_size:
            raise DataError(f"{path}: {self.num_rows:,} rows by its metadata, more than its bytes; download it again")
        self._images = self.reader(self.columns.content, ROWS_AT_ONCE)

    @property
    def schema(self) -> Any:
        """pyarrow's description of the columns."""
        return self._file.schema_arrow

    def reader(self, column: str, rows_at_once: int) -> ColumnReader:
        """Return a reader of a column, or of a field such as `image.bytes`."""

        def values_of(group: int) -> Iterator[Any]:
            for batch in self._batches([column], rows_at_once, [group]):
                yield from batch[column]

        return ColumnReader(values_of, self._starts)

    def value(self, reader: ColumnReader, row: int) -> Any:
        """Return the value of a row.

        Raises:
            ValueError: it is damaged.
        """
        try:
            return reader.value(row)
        except (self._arrow.ArrowException, OSError, StopIteration) as problem:
            raise ValueError(f"damaged in the Parquet file: {first_line(problem)}") from None

    def _batches(self, columns: list[str], rows_at_once: int, groups: Sequence[int]) -> Iterator[dict[str, Any]]:
        batches = self._file.iter_batches(rows_at_once, row_groups=list(groups), columns=columns, use_threads=False)
        return map(_flat, batches)

    def _rows(self) -> Iterator[tuple[object, object]]:
        """Yield the path and the label of each row, None if it has none."""
        path, label = self.columns.path, self.columns.label
        wanted = [name for name in (path, label) if name is not None]
        if not wanted:
            yield from repeat((None, None), self.num_rows)
            return
        for batch in self._batches(wanted, VALUES_AT_ONCE, range(len(self._starts) - 1)):
            columns = {name: short_values(array, self._arrow, str(self.path)) for name, array in batch.items()}
            empty = [None] * len(columns[wanted[0]])
            yield from zip(*(columns.get(name or "", empty) for name in (path, label)), strict=True)

    def entries(self) -> list[Entry]:
        """Return an entry for each row, named by the file, the row's number and the path.

        Raises:
            DataError: the file is damaged, or a path or a label is too long.
        """
        try:
            found = [self._entry(row, *about) for row, about in enumerate(self._rows())]
        except (self._arrow.ArrowException, OSError, UnicodeDecodeError) as problem:
            raise DataError(f"{self.path}: damaged ({first_line(problem)}); download it again") from None
        if len(found) != self.num_rows:
            raise DataError(f"{self.path}: has {len(found):,} rows, {self.num_rows:,} by metadata; download it again")
        return found

    def _entry(self, row: int, path: object, label: object) -> Entry:
        called = f"-{PurePosixPath(path).name[:200]}" if isinstance(path, str) and path else ""
        class_name, problem = class_of(label, self.columns.classes)
        return Entry(f"{self.path.stem}/{row:07}{called}", 0, self._footer_crc32, problem, class_name)

    def image(self, row: int) -> bytes:
        """Return the image of a row.

        Raises:
            ValueError: it is damaged, or the row has only a path.
        """
        if (content := self.content(self._images, row)) is None:
            raise ValueError("its row has no image, at most the path of one, which is never opened")
        return content

    def content(self, reader: ColumnReader, row: int) -> bytes | None:
        """Return the bytes in a row, None if there are none.

        Raises:
            ValueError: they are damaged, or too many.
        """
        content = self.value(reader, row).as_buffer()
        if content is not None and content.size > LARGEST_FILE_BYTES:
            raise ValueError(f"{content.size:,} bytes are more than {LARGEST_FILE_BYTES >> 20} MiB")
        return None if content is None else content.to_pybytes()


def _check_splits(name: str, paths: Sequence[Path]) -> None:
    """Refuse to mix training and validation images, which are in one folder in data sets of Hugging Face."""
    splits = sorted({match[1] for path in paths if (match := _SPLIT.fullmatch(path.name))})
    if len(splits) > 1:
        raise UsageError(
            f"{name}: contains the splits {', '.join(splits)}; name the files of one, "
            f"for example '{paths[0].parent}/{splits[-1]}-*.parquet' in quotes"
        )


def _classes(entries: Sequence[Entry], names: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the class names in index order, () if no image has a class."""
    found = {entry.class_name for entry in entries if entry.class_name is not None}
    if names is not None or not found:
        return names if names and found else ()
    numbers = [int(name) for name in found if name.isdecimal() and int(name) < MOST_CLASSES and name == str(int(name))]
    return tuple(map(str, range(max(numbers) + 1))) if len(numbers) == len(found) else class_names(found)


class ParquetSource:
    """The images of Parquet files, in the order of files and rows."""

    kind = "parquet"
    channels: Channels | None = None

    def __init__(self, name: str, paths: Sequence[Path]) -> None:
        """List Parquet files.

        Raises:
            UsageError: they are several splits of a data set.
            DataError: pyarrow is missing, a file is damaged, or the files have different classes.
        """
        _check_splits(name, paths)
        self.name = name
        self._files = [ParquetFile(path) for path in paths]
        named = {file.columns.classes for file in self._files}
        if len(named) > 1:
            raise DataError(f"{name}: its files have different classes; prepare them one by one")
        names = named.pop()
        self._places = [(file, row) for file in self._files for row in range(file.num_rows)]
        entries = [entry for file in self._files for entry in file.entries()]
        self.classes: tuple[str, ...] | None = _classes(entries, names)
        missing = "no class in its row" if self.classes else None
        self.entries = [
            replace(entry, problem=missing) if entry.problem is entry.class_name is None else entry for entry in entries
        ]

    def fetch(self, number: int) -> bytes:
        """Return the image of a row.

        Raises:
            ValueError: it is damaged, or the row has only a path.
        """
        file, row = self._places[number]
        return file.image(row)

    def attachments(self, kind: Kind, column: str | None = None) -> Attachments | None:
        """Return condition images or vectors in a column, or the captions in `caption` or `text`; None without them.

        Raises:
            DataError: the column contains something else.
        """
        schemas = [file.schema for file in self._files]
        if kind == "caption":
            texts = {text_column(schema, ("caption", "text")) for schema in schemas}
            column = texts.pop() if len(texts) == 1 and column is None else None
        if column is None or not all(column in schema.names for schema in schemas):
            return None
        content = column
        if kind == "condition":
            found = image_column(schemas[0], column)
            if found is None:
                raise DataError(f"{self.name}: its column '{column}' contains no images, bytes or {{bytes, path}}")
            content = found
        return _ColumnAttachments(kind, column, self._places, {file: file.reader(content, 8) for file in self._files})


class _ColumnAttachments:
    """A column of Parquet files."""

    def __init__(
        self,
        kind: Kind,
        column: str,
        places: Sequence[tuple[ParquetFile, int]],
        readers: Mapping[ParquetFile, ColumnReader],
    ) -> None:
        self.name, self._kind, self._places, self._readers = f"column {column}", kind, places, readers

    def fetch(self, number: int) -> bytes | None:
        """Return the value of the column in a row."""
        file, row = self._places[number]
        if self._kind == "condition":
            return file.content(self._readers[file], row)
        value = file.value(self._readers[file], row).as_py()
        if value is None or self._kind == "caption":
            return None if value is None else str(value).encode()
        try:
            return np.asarray(value, np.float32).reshape(-1).astype("<f4").tobytes()
        except (TypeError, ValueError):
            raise ValueError(f"its vector is {str(value)[:80]!r}, expected numbers") from None

    def facts(self, number: int) -> Sequence[object]:
        """Return nothing: the entries already contain the checksum of the file's footer."""
        return ()
