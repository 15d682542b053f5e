"""A run of two checkpoints to export."""

import json

import pytest

from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from tests.generate.export.exporting import random_state


@pytest.fixture
def recipe(changed, tmp_path):
    return changed({"data.path": str(tmp_path / "secret" / "faces"), "sample.steps": 2})


@pytest.fixture
def state(recipe):
    return random_state(recipe)


@pytest.fixture
def run(recipe, state, tmp_path):
    """A run of two checkpoints, with a log."""
    for step in (3, 5):
        parts = {"model": state, "ema": {name: tensor * 0.9 for name, tensor in state.items()}}
        saved = State(step=step, num_images=8 * step, data_hash="ab" * 32, elapsed_s=7200.0, world_size=2)
        save_checkpoint(tmp_path / "run", recipe, saved, parts)
    lines = [{"step": 1, "loss": 9.0}, {"step": 4, "loss": 0.5}, {"step": 5, "loss": 0.25}]
    text = "\n".join([*map(json.dumps, lines), "cut sho", "[1]", '{"step": 7, "loss": 99}', '{"step": "x"}'])
    (tmp_path / "run" / "log.jsonl").write_text(text)
    scores = [{"step": 5, "num_images": 40, "fid5k": 12.5}, {"step": 7, "num_images": 56, "fid5k": 3.0}]
    (tmp_path / "run" / "scores.jsonl").write_text("\n".join(map(json.dumps, scores)) + "\n")
    return tmp_path / "run"
