import math

import pytest
import torch

from hdit_core.diffusion.loss import WEIGHTS, denoising_loss, weight
from hdit_core.diffusion.precondition import Denoiser, scalings
from hdit_core.errors import RecipeError
from hdit_core.recipe.diffusion import DiffusionRecipe

GOLDEN_SIGMA = torch.tensor([0.01, 0.1, 0.5, 1, 10], dtype=torch.float64)


class Answer(torch.nn.Module):
    """A network that gives a fixed answer."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None, condition=None):
        return self.answer.to(x.dtype)


@pytest.fixture
def batch():
    """Images, noise, noise levels and a network's answer."""
    generator = torch.Generator().manual_seed(1)
    images, noise, answer = (torch.randn(4, 3, 4, 6, dtype=torch.float64, generator=generator) for _ in range(3))
    return images.clamp(-1, 1), noise, torch.tensor([1e-3, 0.3, 2.0, 900.0], dtype=torch.float64), answer


def denoiser_with(recipe, answer, **diffusion):
    changed = recipe.diffusion.model_copy(update=diffusion)
    return Denoiser(Answer(answer), recipe.model_copy(update={"diffusion": changed}))


@pytest.mark.parametrize("name", ["snr", "soft-min-snr"])
def test_weights_equal_the_references(reference, name):
    numbers = reference("diffusion")
    found = weight(numbers["precond.sigma"], DiffusionRecipe(weighting=name))
    torch.testing.assert_close(found, numbers[f"weight.{name.replace('-', '_')}"], rtol=1e-9, atol=0)


@pytest.mark.parametrize(
    "name, golden",
    [
        ("soft-min-snr", [3.99680e-4, 0.0369823, 0.25, 0.16, 0.00248755]),
        ("snr", [0.999600, 0.961538, 0.5, 0.2, 0.00249377]),
        ("karras", [1, 1, 1, 1, 1]),
    ],
)
def test_weights_are_those_printed_for_the_reference(name, golden):
    found = weight(GOLDEN_SIGMA, DiffusionRecipe(weighting=name))
    torch.testing.assert_close(found, torch.tensor(golden, dtype=torch.float64), rtol=5e-6, atol=0)


@pytest.mark.parametrize(
    "name, of_images",
    [
        ("karras", lambda s: (s**2 + 0.25) / (0.5 * s) ** 2),
        ("snr", lambda s: 1 / s**2),
        ("soft-min-snr", lambda s: 1 / (s**2 + 0.25)),
        ("min-snr", lambda s: (1 / s**2).clamp(max=3.0)),
        ("sigmoid", lambda s: torch.sigmoid(0.7 + 2 * s.log()) / s**2),
        ("velocity", lambda s: ((s + 0.5) / (0.5 * s)) ** 2),
    ],
)
def test_weights_of_the_output_error_equal_the_papers_weights_of_the_image_error(name, of_images):
    _, c_out, _ = scalings(GOLDEN_SIGMA, 0.5)
    recipe = DiffusionRecipe(weighting=name, min_snr_gamma=3.0, sigmoid_bias=0.7 if name == "sigmoid" else None)
    torch.testing.assert_close(weight(GOLDEN_SIGMA, recipe) / c_out**2, of_images(GOLDEN_SIGMA), rtol=1e-12, atol=0)


def test_soft_min_snr_with_gamma_4_is_the_sigmoid_weighting_with_bias_ln_4():
    """Users know it as +1.39. The paper's gamma is 1 / sigma_data^2, and 4 for the paper's images."""
    sigma = torch.logspace(-4, 4, 33, dtype=torch.float64)
    soft, sigmoid = DiffusionRecipe(), DiffusionRecipe(weighting="sigmoid", sigmoid_bias=math.log(4))
    torch.testing.assert_close(weight(sigma, sigmoid), weight(sigma, soft), rtol=1e-12, atol=0)
    assert round(math.log(4), 2) == 1.39


@pytest.mark.parametrize("gamma", [4.0, 5.0])
def test_min_snr_weights_of_images_are_clipped_at_gamma(gamma):
    found = weight(GOLDEN_SIGMA, DiffusionRecipe(weighting="min-snr", min_snr_gamma=gamma))
    of_images = found / scalings(GOLDEN_SIGMA, 0.5)[1] ** 2
    torch.testing.assert_close(of_images, torch.tensor([gamma, gamma, 4.0, 1.0, 0.01], dtype=torch.float64))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"weighting": "sigmoid"}, r"diffusion\.sigmoid_bias: missing; expected a number, for example 1\.386"),
        (
            {"sigmoid_bias": -1.0},
            r"sigmoid_bias = -1\.0 has no effect with weighting = 'soft-min-snr', only with 'sigmoid'",
        ),
    ],
)
def test_a_bias_is_only_for_the_sigmoid_weighting(changed, keys, message):
    with pytest.raises(RecipeError, match=message):
        changed({f"diffusion.{key}": value for key, value in keys.items()})


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_loss_is_the_weighted_squared_error_of_the_denoised_image(tiny_recipe, batch, name):
    images, noise, sigma, answer = batch
    denoiser = denoiser_with(tiny_recipe, answer, weighting=name, sigmoid_bias=-1.0)
    loss = denoising_loss(denoiser, images, noise, sigma)

    _, c_out, _ = scalings(sigma, denoiser.sigma_data)
    error = (denoiser(images + sigma.view(4, 1, 1, 1) * noise, sigma) - images).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, weight(sigma, denoiser.recipe.diffusion) / c_out**2 * error, rtol=1e-9, atol=0)


def test_a_network_that_predicts_the_target_has_zero_loss(tiny_recipe, batch):
    images, noise, sigma, _ = batch
    c_skip, c_out, _ = (c.view(4, 1, 1, 1) for c in scalings(sigma, tiny_recipe.diffusion.sigma_data))
    target = (images - c_skip * (images + sigma.view(4, 1, 1, 1) * noise)) / c_out
    loss = denoising_loss(denoiser_with(tiny_recipe, target), images, noise, sigma)
    torch.testing.assert_close(loss, torch.zeros(4).double(), rtol=0, atol=1e-20)


def test_the_loss_of_the_smallest_noise_is_right_in_float32(tiny_recipe, batch):
    images, noise, sigma, answer = batch
    denoiser = denoiser_with(tiny_recipe, answer, weighting="karras")
    exact = denoising_loss(denoiser, images, noise, sigma)
    single = denoising_loss(denoiser, images.float(), noise.float(), sigma.float())
    torch.testing.assert_close(single.double(), exact, rtol=1e-6, atol=0)


def test_the_loss_of_half_precision_images_is_float32(tiny_recipe, batch):
    images, noise, sigma, answer = batch
    loss = denoising_loss(denoiser_with(tiny_recipe, answer), images.bfloat16(), noise.bfloat16(), sigma.float())
    assert loss.dtype == torch.float32


def test_the_loss_of_an_image_does_not_depend_on_its_batch(tiny_recipe, batch):
    images, noise, sigma, answer = batch
    whole = denoising_loss(denoiser_with(tiny_recipe, answer), images, noise, sigma)
    part = denoising_loss(denoiser_with(tiny_recipe, answer[1:3]), images[1:3], noise[1:3], sigma[1:3])
    assert torch.equal(whole[1:3], part)


def test_channels_have_the_recipes_weights_with_a_mean_of_one(tiny_recipe, batch):
    images, noise, sigma, answer = batch

    def losses(*weights):
        recipe = tiny_recipe.model_copy(
            update={"train": tiny_recipe.train.model_copy(update={"channel_weights": weights})}
        )
        return denoising_loss(denoiser_with(recipe, answer), images, noise, sigma)

    torch.testing.assert_close(losses(2.0, 2.0, 2.0), losses(), rtol=1e-12, atol=0)
    each = [losses(*(1.0 if channel == one else 1e-12 for channel in range(3))) for one in range(3)]
    torch.testing.assert_close(sum(each) / 3, losses(), rtol=1e-9, atol=0)
    torch.testing.assert_close(losses(1.0, 2.0, 3.0), (each[0] + 2 * each[1] + 3 * each[2]) / 6, rtol=1e-9, atol=0)
