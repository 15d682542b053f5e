import math

import pytest
import torch
from einops import repeat

from hdit_core.diffusion.likelihood import log_likelihood, rademacher_probes
from hdit_core.errors import NumericalError

SHAPE = (1, 2, 3)
WIDE = 1e4  # the widest noise is taken to be without a mean, which is off by about mean / sigma_max


def bits(nats, dims=6):
    return -nats / (dims * math.log(2))


def exact_probes(batch_size, shape):
    """The C x H x W probes for which the estimate is exact."""
    dims = math.prod(shape)
    unit = torch.eye(dims).reshape(dims, *shape) * math.sqrt(dims)
    return repeat(unit, "p c h w -> p b c h w", b=batch_size)


@pytest.fixture
def images(mixture):
    """Six images, one of them far from every bump."""
    generator = torch.Generator().manual_seed(3)
    near = mixture.means.repeat(2, 1) + 0.4 * torch.randn(6, 6, dtype=torch.float64, generator=generator)
    near[5] = 1.5
    return near.view(6, *SHAPE)


@pytest.mark.parametrize("std", [0.1, 0.5, 2.0])
@pytest.mark.parametrize("shape", [(1, 2, 3), (3, 4, 6)])
def test_the_likelihood_of_a_gaussian_equals_its_closed_form(std, shape):
    generator = torch.Generator().manual_seed(0)
    images = 0.2 + std * torch.randn(4, *shape, dtype=torch.float64, generator=generator)

    def denoise(x, sigma):
        level = sigma.view(-1, 1, 1, 1) ** 2
        return (std**2 * x + level * 0.2) / (std**2 + level)

    found = log_likelihood(denoise, images, rademacher_probes(0, range(4), shape, 1), sigma_max=WIDE)
    dims, variance = math.prod(shape), std**2 + 0.01**2
    exact = -(images - 0.2).square().sum((1, 2, 3)) / (2 * variance) - dims / 2 * math.log(2 * math.pi * variance)
    torch.testing.assert_close(found.bits_per_dim, bits(exact, dims), rtol=0, atol=1e-4)
    assert found.dims == dims


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-4), (torch.float32, 3e-4)])
def test_the_likelihood_of_a_mixture_equals_its_closed_form(mixture, images, dtype, tolerance):
    found = log_likelihood(mixture.denoise, images.to(dtype), exact_probes(6, SHAPE), sigma_max=WIDE)
    assert found.nats.dtype == torch.float64
    exact = mixture.log_density(images, 0.01)
    torch.testing.assert_close(found.bits_per_dim, bits(exact), rtol=0, atol=tolerance)
    torch.testing.assert_close(found.nats, exact, rtol=0, atol=10 * tolerance)


def test_random_probes_are_unbiased(mixture, images):
    exact = mixture.log_density(images[:2], 0.01)
    indices = range(300)
    many = images[:2].repeat_interleave(150, dim=0)
    found = log_likelihood(mixture.denoise, many, rademacher_probes(1, indices, SHAPE, 1)).nats.view(2, 150)
    error = found.std(1) / math.sqrt(150)
    assert (error > 1e-3).all()
    assert ((found.mean(1) - exact).abs() < 3 * error + 1e-3).all()


def test_more_probes_have_less_variance(mixture, images):
    many = images[:1].repeat(60, 1, 1, 1)
    one, nine = (
        log_likelihood(mixture.denoise, many, rademacher_probes(2, range(60), SHAPE, count), rtol=1e-4, atol=1e-4)
        for count in (1, 9)
    )
    assert nine.nats.std() < one.nats.std() / 2


def test_the_likelihood_of_an_image_does_not_depend_on_its_batch(mixture, images):
    whole = log_likelihood(mixture.denoise, images, rademacher_probes(4, range(6), SHAPE, 2))
    part = log_likelihood(mixture.denoise, images[2:4], rademacher_probes(4, [2, 3], SHAPE, 2))
    torch.testing.assert_close(part.nats, whole.nats[2:4], rtol=1e-10, atol=1e-10)


def test_probes_are_signs_that_depend_on_seed_image_and_index():
    probes = rademacher_probes(5, [7, 8], (2, 30, 40), 3)
    assert probes.shape == (3, 2, 2, 30, 40) and torch.equal(probes.abs(), torch.ones_like(probes))
    assert torch.equal(probes[:, 1:], rademacher_probes(5, [8], (2, 30, 40), 3))
    flat = probes.flatten(2).flatten(0, 1)
    assert (torch.corrcoef(flat) - torch.eye(6)).abs().max() < 4.5 / math.sqrt(2400)
    assert not torch.equal(probes, rademacher_probes(6, [7, 8], (2, 30, 40), 3))


def test_the_exact_probes_average_to_the_trace():
    matrix = torch.randn(6, 6, generator=torch.Generator().manual_seed(0))
    probes = exact_probes(2, SHAPE)[:, 0].flatten(1)
    torch.testing.assert_close(torch.einsum("pi,ij,pj->p", probes, matrix, probes).mean(), matrix.trace())


def test_the_likelihood_of_8_bit_images_is_the_density_times_the_width_of_a_level(mixture, images):
    found = log_likelihood(mixture.denoise, images[:2], exact_probes(2, SHAPE))
    expected = -(found.nats / 6 + math.log(2 / 255)) / math.log(2)
    torch.testing.assert_close(found.bits_per_dim_u8, expected)


def test_gradients_are_computed_under_no_grad_and_not_accumulated(mixture, images):
    with torch.no_grad():
        found = log_likelihood(mixture.denoise, images[:2], exact_probes(2, SHAPE), rtol=1e-3, atol=1e-3)
    assert not found.nats.requires_grad and images.grad is None


def test_an_output_that_is_not_finite_is_an_error(mixture, images):
    with pytest.raises(
        NumericalError, match=r"log-likelihood, sigma = [\d.e-]+: images 0, 1 of the batch of 2 are NaN or infinite"
    ):
        log_likelihood(lambda x, sigma: x / 0, images[:2], exact_probes(2, SHAPE))
