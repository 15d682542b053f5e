"""Flows from a prior image to the image, against Gaussians whose flow is known in closed form."""

import math

import pytest
import torch

from hdit_core.diffusion.loss import denoising_loss
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.prior import start_of_flow
from hdit_core.diffusion.probability_flow import solve_pf_ode
from hdit_core.diffusion.samplers.registry import SAMPLERS
from hdit_core.errors import RecipeError
from hdit_core.generate.pipeline import ConditionInputs, SamplingPipeline
from hdit_core.generate.settings import sample_settings
from hdit_core.recipe.sample import STOCHASTIC
from tests.diffusion.sample_with import sample

MEAN, STD = 0.2, 0.4  # of the images
SLOPE, SPREAD = 0.7, 0.3  # the prior image is SLOPE * image + SPREAD * a normal image

FLOW = {
    "model.num_classes": 0,
    "data.augment_prob": 0.0,
    "diffusion.start": "image",
    "diffusion.objective": "flow",
    "diffusion.sigma_data": 1.0,
    "sample.sampler": "heun",
    "sample.eta": 0.0,
}


def moments(sigma):
    """Return mean and standard deviation of x = image + sigma * prior."""
    share = 1 + SLOPE * sigma
    return share * MEAN, ((share * STD) ** 2 + (SPREAD * sigma) ** 2) ** 0.5


def expected_image(x, sigma):
    """Return E[image | x], which is linear."""
    sigma = sigma.to(x).view(-1, *[1] * (x.ndim - 1))
    mean, std = moments(sigma)
    return MEAN + STD**2 * (1 + SLOPE * sigma) / std**2 * (x - mean)


def transported(x, start, end):
    """Return where the flow takes x: it keeps its distance from the mean, in standard deviations."""
    (mean, std), (new_mean, new_std) = moments(start), moments(end)
    return new_mean + new_std / std * (x - mean)


@pytest.fixture
def priors():
    generator = torch.Generator().manual_seed(3)
    images, normals = (torch.randn(6, 3, 16, 24, dtype=torch.float64, generator=generator) for _ in range(2))
    return SLOPE * (MEAN + STD * images) + SPREAD * normals


def test_the_probability_flow_takes_a_prior_image_where_the_closed_form_does(priors):
    x = 80.0 * priors[:2, :, :4, :6]
    solved = solve_pf_ode(expected_image, x, 80.0, 0.01, rtol=1e-10, atol=1e-10).x
    torch.testing.assert_close(solved, transported(x, 80.0, 0.01), rtol=1e-8, atol=1e-8)
    back = solve_pf_ode(expected_image, solved, 0.01, 80.0, rtol=1e-10, atol=1e-10).x
    torch.testing.assert_close(back, x, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", sorted(set(SAMPLERS) - {"dpm_fast", "dpm_adaptive"}))
def test_every_deterministic_sampler_converges_to_the_closed_form(priors, name):
    x, errors = 80.0 * priors[:1], []
    for steps in (64, 256):
        sigmas = torch.linspace(math.log(80), math.log(0.01), steps + 1, dtype=torch.float64).exp()
        found = sample(name, expected_image, x, sigmas, lambda *_: torch.zeros_like(x), eta=0.0)
        errors.append((found - transported(x, 80.0, 0.01)).abs().max().item())
    assert errors[1] < 2e-2
    assert errors[1] < errors[0] / 3  # of the first order at least


def test_the_ends_of_the_flow_have_the_mean_and_standard_deviation_of_the_images():
    generator = torch.Generator().manual_seed(4)
    images, normals = (torch.randn(20_000, 1, 1, 1, dtype=torch.float64, generator=generator) for _ in range(2))
    priors = SLOPE * (MEAN + STD * images) + SPREAD * normals
    ends = solve_pf_ode(expected_image, 1000.0 * priors, 1000.0, 1e-3, rtol=1e-8, atol=1e-8).x
    assert ends.mean().item() == pytest.approx(MEAN, abs=0.01)
    assert ends.std().item() == pytest.approx(STD, rel=0.02)


class Linear(torch.nn.Module):
    """A network whose denoiser is slope * x + shift; it notes what it is given."""

    def __init__(self):
        super().__init__()
        self.slope = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))
        self.shift = torch.nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None, condition=None):
        self.given = (x, condition)
        return self.slope * x + self.shift


def test_the_loss_is_minimal_at_the_closed_form(changed):
    generator, sigma = torch.Generator().manual_seed(5), 1.5
    images, normals = (torch.randn(40_000, 3, 1, 1, dtype=torch.float64, generator=generator) for _ in range(2))
    images = MEAN + STD * images
    network, noise = Linear(), torch.zeros_like(images)
    denoiser = Denoiser(network, changed(FLOW))
    # D = x / (1 + s) + s / (1 + s) F(x / (1 + s)), set to E[image | x]
    at = torch.full((1,), sigma, dtype=torch.float64)
    shift = expected_image(torch.zeros(1, 1, 1, 1, dtype=torch.float64), at).item()
    slope = expected_image(torch.ones(1, 1, 1, 1, dtype=torch.float64), at).item() - shift
    network.shift.data.fill_(shift * (1 + sigma) / sigma)
    network.slope.data.fill_((slope - 1 / (1 + sigma)) * (1 + sigma) ** 2 / sigma)
    torch.testing.assert_close(denoiser(images[:5], sigma), expected_image(images[:5], at))
    losses = denoising_loss(
        denoiser, images, noise, at.expand(len(images)), condition=SLOPE * images + SPREAD * normals
    )
    losses.mean().backward()
    scale = losses.mean().item()
    assert abs(network.slope.grad.item()) < 0.02 * scale
    assert abs(network.shift.grad.item()) < 0.02 * scale


@pytest.mark.parametrize("channels", [1, 3])
def test_training_sees_a_rectified_flow_from_the_noisy_prior_to_the_image(changed, channels):
    recipe = changed(FLOW | {"diffusion.start_noise": 0.25, "diffusion.weighting": "karras"})
    generator = torch.Generator().manual_seed(6)
    images, noise = (torch.randn(2, 3, 4, 6, dtype=torch.float64, generator=generator) for _ in range(2))
    prior = torch.randn(2, channels, 4, 6, dtype=torch.float64, generator=generator)
    sigma, network = torch.tensor([0.3, 4.0], dtype=torch.float64), Linear()
    denoising_loss(Denoiser(network, recipe), images, noise, sigma, condition=prior)
    t = (1 / (1 + sigma)).view(-1, 1, 1, 1)
    seen, condition = network.given
    torch.testing.assert_close(seen, t * images + (1 - t) * (prior + 0.25 * noise))
    assert condition is None


def test_the_network_sees_the_start_only_if_the_recipe_sets_it(changed):
    values = {"model.condition_channels": 3, "diffusion.start_noise": 0.1}
    network, images = Linear(), torch.zeros(1, 3, 4, 6, dtype=torch.float64)
    denoiser = Denoiser(network, changed(FLOW | values))
    denoising_loss(denoiser, images, images, torch.ones(1, dtype=torch.float64), condition=images + 0.5)
    assert torch.equal(network.given[1], images + 0.5)


def test_noise_stays_noise_without_a_start(tiny_recipe):
    noise = torch.randn(2, 3, 4, 6)
    assert start_of_flow(tiny_recipe.diffusion, noise, None) is noise


class Exact(Denoiser):
    """The closed form as a denoiser."""

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None, condition=None):
        assert condition is None
        return expected_image(x, sigma)


@pytest.mark.parametrize("noise", [0.0, 0.2])
def test_sampling_starts_from_the_prior_image_and_ends_where_the_closed_form_does(changed, priors, noise):
    recipe = changed(FLOW | {"diffusion.start_noise": noise})
    denoiser = Exact(torch.nn.Linear(1, 1), recipe)
    settings = sample_settings(recipe, steps=400, sigma_min=1e-3, schedule="exponential", batch_size=6)
    pipeline = SamplingPipeline(
        denoiser, settings, 0, (16, 24), conditions=lambda indices: ConditionInputs(priors[indices].float())
    )
    (batch,) = pipeline.generate(range(6), [None] * 6)
    x = 80.0 * (priors + noise * pipeline.noise(range(6)))
    torch.testing.assert_close(batch.images.double(), transported(x, 80.0, 0.0), rtol=0, atol=2e-3)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_samplers_that_add_noise_are_refused(changed, sampler):
    with pytest.raises(RecipeError, match=r"sample.eta: adds noise to a flow with diffusion.start = 'image', which is"):
        changed(FLOW | {"sample.sampler": sampler, "sample.eta": 1.0})
    assert changed(FLOW | {"sample.sampler": sampler}).sample.eta == 0
    with pytest.raises(RecipeError, match=r"sampling: sample.eta: adds noise to a flow"):
        sample_settings(changed(FLOW), sampler=sampler, eta=0.5)


@pytest.mark.parametrize(
    ("values", "mistake"),
    [
        ({"sample.churn": {"amount": 1.0}}, "sample.churn.amount: adds noise to a flow with diffusion.start = 'image'"),
        ({"model.condition_channels": 2}, "'image' starts from a condition image of 1 or 3 channels, found 2"),
        ({"model.condition_channels": 3}, "diffusion.start_noise = 0 with model.condition_channels: the network would"),
        ({"condition.degrade": [{"kind": "mask"}]}, "starts from a condition image of 1 or 3 channels, found 4"),
        (
            {"train.condition_dropout": 0.1, "model.mapping_cond_dim": 2},
            "train.condition_dropout: must be 0 with diffusion.start = 'image', whose start cannot be dropped",
        ),
        ({"diffusion.start": "noise", "diffusion.start_noise": 0.1}, "start_noise = 0.1 has no effect with start = 'n"),
        ({"data.augment_prob": 0.1}, "would warp the image but not its condition image"),
    ],
)
def test_settings_incompatible_with_a_flow_from_an_image_are_refused_in_one_line(changed, values, mistake):
    with pytest.raises(RecipeError) as error:
        changed(FLOW | values)
    assert any(mistake in line for line in str(error.value).splitlines()), str(error.value)


def test_a_coarse_image_is_a_start_without_being_seen(changed):
    recipe = changed(FLOW | {"condition.degrade": [{"kind": "grey"}, {"kind": "blur", "sigma": 1.0}]})
    assert recipe.condition_image_channels == 1
    assert recipe.model.input_channels == 3
