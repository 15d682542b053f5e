"""Churn: the reference's numbers, the right distribution, and no effect without churn."""

import math

import pytest
import torch

from hdit_core.diffusion.samplers.brownian_noise import BrownianNoise
from hdit_core.diffusion.samplers.registry import sample_by
from hdit_core.diffusion.samplers.schedule import sampling_sigmas
from hdit_core.recipe.sample import CHURNED, ChurnRecipe, SampleRecipe
from tests.diffusion.sample_with import sample

RECORDED = {
    "all": ChurnRecipe(amount=4.0),
    "some": ChurnRecipe(amount=30.0, sigma_min=0.05, sigma_max=20.0, noise=1.007),
}


def no_noise(sigma, sigma_next):
    raise AssertionError("no noise was to be asked for")


def brownian(shape, sigmas):
    """The motion of one large image, handed out as that of a batch of small ones."""
    source = BrownianNoise(3, [0], (math.prod(shape), 1, 1), sigmas, dtype=torch.float64)
    return lambda sigma, sigma_next: source(sigma, sigma_next).view(shape)


@pytest.mark.parametrize("kind", RECORDED)
@pytest.mark.parametrize("name", CHURNED)
def test_churn_equals_the_references(reference, recorded_mixture, name, kind):
    numbers = reference("diffusion")
    steps, noises = numbers["sampler.sigmas"].tolist(), numbers["sampler.noises"]
    found = sample(
        name,
        recorded_mixture.denoise,
        numbers["sampler.x"],
        numbers["sampler.sigmas"],
        lambda sigma, sigma_next: noises[steps.index(sigma)],
        churn=RECORDED[kind],
    )
    torch.testing.assert_close(found, reference("samplers")[f"churn.{name}.{kind}"], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", CHURNED)
@pytest.mark.parametrize("churn", [None, ChurnRecipe(), ChurnRecipe(amount=9.0, sigma_min=41.0)])
def test_zero_churn_changes_no_bit_and_draws_no_noise(mixture, noisy, even, name, churn):
    expected = sample(name, mixture.denoise, noisy, even(8), no_noise)
    assert torch.equal(sample(name, mixture.denoise, noisy, even(8), no_noise, churn=churn), expected)


# euler is of first order: its variance is 4 % short after 300 steps.
@pytest.mark.parametrize("name, steps, amount", [("euler", 900, 8.0), ("heun", 100, 40.0), ("dpm_2", 100, 40.0)])
def test_churned_samplers_reach_the_mean_and_the_variance_of_a_known_gaussian(name, steps, amount):
    mean, variance, shape = 0.3, 0.4**2, (4, 2, 32, 48)
    sigmas = sampling_sigmas(SampleRecipe(steps=steps, sigma_max=80.0))
    start = 80 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def denoise(x, sigma):
        level = sigma.view(-1, 1, 1, 1) ** 2
        return (variance * x + level * mean) / (variance + level)

    churn = ChurnRecipe(amount=amount, sigma_min=0.1, sigma_max=2.0)
    images = sample(name, denoise, start, sigmas, brownian(shape, sigmas), churn=churn)
    plain = sample(name, denoise, start, sigmas, no_noise)
    assert (images - plain).std() > 0.3  # the noise is another by the end
    count = images.numel()
    assert images.mean().item() == pytest.approx(mean, abs=3 * math.sqrt(variance / count))
    assert images.var().item() == pytest.approx(variance, abs=3 * variance * math.sqrt(2 / count))


@pytest.mark.parametrize("name", CHURNED)
def test_a_churned_sample_converges_with_the_number_of_steps(mixture, name):
    start = 80 * torch.randn(500, 1, 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(4))

    def images(steps):
        settings = SampleRecipe(
            steps=steps, sigma_max=80.0, sampler=name, churn=ChurnRecipe(amount=5.0, sigma_min=0.05)
        )
        sigmas = sampling_sigmas(settings)
        return sample_by(settings, mixture.denoise, start, sigmas, brownian(start.shape, sigmas))

    at = {steps: images(steps) for steps in (25, 50, 100)}
    first, second = ((at[a] - at[b]).square().mean().sqrt().item() for a, b in ((25, 50), (50, 100)))
    assert second < 0.8 * first
    other_noise = (at[100] - at[100].roll(1, 0)).square().mean().sqrt().item()
    assert second < other_noise / 4


def test_no_step_adds_more_noise_than_the_image_has(mixture, noisy, even):
    told = []
    churn = ChurnRecipe(amount=1e9)
    sample("euler", mixture.denoise, noisy, even(5), lambda a, b: 0 * noisy, churn=churn, on_step=told.append)
    assert [step.sigma for step in told] == pytest.approx([math.sqrt(2) * sigma for sigma in even(5)[:-1].tolist()])


def test_the_noise_of_all_steps_is_uncorrelated_including_the_last():
    sigmas = sampling_sigmas(SampleRecipe(steps=6))
    source = BrownianNoise(0, [4, 9], (1, 40, 50), sigmas)
    pairs = list(zip(sigmas[:-1].tolist(), sigmas[1:].tolist(), strict=True))
    draws = torch.stack([source(*pair).flatten() for pair in pairs])
    assert draws.std(1).sub(1).abs().max() < 0.05
    assert (torch.corrcoef(draws) - torch.eye(6)).abs().max() < 0.06
    again = BrownianNoise(0, [9], (1, 40, 50), sigmas)(*pairs[-1])
    assert torch.equal(again.flatten(), draws[-1].view(2, -1)[1])
