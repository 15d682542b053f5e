"""Whichever process under torchrun is killed or frozen at a random moment, all end, and the lost rank is named."""

import os
import random
import re
import signal
import subprocess
import sys
import time
import uuid
from itertools import chain
from pathlib import Path

import pytest

from hdit_core.checkpoint.status import read_status
from hdit_core.recipe.write import recipe_toml

MARK = "HDIT_TEST"
ENDED_S = {"killed": 15, "frozen": 75}  # a frozen rank is ended by torchrun, which lets it 30 s after SIGTERM
PATIENCE_S = 10  # of the recipe's ranks


def marked(mark):
    """Return the processes of a test, orphans too, by their rank; torchrun itself is None."""
    found = {}
    for folder in Path("/proc").iterdir():
        try:
            words = (folder / "environ").read_bytes().split(b"\0") if folder.name.isdigit() else []
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0] if words else "Z"
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in words and state != "Z":
            ranks = [int(word[5:]) for word in words if re.fullmatch(rb"RANK=[0-9]+", word)]
            found.setdefault(ranks[0] if ranks else None, []).append(int(folder.name))
    return found


def await_step(run, step, launched):
    deadline = time.monotonic() + 120
    while read_status(run).get("step", -1) < step:
        assert time.monotonic() < deadline and launched.poll() is None, "the run does not get there"
        time.sleep(0.05)


@pytest.mark.parametrize("victim", [0, 1, None], ids=["rank-0", "rank-1", "torchrun"])
@pytest.mark.parametrize("how", ["killed", "frozen"])
def test_all_ranks_end_in_time_and_no_process_remains(victim, how, trained, tmp_path, kills):
    if victim is None and how == "frozen":
        pytest.skip("ranks do not need torchrun to go on, and it goes on when it is woken")
    recipe = trained(
        {"train.num_images": 10**6, "train.checkpoint_every_images": 16, "train.rank_timeout_s": PATIENCE_S}
    )
    (tmp_path / "tiny.toml").write_text(recipe_toml(recipe))
    run, moments = tmp_path / "run", random.Random(7)
    for number in range(max(1, kills // 20)):
        mark = uuid.uuid4().hex
        launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
        command = [*launcher, "hdit_cli", "train", str(tmp_path / "tiny.toml"), "--out", str(run)]
        with (tmp_path / f"said-{number}").open("w+") as said:
            before = read_status(run).get("step", 0)
            launched = subprocess.Popen(command, env=os.environ | {MARK: mark}, stdout=said, stderr=said)
            await_step(run, before + 2, launched)
            time.sleep(moments.uniform(0, 2))
            processes = marked(mark)
            assert processes.keys() >= {0, 1, None}
            lost = min(processes[victim])
            os.kill(lost, signal.SIGKILL if how == "killed" else signal.SIGSTOP)
            began_at = time.monotonic()
            while marked(mark) and time.monotonic() < began_at + ENDED_S[how] + 30:
                launched.poll()
                time.sleep(0.1)
            took_s = time.monotonic() - began_at
            left = marked(mark)
            for process in chain.from_iterable(left.values()):
                os.kill(process, signal.SIGKILL)
            launched.wait()
            text = (tmp_path / f"said-{number}").read_text()
        print(f"{victim} {how}: all ended after {took_s:.1f} s")
        assert not left and took_s < ENDED_S[how], text[-3000:]
        if victim is None:
            assert read_status(run)["state"] == "preempted"  # the ranks have saved
        else:
            assert f"lost rank {victim} (process {lost} on " in text
            # preempted: torchrun's SIGTERM came before the loss was noticed
            assert read_status(run)["state"] in (("running",) if victim == 0 else ("failed", "preempted"))
