"""PSNR and SSIM equal scikit-image's."""

import math

import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from hdit_core.evaluate.paired.similarity import psnr, ssim


def pictures(size, channels, seed=0):
    """A smooth picture and a noisy copy of it, so that SSIM is neither near 0 nor near 1."""
    numbers = np.random.default_rng(seed)
    rows, columns = np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij")
    smooth = 127 + 100 * np.sin(rows / 5 + np.arange(channels)[:, None, None]) * np.cos(columns / 7)
    smooth = np.moveaxis(smooth, 0, -1)
    return tuple((smooth + numbers.normal(0, noise, smooth.shape)).clip(0, 255).astype(np.uint8) for noise in (1, 20))


@pytest.mark.parametrize("size", [(11, 11), (11, 40), (37, 24)])
@pytest.mark.parametrize("channels", [1, 3])
def test_ssim_equals_that_of_scikit_image_with_a_gaussian_window(size, channels):
    a, b = pictures(size, channels)
    theirs = structural_similarity(
        a, b, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=255
    )
    assert 0.1 < theirs < 0.95
    assert ssim(a, b) == pytest.approx(theirs, abs=1e-12)
    assert ssim(a, b) == pytest.approx(ssim(b, a), abs=1e-12)
    assert ssim(a, a) == pytest.approx(1, abs=1e-12)


def test_psnr_equals_that_of_scikit_image_and_is_infinite_for_equal_images():
    a, b = pictures((12, 20), 3)
    assert psnr(a, b) == pytest.approx(peak_signal_noise_ratio(a, b, data_range=255), abs=1e-12)
    assert psnr(a, a) == math.inf
