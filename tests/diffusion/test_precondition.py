import pytest
import torch

from hdit_core.diffusion.precondition import Denoiser, scalings

SIGMA = torch.tensor([0.002, 0.7, 80.0])


class Recorder(torch.nn.Module):
    """A network that returns a fixed fraction of its input, and remembers the input."""

    def __init__(self, share=0.3):
        super().__init__()
        self.share, self.given = share, None

    def forward(self, x, sigma, class_ids=None, augment_cond=None, mapping_cond=None, condition=None):
        self.given = (x, sigma, class_ids, augment_cond, mapping_cond)
        return self.share * x


@pytest.fixture
def x():
    return torch.randn(3, 3, 4, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_scalings_equal_the_references(reference):
    numbers = reference("diffusion")
    c_skip, c_out, c_in = scalings(numbers["precond.sigma"], 0.5)
    for name, found in (("c_skip", c_skip), ("c_out", c_out), ("c_in", c_in)):
        torch.testing.assert_close(found, numbers[f"precond.{name}"], rtol=1e-9, atol=0)


def test_inputs_and_targets_of_the_network_have_unit_variance():
    c_skip, c_out, c_in = scalings(SIGMA.double(), 0.5)
    torch.testing.assert_close(c_in**2 * (SIGMA.double() ** 2 + 0.25), torch.ones(3).double())
    target_variance = ((1 - c_skip) ** 2 * 0.25 + c_skip**2 * SIGMA.double() ** 2) / c_out**2
    torch.testing.assert_close(target_variance, torch.ones(3).double())


def test_the_denoised_image_is_the_scaled_sum_of_the_noisy_one_and_the_networks_output(tiny_recipe, x):
    denoiser = Denoiser(Recorder(), tiny_recipe)
    c_skip, c_out, c_in = scalings(SIGMA.double().view(3, 1, 1, 1), tiny_recipe.diffusion.sigma_data)
    torch.testing.assert_close(denoiser(x, SIGMA), c_skip * x + c_out * 0.3 * c_in * x, rtol=1e-12, atol=0)
    torch.testing.assert_close(denoiser.raw(x, SIGMA), 0.3 * c_in * x, rtol=1e-12, atol=0)


def test_with_zero_output_the_denoiser_is_optimal_for_gaussian_pixels(tiny_recipe, x):
    denoised = Denoiser(Recorder(0.0), tiny_recipe)(x, SIGMA)
    variance = tiny_recipe.diffusion.sigma_data**2
    torch.testing.assert_close(denoised, x * (variance / (variance + SIGMA.double() ** 2)).view(3, 1, 1, 1))


def test_conditioning_reaches_the_network_unchanged(tiny_recipe, x):
    network = Recorder()
    given = (torch.tensor([0, 2, 3]), torch.rand(3, 9), torch.rand(3, 5))
    Denoiser(network, tiny_recipe)(x, SIGMA, *given)
    assert all(found is expected for found, expected in zip(network.given[2:], given, strict=True))


@pytest.mark.parametrize(
    "dtype, sigma_dtype",
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
def test_images_keep_their_type_and_noise_levels_have_at_least_float32(tiny_recipe, x, dtype, sigma_dtype):
    network = Recorder()
    denoised = Denoiser(network, tiny_recipe)(x.to(dtype), SIGMA)
    assert denoised.dtype == network.given[0].dtype == dtype
    assert network.given[1].dtype == sigma_dtype


def test_the_scalings_of_half_precision_images_are_not_rounded_to_half_precision(tiny_recipe):
    sigma = torch.tensor([0.5013, 0.5017])  # one bfloat16 number, two float32 numbers
    denoised = Denoiser(Recorder(0.0), tiny_recipe)(torch.full((2, 3, 1, 2), 256.0, dtype=torch.float16), sigma)
    assert denoised[0, 0, 0, 0] != denoised[1, 0, 0, 0]


def test_float32_images_are_denoised_as_float64_ones_to_rounding(tiny_recipe, x):
    denoiser = Denoiser(Recorder(), tiny_recipe)
    torch.testing.assert_close(denoiser(x.float(), SIGMA).double(), denoiser(x, SIGMA), rtol=1e-5, atol=1e-6)
