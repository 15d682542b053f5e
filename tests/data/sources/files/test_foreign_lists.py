"""Lists of paths from other systems."""

import codecs

import pytest

from hdit_core.data.prepare.class_assignment import label_source
from hdit_core.data.sources.resolve import open_source
from hdit_core.errors import DataError
from tests.data.sources.files.test_folder_and_archive import contents, problems, write_folder

FILES = {"img/a.png": b"a", "img/b c.png": b"b"}
LINES = "img/a.png\r\nimg/b c.png\r\n"


@pytest.mark.parametrize(
    "content",
    [
        LINES.encode("utf-8-sig"),
        LINES.encode("utf-16"),
        codecs.BOM_UTF16_BE + LINES.encode("utf-16-be"),
        LINES.encode("utf-32"),
        LINES.replace("\r\n", "\r").encode(),
        LINES.replace("/", "\\").encode(),
        b'"img/a.png"\n"img\\b c.png"\n',
        b" img/a.png\nimg/b c.png \n",
        b"file:///ROOT/img/a.png\nfile:///ROOT/img/b%20c.png\n",
    ],
)
def test_a_list_from_another_system_names_the_same_files(tmp_path, content):
    write_folder(tmp_path, FILES)
    (tmp_path / "l.txt").write_bytes(content.replace(b"/ROOT", str(tmp_path).encode()))
    found = contents(open_source(str(tmp_path / "l.txt")))
    assert [(name.removeprefix(f"{tmp_path}/"), data) for name, data in found] == sorted(FILES.items())


def test_folders_behind_backslashes_are_classes(tmp_path):
    write_folder(tmp_path, {"x/cat/1.png": b"1", "x/dog/2.png": b"2"})
    (tmp_path / "l.txt").write_text("x\\cat\\1.png\nx\\dog\\2.png\n")
    assert label_source(open_source(str(tmp_path / "l.txt")), "auto")[1:] == (("cat", "dog"), [0, 1])


def test_a_name_with_a_backslash_is_itself_where_there_is_such_a_file(tmp_path):
    write_folder(tmp_path, {"img\\0.png": b"itself", "img/0.png": b"other"})
    (tmp_path / "l.txt").write_text("img\\0.png\n")
    assert contents(open_source(str(tmp_path / "l.txt"))) == [("img\\0.png", b"itself")]


def test_one_file_in_two_spellings_is_reported_as_listed_twice(tmp_path):
    write_folder(tmp_path, FILES)
    (tmp_path / "l.txt").write_text("img/a.png\nimg\\a.png\n")
    assert problems(open_source(str(tmp_path / "l.txt"))) == {"img/a.png": "named twice in the list"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (LINES.encode("utf-16-le"), "looks like UTF-16 without a byte order mark; save it as UTF-8"),
        (b"\xff\xfe\x00\xd8x", "cannot be read .*UTF-16"),
        (b"img/a.png 3\nimg/b.png 4\n", "none of its 2 paths can be found, such as 'img/a.png 3'.*table for --labels"),
        (b"C:\\photos\\a.png\n", "none of its 1 paths can be found"),
    ],
)
def test_an_empty_list_is_reported_with_the_reason(tmp_path, content, message):
    write_folder(tmp_path, FILES)
    (tmp_path / "l.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path / "l.txt"))
