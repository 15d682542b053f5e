"""A table's names find the files they mean, and ambiguous ones are refused."""

import pytest

from hdit_core.data.sources.labels import name_index
from hdit_core.data.sources.labels.name_index import AmbiguousNameError, NameIndex

NAMES = ["train/000.jpg", "train/001.jpg", "test/001.jpg", "a.b/2.png", "caf\u00e9.png", "x/Same.png", "y/Same.jpg"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("train/000.jpg", "train/000.jpg"),
        ("000.jpg", "train/000.jpg"),
        ("000", "train/000.jpg"),
        ("./train/000.jpg", "train/000.jpg"),
        ("train\\000.jpg", "train/000.jpg"),
        ("C:\\data\\train\\000.jpg", "train/000.jpg"),
        ("/data/train/000.jpg", "train/000.jpg"),
        ("train/001", "train/001.jpg"),
        (" 000.JPG", "train/000.jpg"),
        ("2.png", "a.b/2.png"),
        ("cafe\u0301.png", "caf\u00e9.png"),
        ("same.png", "x/Same.png"),
        ("val/000.jpg", None),
        ("00.jpg", None),
        ("rain/000.jpg", None),
        ("", None),
    ],
)
def test_a_name_finds_its_file(wanted, found):
    assert NameIndex(NAMES).find(wanted) == found


@pytest.mark.parametrize("wanted", ["001.jpg", "001", "Same", "same"])
def test_a_name_that_could_mean_several_files_is_refused(wanted):
    with pytest.raises(AmbiguousNameError, match=r"could be '.*' or '.*'"):
        NameIndex(NAMES).find(wanted)


def test_many_files_of_one_last_part_are_normalized_once_not_once_for_each_label(monkeypatch):
    calls = []
    monkeypatch.setattr(
        name_index, "normalize", lambda name, real=name_index.normalize: calls.append(name) or real(name)
    )
    files = [f"set/{number:03}/image.png" for number in range(300)]
    index = NameIndex(files)
    assert [index.find(f"{number:03}/image.png") for number in range(300)] == files
    assert index.find("deep/" * 50_000 + "set/000/image.png") == files[0]
    assert len(calls) == 2 * 300 + 1
