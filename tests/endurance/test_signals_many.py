"""A signal to any rank at any moment, once or twice, or the file STOP: all ranks save at the same step and end."""

import os
import pickle
import random
import re
import time
from pathlib import Path

from hdit_core.checkpoint.layout import stop_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.status import read_status
from hdit_core.data.stop_signals import STOP_SIGNALS
from hdit_core.errors import StoppedEarly
from hdit_core.train.run import train
from tests.train.ranks import started

PATIENCE_S = 60
LONGEST_S = 1.5  # of training before it is asked to end


def stopped(recipe, run):
    """Train until asked to end, and return the step at which this rank did."""
    try:
        train(recipe, run, device="cpu")
    except StoppedEarly as word:
        return int(re.search(r"(?:after step|Step) ([0-9]+)", str(word))[1])
    raise AssertionError("nobody asked it to end")


def descendants(process):
    """Return the ids of a process's living children, and theirs."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            except OSError:
                continue
            if state != "Z":
                parents.setdefault(int(parent), []).append(int(folder.name))
    found = list(parents.get(process, []))
    for child in found:
        found += parents.get(child, [])
    return found


def alive(process):
    try:
        return (Path("/proc") / str(process) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(true, what):
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.01)


def ask(moments, run, ranks):
    """Ask a rank to end, by a signal, by two, or by the file; return how."""
    how = moments.choice([*STOP_SIGNALS, "STOP"])
    if how == "STOP":
        stop_file(run).touch()
        return "STOP"
    rank = moments.randrange(len(ranks))
    os.kill(ranks[rank][0].pid, how)
    if moments.random() < 0.3:
        time.sleep(moments.uniform(0, 0.05))
        if ranks[rank][0].is_alive():
            os.kill(ranks[rank][0].pid, how)
    return f"{how.name} to rank {rank}"


def test_all_ranks_save_at_the_same_step_whichever_gets_the_signal(trained, tmp_path, kills):
    run, moments, last = tmp_path / "run", random.Random(11), 0
    for number in range(kills):
        recipe = trained(
            {
                "data.workers": 2 * (number % 2),
                "train.num_images": 10**8,
                "train.micro_batch_size": moments.choice([2, 4]),
                "train.checkpoint_every_images": 64,
            }
        )
        with started(2, stopped, recipe, run) as ranks:
            wait_until(lambda: read_status(run).get("state") == "running", "it does not begin")
            time.sleep(moments.uniform(0, LONGEST_S))
            there = [child for process, _ in ranks for child in [process.pid, *descendants(process.pid)]]
            how = ask(moments, run, ranks)
            steps = [answer(process, receive, how) for process, receive in ranks]
            wait_until(lambda there=there: not any(map(alive, there)), f"{how}: something is left of {there}")
        status, saved = read_status(run), newest_checkpoint(run)[0]
        assert status["state"] == "preempted", how
        assert {*steps, status["step"]} <= {saved.state.step, None}, how
        assert saved.state.step >= last, how  # a request before the first step ends the run where it began
        last = saved.state.step
        print(f"{number + 1}: {how}, saved at step {last}", flush=True)
    assert last > 0
    print(f"{kills} requests to end, {last} steps: all saved, at the same step on both ranks")


def answer(process, receive, how):
    """Return the step at which a rank ended; None if it gave up a step that the other does not end if busy."""
    assert receive.poll(PATIENCE_S), f"{how}: a rank does not end"
    try:
        fine, value = pickle.loads(receive.recv_bytes())
    except EOFError:
        process.join(PATIENCE_S)
        assert process.exitcode == StoppedEarly.exit_code, how
        return None
    assert fine, f"{how}: {value}"
    return value
