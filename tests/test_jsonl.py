"""Files of JSON lines: a line truncated by a crash is skipped, and removed when the file is truncated."""

import pytest

from hdit_core.jsonl import append, cut_back, read


def test_records_are_read_back_in_order(tmp_path):
    path = tmp_path / "a.jsonl"
    assert read(path) == [] and cut_back(path, lambda record: True) == [] and not path.exists()
    append(path, {"step": 1, "name": "é\u2028"})
    append(path, {"step": 2})
    assert read(path) == [{"step": 1, "name": "é\u2028"}, {"step": 2}]


@pytest.mark.parametrize("damaged", [b"\xff\xfe", b"\x00" * 9, b"[" * 100_000, b'{"step": 2', b"7", b"[1]", b""])
def test_damaged_lines_are_skipped_and_truncation_removes_them(tmp_path, damaged):
    path = tmp_path / "a.jsonl"
    append(path, {"step": 1})
    with path.open("ab") as file:
        file.write(damaged + b"\n")
    append(path, {"step": 3})
    append(path, {"step": 4})
    assert [record["step"] for record in read(path)] == [1, 3, 4]
    assert cut_back(path, lambda record: record["step"] < 4) == [{"step": 1}, {"step": 3}]
    assert path.read_bytes() == b'{"step": 1}\n{"step": 3}\n'


def test_truncation_keeps_the_bytes_of_the_remaining_lines(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"step":   1.0}\n{"step": 2}\n')
    cut_back(path, lambda record: record["step"] == 1)
    assert path.read_bytes() == b'{"step":   1.0}\n'


def test_a_file_that_cannot_be_read_is_not_taken_for_a_missing_one(tmp_path):
    path = tmp_path / "a.jsonl"
    path.symlink_to(path)
    with pytest.raises(OSError, match=r"a\.jsonl"):
        read(path)
    with pytest.raises(OSError, match=r"a\.jsonl"):
        cut_back(path, lambda record: True)
    assert path.is_symlink()
