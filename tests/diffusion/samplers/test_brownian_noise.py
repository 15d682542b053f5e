import math
from itertools import pairwise

import pytest
import torch

from hdit_core.diffusion.samplers.brownian_noise import BrownianNoise, BrownianTree, depth_for
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.recipe.sample import SampleRecipe

SHAPE = (2, 4, 6)
SCHEDULE = sampling_sigmas(SampleRecipe(steps=12))
LEVELS = SCHEDULE[:-1].tolist()


@pytest.fixture
def noise():
    """Return a function that makes the noise of some images of seed 9."""
    return lambda indices=(3, 70, 4), seed=9, **kwargs: BrownianNoise(seed, indices, SHAPE, SCHEDULE, **kwargs)


def covariance(first, second):
    return sum(weight * second.get(cell, 0.0) for cell, weight in first.items())


@pytest.mark.parametrize("schedule", ["karras", "exponential", "vp"])
@pytest.mark.parametrize("steps", [2, 5, 50])
def test_the_increments_of_a_schedule_are_independent_and_standard_normal(schedule, steps):
    levels = sampling_sigmas(SampleRecipe(steps=steps, schedule=schedule))[:-1].tolist()
    tree = BrownianTree(levels[-1], levels[0], depth_for(levels))
    increments = [tree.increment(a, b) for a, b in pairwise(levels)]
    found = torch.tensor([[covariance(a, b) for a in increments] for b in increments]).double()
    torch.testing.assert_close(found, torch.eye(steps - 1).double(), rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [3, 9, 12, 18])
@pytest.mark.parametrize("schedule", ["karras", "exponential"])
def test_the_motion_is_brownian_also_within_steps(schedule, steps):
    levels = sampling_sigmas(SampleRecipe(steps=steps, schedule=schedule))[:-1].tolist()
    tree = BrownianTree(levels[-1], levels[0], depth_for(levels))
    times = levels + [math.sqrt(a * b) for a, b in pairwise(levels)]
    at = [tree.at(time) for time in times]
    found = torch.tensor([[covariance(a, b) for a in at] for b in at], dtype=torch.float64)
    expected = torch.tensor([[min(a, b) - levels[-1] for a in times] for b in times], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-12)


def test_every_time_has_its_exact_variance_even_in_a_coarse_tree():
    tree = BrownianTree(0.01, 160.0, 2)
    for sigma in (0.01, 0.0123, 0.5, 3.3, 159.0, 160.0):
        assert covariance(tree.at(sigma), tree.at(sigma)) == pytest.approx(sigma - 0.01, rel=1e-12, abs=1e-15)


def test_the_motion_is_continuous_at_the_borders_of_its_cells():
    tree = BrownianTree(0.01, 160.0, 3)
    border = math.sqrt(0.01 * 160)
    below, above = tree.at(border * (1 - 1e-12)), tree.at(border * (1 + 1e-12))
    jump = {cell: above.get(cell, 0.0) - below.get(cell, 0.0) for cell in below | above}
    assert covariance(jump, jump) < 1e-10


def test_the_noise_is_standard_normal(noise):
    drawn = torch.stack([noise(range(40))(a, b) for a, b in pairwise(LEVELS)])
    count = drawn.numel()
    assert abs(drawn.mean().item()) < 3 / math.sqrt(count)
    assert abs(drawn.var().item() - 1) < 3 * math.sqrt(2 / count)
    assert abs((drawn**4).mean().item() - 3) < 3 * math.sqrt(96 / count)


def test_images_pixels_and_steps_are_independent(noise):
    source = BrownianNoise(9, range(3), (1, 60, 80), SCHEDULE)
    steps = torch.stack([source(a, b) for a, b in pairwise(LEVELS[:4])]).flatten(0, 2)
    shifted = torch.stack([steps, steps.roll(1, 1), steps.roll(1, 2)]).flatten(2).flatten(0, 1)
    correlation = torch.corrcoef(shifted) - torch.eye(len(shifted))
    assert correlation.abs().max() < 4.5 / math.sqrt(60 * 80)


def test_two_increments_add_up_to_the_one_over_both(noise):
    source, (a, b, c) = noise(), (LEVELS[2], LEVELS[5], LEVELS[8])
    whole = math.sqrt(a - c) * source(a, c)
    parts = math.sqrt(a - b) * source(a, b) + math.sqrt(b - c) * source(b, c)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=1e-5)


def test_the_reversed_increment_is_the_negative_increment(noise):
    assert torch.equal(noise()(LEVELS[4], LEVELS[2]), -noise()(LEVELS[2], LEVELS[4]))


def test_the_order_of_queries_does_not_matter(noise):
    pairs = list(pairwise(LEVELS))
    forwards, backwards = noise(), noise()
    in_order = [forwards(a, b) for a, b in pairs]
    reversed_order = [backwards(a, b) for a, b in reversed(pairs)][::-1]
    assert all(torch.equal(first, second) for first, second in zip(in_order, reversed_order, strict=True))


def test_an_images_noise_does_not_depend_on_its_batch(noise):
    whole, alone = noise((3, 70, 4))(LEVELS[1], LEVELS[2]), noise((70,))(LEVELS[1], LEVELS[2])
    assert torch.equal(whole[1:2], alone)
    assert not torch.equal(whole[0], whole[2])


def test_every_seed_has_its_own_noise(noise):
    assert not torch.equal(noise(seed=9)(LEVELS[1], LEVELS[2]), noise(seed=10)(LEVELS[1], LEVELS[2]))


def test_another_number_of_steps_follows_the_same_motion():
    ends, paths = (160.0, 0.01), []
    for steps in (10, 40):
        sigmas = sampling_sigmas(SampleRecipe(steps=steps, sigma_min=ends[1], sigma_max=ends[0]))
        source, levels = BrownianNoise(1, range(50), SHAPE, sigmas), sigmas[:-1].tolist()
        paths.append(math.sqrt(levels[0] - levels[-1]) * source(levels[0], levels[-1]))
    torch.testing.assert_close(paths[0], paths[1], rtol=1e-4, atol=1e-4)


def test_noise_has_the_requested_type(noise):
    assert noise()(LEVELS[0], LEVELS[1]).dtype == torch.float32
    double = noise(dtype=torch.float64)(LEVELS[0], LEVELS[1])
    assert double.dtype == torch.float64
    assert torch.equal(double.float(), noise()(LEVELS[0], LEVELS[1]))


def test_a_step_draws_few_random_images(noise):
    levels = sampling_sigmas(SampleRecipe(steps=50))[:-1].tolist()
    tree, drawn, known = BrownianTree(levels[-1], levels[0], depth_for(levels)), 0, set()
    for a, b in pairwise(levels):
        cells = set(tree.increment(a, b))
        drawn, known = drawn + len(cells - known), cells
    assert drawn / 49 < 4.5


@pytest.mark.parametrize("sigma", [0.009, 161.0])
def test_times_outside_the_schedule_are_a_value_error(sigma):
    with pytest.raises(ValueError, match=r"sigma = [\d.]+ is outside \[0\.01, 160\.0\]"):
        BrownianTree(0.01, 160.0, 3).at(sigma)
