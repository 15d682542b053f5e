"""A run folder belongs to one process at a time."""

import errno
import fcntl
import os
import signal
import subprocess
import sys

import pytest

from hdit_core.errors import UsageError
from hdit_core.train.start.run_folder import LOCK, locked_run_folder

HOLDER = """
import os, sys, time
from pathlib import Path
from hdit_core.recipe.read import read_recipe
from hdit_core.train.start.run_folder import locked_run_folder

with locked_run_folder(Path(sys.argv[1]), read_recipe("mnist32")):
    reader = os.fork()  # as a loader's worker is, which may live on for seconds when its parent is killed
    if reader:
        print(os.getpid(), reader, flush=True)
    time.sleep(600)
"""


@pytest.fixture
def mnist():
    from hdit_core.recipe.read import read_recipe

    return read_recipe("mnist32")


def test_a_run_that_another_process_trains_is_refused_until_that_process_has_ended(tmp_path, mnist):
    run = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(run)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    pid, reader = map(int, holder.stdout.readline().split())
    try:
        where = rf"{run}: another hdit train is running in it \(process {pid} on .*\); .*touch {run}/STOP"
        with pytest.raises(UsageError, match=where), locked_run_folder(run, mnist):
            pass
        holder.kill()
        holder.wait()
        with locked_run_folder(run, mnist):
            os.kill(reader, 0)  # exists, but is empty
    finally:
        holder.kill()
        os.kill(reader, signal.SIGKILL)


def test_a_folder_is_free_again_after_a_run_that_failed(tmp_path, mnist):
    with pytest.raises(ZeroDivisionError), locked_run_folder(tmp_path / "run", mnist):
        _ = 1 // 0
    with locked_run_folder(tmp_path / "run", mnist):
        assert (tmp_path / "run" / "recipe.toml").exists()


def test_a_folder_that_was_only_claimed_can_be_used(tmp_path, mnist):
    (tmp_path / LOCK).touch()  # killed between the lock and the recipe
    with locked_run_folder(tmp_path, mnist):
        assert (tmp_path / "recipe.toml").exists()


def test_a_refused_folder_is_not_changed(tmp_path, mnist):
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UsageError, match="is not a run of hdit"), locked_run_folder(tmp_path, mnist):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_damaged_recipe_is_reported_in_one_line(tmp_path, mnist):
    (tmp_path / "recipe.toml").write_text("[train]\nlr = 'high'\nbatch = 3\n")
    complaint = (
        r"its recipe cannot be read, so the run cannot be resumed: .*train\.lr = [^\n]*; [^\n]*train\.batch: [^\n]*$"
    )
    with pytest.raises(UsageError, match=complaint), locked_run_folder(tmp_path, mnist):
        pass


def test_a_file_system_without_locks_is_logged_and_used(tmp_path, mnist, monkeypatch, caplog):
    def no_locks(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "lockf", no_locks)
    with locked_run_folder(tmp_path / "run", mnist):
        assert (tmp_path / "run" / "recipe.toml").exists()
    assert "its file system has no locks" in caplog.text
