"""Vectors from a separate Parquet file, keyed by the names of the images."""

import json
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.sources import vector_table
from hdit_core.errors import DataError
from tests.data.pairs import COUNT, DIM, vector, write_pairs


@pytest.fixture
def pairs(tmp_path):
    return write_pairs(tmp_path / "pairs")


def parquet(pairs, columns):
    """Write `vectors.parquet`, and return its path."""
    pq.write_table(pa.table(columns), pairs / "vectors.parquet", row_group_size=4)
    return str(pairs / "vectors.parquet")


NAMES = [f"{('cat', 'dog')[number % 2]}/{number}" for number in reversed(range(COUNT))]
ROWS = [vector(number) for number in reversed(range(COUNT))]


@pytest.mark.parametrize(
    "columns",
    [
        {"file": NAMES, "embedding": ROWS},
        {"embedding": pa.array(ROWS, pa.list_(pa.float16(), DIM)), "name": [f"{name}.png" for name in NAMES]},
        {"file": NAMES, "a": [row[0] for row in ROWS], "b": [int(row[1]) for row in ROWS], "c": [1] * COUNT},
    ],
)
def test_vectors_come_from_a_parquet_file_keyed_by_name(pairs, prepare, tmp_path, columns):
    prepare(pairs / "images", size=(16, 24), vectors=parquet(pairs, columns))
    reader = ImageReader(tmp_path / "set")
    order = sorted(range(COUNT), key=lambda number: (number % 2, number))  # cats come before dogs
    assert [reader.vector(place).tolist() for place in range(COUNT)] == [vector(number) for number in order]


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"file": NAMES}, r"vectors\.parquet: has the columns file; expected one column 'file' of texts, and a column"),
        ({"a": ROWS, "b": ROWS}, r"has the columns a, b; expected one column 'file' of texts"),
        ({"file": NAMES, "v": [*ROWS[:-1], [1.0]]}, r"parquet: row 8: the vector is of 1 numbers; expected vectors of"),
        (
            {"file": NAMES, "v": [*ROWS[:-1], None]},
            r"parquet: row 8: the vector is none; expected vectors of",
        ),
        ({"file": NAMES, "v": ["x"] * COUNT}, r"parquet: column 'v' is string, expected numbers"),
        ({"file": [None, *NAMES[1:]], "v": ROWS}, r"has the columns file, v; expected one column 'file' of texts"),
        ({"file": ["z"], "v": [[1.0]]}, r"vectors\.parquet: names no file of the source"),
    ],
)
def test_a_parquet_file_without_vectors_is_refused_in_one_line(pairs, prepare, columns, problem):
    with pytest.raises(DataError, match=problem):
        prepare(pairs / "images", vectors=parquet(pairs, columns))


def test_a_missing_number_in_a_parquet_file_is_a_reject(pairs, prepare, tmp_path):
    rows = [[number, None if number == 3 else 1.0] for number in reversed(range(COUNT))]
    prepare(pairs / "images", vectors=parquet(pairs, {"file": NAMES, "v": rows}))
    (reject,) = map(json.loads, (tmp_path / "set" / "rejects.jsonl").read_text().splitlines())
    expected = ("dog/3.png", "its vector has nan at position 1; expected finite numbers")
    assert (reject["name"], reject["reason"]) == expected


def test_a_damaged_parquet_file_is_refused_in_one_line(pairs, prepare):
    path = parquet(pairs, {"file": NAMES, "v": ROWS})
    (pairs / "vectors.parquet").write_bytes((pairs / "vectors.parquet").read_bytes()[:200])
    with pytest.raises(DataError, match=r"vectors\.parquet: not a whole Parquet file \(.*\); write it again"):
        prepare(pairs / "images", vectors=path)


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        (
            {"file": ["a"] * 2000, "v": pa.array([[0.0] * 100] * 2000)},
            r"its 2,000 names and 200,000 numbers take 928,000 bytes of memory, more than 0 GiB",
        ),
        ({"file": NAMES, "v": ["x" * 9_000_000] * COUNT}, r"column 'v' is string, expected numbers"),
        (
            {"file": ["x" * 9_000_000] * COUNT, "v": ROWS},
            r"a label or name of 9,000,000 bytes, expected at most 65,536",
        ),
        ({"file": ["a"] * 500_000, "v": [0] * 500_000}, r"its 500,000 names and 500,000 numbers take 34,000,000 bytes"),
    ],
)
def test_a_parquet_file_that_would_fill_the_memory_is_refused_before_it_is_read(
    tmp_path, monkeypatch, columns, problem
):
    monkeypatch.setattr(vector_table, "LARGEST_FILE_BYTES", 500_000)
    pq.write_table(pa.table(columns), tmp_path / "v.parquet", compression="zstd")
    tracemalloc.start()
    with pytest.raises(DataError, match=problem):
        vector_table.VectorTable(tmp_path / "v.parquet", ["a"])
    assert tracemalloc.get_traced_memory()[1] < 4_000_000
    tracemalloc.stop()


def test_a_long_parquet_file_is_read_in_parts(pairs, monkeypatch):
    monkeypatch.setattr(vector_table, "ROWS_AT_ONCE", 2)
    for columns in ({"file": NAMES, "v": ROWS}, {"file": NAMES, "a": [row[0] for row in ROWS]}):
        table = vector_table.VectorTable(Path(parquet(pairs, columns)), NAMES)
        for number, row in enumerate(ROWS):
            assert np.frombuffer(table.fetch(number), "<f4").tolist() == row[: 1 if "a" in columns else 3]
