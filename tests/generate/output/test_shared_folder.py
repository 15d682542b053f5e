"""Several jobs in one folder of samples at once: no entry is lost, the last to end completes it, none waits long."""

import errno
import fcntl
import json
import os
import random
import signal

import pytest
import torch

from hdit_core import locks
from hdit_core.errors import UsageError
from hdit_core.generate.output.sample_folder import SampleFolder
from hdit_core.generate.pipeline import Samples
from hdit_core.locks import FolderLock
from tests.generate.sampling_ranks import begin, command, contents, end, write_network

ORIGIN = {"seed": 3, "settings": {"steps": 4}}


def begun(path):
    samples = SampleFolder(path, ORIGIN, (8, 12, 3))
    samples.begin()
    return samples


def draw(samples, numbers):
    samples.write(Samples(list(numbers), None, torch.zeros(len(numbers), 3, 8, 12)))


def finish(samples, numbers):
    return samples.finish(numbers, lambda number: None)


def record(path):
    return json.loads((path / "samples.json").read_text())


class Other:
    """Another process that performs an action and then waits until it may continue, or is killed."""

    def __init__(self, act, then=lambda: None):
        (wait_for, self._go_on), done = os.pipe(), os.pipe()
        self.process = os.fork()
        if self.process == 0:
            code = 9
            try:
                act()
                os.write(done[1], b".")
                os.close(self._go_on)
                os.read(wait_for, 1)
                then()
                code = 0
            finally:
                os._exit(code)
        os.close(done[1])
        assert os.read(done[0], 1) == b"."

    def end(self):
        os.close(self._go_on)
        assert os.waitstatus_to_exitcode(os.waitpid(self.process, 0)[1]) == 0

    def kill(self):
        os.kill(self.process, signal.SIGKILL)
        os.waitpid(self.process, 0)
        os.close(self._go_on)


def test_a_job_that_ends_first_leaves_completing_the_record_to_the_other(tmp_path):
    theirs = SampleFolder(tmp_path, ORIGIN, (8, 12, 3))
    half = tmp_path / ".tmp-00000007.png-theirs"

    def act():
        theirs.begin()
        half.write_bytes(b"half")

    def then():
        half.unlink()  # fails where it was taken for a killed job's
        draw(theirs, [7])
        finish(theirs, [7])

    other, mine = Other(act, then), begun(tmp_path)
    draw(mine, [0, 1])
    assert finish(mine, [0, 1])["status"] == record(tmp_path)["status"] == "unfinished"
    assert record(tmp_path)["images"] == "0-1" and half.exists()
    other.end()
    assert (record(tmp_path)["status"], record(tmp_path)["images"]) == ("complete", "0-1,7")
    names = ["00000000.png", "00000001.png", "00000007.png", "samples.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_two_concurrent_jobs_write_the_folder_of_one(tmp_path):
    network, numbers = write_network(tmp_path / "tiniest.safetensors"), random.Random(0)
    whole = command(network, 12, tmp_path / "whole", 2)
    assert not end(begin(whole, 1, tmp_path / "log"), 60, numbers)
    for turn in range(2):
        halves = [command(network, part, tmp_path / f"{turn}", 2) for part in ("0-4,9", "5-8,10-11")]
        processes = [process for half in halves for process in begin(half, 1, tmp_path / "log")]
        assert not end(processes, 60, numbers)
        assert contents(tmp_path / f"{turn}") == contents(tmp_path / "whole")


def test_a_killed_job_blocks_no_other_and_does_not_count_as_running(tmp_path):
    theirs = SampleFolder(tmp_path, ORIGIN, (8, 12, 3))

    def act():
        theirs.begin()
        theirs._lock.exclusive_section().__enter__()
        (tmp_path / ".tmp-00000001.png-theirs").write_bytes(b"half")

    Other(act).kill()
    mine = begun(tmp_path)
    draw(mine, [0])
    assert finish(mine, [0])["status"] == "complete"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000.png", "samples.json"]


def test_a_process_that_holds_the_record_too_long_is_named(tmp_path, monkeypatch):
    theirs = FolderLock(tmp_path)
    section = theirs.exclusive_section()  # released when it is garbage
    other = Other(lambda: (theirs.acquire(), section.__enter__()))
    monkeypatch.setattr(FolderLock, "WAIT_S", 0.05)
    with pytest.raises(
        UsageError, match=r"another hdit process has held its record for .*; end .* remove .*/\.lock, and"
    ):
        begun(tmp_path)
    other.kill()
    begun(tmp_path)


def test_a_job_that_waited_while_the_last_one_removed_the_lock_takes_the_new_one(tmp_path, monkeypatch):
    lock, real, removed = FolderLock(tmp_path), locks._is_removed, []

    def remove_once(descriptor):
        if not removed:
            removed.append((tmp_path / ".lock").unlink())
        return real(descriptor)

    monkeypatch.setattr(locks, "_is_removed", remove_once)
    lock.acquire()
    assert os.fstat(lock._descriptor).st_ino == (tmp_path / ".lock").stat().st_ino
    other = Other(lambda: FolderLock(tmp_path).acquire())
    assert not lock.is_exclusive()
    other.kill()
    assert lock.is_exclusive()


def test_without_file_locks_a_warning_is_logged_once_and_samples_are_written(tmp_path, monkeypatch, caplog):
    def none(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "lockf", none)
    mine = begun(tmp_path)
    draw(mine, [0])
    assert finish(mine, [0])["status"] == "complete"
    assert caplog.text.count("its file system has no locks (No locks available); make sure that no two") == 1


def test_a_link_in_place_of_the_lock_is_not_followed(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "nowhere")
    with pytest.raises(OSError, match="symbolic links"):
        begun(tmp_path / "out")
    assert not (tmp_path / "nowhere").exists()
