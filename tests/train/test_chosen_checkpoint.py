"""The main rank chooses the checkpoint to resume from, so that all ranks take the same one."""

import dataclasses

import pytest
import torch

from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.checkpoint.save import save_checkpoint
from hdit_core.checkpoint.state import State
from hdit_core.data.loader.build import open_reader
from hdit_core.distributed import World
from hdit_core.errors import CheckpointError
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.parallel.rank_failure import RankFailureDetector
from hdit_core.train.run import _find_checkpoint
from hdit_core.train.run_context import RunContext


@dataclasses.dataclass(frozen=True)
class SecondRank(World):
    """A rank that sees only the main rank's choice."""

    rank: int = 1
    size: int = 2
    found: int | None = None

    def on_main_rank(self, act):
        return None

    def broadcast(self, value):
        assert value is None
        return self.found


@pytest.fixture
def run_of_three(tmp_path, trained):
    """Return a run with checkpoints of steps 1, 2 and 3, its reader, and the recipe."""
    recipe = trained({})
    reader = open_reader(recipe.data)
    for step in (1, 2, 3):
        state = State(step=step, num_images=8 * step, data_hash=reader.manifest.root)
        save_checkpoint(tmp_path, recipe, state, {"model": {"weight": torch.zeros(2, 3)}})
    return tmp_path, reader, recipe


def find(run_and_reader, world):
    run, reader, recipe = run_and_reader
    context = RunContext(recipe, run, world, reader, Callbacks(), RankFailureDetector(World()), False, ())
    return _find_checkpoint(context)


def test_a_single_process_takes_the_newest_valid_checkpoint(run_of_three, notes):
    (checkpoint_folder(run_of_three[0], 3) / "model.safetensors").write_bytes(b"")
    assert find(run_of_three, World()).state.step == 2
    assert "skipped: " in notes[0] and "step-000000003/model.safetensors" in notes[0] and len(notes) == 2


def test_every_rank_takes_the_checkpoint_of_the_main_rank(run_of_three):
    assert find(run_of_three, SecondRank(found=2)).state.step == 2
    assert find(run_of_three, SecondRank()) is None


def test_a_rank_that_does_not_see_the_checkpoint_of_the_main_rank_reports_it(run_of_three):
    with pytest.raises(CheckpointError, match=r"step-000000007/manifest.json: no such file"):
        find(run_of_three, SecondRank(found=7))
