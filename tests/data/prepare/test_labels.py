"""Which class an image has."""

import pytest

from hdit_core.data.prepare.labels import class_ids, label_entries
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


def test_a_folder_around_everything_is_no_class():
    classes, _ = labelled(["all/cat/1.png", "all/dog/3.png"])
    assert classes == {"all/cat/1.png": "cat", "all/dog/3.png": "dog"}
    assert set(labelled(["jpg/1.png", "jpg/2.png"])[0].values()) == {None}


def test_a_flat_folder_has_no_classes():
    assert set(labelled(["1.png", "2.png", "readme.txt"])[0].values()) == {None}


def test_files_beside_the_class_folders_and_hidden_folders_are_no_classes():
    classes, problems = labelled(["README.md", "cat/1.png", "dog/3.png", ".git/x.png", "__MACOSX/cat/1.png"])
    assert {name for name, found in classes.items() if found} == {"cat/1.png", "dog/3.png"}
    assert problems == {
        "README.md": "not in a class folder",
        ".git/x.png": "in a hidden folder",
        "__MACOSX/cat/1.png": "in a hidden folder",
    }


def test_images_beside_class_folders_are_an_error_that_says_what_to_do():
    with pytest.raises(DataError, match=r"1 images such as '0.png' lie beside 2 in folders.*--labels none"):
        labelled(["0.png", "cat/1.png", "dog/2.png"])
    assert set(labelled(["0.png", "cat/1.png", "dog/2.png"], "none")[0].values()) == {None}


def test_class_numbers_follow_the_sorted_names_and_numbers_sort_as_numbers():
    assert class_names(["b", "a", "b", "C"]) == ("C", "a", "b")
    assert class_names(str(number) for number in range(102)) == tuple(str(number) for number in range(102))
    assert class_names(["10", "9", "x"]) == ("10", "9", "x")
    assert class_names(["010", "9"]) == ("010", "9")


def test_class_ids_are_places_in_the_sorted_names():
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


def test_nothing_is_dropped_where_labels_and_files_differ(tmp_path):
    path = tmp_path / "labels.jsonl"
    path.write_text('{"file": "1.png", "label": 7}\n{"file": "../../gone.png", "label": 8}\n')
    classes, problems = labelled(["1.png", "2.png"], path)
    assert classes == {"1.png": "7", "2.png": None, "../../gone.png": "8"}
    assert problems == {"2.png": "no label in labels.jsonl", "../../gone.png": "named in labels.jsonl, not found"}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("l.csv", "name,class\n1.png,a\n", "its first line must name the columns file,label; found"),
        ("l.csv", "", "its first line must name the columns file,label; found None"),
        ("l.csv", "file,label\n", "names no file"),
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
def test_a_mistake_in_the_labels_is_named_with_its_line(tmp_path, name, text, message):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError, match=message):
        labelled(["1.png"], tmp_path / name)


def test_labels_must_be_a_file_that_says_its_kind(tmp_path):
    with pytest.raises(UsageError, match=r"expected auto, none, or a file that ends in .csv, .jsonl or .txt"):
        labelled(["1.png"], tmp_path / "labels.xml")
