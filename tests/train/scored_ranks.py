"""Ranks that train and score with a toy extractor, as processes, and what two of them have to come by."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from hdit_core.recipe.write import recipe_toml
from tests.ports import take_port

RANK = """
import sys, time
from pathlib import Path
import torch
from hdit_core.errors import HditError
from hdit_core.evaluate import pieces, score
from hdit_core.evaluate.extractor import Extractor
from hdit_core.recipe.read import read_recipe
from hdit_core.train import scoring
from hdit_core.train.run import train

torch.set_num_threads(1)
pieces.IMAGES_PER_PIECE = 4
weights = torch.randn(5, 192, generator=torch.Generator().manual_seed(1)) / 100
run, slow_s = Path(sys.argv[2]), float(sys.argv[3])  # long enough for a busy machine

def network(levels):
    if (run / "checkpoints" / "step-000000002").exists():
        (run / "scoring").touch()
        time.sleep(slow_s)
    return levels.flatten(1) @ weights.T

toy = Extractor("toy", "fd-toy", "kd-toy", 5, 8, 4, "0" * 64, network, torch.device("cpu"))
score.open_extractor = scoring.open_extractor = lambda *_: toy
try:
    train(read_recipe(sys.argv[1]), run, device="cpu")
except HditError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def start(recipe, run, count, slow=None):
    """Start ranks, one of them slow in its share of a score: the other has done its own meanwhile, and waits."""
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(take_port())}
    ranks = []
    for rank in range(count):
        command = [sys.executable, "-c", RANK, str(recipe), str(run), "0.7" if rank == slow else "0.0"]
        place = os.environ | world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        ranks.append(subprocess.Popen(command, env=place, stderr=subprocess.PIPE, text=True))
    return ranks


def finish(ranks, code=0):
    said = [rank.communicate(timeout=120)[1] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [code] * len(ranks), said
    return said


def stop_while_scoring(recipe, run, slow):
    """Let two ranks begin a score of more pieces than are read ahead, one of them slowly, and ask that one to stop."""
    (run / "scoring").unlink(missing_ok=True)
    ranks = start(recipe, run, 2, slow)
    while not (run / "scoring").exists():
        assert all(rank.poll() is None for rank in ranks), finish(ranks)
        time.sleep(0.01)
    ranks[slow].send_signal(signal.SIGTERM)
    said = finish(ranks, 75)
    assert "stopped by another rank after step 2" in said[1 - slow], said
    assert not (run / "scores.jsonl").exists()


def lines(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


def check_scores(trained, folder, parallel):
    """SIGTERM goes to either rank in the midst of a score: both leave off, and go on to the scores of one rank."""
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    scores = {"train.eval_every_images": 16, "train.eval_num_images": 62, "train.num_images": 32, "sample.steps": 2}
    recipe = folder / "tiny.toml"
    recipe.write_text(recipe_toml(trained(scores | {"model.levels": levels, "train.parallel": parallel})))
    one = start(recipe, folder / "one", 1)

    for slow in (1, 0):
        stop_while_scoring(recipe, folder / "two", slow)

    finish(start(recipe, folder / "two", 2))
    finish(one)
    found, expected = lines(folder / "two"), lines(folder / "one")
    assert [line["num_images"] for line in found] == [16, 32]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["fd-toy-62"] == pytest.approx(theirs["fd-toy-62"], rel=1e-2)
    best = json.loads((folder / "two" / "best.json").read_text())
    assert best["fd-toy-62"] == min(line["fd-toy-62"] for line in found)
