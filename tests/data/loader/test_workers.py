"""Reader processes: they end with the run in any case, and their own death is reported."""

import errno
import os
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image
from torch.utils.data import Dataset

from hdit_core.data.format.retry_reads import StorageUnavailable
from hdit_core.data.loader import workers as workers_module
from hdit_core.data.loader.workers import WaitInterrupted, read_in_workers, translate_worker_errors
from hdit_core.data.prepare.job import PrepareSettings
from hdit_core.data.prepare.run import prepare_data
from hdit_core.errors import DataError, HditError
from tests.data.loader.limited_reader import read_limited
from tests.forking import call

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

SIGNALED = """
import multiprocessing, os, signal, sys, time
from hdit_core.data.loader.workers import read_in_workers

class Numbers:
    def __getitems__(self, numbers):
        return numbers[0]

if __name__ == "__main__":
    multiprocessing.set_start_method("forkserver")
    number = signal.Signals[sys.argv[1]]
    signal.signal(number, lambda *_: None)
    batches = read_in_workers(Numbers(), ([number] for number in range(8)), 1)
    read = [next(batches)]
    os.killpg(0, number)
    time.sleep(3)  # a worker whose parent is gone ends after 1 s
    print(*read, *batches)
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


def test_a_process_that_ends_while_reading_ends_its_workers(unfinished):
    process, pids = unfinished(0)
    assert len(set(pids)) == 3
    assert process.wait(timeout=120) == 0
    assert all_gone(pids, within_s=120)


def test_stuck_workers_end_when_the_main_process_is_killed(unfinished):
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
    assert is_alive(pid)  # workers ignore a scheduler's signal
    os.kill(pid, signal.SIGSTOP)
    batches.close()
    assert all_gone([pid], within_s=120)


@pytest.mark.parametrize("number", ["SIGTERM", pytest.param("SIGUSR1", marks=pytest.mark.slow)])
def test_a_signal_to_every_process_leaves_workers_of_a_fork_server_alive(tmp_path, number):
    (tmp_path / "script.py").write_text(SIGNALED)
    command = [sys.executable, str(tmp_path / "script.py"), number]
    ended = subprocess.run(command, start_new_session=True, capture_output=True, text=True, timeout=300, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "0 1 2 3 4 5 6 7\n", "")


def test_batches_are_in_the_order_of_the_plan():
    plan = [[3, 1], [2], [5, 0, 4]]

    class Echo(Dataset):
        def __getitems__(self, numbers):
            return numbers

    assert list(read_in_workers(Echo(), plan, 2)) == plan


def test_a_killed_worker_is_reported():
    with pytest.raises(
        DataError, match=r"a worker process that reads images died .killed, out of memory\?.: .* run the same command"
    ):
        list(read_in_workers(Dying(), [[0]], 1))


def test_a_worker_that_is_killed_while_the_main_process_does_something_else_is_reported():
    with pytest.raises(DataError, match=r"a worker process that reads images died"), translate_worker_errors():
        batches = read_in_workers(Pids(), [[number] for number in range(9)], 1)
        os.kill(next(batches), signal.SIGKILL)
        time.sleep(120)  # the news of it ends the sleep


def test_a_stuck_worker_is_reported(monkeypatch):
    monkeypatch.setattr(workers_module, "TIMEOUT_S", 1.0)
    monkeypatch.setattr(workers_module, "GRACE_S", 0.3)
    with pytest.raises(
        StorageUnavailable, match=r"no batch was read within 1 s: is the disk or a worker process stuck"
    ):
        list(read_in_workers(Stuck(), [[1]], 1))


def test_a_bug_in_a_worker_keeps_its_own_error():
    with pytest.raises(RuntimeError, match="a bug"):
        list(read_in_workers(Wrong(), [[0]], 1))


def test_an_unrelated_timeout_is_not_attributed_to_the_workers():
    with pytest.raises(RuntimeError, match="the network timed out after 3 s"), translate_worker_errors():
        raise RuntimeError("the network timed out after 3 s")


@pytest.mark.parametrize(
    ("path", "where"),
    [("run/checkpoints", r"run/checkpoints: too many open files;"), (None, "while batches came from the worker proc")],
)
def test_too_many_open_files_are_attributed_to_the_workers_unless_a_path_is_named(path, where):
    with pytest.raises(HditError, match=rf"{where}.* raise the limit with `ulimit -n"), translate_worker_errors():
        raise OSError(errno.EMFILE, "Too many open files", path)


def test_an_interrupted_wait_ends_the_workers(monkeypatch):
    monkeypatch.setattr(workers_module, "GRACE_S", 0.3)

    def interrupt(signal_number, frame):
        raise WaitInterrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        batches = read_in_workers(Stuck(), [[0], [1]], 1)
        pid = next(batches)
        os.kill(pid, signal.SIGSTOP)
        signal.setitimer(signal.ITIMER_REAL, 0.5)
        with pytest.raises(WaitInterrupted):
            next(batches)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert all_gone([pid], within_s=120)


def test_no_batch_of_a_slow_worker_is_lost(monkeypatch):
    monkeypatch.setattr(workers_module, "POLL_S", 0.05)

    class Slow(Dataset):
        def __getitems__(self, numbers):
            time.sleep(0.3)
            return numbers

    assert list(read_in_workers(Slow(), [[number] for number in range(5)], 2)) == [[number] for number in range(5)]


def test_too_little_shared_memory_is_reported_before_a_worker_starts(monkeypatch):
    monkeypatch.setattr("hdit_core.data.loader.workers.free_shared_memory", lambda: 64 << 20)
    with pytest.raises(
        HditError, match=r"/dev/shm: 67 MB .* the batches of 2 worker processes need 100 MB; .*--shm-size=1g or more"
    ):
        next(read_in_workers(Pids(), [[0]], 2, batch_bytes=20 * 10**6))
    assert next(read_in_workers(Pids(), [[0]], 2, batch_bytes=10 * 10**6))


def test_shared_memory_that_runs_out_later_is_reported(monkeypatch):
    monkeypatch.setattr(workers_module, "GRACE_S", 0.3)
    free = iter([1 << 30])
    monkeypatch.setattr("hdit_core.data.loader.workers.free_shared_memory", lambda: next(free, 1 << 10))
    with pytest.raises(HditError, match=r"the batches of one more batch need .*--shm-size"):
        list(read_in_workers(Stuck(), [[1]], 1, batch_bytes=10**6))


@pytest.fixture(scope="module")
def many_shards(tmp_path_factory):
    """Return a data set of 300 shards with one image each."""
    folder = tmp_path_factory.mktemp("many")
    (folder / "pictures").mkdir()
    for number in range(300):
        Image.new("L", (12, 8), number % 256).save(folder / "pictures" / f"{number}.png")
    prepare_data(PrepareSettings(str(folder / "pictures"), folder / "set", (8, 12), shard_size=1))
    return folder / "set"


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(("soft", "hard", "raised"), [(256, 256, 256), (200, 3000, 3000)])
def test_a_set_of_more_shards_than_files_may_be_open_can_be_read(many_shards, workers, soft, hard, raised):
    assert call(read_limited, str(many_shards), soft, hard, workers) == (True, raised)
