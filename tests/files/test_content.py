"""The content of files: any error names the path."""

import errno
from pathlib import Path

import pytest

from hdit_core.files import read_bytes, read_text, write_file


@pytest.mark.parametrize("read", [read_bytes, read_text])
def test_a_read_that_fails_names_the_file(tmp_path, read):
    with pytest.raises(IsADirectoryError) as end:
        read(tmp_path)
    assert end.value.filename == str(tmp_path)
    if Path("/proc/self/mem").exists():  # which can be opened, and whose first byte cannot be read
        with pytest.raises(OSError) as end:
            read_bytes(Path("/proc/self/mem"))
        assert (end.value.errno, end.value.filename) == (errno.EIO, "/proc/self/mem")


def test_a_write_that_fails_names_the_file():
    with pytest.raises(OSError) as end:
        write_file(Path("/dev/full"), b"some")
    assert (end.value.errno, end.value.filename) == (errno.ENOSPC, "/dev/full")


def test_text_is_written_and_read_as_utf_8(tmp_path):
    write_file(tmp_path / "text", "\u00e9")
    assert read_bytes(tmp_path / "text") == b"\xc3\xa9" and read_text(tmp_path / "text") == "\u00e9"
