"""Folders that preparation does not modify, sources it refuses, and preparations it does not resume."""

import io
import json
import tarfile
import zipfile
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import pytest

from hdit_core.errors import DataError, UsageError
from tests.data.class_folders import bytes_of


def rejects_of(folder):
    return [json.loads(line) for line in (folder / "rejects.jsonl").read_text().splitlines()]


def test_a_complete_set_is_not_changed(pictures, prepare, tmp_path):
    first = prepare(pictures)
    before = {path: path.stat() for path in (tmp_path / "set").iterdir()}
    again = prepare(pictures)
    assert again.already_complete
    assert not first.already_complete
    assert again.root == first.root
    after = {path: path.stat() for path in (tmp_path / "set").iterdir()}
    assert {path: (s.st_mtime_ns, s.st_ino) for path, s in before.items()} == {
        path: (s.st_mtime_ns, s.st_ino) for path, s in after.items()
    }


def test_a_folder_with_another_data_set_is_not_touched(pictures, prepare):
    prepare(pictures)
    with pytest.raises(UsageError, match="already contains a data set made from other images or with other settings"):
        prepare(pictures, crop="fit")


def test_a_folder_with_other_files_is_not_touched(pictures, prepare, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"set: is not empty .contains .thesis.tex.. and not a data set"):
        prepare(pictures)
    assert bytes_of(tmp_path / "set") == {"thesis.tex": b"years of work"}


def test_a_folder_inside_the_source_is_refused(pictures, prepare, tmp_path):
    with pytest.raises(UsageError, match=r"--out .*pictures/shards: is inside the source .*; choose a folder outside"):
        prepare(pictures, name="pictures/shards")
    with pytest.raises(UsageError, match="is inside the source"):
        prepare(tmp_path / "pictures" / ".." / "pictures", name="set/../pictures/shards")
    assert not (pictures / "shards").exists()


def test_a_file_in_place_of_the_folder_is_refused(pictures, prepare, tmp_path):
    (tmp_path / "set").write_text("years of work")
    with pytest.raises(UsageError, match=r"--out .*set: is a file; expected a folder"):
        prepare(pictures)
    assert (tmp_path / "set").read_text() == "years of work"


def test_a_size_beyond_all_memory_is_refused(pictures, prepare, tmp_path):
    with pytest.raises(UsageError, match="--size 10001x10000: more than 100 million pixels"):
        prepare(pictures, size=(10_001, 10_000))
    assert not (tmp_path / "set").exists()


def test_an_empty_folder_is_an_error(prepare, tmp_path):
    (tmp_path / "empty" / "deeper").mkdir(parents=True)
    with pytest.raises(DataError, match="empty: contains no images"):
        prepare(tmp_path / "empty")


def test_a_folder_of_text_files_is_an_error_and_leaves_no_files(prepare, tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(3):
        (tmp_path / "texts" / f"{number}.dat").write_text("words")
    message = r"texts: none of its 3 files is a usable image; the first is 0.dat: not an image of a known format"
    with pytest.raises(DataError, match=message):
        prepare(tmp_path / "texts")
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize(
    ("max_bad", "passes"), [(None, True), ("2", True), ("1", False), ("8%", True), ("7%", False), ("0", False)]
)
def test_more_bad_files_than_allowed_end_the_preparation(pictures, prepare, max_bad, passes):
    if passes:
        assert prepare(pictures, max_bad=max_bad).rejects == 2
    else:
        with pytest.raises(DataError, match=r"of 25 inputs are unusable, more than --max-bad .*; the last: "):
            prepare(pictures, max_bad=max_bad)


@pytest.mark.parametrize("max_bad", ["-1", "x", "1.5", "nan%", "-2%", "inf%", ""])
def test_a_limit_that_is_not_a_number_is_refused(pictures, prepare, max_bad):
    with pytest.raises(UsageError, match=r"--max-bad .*: expected a number of inputs or a percentage"):
        prepare(pictures, max_bad=max_bad)


def test_members_of_a_damaged_zip_become_rejects(pictures, prepare, tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("0.png", "1.png"):
            archive.write(pictures / "ant" / "000.png", name)
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    prepare(path)
    assert [(one["name"], one["reason"][:22]) for one in rejects_of(tmp_path / "set")] == [
        ("0.png", "damaged in the archive")
    ]


def test_a_process_that_dies_is_reported(pictures, prepare, monkeypatch):
    result = Future.result

    def broken(future, *timeout):
        if timeout:  # a thread that looks for finished chunks
            return result(future, *timeout)
        raise BrokenProcessPool

    monkeypatch.setattr("concurrent.futures.Future.result", broken)
    with pytest.raises(DataError, match=r"a worker process died .killed, out of memory\?. at or after one of the 8"):
        prepare(pictures, workers=2)


def test_a_process_that_dies_before_a_batch_is_submitted_is_reported(pictures, prepare, monkeypatch):
    def broken(*arguments):
        raise BrokenProcessPool

    monkeypatch.setattr("concurrent.futures.ProcessPoolExecutor.submit", broken)
    with pytest.raises(DataError, match=r"a worker process died .killed, out of memory\?. at or after one of the 8"):
        prepare(pictures, workers=2)


def test_hostile_names_in_an_archive_write_nothing_outside(pictures, prepare, tmp_path):
    content = (pictures / "ant" / "000.png").read_bytes()
    evil = f"evil-{tmp_path.name}.png"  # tests beside this one have evil names of their own
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        for name in (f"../../{evil}", "/tmp/hdit-evil.png", "x\x1b[31m\n.png"):
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    assert prepare(tmp_path / "a.tar", labels="none").images == 3
    assert not [path for folder in (tmp_path, *tmp_path.parents[:3]) for path in folder.glob(evil)]
    assert not Path("/tmp/hdit-evil.png").exists()
    assert {path.name for path in (tmp_path / "set").iterdir()} == {
        "hashes.npy", "index.npy", "manifest.json", "rejects.jsonl", "shard-000000.tar"
    }  # fmt: skip
