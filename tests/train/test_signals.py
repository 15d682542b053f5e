"""A signal to every process of a run, as a scheduler sends it, saves and ends the run and leaves no process behind."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from hdit_cli.main import main
from hdit_core.checkpoint.layout import log_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.recipe.write import recipe_toml
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
    """Do what the program does with these arguments, as the first of a group of processes."""
    os.setsid()
    if prepare is not None:
        prepare()
    os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT), sys.stderr.fileno())
    sys.exit(main(arguments))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
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


@pytest.fixture
def started(tmp_path, trained):
    """Return a function that starts a long run with two readers, and returns its process after the first log line."""
    processes = []

    def start(**options):
        (tmp_path / "long.toml").write_text(recipe_toml(trained({"data.workers": 2, "train.num_images": 10**9})))
        arguments = ["train", str(tmp_path / "long.toml"), "--out", str(tmp_path / "run")]
        process = CONTEXT.Process(target=be_hdit, args=(arguments, tmp_path / "said"), kwargs=options)
        processes.append(process)
        process.start()
        return process

    yield start
    for process in processes:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


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


@pytest.mark.parametrize("hang", [hang_in_c_after_step_3, sleep_after_step_3])
def test_a_second_ctrl_c_ends_a_run_that_waits_for_whatever_at_once(tmp_path, started, hang):
    run = tmp_path / "run"
    process = started(prepare=hang)
    wait_until(lambda: log_file(run).exists() and log_file(run).stat().st_size)
    time.sleep(3)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(1.5)
    assert process.is_alive()  # the first one waits for the step
    os.kill(process.pid, signal.SIGINT)
    process.join(120)
    assert process.exitcode == 130
    wait_until(lambda: not processes_of(process.pid))
