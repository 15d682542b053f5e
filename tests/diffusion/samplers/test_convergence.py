"""Samplers against a fine solution of the probability-flow ODE, and against known distributions."""

import math

import pytest
import torch

from hdit_core.diffusion.samplers.brownian_noise import BrownianNoise
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.recipe.sample import SampleRecipe
from tests.diffusion.sample_with import sample

# Multistep samplers start with lower orders, which bounds what they can reach.
ORDERS = {
    "euler": 1,
    "euler_ancestral": 1,
    "heun": 2,
    "dpm_2": 2,
    "dpm_2_ancestral": 2,
    "dpmpp_2s_ancestral": 2,
    "dpmpp_sde": 2,
    "dpmpp_2m": 2,
    "dpmpp_2m_sde": 2,
    "dpmpp_3m_sde": 2,
    "lms": 3,
    "dpm_fast": 3,
}
STOCHASTIC = ["euler_ancestral", "dpm_2_ancestral", "dpmpp_2s_ancestral", "dpmpp_sde", "dpmpp_2m_sde", "dpmpp_3m_sde"]


def no_noise(sigma, sigma_next):
    raise AssertionError("no noise was to be asked for")


@pytest.mark.parametrize("name", ORDERS)
def test_the_error_of_a_sampler_falls_with_its_order(mixture, noisy, even, solution, name):
    def error(steps):
        found = sample(name, mixture.denoise, noisy, even(steps), no_noise, eta=0.0)
        return (found - solution).abs().max().item()

    assert math.log2(error(90) / error(180)) == pytest.approx(ORDERS[name], abs=0.35 if ORDERS[name] < 3 else 1.0)
    assert error(180) < {1: 2e-2, 2: 5e-4, 3: 2e-5}[ORDERS[name]]


@pytest.mark.parametrize("solver", ["heun", "midpoint"])
def test_both_solvers_of_the_2m_sde_are_of_second_order(mixture, noisy, even, solution, solver):
    def error(steps):
        found = sample("dpmpp_2m_sde", mixture.denoise, noisy, even(steps), no_noise, eta=0.0, solver=solver)
        return (found - solution).abs().max().item()

    assert math.log2(error(90) / error(180)) == pytest.approx(2, abs=0.35)


def brownian(shape, sigmas):
    """The motion of one large image, handed out as that of a batch of small ones."""
    source = BrownianNoise(3, [0], (math.prod(shape), 1, 1), sigmas, dtype=torch.float64)
    return lambda sigma, sigma_next: source(sigma, sigma_next).view(shape)


# euler_ancestral is of first order: its variance is still 8 % short after 160 steps.
@pytest.mark.parametrize("name, steps", [(name, 160) for name in STOCHASTIC[1:]] + [("euler_ancestral", 700)])
def test_stochastic_samplers_reach_the_mean_and_the_variance_of_a_known_gaussian(name, steps):
    mean, variance, shape = 0.3, 0.4**2, (4, 2, 32, 48)
    sigmas = sampling_sigmas(SampleRecipe(steps=steps, sigma_max=80.0))
    start = 80 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def denoise(x, sigma):
        level = sigma.view(-1, 1, 1, 1) ** 2
        return (variance * x + level * mean) / (variance + level)

    images = sample(name, denoise, start, sigmas, brownian(shape, sigmas), eta=1.0)
    count = images.numel()
    assert images.mean().item() == pytest.approx(mean, abs=3 * math.sqrt(variance / count))
    assert images.var().item() == pytest.approx(variance, abs=3 * variance * math.sqrt(2 / count))


@pytest.mark.parametrize("name", ["dpmpp_2m_sde", "dpmpp_3m_sde", "dpmpp_sde"])
def test_stochastic_samplers_reach_each_mode_of_a_mixture_with_its_probability(mixture, name):
    sigmas = sampling_sigmas(SampleRecipe(steps=60, sigma_max=80.0))
    start = 80 * torch.randn(1000, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    images = sample(name, mixture.denoise, start, sigmas, brownian(start.shape, sigmas))
    nearest = torch.cdist(images.flatten(1), mixture.means).argmin(1)

    generator = torch.Generator().manual_seed(2)
    exact = mixture.means[torch.multinomial(mixture.weights, 100_000, replacement=True, generator=generator)]
    exact = exact + mixture.std * torch.randn(exact.shape, dtype=torch.float64, generator=generator)
    expected = torch.cdist(exact, mixture.means).argmin(1).bincount(minlength=3) / len(exact)
    error = (expected * (1 - expected) / len(images)).sqrt()
    assert ((nearest.bincount(minlength=3) / len(images) - expected).abs() < 3 * error).all()


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_sample_converges_with_the_number_of_steps(mixture, name):
    start = 80 * torch.randn(500, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def images(steps):
        sigmas = sampling_sigmas(SampleRecipe(steps=steps, sigma_max=80.0))
        return sample(name, mixture.denoise, start, sigmas, brownian(start.shape, sigmas), eta=1.0)

    at = {steps: images(steps) for steps in (25, 50, 100)}
    first, second = ((at[a] - at[b]).square().mean().sqrt().item() for a, b in ((25, 50), (50, 100)))
    assert second < 0.8 * first
    other_noise = (at[100] - at[100].roll(1, 0)).square().mean().sqrt().item()
    assert second < other_noise / 4
