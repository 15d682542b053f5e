"""A file is complete or absent, and a failed write leaves no temporary file."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from hdit_core.errors import UsageError
from hdit_core.files import (
    atomic_file,
    atomic_folder,
    cache_folder,
    check_output,
    read_json,
    remove_temporaries,
    write_atomic,
    write_file,
)
from hdit_core.files.atomic import _log_refused_flush


def test_a_write_that_fails_half_way_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path):
    path = tmp_path / "numbers"
    write_atomic(path, "old")

    def fail():
        with atomic_file(path) as temporary, temporary.open("wb") as file:
            file.write(b"ne")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_file_is_flushed_before_the_rename_and_its_folder_afterwards(tmp_path, monkeypatch):
    path, flushed, fsync = tmp_path / "numbers", [], os.fsync

    def record(descriptor):
        flushed.append((Path(f"/proc/self/fd/{descriptor}").readlink().is_dir(), path.exists()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", record)
    write_atomic(path, b"new")
    assert flushed == [(False, False), (True, True)]


def test_a_folder_that_fails_half_way_leaves_no_temporary_files(tmp_path):
    def fail():
        with atomic_folder(tmp_path / "set") as folder:
            (folder / "part").touch()
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        fail()
    assert not list(tmp_path.iterdir())


def test_a_file_system_that_cannot_rename_folders_is_named_with_the_fix(tmp_path, monkeypatch):
    def refuse(self, target):
        raise OSError(errno.ENOSYS, "Function not implemented", str(self), None, str(target))

    monkeypatch.setattr(Path, "rename", refuse)
    expected = "cannot rename folders, as gcsfuse without --rename-dir-limit; choose a folder"
    with pytest.raises(OSError, match=expected), atomic_folder(tmp_path / "final"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_only_files_left_by_killed_writers_are_removed(tmp_path):
    (tmp_path / ".tmp-step-1-99").mkdir()
    (tmp_path / ".tmp-step-1-99" / "part").touch()
    (tmp_path / ".tmp-index-7").touch()
    (tmp_path / "index").touch()
    remove_temporaries(tmp_path, "step-1")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-index-7", "index"]
    remove_temporaries(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["index"]


@pytest.mark.parametrize("other", ["run10", "run1-b", "run1.tar"])
def test_what_another_process_writes_under_a_longer_name_stays(tmp_path, other):
    with atomic_folder(tmp_path / other) as folder:
        (folder / "part").touch()
        with atomic_folder(tmp_path / "run1"):
            pass
    assert (tmp_path / other / "part").is_file()


def test_files_need_no_torch():
    code = "import sys, hdit_core.files; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b'{"a": NaN}', "not JSON .it contains NaN"),
        (b"[" * 500_000, "nested too deeply"),
        (b" " * 1_000_001, "larger than 1,000,000 bytes"),
    ],
)
def test_a_file_other_than_a_json_object_of_reasonable_size_is_refused_with_the_reason(tmp_path, content, reason):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=reason):
        read_json(tmp_path / "a.json", 1_000_000)


def test_a_file_system_that_cannot_flush_folders_is_logged_once_and_used(tmp_path, monkeypatch, caplog):
    flush = os.fsync

    def refuse_folders(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", refuse_folders)
    _log_refused_flush.cache_clear()
    caplog.set_level("INFO", "hdit")
    write_atomic(tmp_path / "a", "one")
    with atomic_folder(tmp_path / "b") as folder:
        (folder / "c").write_text("two")
    assert (tmp_path / "a").read_text() == "one" and (tmp_path / "b" / "c").read_text() == "two"
    assert caplog.text.count("the file system cannot flush folders (Invalid argument)") == 1


def test_an_error_while_writing_names_the_file(tmp_path):
    with pytest.raises(OSError, match="No space left") as found, atomic_file(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert found.value.filename == str(tmp_path / "a") and not list(tmp_path.iterdir())
    with pytest.raises(OSError) as found, atomic_folder(tmp_path / "b"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert found.value.filename == str(tmp_path / "b") and not list(tmp_path.iterdir())


def test_without_a_home_the_cache_is_in_the_temporary_folder(monkeypatch, tmp_path):
    def no_home():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", no_home)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert cache_folder() == tmp_path / f"hdit-{os.getuid()}"


def test_an_output_that_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "old.png").touch()
    check_output("--x", None, ".png")
    check_output("--x", tmp_path / "NEW.PNG", ".png", ".svg")
    check_output("--x", tmp_path / "old.png", ".png")
    check_output("--x", tmp_path / "gone" / "new.png", ".png", new=True)
    with pytest.raises(UsageError, match=r"--x .*a.jpg: expected a name that ends in .png or .svg"):
        check_output("--x", tmp_path / "a.jpg", ".png", ".svg")
    with pytest.raises(UsageError, match=r"--x .*old.png: already exists and is never replaced; choose another name"):
        check_output("--x", tmp_path / "old.png", ".png", new=True)
    with pytest.raises(UsageError, match=r"--x .*new.png: there is no folder .*gone; create it"):
        check_output("--x", tmp_path / "gone" / "new.png", ".png")
    with pytest.raises(UsageError, match=r"--x .*: is a folder; give the name of a file"):
        check_output("--x", tmp_path)


def test_an_error_names_the_requested_file_and_not_the_temporary_one(tmp_path):
    (tmp_path / "set").mkdir()
    with pytest.raises(IsADirectoryError) as end:
        write_atomic(tmp_path / "set", b"")
    assert (end.value.filename, end.value.filename2) == (str(tmp_path / "set"), None)
    with pytest.raises(FileNotFoundError) as end, atomic_folder(tmp_path / "new") as folder:
        write_file(folder / "missing" / "part", b"")
    assert end.value.filename == str(tmp_path / "new" / "missing" / "part")
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
