"""Lists of paths, in a file or on stdin, as sources."""

import io
import os
import random

import pytest

from hdit_core.data.prepare.class_assignment import label_source
from hdit_core.data.sources.files.path_list import open_stdin
from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError, UsageError
from tests.data.sources.files.test_folder_and_archive import (
    FILES,
    contents,
    problems,
    write_folder,
    write_tar,
    write_zip,
)


def write_list(path, lines):
    path.write_bytes(b"\n".join(os.fsencode(line) for line in lines) + b"\n")
    return path


def test_paths_are_relative_to_their_list_and_sorted(tmp_path):
    write_folder(tmp_path / "photos")
    names = [f"./photos/{name}" for name in FILES] + [f"{tmp_path}/photos/a/../a/1.png"]
    random.Random(0).shuffle(names)
    source = open_source(str(write_list(tmp_path / "l.txt", names)))
    assert contents(source) == [
        (f"{tmp_path}/photos/a/1.png", b"one"),
        ("photos/a/1.png", b"one"),
        ("photos/b/2.png", b"two"),
        ("photos/c.png", b"three" * 300),
    ]


def test_folders_in_a_list_are_classes(tmp_path):
    write_folder(tmp_path / "photos", {"cat/1.png": b"1", "dog/2.png": b"2"})
    for before in ("", f"{tmp_path}/"):
        names = [f"{before}photos/{name}" for name in ("dog/2.png", "cat/1.png")]
        _, classes, numbers = label_source(open_source(str(write_list(tmp_path / "l.txt", names))), "auto")
        assert (classes, numbers) == (("cat", "dog"), [0, 1])


def test_a_list_of_a_hidden_folder_has_its_classes(tmp_path):
    write_folder(tmp_path / ".cache", {"cat/1.png": b"1", "dog/2.png": b"2"})
    source = open_source(str(write_list(tmp_path / "l.txt", [".cache/cat/1.png", ".cache/dog/2.png"])))
    inputs, classes, _ = label_source(source, "auto")
    assert classes == ("cat", "dog")
    assert not any(one.problem for one in inputs)


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_lines_may_end_in_newlines_or_zeros(tmp_path, end):
    write_folder(tmp_path, {"a b.png": b"1", " c.png": b"2"})
    (tmp_path / "l.lst").write_bytes(end.join([b"a b.png", b"", b" c.png"]))
    assert contents(open_source(str(tmp_path / "l.lst"))) == [(" c.png", b"2"), ("a b.png", b"1")]


def test_names_with_newlines_and_other_bytes_are_read_from_zero_separated_lists(tmp_path):
    names = ["two\nlines.png", os.fsdecode(b"caf\xe9.png"), "x\u202e.png", "n" * 251 + ".png"]
    write_folder(tmp_path, dict.fromkeys(names, b"x"))
    (tmp_path / "l.txt").write_bytes(b"\0".join(os.fsencode(name) for name in names))
    source = open_source(str(tmp_path / "l.txt"))
    assert {name for name, _ in contents(source)} == set(names)


def test_a_path_that_is_not_a_file_is_a_reject_with_its_reason(tmp_path):
    write_folder(tmp_path, {"a.png": b"1", "empty.png": b""})
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    names = ["a.png", "a.png", "empty.png", "folder", "pipe.png", "gone.png", "loop.png", "/dev/zero", "a.png/x"]
    source = open_source(str(write_list(tmp_path / "l.txt", names)))
    assert problems(source) == {
        "a.png": "named twice in the list",
        "empty.png": "empty file",
        "folder": "a folder; list the files in it",
        "pipe.png": "not a regular file",
        "gone.png": "cannot be found: No such file or directory",
        "loop.png": "cannot be found: Too many levels of symbolic links",
        "/dev/zero": "not a regular file",
        "a.png/x": "cannot be found: Not a directory",
    }
    assert len(contents(source)) == 1


def test_stdin_gives_the_same_set_in_any_order(tmp_path, monkeypatch):
    write_folder(tmp_path / "photos")
    monkeypatch.chdir(tmp_path)
    names = [f"photos/{name}".encode() for name in FILES]
    sources = [open_stdin(io.BytesIO(b"\0".join(order))) for order in (names, names[::-1])]
    assert sources[0].entries == sources[1].entries
    assert contents(sources[0])[0] == ("photos/a/1.png", b"one")


def test_missing_stdin_is_reported_with_an_example(monkeypatch):
    with pytest.raises(UsageError, match=r"nothing is piped into it; for example: find photos \| hdit"):
        open_stdin(None)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(UsageError, match="nothing is piped into it"):
        open_source("-")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "stdin: is empty; expected one path per line"),
        (b"\n\n", "stdin: is empty"),
        (b"a.png\n" + b"x" * 5000, "stdin:2: longer than a path can be; expected one path per line"),
        (b"x" * 100_000 + b"\n", "stdin:1: longer than a path can be"),
    ],
)
def test_an_invalid_list_is_refused(text, message):
    with pytest.raises(DataError, match=message):
        open_stdin(io.BytesIO(text))


@pytest.mark.parametrize("write", [write_zip, write_tar])
def test_an_archive_on_stdin_is_refused_with_advice_to_give_its_path(tmp_path, write):
    content = write(tmp_path / "a").read_bytes()
    with pytest.raises(
        UsageError,
        match=r"-: an archive on stdin, expected paths.* give that as SOURCE, for example photos\.tar",
    ):
        open_stdin(io.BytesIO(content))


@pytest.mark.parametrize(
    ("endless", "message"),
    [
        (b"\0", "stdin: 65,536 bytes without a path at byte 65,536; is it a device"),
        (b"\n", "bytes without a path"),
        (b"ab", "stdin:1: longer than a path can be"),
        (b"a\n", "stdin: more than 1 MiB, too large for a list of paths"),
    ],
)
def test_reading_an_endless_list_stops(endless, message, monkeypatch):
    """`hdit prepare-data - < /dev/zero`."""
    monkeypatch.setattr("hdit_core.data.sources.files.path_list.LARGEST_LIST_BYTES", 1 << 20)

    class Endless(io.BytesIO):
        def read(self, count):
            return endless * (count // len(endless))

    with pytest.raises(DataError, match=message):
        open_stdin(Endless())


def test_a_text_file_that_is_an_archive_is_read_as_one(tmp_path):
    assert open_source(str(write_zip(tmp_path / "a.txt"))).kind == "zip"


def test_a_pattern_of_other_files_is_refused(tmp_path):
    write_folder(tmp_path)
    with pytest.raises(UsageError, match=r"matches c.png; a pattern can match shards \(.tar\) or .parquet files"):
        open_source(f"{tmp_path}/*.png")
    with pytest.raises(UsageError, match="no such folder, archive or built-in data set"):
        open_source(f"{tmp_path}/*.tar")
