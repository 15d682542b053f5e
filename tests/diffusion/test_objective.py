"""Three prediction targets of one denoiser: D is the expected image for each of them."""

import pytest
import torch

from hdit_core.diffusion.likelihood import log_likelihood, rademacher_probes
from hdit_core.diffusion.loss import denoising_loss, weight
from hdit_core.diffusion.precondition import PARAMETERIZATIONS, Denoiser, scalings, target
from hdit_core.recipe.diffusion import DiffusionRecipe
from tests.diffusion.sample_with import sample

SIGMA = torch.tensor([1e-3, 0.3, 2.0, 900.0], dtype=torch.float64)
LEVEL = SIGMA.view(4, 1, 1, 1)
everywhere = pytest.mark.parametrize("objective", PARAMETERIZATIONS)


@pytest.fixture
def batch():
    """Images and noise whose pixels have mean square 0.5^2 and 1 exactly, and no correlation, in every image."""
    numbers = torch.Generator().manual_seed(2)
    draws = torch.randn(4, 60, 2, dtype=torch.float64, generator=numbers)
    images, noise = (torch.linalg.qr(draws)[0] * 60**0.5).unbind(-1)
    return 0.5 * images.view(4, 3, 4, 5), noise.view(4, 3, 4, 5)


class Linear(torch.nn.Module):
    """The network of the denoiser D = gain x: F = (gain x - c_skip x) / c_out."""

    def __init__(self, objective, gain):
        super().__init__()
        self.objective, self.gain = objective, gain

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None, condition=None):
        level = sigma.view(-1, 1, 1, 1)
        c_skip, c_out, c_in = scalings(level, 0.5, self.objective)
        return (self.gain - c_skip) / c_out * x / c_in


def denoiser_with(recipe, network, **keys):
    return Denoiser(network, recipe.model_copy(update={"diffusion": recipe.diffusion.model_copy(update=keys)}))


@everywhere
def test_a_network_that_predicts_the_target_denoises_to_the_image(batch, objective):
    images, noise = batch
    c_skip, c_out, _ = scalings(LEVEL, 0.5, objective)
    denoised = c_skip * (images + LEVEL * noise) + c_out * target(images, noise, LEVEL, 0.5, objective)
    torch.testing.assert_close(denoised, images, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("objective", "wanted"),
    [
        ("edm", lambda images, noise, s: (s * images / 0.5 - 0.5 * noise) / (s**2 + 0.25) ** 0.5),
        ("flow", lambda images, noise, s: images / 0.5 - noise),
        ("x", lambda images, noise, s: images / 0.5),
    ],
)
def test_the_target_is_that_of_the_paper(batch, objective, wanted):
    torch.testing.assert_close(target(*batch, LEVEL, 0.5, objective), wanted(*batch, LEVEL), rtol=1e-12, atol=0)


@pytest.mark.parametrize("objective", ["flow", "x"])
def test_the_network_input_is_a_point_on_the_line_from_image_to_noise(batch, objective):
    images, noise = batch
    share = LEVEL / (LEVEL + 0.5)
    seen = scalings(LEVEL, 0.5, objective)[2] * (images + LEVEL * noise)
    torch.testing.assert_close(seen, (1 - share) * images / 0.5 + share * noise, rtol=1e-9, atol=1e-12)


def test_the_velocity_is_the_slope_of_the_line_from_image_to_noise(batch):
    images, noise = batch
    share = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    slope = torch.autograd.functional.jacobian(lambda s: (1 - s) * images / 0.5 + s * noise, share)
    torch.testing.assert_close(target(images, noise, LEVEL, 0.5, "flow"), -slope)


@everywhere
def test_the_exact_denoiser_of_gaussian_pixels_has_only_the_irreducible_loss(tiny_recipe, batch, objective):
    """What is left is the variance of the image given the noisy one; any other gain pays for its error beside that."""
    images, noise = batch
    best, unknown = 0.25 / (0.25 + LEVEL**2), 0.25 * SIGMA**2 / (0.25 + SIGMA**2)
    gain = best.clone().requires_grad_()
    denoiser = denoiser_with(tiny_recipe, Linear(objective, gain), objective=objective)
    loss = denoising_loss(denoiser, images, noise, SIGMA)

    worth = 1 / (SIGMA**2 + 0.25)  # soft-min-SNR's weight of the image's error
    torch.testing.assert_close(loss.detach(), worth * unknown, rtol=1e-8, atol=0)
    (slope,) = torch.autograd.grad(loss.sum(), gain)
    torch.testing.assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-6)

    off = denoising_loss(denoiser_with(tiny_recipe, Linear(objective, best + 0.1), objective=objective), *batch, SIGMA)
    torch.testing.assert_close(off - loss.detach(), worth * 0.01 * (0.25 + SIGMA**2), rtol=1e-6, atol=0)


@everywhere
@pytest.mark.parametrize("weighting", ["soft-min-snr", "snr", "karras", "min-snr", "velocity"])
def test_a_weighting_has_the_same_effect_for_every_prediction_target(objective, weighting):
    recipe = DiffusionRecipe(weighting=weighting, objective=objective)
    of_image = weight(SIGMA, recipe) / scalings(SIGMA, 0.5, objective)[1] ** 2
    of_edm = weight(SIGMA, DiffusionRecipe(weighting=weighting)) / scalings(SIGMA, 0.5)[1] ** 2
    torch.testing.assert_close(of_image, of_edm, rtol=1e-12, atol=0)


def test_the_velocity_weighting_of_a_flow_is_the_plain_squared_error():
    found = weight(SIGMA, DiffusionRecipe(weighting="velocity", objective="flow"))
    torch.testing.assert_close(found, torch.ones_like(SIGMA), rtol=1e-12, atol=0)


class Answer(torch.nn.Module):
    """A network that gives a fixed answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None, condition=None):
        return self.answer


@everywhere
def test_the_gradient_of_the_loss_is_the_weighted_error_of_the_output(tiny_recipe, batch, objective):
    answer = torch.zeros_like(batch[0], requires_grad=True)
    denoiser = denoiser_with(tiny_recipe, Answer(answer), objective=objective)
    denoising_loss(denoiser, *batch, SIGMA).sum().backward()
    counts = weight(SIGMA, denoiser.recipe.diffusion).view(4, 1, 1, 1) / answer[0].numel()
    torch.testing.assert_close(answer.grad, -2 * counts * target(*batch, LEVEL, 0.5, objective))


class Bumps(torch.nn.Module):
    """The network of a mixture's perfect denoiser."""

    def __init__(self, objective, denoise):
        super().__init__()
        self.objective, self.denoise = objective, denoise

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None, condition=None):
        c_skip, c_out, c_in = scalings(sigma.view(-1, 1, 1, 1), 0.5, self.objective)
        return (self.denoise(x / c_in, sigma) - c_skip * x / c_in) / c_out


@everywhere
def test_samplers_and_likelihood_do_not_depend_on_the_objective(tiny_recipe, mixture, noisy, even, objective):
    grey = tiny_recipe.model.model_copy(update={"channels": 1})
    recipe = tiny_recipe.model_copy(update={"model": grey})
    denoiser = denoiser_with(recipe, Bumps(objective, mixture.denoise), objective=objective)
    walks = [(denoise, noisy, even(8), lambda *levels: noisy) for denoise in (denoiser, mixture.denoise)]
    found, expected = (sample("dpmpp_2m_sde", *walk) for walk in walks)
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)

    images, probes = mixture.means.view(3, 1, 2, 3), rademacher_probes(0, range(3), (1, 2, 3), 1)
    found, expected = (log_likelihood(denoise, images, probes).nats for denoise in (denoiser, mixture.denoise))
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


@everywhere
def test_the_loss_of_the_smallest_and_the_largest_noise_is_right_in_float32(tiny_recipe, batch, objective):
    images, noise = batch
    denoiser = denoiser_with(tiny_recipe, Linear(objective, 0.3), objective=objective)
    exact = denoising_loss(denoiser, images, noise, SIGMA)
    single = denoising_loss(denoiser, images.float(), noise.float(), SIGMA.float())
    torch.testing.assert_close(single.double(), exact, rtol=2e-5, atol=0)
