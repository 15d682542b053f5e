"""Locks on bytes of a file: exclusive per byte, released when their holder ends, optional without support."""

import os
import signal
import time

import pytest

from hdit_core import locks
from hdit_core.errors import UsageError
from hdit_core.locks import FolderLock, LockHeldError, locked


def held_elsewhere(path, ranges=((0, 1),)):
    """Start a process that holds locks until it is killed; return its id."""
    ready, done = os.pipe()
    if (pid := os.fork()) == 0:
        with locked(path, ranges):
            os.write(done, b".")
            time.sleep(60)
        os._exit(0)
    os.read(ready, 1)
    return pid


def end(pid):
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)


def test_a_byte_is_locked_by_one_process_and_other_bytes_are_free(tmp_path):
    path = tmp_path / "new" / "lock"
    holder = held_elsewhere(path, ((0, 1), (4, 2)))
    try:
        for byte in (0, 4, 5):
            with pytest.raises(LockHeldError), locked(path, ((byte, 1),)):
                pass
        with locked(path, ((1, 3), (6, 10))):
            pass
    finally:
        end(holder)
    with locked(path, ((0, 10),)):
        pass


def test_a_lock_is_waited_for_at_most_as_long_as_asked(tmp_path):
    path = tmp_path / "lock"
    holder = held_elsewhere(path)
    began = time.monotonic()
    with pytest.raises(LockHeldError), locked(path, wait_s=0.2):
        pass
    assert time.monotonic() - began >= 0.2
    os.kill(holder, signal.SIGKILL)
    with locked(path, wait_s=60.0):
        pass
    os.waitpid(holder, 0)


def test_a_wait_for_another_process_is_reported_once(tmp_path, monkeypatch, notes):
    monkeypatch.setattr(locks, "SAY_AFTER_S", 0.1)
    path = tmp_path / "lock"
    holder = held_elsewhere(path)
    try:
        with pytest.raises(LockHeldError), locked(path, wait_s=0.5):
            pass
    finally:
        end(holder)
    assert notes == [f"{path}: waiting for another process of hdit that holds this lock"]


def test_the_record_is_free_after_a_section_that_failed(tmp_path):
    mine = FolderLock(tmp_path)
    mine.acquire()
    with pytest.raises(ValueError, match="half way"), mine.exclusive_section():
        raise ValueError("half way")
    if (pid := os.fork()) == 0:
        other = FolderLock(tmp_path)
        other.WAIT_S = 0.0
        other.acquire()
        try:
            with other.exclusive_section():
                os._exit(0)
        except UsageError:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    mine.release()
