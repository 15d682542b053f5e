"""Learning rate, average, and who takes which image: functions of the recipe and the images seen."""

import pytest
import torch
from torch import nn

from hdit_core.distributed import World
from hdit_core.errors import UsageError
from hdit_core.train.ema import Ema, ema_decay
from hdit_core.train.plan import check_world, micro_batches, steps
from hdit_core.train.schedule import lr_factor


def test_the_learning_rate_rises_stays_and_falls_to_nothing(changed):
    recipe = changed({"train.num_images": 80, "train.warmup_images": 16, "train.cooldown_images": 32}).train
    factors = [lr_factor(recipe, step.num_images) for step in steps(recipe, 0, 0)]
    assert factors == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_without_warm_up_and_cool_down_the_learning_rate_is_constant(tiny_recipe):
    assert {lr_factor(tiny_recipe.train, seen) for seen in range(0, 96, 8)} == {1.0}


def test_the_averages_decay_is_the_reference_implementations(reference):
    expected = reference("diffusion")["ema.inverse.power0.75.max0.9999"]
    found = torch.tensor([ema_decay(step, 0.75, 0.9999) for step in range(len(expected))], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert ema_decay(10**9, 0.75, 0.9999) == 0.9999


def test_the_first_average_is_the_weights_and_later_ones_follow_the_formula():
    network = nn.Linear(3, 2, bias=False)
    ema, expected = Ema(network), None
    for step in range(4):
        with torch.no_grad():
            network.weight.add_(torch.randn(2, 3))
        decay = ema_decay(step, 0.75, 0.9999)
        expected = network.weight.clone() if step == 0 else expected + (1 - decay) * (network.weight - expected)
        ema.update(decay)
        torch.testing.assert_close(ema.network.weight, expected.detach())


def test_steps_grow_with_the_recipe_and_end_when_the_images_are_seen(changed):
    growth = [{"after_images": 24, "batch_size": 16}, {"after_images": 56, "batch_size": 32}]
    recipe = changed({"train.batch_growth": growth}).train
    assert [step.batch_size for step in steps(recipe, 0, 0)] == [8, 8, 8, 16, 16, 32, 32]
    assert [step.num_images for step in steps(recipe, 4, 40)] == [40, 56, 88]
    assert [step.number for step in steps(recipe, 4, 40)] == [4, 5, 6]


@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("largest", [None, 1, 3, 100])
def test_every_image_of_a_step_is_taken_once_whatever_the_ranks_and_micro_batches(tiny_recipe, size, largest):
    step = list(steps(tiny_recipe.train, 0, 0))[3]
    taken = [n for rank in range(size) for piece in micro_batches(step, World(rank, size), largest) for n in piece]
    assert taken == list(range(24, 32))
    assert all(len(piece) <= (largest or 8) for piece in micro_batches(step, World(0, size), largest))


def test_ranks_that_cannot_share_the_batch_are_refused_with_those_that_could(tiny_recipe):
    check_world(tiny_recipe.train, World(0, 4))
    with pytest.raises(UsageError, match=r"cannot be shared equally by 3 ranks; use 2 or 4 ranks"):
        check_world(tiny_recipe.train, World(0, 3))


def test_parts_of_the_weights_that_the_ranks_cannot_have_are_refused_with_those_that_they_could(changed):
    recipe = changed({"train.shard_ranks": 3})
    with pytest.raises(UsageError, match=r"train.shard_ranks = 3 does not divide the 8 ranks; use 2 or 4, or leave it"):
        check_world(recipe.train, World(0, 8))
    check_world(recipe.train, World())  # one process has nothing to share
    check_world(changed({"train.shard_ranks": 4}).train, World(0, 8))
