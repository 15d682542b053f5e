"""Learning rate, EMA decay, and the images of each rank: functions of the recipe and the images seen."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from hdit_core.distributed import World
from hdit_core.errors import RecipeError, UsageError
from hdit_core.train.optim.ema import Ema, ema_decay
from hdit_core.train.optim.lr_schedule import lr_factor
from hdit_core.train.start.run_folder import locked_run_folder
from hdit_core.train.step.batch_plan import check_world, micro_batches, steps


def test_the_learning_rate_rises_stays_and_falls_to_zero(changed):
    recipe = changed({"train.num_images": 80, "train.warmup_images": 16, "train.cooldown_images": 32}).train
    factors = [lr_factor(recipe, step.num_images) for step in steps(recipe, 0, 0)]
    assert factors == [0.5, 1, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_without_warm_up_and_cool_down_the_learning_rate_is_constant(tiny_recipe):
    assert {lr_factor(tiny_recipe.train, seen) for seen in range(0, 96, 8)} == {1.0}


def test_the_inverse_square_root_is_1_up_to_its_reference_point_and_half_at_four_times_that(changed):
    keys = {"train.num_images": 8_000, "train.schedule": "inverse-sqrt", "train.inverse_sqrt_images": 800}
    recipe = changed(keys).train
    found = [lr_factor(recipe, seen) for seen in (0, 400, 800, 1_800, 3_200, 7_200)]
    assert found == pytest.approx([1, 1, 1, 2 / 3, 1 / 2, 1 / 3])


def test_the_cosine_falls_from_the_end_of_warm_up_to_zero_at_the_end(changed):
    recipe = changed({"train.num_images": 8_800, "train.schedule": "cosine", "train.warmup_images": 800}).train
    found = [lr_factor(recipe, seen) for seen in (392, 800, 2_800, 4_800, 6_800, 8_800)]
    assert found == pytest.approx([0.5, 1, (1 + 0.5**0.5) / 2, 0.5, (1 - 0.5**0.5) / 2, 0])


SHAPED = [
    {"train.schedule": "constant"},
    {"train.schedule": "cosine"},
    {"train.schedule": "inverse-sqrt", "train.inverse_sqrt_images": 240},
]
each_schedule = pytest.mark.parametrize("shape", SHAPED, ids=lambda shape: shape["train.schedule"])


@each_schedule
def test_a_schedule_is_continuous_and_between_0_and_1_and_ends_with_the_cool_down(changed, shape):
    keys = {"train.num_images": 9_600, "train.warmup_images": 1_600, "train.cooldown_images": 3_200}
    recipe = changed(shape | keys).train
    found = [lr_factor(recipe, seen) for seen in range(0, 9_600 + 1, 8)]
    assert all(0 <= factor <= 1 for factor in found) and found[0] > 0 and found[-1] == 0
    assert max(abs(a - b) for a, b in pairwise(found)) < 8 / 1_600 + 1e-9  # no step is steeper than the warm-up


@each_schedule
def test_after_warm_up_a_schedule_depends_on_the_images_seen_and_not_on_the_batch_size(changed, shape):
    keys = shape | {"train.num_images": 1_920, "train.warmup_images": 160}
    growth = [{"after_images": 480, "batch_size": 32}, {"after_images": 960, "batch_size": 96}]
    recipes = [changed(keys | more).train for more in ({}, {"train.batch_size": 96}, {"train.batch_growth": growth})]
    for seen in range(192, 1_920, 96):
        assert len({lr_factor(recipe, seen) for recipe in recipes}) == 1


def test_a_run_can_be_extended_unless_its_schedule_is_a_cosine(tmp_path, changed):
    for schedule in ("cosine", "constant"):
        with locked_run_folder(tmp_path / schedule, changed({"train.schedule": schedule})):
            pass
    with locked_run_folder(tmp_path / "constant", changed({"train.num_images": 192})):
        pass
    longer = changed({"train.schedule": "cosine", "train.num_images": 192})
    with (
        pytest.raises(UsageError, match=r"different settings: train\.num_images 96 \(run\) vs 192"),
        locked_run_folder(tmp_path / "cosine", longer),
    ):
        pass


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"schedule": "inverse-sqrt"}, r"train\.inverse_sqrt_images: missing; required by .*, for example 9"),
        (
            {"inverse_sqrt_images": 40},
            r"inverse_sqrt_images = 40 has no effect with schedule = 'constant', only with 'inverse",
        ),
    ],
)
def test_a_reference_point_is_only_for_the_inverse_square_root(changed, keys, message):
    with pytest.raises(RecipeError, match=message):
        changed({f"train.{key}": value for key, value in keys.items()})


def test_the_ema_decay_equals_the_references(reference):
    expected = reference("diffusion")["ema.inverse.power0.75.max0.9999"]
    found = torch.tensor([ema_decay(step, 0.75, 0.9999) for step in range(len(expected))], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    assert ema_decay(10**9, 0.75, 0.9999) == 0.9999


def test_the_ema_starts_at_the_weights_and_follows_the_formula():
    network = nn.Linear(3, 2, bias=False)
    ema, expected = Ema(network), None
    for step in range(4):
        with torch.no_grad():
            network.weight.add_(torch.randn(2, 3))
        decay = ema_decay(step, 0.75, 0.9999)
        expected = network.weight.clone() if step == 0 else expected + (1 - decay) * (network.weight - expected)
        ema.update(decay)
        torch.testing.assert_close(ema.network.weight, expected.detach())


def test_batch_sizes_follow_the_recipe_and_training_ends_after_its_number_of_images(changed):
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


def test_a_number_of_ranks_that_does_not_divide_the_batch_is_refused_with_those_that_do(tiny_recipe):
    check_world(tiny_recipe.train, World(0, 4))
    with pytest.raises(UsageError, match=r"is not divisible by the 3 ranks; use 2 or 4 ranks"):
        check_world(tiny_recipe.train, World(0, 3))


def test_a_shard_count_that_does_not_fit_the_ranks_is_refused_with_those_that_do(changed):
    recipe = changed({"train.shard_ranks": 3})
    with pytest.raises(UsageError, match=r"train.shard_ranks = 3 does not divide the 8 ranks; use 2 or 4, or leave it"):
        check_world(recipe.train, World(0, 8))
    check_world(recipe.train, World())  # one process has nothing to share
    check_world(changed({"train.shard_ranks": 4}).train, World(0, 8))
