import math

import pytest
import torch

from hdit_core.diffusion.samplers.schedule import SCHEDULES, sampling_sigmas
from hdit_core.errors import UsageError
from hdit_core.recipe.sample import SampleRecipe

RHO = {"karras": None, "exponential": None, "polyexponential": 1.5}
# The reference computes in float32; one of its numbers is off by 1.003e-6.
FLOAT32 = 1.01e-6


@pytest.mark.parametrize("ends", [(10, 0.01, 160.0), (50, 0.01, 160.0), (7, 0.002, 80.0)])
@pytest.mark.parametrize("name", RHO)
def test_schedules_equal_the_references(reference, name, ends):
    steps, sigma_min, sigma_max = ends
    recipe = SampleRecipe(schedule=name, steps=steps, sigma_min=sigma_min, sigma_max=sigma_max, rho=RHO[name])
    recorded = reference("diffusion")[f"sigmas.{name}.{steps}.{sigma_min}.{sigma_max}"]
    torch.testing.assert_close(sampling_sigmas(recipe), recorded, rtol=FLOAT32, atol=0)


def test_the_vp_schedule_between_its_own_ends_equals_the_references(reference):
    recorded = reference("diffusion")["sigmas.vp.12"]
    sigma_min, sigma_max = (math.sqrt(math.expm1(19.9 / 2 * t**2 + 0.1 * t)) for t in (1e-3, 1.0))
    found = sampling_sigmas(SampleRecipe(schedule="vp", steps=12, sigma_min=sigma_min, sigma_max=sigma_max))
    torch.testing.assert_close(found[:-2], recorded[:-2], rtol=FLOAT32, atol=0)
    # The reference subtracts 1 from a float32 of about 1.0001.
    torch.testing.assert_close(found[-2:], recorded[-2:], rtol=3e-4, atol=0)


def test_fifty_steps_of_karras_are_those_printed_for_the_reference():
    found = sampling_sigmas(SampleRecipe(steps=50))
    assert len(found) == 51 and found.dtype == torch.float64
    golden = torch.tensor([160, 143.64223, 128.73936, 0.0151307, 0.01, 0], dtype=torch.float64)
    torch.testing.assert_close(found[[0, 1, 2, 48, 49, 50]], golden, rtol=2e-6, atol=0)


@pytest.mark.parametrize("ends", [(0.01, 160.0), (0.3, 5.0), (1e-4, 1e3)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_falls_from_sigma_max_to_sigma_min_and_ends_at_0(name, ends):
    found = sampling_sigmas(SampleRecipe(schedule=name, steps=9, sigma_min=ends[0], sigma_max=ends[1]))
    assert len(found) == 10 and found[-1] == 0 and (found.diff() < 0).all()
    torch.testing.assert_close(found[[-2, 0]], torch.tensor(ends, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_schedule_of_one_step_has_sigma_max_and_0(name):
    found = sampling_sigmas(SampleRecipe(schedule=name, steps=1))
    torch.testing.assert_close(found, torch.tensor([160.0, 0.0], dtype=torch.float64), rtol=1e-9, atol=0)


def test_the_flow_schedule_is_uniform_in_the_time_of_a_rectified_flow():
    sigmas = sampling_sigmas(SampleRecipe(schedule="flow", steps=11, sigma_min=1 / 3, sigma_max=99.0))[:-1]
    time = sigmas / (1 + sigmas)
    torch.testing.assert_close(time, torch.linspace(0.99, 0.25, 11, dtype=torch.float64), rtol=0, atol=1e-12)


def test_a_polyexponential_schedule_is_exponential_by_default():
    poly, plain = (sampling_sigmas(SampleRecipe(schedule=name)) for name in ("polyexponential", "exponential"))
    assert torch.equal(poly, plain)
    assert (sampling_sigmas(SampleRecipe(schedule="polyexponential", rho=2.0)) < plain)[1:-2].all()


@pytest.mark.parametrize(
    "values",
    [{"rho": 1e-4}, {"rho": 1e20}, {"sigma_max": 1e300}, {"sigma_min": 1.0, "sigma_max": math.nextafter(1, 2)}],
)
def test_levels_that_cannot_be_told_apart_or_are_too_large_are_refused(values):
    with pytest.raises(UsageError, match=r"sample.schedule = 'karras'.*are not decreasing numbers of 32 bits; change"):
        sampling_sigmas(SampleRecipe(**values))


def test_more_than_a_million_steps_are_refused():
    with pytest.raises(UsageError, match=r"sample.steps = 4611686018427387904: expected at most 1,000,000"):
        sampling_sigmas(SampleRecipe(steps=2**62))
