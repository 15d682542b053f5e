import math

import pytest
import torch

from hdit_core.diffusion.samplers.dpm_adaptive import _third_order, check_step, dpm_adaptive, orders
from hdit_core.diffusion.samplers.sampler_state import SamplerState
from hdit_core.recipe.sample import SampleRecipe
from tests.diffusion.sample_with import sample

ADAPTIVE = SampleRecipe(sampler="dpm_adaptive")


def no_noise(sigma, sigma_next):
    raise AssertionError("no noise was to be asked for")


class Counted:
    """A denoiser that counts how often it is asked."""

    def __init__(self, denoise):
        self.denoise, self.calls = denoise, 0

    def __call__(self, x, sigma):
        self.calls += 1
        return self.denoise(x, sigma)


@pytest.mark.parametrize(
    "questions, expected",
    [(1, [1]), (2, [2]), (3, [2, 1]), (4, [3, 1]), (5, [3, 2]), (6, [3, 2, 1]), (9, [3, 3, 2, 1]), (10, [3, 3, 3, 1])],
)
def test_the_orders_of_dpm_fast_add_up_to_its_evaluations(questions, expected):
    assert orders(questions) == expected
    assert sum(expected) == questions


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 5, 12])
@pytest.mark.parametrize("ends_at_0", [False, True])
def test_dpm_fast_evaluates_once_per_step_of_the_schedule(mixture, noisy, even, steps, ends_at_0):
    sigmas = torch.cat([even(steps - 1) if steps > 1 else even(1)[:1], torch.zeros(1).double()])
    denoise = Counted(mixture.denoise)
    sample("dpm_fast", denoise, noisy, sigmas if ends_at_0 else even(steps), no_noise)
    assert denoise.calls == steps


@pytest.mark.parametrize("tolerance, error", [(0.05, 0.1), (1e-3, 1e-2), (1e-5, 1e-4)])
def test_dpm_adaptive_is_accurate_to_its_tolerance(mixture, noisy, even, solution, tolerance, error):
    walk = SamplerState(ADAPTIVE, mixture.denoise, even(1).tolist(), no_noise)
    found = dpm_adaptive(walk, noisy, rtol=tolerance, atol=tolerance / 6)
    assert (found - solution).abs().max() < error


def test_a_third_order_step_has_order_three_and_its_companion_order_two(mixture, noisy, even):
    x = sample("heun", mixture.denoise, noisy, 40 * (torch.linspace(0, -4, 800).double()).exp(), no_noise)
    start = torch.full((3,), 4 - math.log(40), dtype=torch.float64)

    def errors(h):
        walk = SamplerState(ADAPTIVE, mixture.denoise, [1.0, 0.5], no_noise)
        levels = torch.exp(-start[0] - h * torch.linspace(0, 1, 400, dtype=torch.float64))
        exact = sample("heun", mixture.denoise, x, levels, no_noise)
        return torch.stack([(found - exact).abs().max() for found in _third_order(walk, x, start, 0 * start + h)])

    high, low = (errors(0.2) / errors(0.1)).log2().tolist()
    assert high == pytest.approx(4, abs=0.5)
    assert low == pytest.approx(3, abs=0.5)


def test_dpm_adaptive_needs_more_evaluations_for_smaller_tolerances(mixture, noisy, even):
    calls = []
    for tolerance in (0.1, 1e-2, 1e-3):
        denoise = Counted(mixture.denoise)
        dpm_adaptive(SamplerState(ADAPTIVE, denoise, even(1).tolist(), no_noise), noisy, tolerance, tolerance)
        calls.append(denoise.calls)
    assert calls[0] < calls[1] < calls[2] < 2000


def test_dpm_adaptive_uses_only_the_ends_of_the_schedule(mixture, noisy, even):
    few, many = (sample("dpm_adaptive", mixture.denoise, noisy, even(n), no_noise) for n in (3, 50))
    assert torch.equal(few, many)


def test_images_that_finish_early_stay_unchanged(mixture, noisy, even):
    easy_and_hard = torch.cat([noisy[:1] * 0, noisy])
    together = sample("dpm_adaptive", mixture.denoise, easy_and_hard, even(3), no_noise)
    alone = sample("dpm_adaptive", mixture.denoise, easy_and_hard[:1], even(3), no_noise)
    torch.testing.assert_close(together[:1], alone, rtol=1e-12, atol=1e-12)


def test_steps_grow_after_small_errors_and_are_rejected_and_shrunk_after_large_ones():
    accepted, h = check_step(torch.tensor([1e-3, 1.0, 50.0]).double(), torch.full((3,), 0.1).double())
    assert accepted.tolist() == [True, True, False]
    assert h[0] > 0.1 and h[1].item() == pytest.approx(0.1) and h[2] < 0.1


def test_the_step_size_changes_by_a_bounded_factor():
    _, h = check_step(torch.tensor([0.0, 1e30]).double(), torch.ones(2).double())
    assert 0.2 < h[1] < h[0] < 2.6


@pytest.mark.parametrize("questions", [1, 2, 5, 12])
def test_dpm_fast_equals_the_references(reference, recorded_mixture, questions):
    numbers = reference("diffusion")
    start, ends = numbers["sampler.x"], numbers["sampler.sigmas"][[0, -2]]
    sigmas = torch.linspace(*ends.tolist(), questions + 1, dtype=torch.float64)  # only ends and number count
    found = sample("dpm_fast", recorded_mixture.denoise, start, sigmas, no_noise)
    torch.testing.assert_close(found, reference("samplers")[f"dpm_fast.{questions}"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind, tolerances", [("default", {}), ("fine", {"rtol": 1e-3, "atol": 1e-4})])
def test_dpm_adaptive_equals_the_reference_on_single_images(reference, recorded_mixture, kind, tolerances):
    numbers = reference("diffusion")
    walk = SamplerState(ADAPTIVE, recorded_mixture.denoise, numbers["sampler.sigmas"][[0, -2]].tolist(), no_noise)
    found = dpm_adaptive(walk, numbers["sampler.x"], **tolerances)
    torch.testing.assert_close(found, reference("samplers")[f"dpm_adaptive.{kind}"], rtol=1e-9, atol=1e-12)
