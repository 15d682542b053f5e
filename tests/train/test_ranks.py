"""Ranks communicate, compute the same under torchrun as one process, and end together."""

import gc
import os
import pickle
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.log import read_log
from hdit_core.checkpoint.status import read_status
from hdit_core.distributed import init_ranks
from hdit_core.errors import CheckpointError, DataError, HditError
from hdit_core.recipe.write import recipe_toml
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.run import train
from tests.train.ranks import on_ranks, srun, started


def exchange():
    world = init_ranks("cpu")
    rank = world.rank
    found = {
        "any": [world.any(rank == 1), world.any(False)],
        "sum": world.sum(torch.tensor([rank, 1.0])).tolist(),
        "union": [world.union([7, rank, 7]), world.union([5, 3] if rank == 2 else []), world.union([])],
        "broadcast": [
            world.broadcast({"step": rank, "why": "naïve"}),
            world.broadcast(0.1 + rank),
            world.broadcast(None),
        ],
        "made": world.on_main_rank(lambda: "by the main rank"),
        "device": str(world.device),
        "listens": sorted({address for address, inode in listening() if inode in own_sockets()}),
    }
    world.any(False)  # all have looked before the first leaves
    world.destroy_ranks()
    return rank, found


def listening():
    """Return the hexadecimal address and the inode of every listening socket of the machine."""
    lines = [
        line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]
    ]
    return [(fields[1].partition(":")[0], fields[9]) for fields in lines if fields[3] == "0A"]


def own_sockets():
    links = [str(entry.readlink()) for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return {match[1] for link in links if (match := re.fullmatch(r"socket:\[(\d+)\]", link))}


@pytest.mark.parametrize("launcher", ["torchrun", "srun"])
def test_ranks_exchange_flags_sums_and_numbers_and_listen_on_the_loopback_alone(launcher):
    how = {"place": srun} if launcher == "srun" else {}
    answers = dict(on_ranks(3, exchange, **how))
    assert answers.keys() == {0, 1, 2}
    for found in answers.values():
        assert found["any"] == [True, False] and found["sum"] == [3, 3] and found["device"] == "cpu"
        assert found["union"] == [[0, 1, 2, 7], [3, 5], []]
        assert found["broadcast"] == [{"step": 0, "why": "naïve"}, 0.1, None]
        assert set(found["listens"]) <= {"0100007F"}  # 127.0.0.1
    assert [answers[rank]["made"] for rank in range(3)] == ["by the main rank", None, None]
    assert answers[0]["listens"]  # the store that they meet at


def fail_on_the_main_rank():
    def fail():
        raise CheckpointError("the disk is full")

    world = init_ranks("cpu")
    world.on_main_rank(lambda: None)
    try:
        world.on_main_rank(fail)
    except HditError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def test_if_the_main_rank_fails_all_ranks_end_and_report_it():
    first, second = on_ranks(2, fail_on_the_main_rank)
    assert first == "CheckpointError: the disk is full"
    assert second == "OtherRankFailed: rank 1 ends, because the main rank failed"


def reducers_that_outlive_the_ranks(recipe, run):
    """Train, and return what still exchanges gradients when the ranks' group is taken down."""
    found, destroy = [], distributed.destroy_process_group

    def look_and_destroy():
        found.extend(thing.reducer for thing in gc.get_objects() if type(thing) is DistributedDataParallel)
        destroy()

    distributed.destroy_process_group = look_and_destroy
    train(recipe, run)
    return found


def test_the_process_group_is_destroyed_even_if_a_reducer_outlives_it(tmp_path, trained):
    """A reducer of torch's that outlived it would take it down, and hold the lock that the group's threads wait for."""
    recipe = trained({"train.parallel": "ddp", "train.num_images": 8})
    assert on_ranks(2, reducers_that_outlive_the_ranks, recipe, tmp_path / "run") == [[None], [None]]


def go_wrong(recipe, run, what):
    """Train; on rank 1, do something to the process in the third step."""
    rank, taken = int(os.environ["RANK"]), []

    def act(*arguments):
        taken.append(None)
        if rank == 1 and len(taken) == 3:
            what()
        return losses(*arguments)

    from hdit_core.train.step.train_step import Learner

    losses, Learner.losses = Learner.losses, act
    try:
        train(recipe, run, callbacks=Callbacks())
    except HditError as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def be_killed():
    os.kill(os.getpid(), signal.SIGKILL)


def be_frozen():
    os.kill(os.getpid(), signal.SIGSTOP)


def find_damage():
    raise DataError("shard 7 is cut short")


@pytest.mark.parametrize(("size", "layout"), [(2, "ddp"), (3, "fsdp")])
def test_a_killed_rank_ends_all_others_before_the_timeout_and_they_name_it(tmp_path, trained, size, layout):
    recipe, run = trained({"train.parallel": layout, "train.batch_size": 6, "train.num_images": 600}), tmp_path / "run"
    with started(size, go_wrong, recipe, run, be_killed) as ranks:
        (lost, _), survivors = ranks[1], [ranks[0], *ranks[2:]]
        lost.join(120)
        for number, (process, receive) in zip((0, 2), survivors, strict=False):
            assert receive.poll(recipe.train.rank_timeout_s / 4)
            named = rf"rank {number} ends, because it lost rank 1 \(process {lost.pid} on .*\): killed, or does"
            assert re.search(named, pickle.loads(receive.recv_bytes())[1])
            process.join(120)
            assert process.exitcode == 0
    status = read_status(run)
    assert status["state"] == "failed" and f"process {lost.pid}" in status["reason"]
    if layout == "ddp":  # the main rank saves the last whole step
        assert status["step"] == newest_checkpoint(run)[0].state.step == 2


def test_a_frozen_rank_ends_the_run_after_the_timeout_of_the_recipe(tmp_path, trained):
    recipe = trained({"train.rank_timeout_s": 2, "train.num_images": 600})
    with started(2, go_wrong, recipe, tmp_path / "run", be_frozen) as ranks:
        assert ranks[0][1].poll(120)
        assert "lost rank 1 (" in pickle.loads(ranks[0][1].recv_bytes())[1]


def test_a_rank_that_fails_by_itself_tells_the_others_why(tmp_path, trained):
    answers = on_ranks(2, go_wrong, trained({"train.num_images": 600}), tmp_path / "run", find_damage)
    assert answers[1] == "DataError: shard 7 is cut short"
    assert re.search(r"rank 0 ends, because it lost rank 1 \(.*\): shard 7 is cut short", answers[0])


@pytest.mark.slow
def test_two_ranks_under_torchrun_learn_the_same_as_one_process(tmp_path, trained):
    # without dropout, which differs between ranks
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    recipe = trained({"model.levels": levels, "train.num_images": 48})
    (tmp_path / "tiny.toml").write_text(recipe_toml(recipe))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*launcher, "hdit_cli", "train", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("num_images") == 1
    assert "2 ranks, weights replicated (DDP): ranks on a CPU share its memory" in done.stderr

    train(recipe, tmp_path / "one")
    theirs = newest_checkpoint(tmp_path / "two")[0]
    assert theirs.state.world_size == 2 and theirs.folder == checkpoint_folder(tmp_path / "two", 6)
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
