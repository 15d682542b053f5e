"""Under torchrun, two ranks do what one does: the same images, the same noise, the same weights but for rounding."""

import os
import socket
import subprocess
import sys

import pytest
import torch

from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.recipe.write import recipe_toml
from hdit_core.train.log import read_log
from hdit_core.train.run import train

FAILING = """
import sys, torch
from hdit_core.distributed import join
from hdit_core.errors import CheckpointError, HditError

def fail():
    raise CheckpointError("the disk is full")

world = join("cpu")
try:
    world.lead(lambda: None, torch.device("cpu"))
    world.lead(fail, torch.device("cpu"))
except HditError as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def test_where_the_main_rank_fails_all_end_and_say_so():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    place = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", FAILING],
            env=os.environ | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in (0, 1)
    ]
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert "CheckpointError: the disk is full" in said[0]
    assert "HditError: rank 1 ends, because the main rank failed" in said[1]


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(tmp_path, trained):
    # without dropout, which is drawn for each rank
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    recipe = trained({"model.levels": levels, "train.num_images": 48})
    (tmp_path / "tiny.toml").write_text(recipe_toml(recipe))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*launcher, "hdit_cli", "train", str(tmp_path / "tiny.toml"), "--out", str(tmp_path / "two")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("num_images") == 1

    train(recipe, tmp_path / "one")
    ours, theirs = (newest_checkpoint(tmp_path / name)[0] for name in ("one", "two"))
    assert theirs.state.world_size == 2 and theirs.state.step == ours.state.step == 6
    for key, tensor in ours.tensors("model").items():
        torch.testing.assert_close(theirs.tensors("model")[key], tensor, rtol=1e-3, atol=2e-4)
    losses = [[line["loss"] for line in read_log(tmp_path / name)] for name in ("one", "two")]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
