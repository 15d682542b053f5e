"""Processes that read: they end with the run, whatever it dies of, and their own death has a name."""

import os
import signal
import subprocess
import sys
import time

import pytest
from torch.utils.data import Dataset

from hdit_core.data.loader import workers as workers_module
from hdit_core.data.loader.workers import read_in_workers, translate_worker_errors
from hdit_core.errors import DataError

UNFINISHED = """
import sys, time
from hdit_core.data.loader.workers import read_in_workers

class Pids:
    def __getitems__(self, numbers):
        import os
        if numbers[0] > 3:
            time.sleep(1000)  # as on a disk that does not answer
        return os.getpid()

batches = read_in_workers(Pids(), ([number] for number in range(8)), 3)
print(*[next(batches) for _ in range(3)], flush=True)
time.sleep(float(sys.argv[1]))
"""


class Pids(Dataset):
    def __getitems__(self, numbers):
        return os.getpid()


class Dying(Dataset):
    def __getitems__(self, numbers):
        os.kill(os.getpid(), signal.SIGKILL)


class Stuck(Dataset):
    def __getitems__(self, numbers):
        if numbers[0] == 0:
            return os.getpid()
        signal.pause()
        return None


class Wrong(Dataset):
    def __getitems__(self, numbers):
        raise RuntimeError("a bug")


def is_alive(pid):
    """Return whether a process lives; one that has ended and waits for somebody to ask how does not."""
    state = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True, check=False).stdout
    return bool(state) and not state.startswith("Z")


def all_gone(pids, within_s):
    deadline = time.monotonic() + within_s
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return not any(map(is_alive, pids))


@pytest.fixture
def unfinished():
    """Return a function that starts a process whose reading is not finished, and tells it and its workers' ids."""
    started = []

    def start(for_s):
        command = [sys.executable, "-c", UNFINISHED, str(for_s)]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True))
        return started[-1], [int(pid) for pid in started[-1].stdout.readline().split()]

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def test_a_process_that_ends_in_the_middle_of_reading_ends_and_takes_its_workers_with_it(unfinished):
    process, pids = unfinished(0)
    assert len(set(pids)) == 3
    assert process.wait(timeout=120) == 0
    assert all_gone(pids, within_s=120)


def test_workers_end_when_the_main_process_is_killed_though_they_are_stuck(unfinished):
    process, pids = unfinished(1000)
    assert all(map(is_alive, pids))
    process.kill()
    process.wait(timeout=120)
    assert all_gone(pids, within_s=120)


def test_a_stuck_worker_ends_with_the_iterator(monkeypatch):
    monkeypatch.setattr(workers_module, "GRACE_S", 0.3)
    batches = read_in_workers(Stuck(), [[0], [1]], 1)
    pid = next(batches)
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.2)
    assert is_alive(pid)  # a scheduler's signal is not meant for it
    os.kill(pid, signal.SIGSTOP)
    batches.close()
    assert all_gone([pid], within_s=120)


def test_batches_come_in_the_order_of_the_plan():
    plan = [[3, 1], [2], [5, 0, 4]]

    class Echo(Dataset):
        def __getitems__(self, numbers):
            return numbers

    assert list(read_in_workers(Echo(), plan, 2)) == plan


def test_a_killed_worker_is_reported():
    with pytest.raises(
        DataError, match=r"a process that reads images died .killed, out of memory\?.: .* run the same command"
    ):
        list(read_in_workers(Dying(), [[0]], 1))


def test_a_worker_that_is_killed_while_the_main_process_does_something_else_is_reported():
    with pytest.raises(DataError, match=r"a process that reads images died"), translate_worker_errors():
        batches = read_in_workers(Pids(), [[number] for number in range(9)], 1)
        os.kill(next(batches), signal.SIGKILL)
        time.sleep(120)  # the news of it ends the sleep


def test_a_stuck_worker_is_reported(monkeypatch):
    monkeypatch.setattr(workers_module, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(workers_module, "GRACE_S", 0.3)
    with pytest.raises(
        DataError, match=r"no batch was read within 1 s: is the disk or a process that reads images stuck"
    ):
        list(read_in_workers(Stuck(), [[1]], 1))


def test_a_bug_in_a_worker_keeps_its_own_error():
    with pytest.raises(RuntimeError, match="a bug"):
        list(read_in_workers(Wrong(), [[0]], 1))


def test_an_error_of_something_else_that_timed_out_is_no_matter_of_the_workers():
    with pytest.raises(RuntimeError, match="the network timed out after 3 s"), translate_worker_errors():
        raise RuntimeError("the network timed out after 3 s")
