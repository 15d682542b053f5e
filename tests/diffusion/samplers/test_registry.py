"""The registry, the reference's numbers, and what every sampler has in common."""

import typing

import pytest
import torch

from hdit_core.diffusion.samplers.registry import SAMPLERS
from hdit_core.errors import NumericalError
from hdit_core.recipe.sample import Sampler
from tests.diffusion.sample_with import sample

ETAS = (0.0, 0.5, 1.0)
STOCHASTIC = ("euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde")
DETERMINISTIC = tuple(name for name in SAMPLERS if name not in STOCHASTIC)
RECORDED = [
    *((f"sampler.{name}", name, {}) for name in ("euler", "heun", "dpm_2", "lms", "dpmpp_2m")),
    *((f"sampler.{name}.eta{eta}", name, {"eta": eta}) for name in STOCHASTIC for eta in ETAS if "2m" not in name),
    *(
        (f"sampler.dpmpp_2m_sde.{solver}.eta{eta}", "dpmpp_2m_sde", {"eta": eta, "solver": solver})
        for solver in ("heun", "midpoint")
        for eta in ETAS
    ),
]


def no_noise(sigma, sigma_next):
    raise AssertionError("no noise was to be asked for")


def noise_from(noises):
    """A noise source that gives recorded numbers in order."""
    draws = iter(noises)
    return lambda sigma, sigma_next: next(draws)


@pytest.mark.parametrize("key, name, settings", RECORDED, ids=[key for key, _, _ in RECORDED])
def test_samplers_equal_the_references(reference, recorded_mixture, key, name, settings):
    numbers = reference("diffusion")
    start, sigmas, noise = numbers["sampler.x"], numbers["sampler.sigmas"], noise_from(numbers["sampler.noises"])
    found = sample(name, recorded_mixture.denoise, start, sigmas, noise, **settings)
    torch.testing.assert_close(found, numbers[key], rtol=1e-9, atol=0)


def test_every_recorded_sampler_output_of_the_reference_is_compared(reference):
    inputs = {"sampler.x", "sampler.sigmas", "sampler.noises"}
    recorded = {key for key in reference("diffusion") if key.startswith("sampler.")} - inputs
    assert recorded == {key for key, _, _ in RECORDED}


def test_the_samplers_are_those_that_a_recipe_can_name():
    assert set(SAMPLERS) == set(typing.get_args(Sampler))


@pytest.mark.parametrize("name", SAMPLERS)
def test_without_fresh_noise_no_sampler_draws_any(mixture, noisy, even, name):
    images = sample(name, mixture.denoise, noisy, even(8), no_noise, eta=0.0)
    assert images.isfinite().all()


@pytest.mark.parametrize("name", DETERMINISTIC)
def test_deterministic_samplers_ignore_eta(mixture, noisy, even, name):
    assert torch.equal(
        sample(name, mixture.denoise, noisy, even(8), no_noise, eta=1.0),
        sample(name, mixture.denoise, noisy, even(8), no_noise, eta=0.0),
    )


@pytest.mark.parametrize("name", [name for name in SAMPLERS if name != "lms"])
def test_a_schedule_that_ends_at_0_ends_with_a_denoised_image(mixture, noisy, even, name):
    answers = []

    def denoise(x, sigma):
        answers.append((sigma, mixture.denoise(x, sigma)))
        return answers[-1][1]

    sigmas = torch.cat([even(7), torch.zeros(1).double()])
    images = sample(name, denoise, noisy, sigmas, lambda a, b: torch.ones_like(noisy))
    assert torch.equal(images, answers[-1][1])
    torch.testing.assert_close(answers[-1][0], torch.full((3,), 0.01, dtype=torch.float64))


@pytest.mark.parametrize("name", SAMPLERS)
def test_one_step_is_one_evaluation(mixture, noisy, name):
    images = sample(name, mixture.denoise, noisy, torch.tensor([40.0, 0.0]).double(), no_noise)
    if name != "dpm_adaptive":  # it has nowhere to go but to the end
        torch.testing.assert_close(images, mixture.denoise(noisy, torch.full((3,), 40.0)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", SAMPLERS)
def test_float32_images_stay_float32_and_close_to_the_float64_ones(mixture, noisy, even, name):
    noise = torch.randn(99, *noisy.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    double = sample(name, mixture.denoise, noisy, even(12), noise_from(noise))
    single = sample(name, mixture.denoise, noisy.float(), even(12), noise_from(noise.float()))
    assert single.dtype == torch.float32
    # Rounding moves the adaptive steps by a little of their tolerance.
    tolerance = 5e-3 if name == "dpm_adaptive" else 1e-4
    torch.testing.assert_close(single.double(), double, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(mixture, noisy, even, name):
    noise = torch.randn(99, *noisy.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(7))
    whole = sample(name, mixture.denoise, noisy, even(9), noise_from(noise))
    part = sample(name, mixture.denoise, noisy[1:], even(9), noise_from(noise[:, 1:]))
    torch.testing.assert_close(part, whole[1:], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in SAMPLERS if not name.startswith("dpm_")] + ["dpm_2"])
def test_on_step_is_called_for_every_step_in_order(mixture, noisy, even, name):
    told = []
    sample(name, mixture.denoise, noisy, even(5), lambda a, b: torch.zeros_like(noisy), on_step=told.append)
    assert [(step.index, step.steps) for step in told] == [(i, 5) for i in range(5)]
    assert [step.sigma for step in told] == even(5)[:-1].tolist()
    assert torch.equal(told[0].x, noisy)
    assert all(
        torch.equal(s.denoised, mixture.denoise(s.x, torch.full((3,), s.sigma, dtype=torch.float64))) for s in told
    )


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 1.0, 0.0], [0.5, 1.0], [1.0, -0.1]])
def test_schedules_that_do_not_fall_are_a_value_error(mixture, noisy, sigmas):
    with pytest.raises(ValueError, match="sigmas must be decreasing and end at 0 or above"):
        sample("euler", mixture.denoise, noisy, torch.tensor(sigmas).double(), no_noise)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_number_that_is_not_finite_stops_the_sampler_and_names_step_sigma_and_images(mixture, noisy, even, name, bad):
    def denoise(x, sigma):
        denoised = mixture.denoise(x, sigma)
        denoised[1:, 0, 1, 2] = torch.where(sigma[1:] < 30, bad, denoised[1:, 0, 1, 2])
        return denoised

    with pytest.raises(NumericalError, match=rf"^{name}, step \d+, sigma = [\d.]+: images 1, 2 of the batch of 3 are"):
        sample(name, denoise, noisy, even(9), lambda a, b: torch.zeros_like(noisy))
    with pytest.raises(NumericalError, match=r"euler, step 2, sigma = 15\.9159: .*try an earlier checkpoint"):
        sample("euler", denoise, noisy, even(9), no_noise)
