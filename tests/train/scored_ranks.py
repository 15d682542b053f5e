"""Ranks that train and score with a toy extractor, as processes, and what two of them have to come by."""

import json
import os
import re
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from hdit_core.errors import HditError
from hdit_core.evaluate import feature_batch as pieces
from hdit_core.evaluate import score
from hdit_core.evaluate.extractors.extractor import Extractor
from hdit_core.recipe.run import Recipe
from hdit_core.train import evaluation as scoring
from hdit_core.train.run import train
from tests.forking import CONTEXT
from tests.ports import take_port

PATIENCE_S = 120


def wait_for(happened):
    """Wait until something has happened that has to happen on a slow machine too."""
    deadline = time.monotonic() + PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def be_rank(place: dict[str, str], recipe: Recipe, run: Path, waits: bool, said: Path) -> None:
    """Train and score, and write down what went wrong; one that waits scores nothing until it was asked to stop."""
    os.environ.update(place)
    torch.set_num_threads(1)
    pieces.IMAGES_PER_CHUNK = 4
    weights = torch.randn(5, 192, generator=torch.Generator().manual_seed(1)) / 100

    def network(levels):
        return levels.flatten(1) @ weights.T

    def waiting_images(*arguments, **options):
        images = generated_images(*arguments, **options)

        def read(indices):
            (run / "scoring").touch()
            wait_for((run / "asked").exists)
            yield from images.open(indices)

        return replace(images, open=read) if waits else images

    generated_images, scoring.generated_images = scoring.generated_images, waiting_images
    toy = Extractor("toy", "fd-toy", "kd-toy", 5, 8, 4, "0" * 64, network, torch.device("cpu"))
    score.open_extractor = scoring.open_extractor = lambda *_: toy
    try:
        train(recipe, run, device="cpu")
    except HditError as error:
        said.write_text(str(error))
        sys.exit(error.exit_code)


def start(recipe, run, count, waiting=None):
    """Start ranks, one of which may wait in its share of a score; return each with the file of its errors."""
    world = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(take_port())}
    ranks = []
    for rank in range(count):
        place, said = world | {"RANK": str(rank), "LOCAL_RANK": str(rank)}, run.parent / f"{run.name}-{rank}"
        said.write_text("")
        ranks.append((CONTEXT.Process(target=be_rank, args=(place, recipe, run, rank == waiting, said)), said))
        ranks[-1][0].start()
    return ranks


def finish(ranks, code=0):
    """Wait for all ranks, and return their output."""
    for process, _ in ranks:
        process.join(PATIENCE_S)
        process.kill()  # one that hangs, so that pytest can end
        process.join()
    said = [said.read_text() for _, said in ranks]
    assert [process.exitcode for process, _ in ranks] == [code] * len(ranks), said
    return said


def stop_while_scoring(recipe, run, waiting):
    """Let two ranks begin a score of more pieces than are read ahead, where one of them waits; ask that one to stop."""
    for name in ("scoring", "asked"):
        (run / name).unlink(missing_ok=True)
    ranks = start(recipe, run, 2, waiting)
    wait_for(lambda: (run / "scoring").exists() or any(process.exitcode is not None for process, _ in ranks))
    if (run / "scoring").exists():  # otherwise a rank failed, and `finish` tells how
        os.kill(ranks[waiting][0].pid, signal.SIGTERM)
    (run / "asked").touch()
    said = finish(ranks, 75)
    assert re.search(rf"stopped by (another rank|SIGTERM .rank {waiting}.) after step 2", said[1 - waiting]), said
    assert not (run / "scores.jsonl").exists()


def lines(run):
    return [json.loads(line) for line in (run / "scores.jsonl").read_text().splitlines()]


def check_scores(trained, folder, parallel):
    """After a SIGTERM to either rank during an evaluation, both stop, and resume to the scores of one rank."""
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    scores = {"train.eval_every_images": 16, "train.eval_num_images": 62, "train.num_images": 32, "sample.steps": 2}
    recipe = trained(scores | {"model.levels": levels, "train.parallel": parallel})
    one = start(recipe, folder / "one", 1)

    for waiting in (1, 0):
        stop_while_scoring(recipe, folder / "two", waiting)

    finish(start(recipe, folder / "two", 2))
    finish(one)
    found, expected = lines(folder / "two"), lines(folder / "one")
    assert [line["num_images"] for line in found] == [16, 32]
    for ours, theirs in zip(found, expected, strict=True):
        assert ours["fd-toy-62"] == pytest.approx(theirs["fd-toy-62"], rel=1e-2)
    best = json.loads((folder / "two" / "best.json").read_text())
    assert best["fd-toy-62"] == min(line["fd-toy-62"] for line in found)
