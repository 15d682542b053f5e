"""Training killed at random moments: one and two ranks, with and without workers, micro-batches and asynchronous saves.

`--kills` of them in all, an eighth for each of the eight ways. The short form is tests/train/test_kills.py.
"""

import os
import random
import subprocess
import sys
import time

import pytest

from hdit_core.checkpoint.layout import status_file
from hdit_core.checkpoint.status import read_status
from hdit_core.recipe.write import recipe_toml
from tests.train.killing_runs import final_hash, kill, train_under_fire
from tests.train.nursery import Nursery

WAYS = [(workers, pieces) for workers in (0, 2) for pieces in (1, 2)]


@pytest.fixture(scope="module")
def nursery(tmp_path_factory):
    nursery = Nursery(tmp_path_factory.mktemp("nursery") / "stderr")
    yield nursery
    nursery.close()


@pytest.fixture
def recipe_of(tmp_path, trained):
    """Return a function that writes a recipe of 24 steps with a save every other one, and returns its file."""

    def write(workers, pieces, ranks):
        values = {"train.num_images": 192, "train.checkpoint_every_images": 16, "data.workers": workers}
        values["train.micro_batch_size"] = 8 // ranks // pieces
        (tmp_path / "tiny.toml").write_text(recipe_toml(trained(values)))
        return tmp_path / "tiny.toml"

    return write


@pytest.mark.parametrize(("workers", "pieces"), WAYS)
def test_one_rank_killed_at_random_moments_ends_with_the_same_bytes(
    tmp_path, recipe_of, nursery, kills, workers, pieces
):
    recipe_file, random_here = recipe_of(workers, pieces, ranks=1), random.Random(10 * workers + pieces)
    nursery.begin(recipe_file, tmp_path / "alone")
    assert nursery.wait() == 0
    expected, killed, runs = final_hash(tmp_path / "alone"), 0, 0
    while killed < kills / 8:
        runs += 1
        run = tmp_path / str(runs)
        more, code = train_under_fire(nursery, recipe_file, run, random_here, longest_s=1.2)
        killed += more
        assert code == 0, nursery.stderr.read_text()[-2000:]
        assert final_hash(run) == expected, f"after {killed} kills"
        assert not list((run / "checkpoints").glob(".tmp-*"))
    print(f"1 rank, {workers} readers, {pieces} pieces: {killed} kills, {runs} runs, one hash")


def begin_ranks(recipe_file, run):
    """Start two ranks with torchrun, in a process group of their own."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    with run.with_suffix(".stderr").open("a") as complaints:
        return subprocess.Popen(
            [*launcher, "hdit_cli", "train", str(recipe_file), "--out", str(run), "--device", "cpu"],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=complaints,
            start_new_session=True,
        )


def ranks_of(launcher):
    """Return the processes that torchrun started, in the order of their starting."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(launcher)], capture_output=True, text=True, check=False)
    return sorted(map(int, found.stdout.split()))


def said_at(run):
    """Return when the run last said how it stands; it does so when its first step is near."""
    return status_file(run).stat().st_mtime_ns if status_file(run).exists() else 0


def kill_ranks(process, run, random_here):
    """Kill one of two ranks, or everything, a while after training began; return whether it was not done by then."""
    before, launched_at = said_at(run), time.monotonic()
    while process.poll() is None and said_at(run) == before:
        assert time.monotonic() - launched_at < 120
        time.sleep(0.01)
    time.sleep(random_here.uniform(0, 1.5))
    victims = [(process.pid, True), *((rank, False) for rank in ranks_of(process.pid))]
    if process.poll() is None:
        pid, group = random_here.choice(victims)
        kill(pid, group=group)
    try:
        process.wait(60)
    finally:
        kill(process.pid, group=True)
        process.wait()
    return read_status(run)["state"] != "done"


@pytest.mark.skipif(sys.platform != "linux", reason="looks for the ranks with ps of Linux")
@pytest.mark.parametrize(("workers", "pieces"), WAYS)
def test_two_ranks_killed_under_torchrun_end_with_the_same_bytes(tmp_path, recipe_of, kills, workers, pieces):
    recipe_file, random_here = recipe_of(workers, pieces, ranks=2), random.Random(10 * workers + pieces)
    assert begin_ranks(recipe_file, tmp_path / "alone").wait() == 0, (tmp_path / "alone.stderr").read_text()[-2000:]
    expected, killed, runs = final_hash(tmp_path / "alone"), 0, 0
    while killed < kills / 8:
        runs += 1
        run = tmp_path / str(runs)
        while kill_ranks(begin_ranks(recipe_file, run), run, random_here):
            killed += 1
        assert final_hash(run) == expected, f"after {killed} kills"
    print(f"2 ranks, {workers} readers, {pieces} pieces: {killed} kills, {runs} runs, one hash")
