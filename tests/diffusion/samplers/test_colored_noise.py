"""Colored noise has the variance of white noise, and the spectrum of its noise level."""

import numpy as np
import pytest
import torch
from torch import nn

from hdit_core.diffusion.precondition import Denoiser
from hdit_core.diffusion.samplers.colored_noise import NoiseColor, image_spectrum
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.generate.settings import sample_settings

SIGMA_DATA = 0.5
COLOR = NoiseColor(1.0, SIGMA_DATA)
SIZES = [(16, 16), (15, 24), (8, 7)]


class NoNetwork(nn.Module):
    """Answers zero, so that the denoised image is c_skip times the noisy one."""

    def __init__(self):
        super().__init__()
        self.answer = nn.Parameter(torch.zeros(()))

    def forward(self, x, *_):
        return x * self.answer


@pytest.fixture
def denoiser(tiny_recipe):
    return Denoiser(NoNetwork(), tiny_recipe)


def power(image):
    """Return the power of each frequency of an image, in float64."""
    return np.abs(np.fft.fft2(image.double().numpy(), norm="ortho")) ** 2


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [0.02, 0.5, 3.0])
@pytest.mark.parametrize("exponent", [1.0, 2.5])
def test_each_frequency_has_the_share_that_the_noise_level_hides(size, sigma, exponent):
    noise = torch.from_numpy(np.random.default_rng(0).standard_normal((1, 1, *size), np.float32))
    gains = power(NoiseColor(exponent, SIGMA_DATA).of(noise, sigma))[0, 0] / power(noise)[0, 0]

    height, width = size
    rows, columns = np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None]
    spectrum = 1 / np.maximum(np.hypot(rows, columns) * max(size), 1) ** 2
    spectrum *= SIGMA_DATA**2 / spectrum.mean()
    hidden = (sigma**2 / (spectrum + sigma**2)) ** exponent
    assert np.allclose(gains, hidden / hidden.mean(), rtol=2e-3)
    assert gains.mean() == pytest.approx(1, rel=1e-4)


def test_the_expected_power_of_images_is_their_variance_and_falls_with_the_frequency():
    spectrum = image_spectrum(32, 32, SIGMA_DATA)
    assert spectrum.mean().item() == pytest.approx(SIGMA_DATA**2)
    assert spectrum[0, 0] == spectrum[0, 1] == spectrum[1, 0] and spectrum[0, 2] == spectrum[0, 1] / 4
    assert torch.equal(spectrum, spectrum.T)


def test_noise_is_white_at_a_high_level_and_lacks_low_frequencies_at_a_low_one():
    noise = torch.randn(64, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert NoiseColor(0.0, SIGMA_DATA).of(noise, 0.05) is noise
    assert torch.allclose(COLOR.of(noise, 1000.0), noise, atol=1e-4)
    late = COLOR.of(noise, 0.05)
    assert late.var().item() == pytest.approx(1, abs=0.02)
    assert late.mean((2, 3)).std() < 0.2 * noise.mean((2, 3)).std()


def test_an_extreme_exponent_leaves_finite_noise_of_the_same_variance():
    noise = torch.randn(64, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    extreme = NoiseColor(1e6, SIGMA_DATA).of(noise, 0.05)
    assert extreme.isfinite().all() and extreme.var().item() == pytest.approx(1, rel=0.3)


def test_an_image_does_not_depend_on_the_batch_or_the_number_of_threads():
    noise = torch.randn(5, 3, 24, 16, generator=torch.Generator().manual_seed(0))
    whole, threads = COLOR.of(noise, 0.3), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = torch.cat([COLOR.of(each[None], 0.3) for each in noise])
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(whole, alone)


def test_a_sampler_uses_it_where_it_adds_noise(denoiser):
    images = {}
    for color in (0.0, 1.0):
        settings = sample_settings(denoiser.recipe, sampler="dpmpp_2m_sde", steps=4, noise_color=color)
        pipeline = SamplingPipeline(denoiser, settings, 0, denoiser.recipe.model.image_size)
        with torch.inference_mode():
            images[color] = pipeline.generate_batch([0, 1], [0, 1])
            assert torch.equal(pipeline.generate_batch([1], [1])[0], images[color][1])
    assert not torch.allclose(images[0.0], images[1.0], atol=1e-3)


def test_a_sampler_that_adds_no_noise_is_not_changed(denoiser):
    images = []
    for color in (0.0, 1.0):
        settings = sample_settings(denoiser.recipe, sampler="heun", steps=4, noise_color=color)
        pipeline = SamplingPipeline(denoiser, settings, 0, denoiser.recipe.model.image_size)
        with torch.inference_mode():
            images.append(pipeline.generate_batch([0], [0]))
    assert torch.equal(*images)
