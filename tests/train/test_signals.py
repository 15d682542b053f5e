"""A signal to every process of a run, as a scheduler sends it, saves and ends the run and leaves no process behind."""

import os
import signal
import subprocess
import sys
import time

import pytest

from hdit_cli.main import main
from hdit_core.checkpoint.layout import log_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.recipe.write import recipe_toml
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


def be_hdit(arguments, said):
    """Do what the program does with these arguments, as the first of a group of processes."""
    os.setsid()
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
