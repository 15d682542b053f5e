"""Over 200 steps, ranks that share a network with any parallelism learn the same as one process."""

import pytest
import torch

from tests.train.ranks import on_ranks
from tests.train.shared_runs import LAYOUTS, learn, losses, tensors_left

STEPS = 200


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return tmp_path_factory.mktemp("alone") / "run"


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_of_200_steps_equal_those_of_one_process_and_are_bit_identical_when_resumed(
    layout, alone, trained, tmp_path
):
    levels = [level | {"dropout": 0.0} for level in trained({}).model_dump(mode="json")["model"]["levels"]]
    plain = {"model.levels": levels, "train.log_every_images": 8, "train.num_images": 8 * STEPS}
    recipe = trained(plain | LAYOUTS[layout][1])
    runs = [alone if layout == "one" else tmp_path / "first", tmp_path / "second"]
    half = recipe.model_copy(update={"train": recipe.train.model_copy(update={"num_images": 4 * STEPS})})
    on_ranks(LAYOUTS[layout][0], learn, half, runs[1], timeout_s=600)  # the second is interrupted
    for run in runs:
        on_ranks(LAYOUTS[layout][0], learn, recipe, run, timeout_s=600)
    first, second = map(tensors_left, runs)
    assert [name for name in first if not torch.equal(first[name], second[name])] == []
    far = max(abs(ours - theirs) / theirs for ours, theirs in zip(losses(runs[0]), losses(alone), strict=True))
    print(f"{layout}: {len(losses(alone))} losses, at most {far:.1e} apart relative to one process's")
    assert len(losses(runs[0])) == STEPS and far < 1e-5
