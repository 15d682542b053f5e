"""Several ranks roll back past the same images, record the step once, and repeat it together."""

import json
import math

import pytest

from hdit_core.checkpoint.layout import incident_file
from hdit_core.checkpoint.load import newest_checkpoint
from hdit_core.checkpoint.state import SkippedImages
from hdit_core.train.replay import replay
from hdit_core.train.run import train
from tests.conftest import collected_messages
from tests.train.poison import Poison, poisoned
from tests.train.ranks import on_ranks
from tests.train.shared_runs import LAYOUTS


def train_past_a_bad_image(recipe, run):
    """Train with an image whose loss is never finite; return its record."""
    with pytest.MonkeyPatch.context() as patch, collected_messages() as notes:
        poisoned(patch, Poison(-1, math.nan, number=53))
        train(recipe, run)
    return [note for note in notes if "back to the last checkpoint" in note]


def losses_of_a_step(recipe, run):
    """Return the result of a replay of a step on a rank."""
    again = replay(recipe, run, 6)
    return again.result.losses, [image.number for image in again.images], {image.grad_norm for image in again.images}


@pytest.mark.parametrize("layout", ["ddp-2", "fsdp-2"])
def test_ranks_roll_back_together_and_one_of_them_records_it(tmp_path, trained, layout):
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    values = {"model.levels": levels, "train.rollback": 1, "train.num_images": 64}
    recipe = trained(values | LAYOUTS[layout][1])
    first, second = on_ranks(2, train_past_a_bad_image, recipe, tmp_path / "run")
    assert len(first) == len(second) == 1
    record = json.loads(incident_file(tmp_path / "run", 6).read_text())
    assert (record["ranks"], record["world_size"], record["images"][5]["rank"]) == ([1], 2, 1)
    state = newest_checkpoint(tmp_path / "run")[0].state
    assert (state.step, state.skips) == (8, (SkippedImages(after_images=48, images=8),))
    if layout == "ddp-2":
        (losses, numbers, norms), other = on_ranks(2, losses_of_a_step, recipe, tmp_path / "run")
        assert other == (losses, numbers, norms) and all(map(math.isfinite, losses))
        assert numbers == list(range(48, 56)) and norms == {None}  # from the checkpoint before the roll-back
