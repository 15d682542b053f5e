"""Which class an image has."""

import pytest

from hdit_core.data.prepare.class_assignment import class_ids, label_entries
from hdit_core.data.sources.source import Entry, class_names
from hdit_core.errors import DataError, UsageError


def labelled(names, labels="auto"):
    """Return class names by file name, and problems by file name."""
    inputs = label_entries([Entry(name, 1) for name in names], str(labels))
    assert [one.name for one in inputs][: len(names)] == list(names)
    return {one.name: one.class_name for one in inputs}, {one.name: one.problem for one in inputs if one.problem}


def test_top_folders_are_classes():
    classes, problems = labelled(["cat/1.png", "cat/deep/2.png", "dog/3.png"])
    assert classes == {"cat/1.png": "cat", "cat/deep/2.png": "cat", "dog/3.png": "dog"}
    assert not problems


def test_a_folder_around_everything_is_not_a_class():
    classes, _ = labelled(["all/cat/1.png", "all/dog/3.png"])
    assert classes == {"all/cat/1.png": "cat", "all/dog/3.png": "dog"}
    assert set(labelled(["jpg/1.png", "jpg/2.png"])[0].values()) == {None}


def test_a_flat_folder_has_no_classes():
    assert set(labelled(["1.png", "2.png", "readme.txt"])[0].values()) == {None}


def test_other_files_next_to_the_class_folders_are_rejected():
    classes, problems = labelled(["clip.mp4", "cat/1.png", "dog/3.png"])
    assert {name for name, found in classes.items() if found} == {"cat/1.png", "dog/3.png"}
    assert problems == {"clip.mp4": "not in a class folder"}


def test_images_next_to_class_folders_are_an_error_with_advice():
    with pytest.raises(DataError, match=r"1 images such as '0.png' are next to 2 in folders.*--labels none"):
        labelled(["0.png", "cat/1.png", "dog/2.png"])
    assert set(labelled(["0.png", "cat/1.png", "dog/2.png"], "none")[0].values()) == {None}


def test_class_numbers_follow_the_sorted_names_and_numbers_sort_as_numbers():
    assert class_names(["b", "a", "b", "C"]) == ("C", "a", "b")
    assert class_names(str(number) for number in range(102)) == tuple(str(number) for number in range(102))
    assert class_names(["10", "9", "x"]) == ("10", "9", "x")
    assert class_names(["010", "9"]) == ("010", "9")


def test_class_ids_are_indices_into_the_sorted_names():
    inputs = label_entries([Entry(name, 1) for name in ("dog/1.png", "cat/2.png", "note.txt")], "auto")
    assert class_ids(inputs) == (("cat", "dog"), [1, 0, -1])


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_labels_come_from_a_file(tmp_path, ending):
    path = tmp_path / f"labels.{ending}"
    lines = {
        "csv": "file,note,label\n1.png,,rose\n./sub/2.png,,tulip\n",
        "jsonl": '{"file": "1.png", "label": "rose"}\n\n{"file": "sub/2.png", "label": "tulip"}\n',
    }
    path.write_text(lines[ending])
    classes, problems = labelled(["1.png", "sub/2.png"], path)
    assert classes == {"1.png": "rose", "sub/2.png": "tulip"}
    assert not problems


def test_mismatches_between_labels_and_files_are_reported(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"file": "1.png", "label": 7}\n{"file": "../../gone.png", "label": 8}\n')
    classes, problems = labelled(["1.png", "2.png"], path)
    assert classes == {"1.png": "7", "2.png": None, "../../gone.png": "8"}
    assert problems == {"2.png": "no label in labels.jsonl", "../../gone.png": "named in labels.jsonl, not found"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "1.png,a\n2.png,b\n", "its first line must name the columns file,label; found"),
        ("l.csv", "", "its first line must name the columns file,label; found ''"),
        ("l.csv", "file,label\n", "has no labels"),
        ("l.csv", "file,label\n1.png,\n", "l.csv:2: expected a file and a label, found '1.png' and ''"),
        ("l.csv", "file,label\n1.png,a\n1.png,b\n", "l.csv:3: '1.png' has two labels, 'a' and 'b'"),
        ("l.csv", "file,label\n./1.png,a\n1.png,b\n", "l.csv:3: '1.png' has two labels, 'a' and 'b'"),
        ("l.csv", "file,label\n1.png,a\n./1.png,b\n", "l.csv:3: './1.png' has two labels, 'a' and 'b'"),
        ("l.jsonl", '{"file": "1.png"}\n', "l.jsonl:1: expected a file and a label, found '1.png' and None"),
        ("l.jsonl", '{"file": "1.png", "label": 1.5}\n', "expected a file and a label, found '1.png' and 1.5"),
        ("l.jsonl", "[1]\n", "l.jsonl:1: expected a file and a label"),
        ("l.jsonl", "{{{\n", "cannot be read as jsonl"),
        ("l.jsonl", "[" * 100_000, "cannot be read as jsonl"),
    ],
)
def test_an_error_in_the_labels_is_named_with_its_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        labelled(["1.png"], tmp_path / name)


def test_labels_must_be_a_file_with_a_known_suffix(tmp_path):
    with pytest.raises(
        UsageError, match=r"expected auto, none, or a file that ends in .csv, .tsv, .jsonl, .json, .parquet or .txt"
    ):
        labelled(["1.png"], tmp_path / "labels.xml")


TABLE = "file,label\r\ntrain/0.png,dog\r\ntrain/1.png,cat\r\n"


@pytest.mark.parametrize(
    ("ending", "content"),
    [
        ("csv", TABLE.encode()),
        ("csv", TABLE.encode("utf-8-sig")),
        ("csv", TABLE.encode("utf-16")),
        ("csv", TABLE.replace(",", ";").encode()),
        ("csv", TABLE.replace(",", "\t").encode()),
        ("tsv", TABLE.replace(",", "\t").encode()),
        ("csv", TABLE.replace("\r\n", "\r").encode()),
        ("csv", TABLE.replace("file,", "file_name,").encode()),
        ("csv", TABLE.replace("file,label", "Image , Class").replace(",dog", ", dog").encode()),
        ("csv", ("sep=;\n" + TABLE.replace(",", ";")).encode()),
        ("csv", TABLE.replace("train/", "").encode()),
        ("csv", TABLE.replace(".png", "").replace("train/", "").encode()),
        ("csv", TABLE.replace("/", "\\").encode()),
        ("csv", (TABLE + "\r\n\r\n").encode()),
        ("jsonl", b'{"image": "0.png", "category": "dog"}\n{"image": "1.png", "category": "cat"}'),
        ("json", b'{"labels": [["0.png", "dog"], ["1.png", "cat"]]}'),
        ("json", b'{"0.png": "dog", "1.png": "cat"}'),
        ("txt", b"0.png dog\n1.png cat\n"),
        ("txt", b"train/0.png\tdog\r\ntrain/1.png\tcat"),
        ("txt", "dog\r\ncat".encode("utf-16")),
    ],
)
def test_a_table_of_another_system_gives_the_same_labels(tmp_path, ending, content):
    path = tmp_path / f"labels.{ending}"
    path.write_bytes(content)
    assert labelled(["train/0.png", "train/1.png"], path) == ({"train/0.png": "dog", "train/1.png": "cat"}, {})


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.csv", b"file,label\n0.png,a\n", "'0.png' could be 'x/0.png' or 'y/0.png'; write the folder"),
        ("l.csv", b"file,label\nx/0.png,a\nx/0,b\n", "'x/0.png' has two labels, 'a' and 'b'"),
        ("l.csv", b"file,label\nz/9.png,a\n", "none of its 1 names is a file of the source"),
        ("l.csv", b"file,label\nx/0.png,a,b\n", "l.csv:2: has 3 fields where the first line names 2 columns"),
        ("l.csv", b"file,label,class_id,category\nx/0.png,a\n", "has 2 fields where the first line names 4"),
        ("l.csv", b"file,class,category\nx/0.png,a,b\n", "l.csv: classes in several columns, class, category; rename"),
        ("l.csv", b"id,path,label\n0,x/0.png,a\n", "l.csv: names of files in several columns, id, path; rename the"),
        (
            "l.jsonl",
            b'{"file": "x/0.png", "class": 1, "target": 2}',
            "l.jsonl:1: classes in several columns, class, ta",
        ),
        ("l.txt", b"x/0.png cat\n0.png dog\n", "'0.png' could be 'x/0.png' or 'y/0.png'; write the folder"),
        ("l.txt", b"x/0.png cat\n\ny/0.png\n", "l.txt:3: expected a file and a label, found 'y/0.png' and ''"),
        ("l.txt", b"x/0.png cat\ny/0.png dog\nx/0.png dog\n", "l.txt:3: 'x/0.png' has two labels, 'cat' and 'dog'"),
        ("l.csv", "file,label\nx/0.png,caf\xe9\n".encode("latin-1"), "byte 22 is not UTF-8; save it as UTF-8"),
        (
            "l.csv",
            "file,label\nx/0.png,a\n".encode("utf-16-le"),
            "zeros between its letters, perhaps UTF-16 without a byte order mark",
        ),
        ("l.csv", b"file,label\nx/0.png,nan\ny/0.png,a\n", "'x/0.png': its class 'nan' means a missing value"),
        ("l.csv", b"file,label\nx/0.png,1.5\n", "is a number with a fraction"),
        ("l.txt", b"1 2\n2 1\n", "expected one label per line, found two numbers, '1 2'"),
    ],
)
def test_ambiguous_labels_are_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        labelled(["x/0.png", "y/0.png"], tmp_path / name)


def test_a_list_in_which_a_line_begins_with_the_name_of_a_file_has_a_name_and_a_label_per_line(tmp_path):
    names = ["a.png", "my cat.png", "c.png"]
    (tmp_path / "l.txt").write_text("a.png golden retriever\nmy cat.png tabby\nd.png tabby\n")
    classes, problems = labelled(names, tmp_path / "l.txt")
    assert classes == {"a.png": "golden retriever", "my cat.png": "tabby", "c.png": None, "d.png": "tabby"}
    assert problems == {"c.png": "no label in l.txt", "d.png": "named in l.txt, not found"}
    (tmp_path / "l.txt").write_text("golden retriever\ntabby cat\nlabel of a c.png\n")
    assert set(labelled(names, tmp_path / "l.txt")[0].values()) == {"golden retriever", "tabby cat", "label of a c.png"}


def test_numbers_as_pandas_writes_them_are_one_class(tmp_path):
    (tmp_path / "l.csv").write_text("file,label\n0.png,1\n1.png,1.0\n2.png,10.0\n")
    assert labelled(["0.png", "1.png", "2.png"], tmp_path / "l.csv")[0] == {"0.png": "1", "1.png": "1", "2.png": "10"}


def test_classes_that_differ_in_case_only_are_warned_of(caplog):
    class_ids(label_entries([Entry("Dog/1.png", 1), Entry("dog/2.png", 1)], "auto"))
    assert "the classes 'Dog' and 'dog' differ only in case or spelling" in caplog.text
