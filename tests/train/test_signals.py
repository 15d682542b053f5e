"""A signal to every process of a run, as a scheduler sends it, saves and ends the run and leaves no process behind."""

import ctypes
import errno
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path

import fsspec
import pytest

from hdit_cli.main import main
from hdit_core.checkpoint.layout import log_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.status import read_status
from hdit_core.data.format import retry_reads
from hdit_core.data.format.manifest import read_manifest
from hdit_core.data.loader import build
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.locks import locked
from hdit_core.recipe.write import recipe_toml
from hdit_core.train import async_checkpoint
from hdit_core.train.step.train_step import Learner
from tests.forking import CONTEXT


def processes_of(group):
    """Return the ids of the living processes of a process group."""
    lines = subprocess.run(["ps", "-eo", "pgid=,pid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in lines.splitlines()]
    return [int(pid) for pgid, pid, state in rows if int(pgid) == group and not state.startswith("Z")]


def wait_until(happened):
    """Wait until something has happened, however slow the machine is."""
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def be_hdit(arguments, said, prepare=None):
    """Run the program with these arguments, as the leader of a process group."""
    os.setsid()
    if prepare is not None:
        prepare()
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    sys.exit(main(arguments))


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
def test_a_signal_to_the_whole_group_saves_and_ends_with_75(tmp_path, trained, number):
    run, said = tmp_path / "run", tmp_path / "said"
    (tmp_path / "long.toml").write_text(recipe_toml(trained({"data.workers": 2, "train.num_images": 10**9})))
    arguments = ["train", str(tmp_path / "long.toml"), "--out", str(run)]
    process = CONTEXT.Process(target=be_hdit, args=(arguments, said))
    process.start()
    try:
        wait_until(lambda: log_file(run).exists() and log_file(run).stat().st_size)
        assert len(processes_of(process.pid)) >= 3  # the run and its two readers
        os.killpg(process.pid, number)
        process.join(120)
    finally:
        process.kill()
    complaints = said.read_text()
    assert process.exitcode == 75, complaints
    assert f"stopped by {number.name}" in complaints and "Traceback" not in complaints
    assert newest_checkpoint(run)[0].state.step > 0
    wait_until(lambda: not processes_of(process.pid))  # the last of them has said all, and may still be on its way out


def said(folder):
    """Return the output of a run so far."""
    file = folder / "said"
    return file.read_text() if file.exists() else ""


@pytest.fixture
def started(tmp_path, trained):
    """Return a function that starts a long run with two readers, and returns its process after the first log line."""
    processes = []

    def start(values=None, **options):
        recipe = trained({"data.workers": 2, "train.num_images": 10**9} | (values or {}))
        (tmp_path / "long.toml").write_text(recipe_toml(recipe))
        arguments = ["train", str(tmp_path / "long.toml"), "--out", str(tmp_path / "run")]
        process = CONTEXT.Process(target=be_hdit, args=(arguments, tmp_path / "said"), kwargs=options)
        processes.append(process)
        process.start()
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def seconds_to_end(process, limit_s=60):
    """Wait for a process, and return how long that took."""
    began_at = time.monotonic()
    process.join(limit_s)
    return time.monotonic() - began_at


def readers_of(group):
    """Return the ids of torch's reader processes in a process group."""
    return [pid for pid in processes_of(group) if Path(f"/proc/{pid}/comm").read_text().strip() == "pt_data_worker"]


def ask(process, run, how):
    """Ask a run to stop."""
    os.kill(process.pid, signal.SIGTERM) if how == "signal" else (run / "STOP").touch()


@pytest.mark.slow
@pytest.mark.parametrize("how", ["signal", "file"])
def test_a_run_whose_readers_hang_saves_the_last_complete_step_within_seconds(tmp_path, started, how):
    run = tmp_path / "run"
    process = started()
    wait_until(lambda: log_file(run).exists() and log_file(run).stat().st_size)
    readers = readers_of(process.pid)
    assert len(readers) == 2
    for reader in readers:
        os.kill(reader, signal.SIGSTOP)
    size_bytes = -1
    while size_bytes != (size_bytes := log_file(run).stat().st_size):
        time.sleep(2)  # until the prefetched batches are used up
    ask(process, run, how)
    assert seconds_to_end(process) < 10  # 5 on an idle machine
    assert process.exitcode == 75, said(tmp_path)
    assert "stopped by " in said(tmp_path) and "everything is saved" in said(tmp_path)
    assert "Traceback" not in said(tmp_path)
    assert newest_checkpoint(run)[0].state.step > 0
    wait_until(lambda: not processes_of(process.pid))


def read_from_store(data, cache):
    """Have a data set in a store in memory, and a cache for it."""
    store = fsspec.filesystem("memory")
    for file in data.iterdir():
        store.pipe(f"/tiny/{file.name}", file.read_bytes())
    build.default_cache = lambda: cache


def test_a_run_that_waits_for_a_lock_of_the_cache_stops_within_seconds(tmp_path, started, tiny_data):
    cache, root = tmp_path / "cache", read_manifest(tiny_data).root
    prepare = partial(read_from_store, tiny_data, cache)
    shards = tuple((zlib.crc32(path.name.encode()), 1) for path in tiny_data.glob("*.tar"))
    with locked(cache / root / ".fetching", shards):
        process = started({"data.path": "memory://tiny", "data.workers": 0}, prepare=prepare)
        wait_until(lambda: "waiting for another process of hdit that fetches from it" in said(tmp_path))
        ask(process, tmp_path / "run", "signal")
        assert seconds_to_end(process) < 10
    assert process.exitcode == 75 and "stopped by SIGTERM after step 0" in said(tmp_path), said(tmp_path)


def flush_slowly():
    """Let each flush of a file take a while, as on a disk that is busy."""
    fsync = os.fsync

    def slow(descriptor):
        time.sleep(0.6)
        fsync(descriptor)

    os.fsync = slow


def save_when_told(folder):
    """Let the checkpoint thread wait for a file."""

    def wait_and_save(*arguments):
        while not (folder / "go").exists():
            time.sleep(0.05)
        return save_checkpoint(*arguments)

    async_checkpoint.save_checkpoint = wait_and_save


@pytest.mark.parametrize("what", [pytest.param("disk", marks=pytest.mark.slow), "checkpoint thread"])
def test_a_run_that_waits_for_its_checkpoint_reports_it_within_seconds(tmp_path, started, what):
    run = tmp_path / "run"
    prepare = flush_slowly if what == "disk" else partial(save_when_told, tmp_path)
    process = started({"train.checkpoint_every_images": 10**9, "data.workers": 0}, prepare=prepare)
    wait_until(lambda: log_file(run).exists() and log_file(run).stat().st_size)
    ask(process, run, "signal")
    asked_at = time.monotonic()
    wait_until(lambda: "waiting for the checkpoint to be written, for" in said(tmp_path))
    assert time.monotonic() - asked_at < 30  # 5 on an idle machine
    assert process.is_alive()
    (tmp_path / "go").touch()
    process.join(120)
    assert process.exitcode == 75 and "everything is saved" in said(tmp_path), said(tmp_path)
    assert newest_checkpoint(run)[0].state.step > 0


def fail_to_read_after_step_3():
    """Let the storage fail for as long as the retries take."""
    read_bytes, reads = ImageReader._read_bytes, []

    def fail(reader, *arguments):
        reads.append(None)
        if len(reads) > 3 * 8:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return read_bytes(reader, *arguments)

    ImageReader._read_bytes = fail
    ImageReader.read = lambda reader, index: (reader._decode(index), reader.label(index))
    retry_reads.PAUSES_S = (0.1,)


def test_a_run_whose_storage_fails_for_long_saves_the_last_complete_step(tmp_path, started):
    run = tmp_path / "run"
    process = started({"data.workers": 0}, prepare=fail_to_read_after_step_3)
    process.join(120)
    assert process.exitcode == 75, said(tmp_path)
    assert re.search(r"stopped early: .*\.tar: cannot be read .*Step 3 .24 images. is saved", said(tmp_path))
    assert newest_checkpoint(run)[0].state.step == 3
    status = read_status(run)
    assert status["state"] == "preempted" and status["step"] == 3 and "cannot be read" in status["reason"]


def slow_micro_batches_after_step_1():
    """Let each micro-batch of step 2 take half a second."""
    sigmas = Learner.sigmas

    def slow(learner, step, batch):
        time.sleep(0.5 * (step.number == 1))
        return sigmas(learner, step, batch)

    Learner.sigmas = slow


@pytest.mark.slow
def test_a_step_of_many_micro_batches_is_given_up_after_seconds(tmp_path, started):
    run = tmp_path / "run"
    process = started({"train.batch_size": 40, "train.micro_batch_size": 1}, prepare=slow_micro_batches_after_step_1)
    wait_until(lambda: log_file(run).exists() and log_file(run).stat().st_size)
    os.kill(process.pid, signal.SIGTERM)
    assert seconds_to_end(process) < 15  # 3 on an idle machine; the step takes 20
    assert process.exitcode == 75, said(tmp_path)
    assert "stopped by SIGTERM after step 1" in said(tmp_path) and "everything is saved" in said(tmp_path)
    assert newest_checkpoint(run)[0].state.step == 1 and read_status(run)["state"] == "preempted"


def hang_in_c_after_step_3():
    """Let the main thread wait for a lock outside of Python, as it waits for other ranks."""
    train_step = Learner.train_step

    def hang(learner, step, batches):
        if step.number == 3:
            mutex, libc = ctypes.create_string_buffer(256), ctypes.CDLL(None)
            while True:
                libc.pthread_mutex_lock(mutex)
        return train_step(learner, step, batches)

    Learner.train_step = hang


def sleep_after_step_3():
    """Let the main thread wait in Python."""
    train_step = Learner.train_step

    def hang(learner, step, batches):
        if step.number == 3:
            time.sleep(10_000)
        return train_step(learner, step, batches)

    Learner.train_step = hang


@pytest.mark.slow
@pytest.mark.parametrize("hang", [hang_in_c_after_step_3, sleep_after_step_3])
def test_a_second_ctrl_c_ends_a_waiting_run_at_once(tmp_path, started, hang):
    run = tmp_path / "run"
    process = started(prepare=hang)
    wait_until(lambda: log_file(run).exists() and log_file(run).stat().st_size)
    time.sleep(3)
    os.kill(process.pid, signal.SIGINT)
    asked_at = time.monotonic()
    wait_until(lambda: "stopping (SIGINT): waiting for step 4 to end, for" in said(tmp_path))
    assert time.monotonic() - asked_at < 30  # 5 on an idle machine
    assert process.is_alive()  # the first one waits for the step
    os.kill(process.pid, signal.SIGINT)
    process.join(120)
    assert process.exitcode == 130
    wait_until(lambda: not processes_of(process.pid))
