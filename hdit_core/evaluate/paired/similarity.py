"""PSNR and SSIM of two images of the same size, as scikit-image computes them."""

import math

import numpy as np
import torch
from jaxtyping import Float64, Shaped
from torch import Tensor
from torch.nn.functional import conv2d

PEAK = 255.0  # the largest value of 8 bits
WINDOW_SIGMA_PX = 1.5  # of SSIM's Gaussian window (Wang et al. 2004)
WINDOW_RADIUS_PX = 5  # 11 x 11 pixels: 3.5 standard deviations, rounded
LEAST_SSIM_SIDE_PX = 2 * WINDOW_RADIUS_PX + 1
K1, K2 = 0.01, 0.03


def psnr(a: Shaped[np.ndarray, "H W C"], b: Shaped[np.ndarray, "H W C"], peak: float = PEAK) -> float:
    """Return the peak signal-to-noise ratio in dB, over all pixels and channels; infinite for equal images.

    Minus infinity if the squared error is too large for float64.

    Args:
        a, b: pixels from 0 to `peak`.
        peak: the value of white; scikit-image's `data_range`.
    """
    with np.errstate(over="ignore"):
        error = float(np.square(a.astype(np.float64) - b.astype(np.float64)).mean())
    if error in (0, math.inf):
        return -math.inf if error else math.inf
    return 10 * math.log10(peak**2 / error)


def ssim(a: Shaped[np.ndarray, "H W C"], b: Shaped[np.ndarray, "H W C"], peak: float = PEAK) -> float:
    """Return the structural similarity (Wang et al. 2004), averaged over pixels and channels.

    The window is Gaussian, the covariances are those of the window's distribution, and a border of the window's radius
    is left out: as `skimage.metrics.structural_similarity` with `gaussian_weights=True, sigma=1.5,
    use_sample_covariance=False`.

    Args:
        a, b: pixels from 0 to `peak`.
        peak: the value of white; scikit-image's `data_range`.
    """
    x, y = _planes(a), _planes(b)
    mean_a, mean_b, mean_aa, mean_bb, mean_ab = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    variance_a, variance_b = mean_aa - mean_a**2, mean_bb - mean_b**2
    covariance = mean_ab - mean_a * mean_b
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return float((luminance * structure).mean())


def _planes(image: Shaped[np.ndarray, "H W C"]) -> Float64[Tensor, "C H W"]:
    return torch.from_numpy(image.astype(np.float64)).permute(2, 0, 1)


def _blur(planes: Float64[Tensor, "M C H W"]) -> Float64[Tensor, "M C H2 W2"]:
    """Return the planes under the Gaussian window, without the border where it does not fit."""
    offsets = torch.arange(-WINDOW_RADIUS_PX, WINDOW_RADIUS_PX + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / WINDOW_SIGMA_PX) ** 2)
    weights = weights / weights.sum()
    rows = planes.flatten(0, 1)[:, None]
    blurred = conv2d(conv2d(rows, weights[None, None, :, None]), weights[None, None, None, :])
    return blurred.reshape(*planes.shape[:2], *blurred.shape[2:])
