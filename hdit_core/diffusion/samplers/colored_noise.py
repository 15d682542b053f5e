"""Colored noise for stochastic samplers: more of it where an image is still undecided (after Davidson et al. 2026).

Sampling decides low frequencies first. White noise disturbs them again at each later step. Here the noise of a step has
the same variance, spread over the frequencies by the share of their power that noise of level sigma hides:
sigma^2 / (S + sigma^2), one minus the gain of a Wiener filter. S is the power spectrum of images, taken to fall with
the square of the frequency as in photographs (Field 1987), with a mean of sigma_data^2.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch
from jaxtyping import Float32, Float64
from torch import Tensor


@lru_cache(maxsize=4)
@torch.inference_mode(False)
def image_spectrum(height: int, width: int, sigma_data: float) -> Float64[Tensor, "H W"]:
    """Return the expected power of each frequency of an image, with a mean of sigma_data^2.

    Frequencies are in periods per longer side, and are rounded up to 1: an image's mean is as strong as its lowest
    frequency.
    """
    longer = max(height, width)
    rows, columns = (torch.fft.fftfreq(size, dtype=torch.float64) * longer for size in (height, width))
    spectrum = 1 / torch.hypot(rows[:, None], columns[None]).clamp(min=1) ** 2
    return spectrum * (sigma_data**2 / spectrum.mean())


@dataclass(frozen=True)
class NoiseColor:
    """The color of a sampler's noise.

    Attributes:
        exponent: of the hidden share; 0: white noise.
        sigma_data: standard deviation of the images' pixels in [-1, 1].
    """

    exponent: float
    sigma_data: float

    def of(self, noise: Float32[Tensor, "B C H W"], sigma: float) -> Float32[Tensor, "B C H W"]:
        """Return white noise with the color of a noise level; its variance stays 1.

        Args:
            noise: standard normal, on the CPU, where the result does not depend on the batch.
            sigma: noise level at the start of the step, positive.
        """
        if not self.exponent:
            return noise
        height, width = noise.shape[-2:]
        log_hidden = -(image_spectrum(height, width, self.sigma_data) / sigma**2).log1p()
        power = (self.exponent * (log_hidden - log_hidden.max())).exp()  # relative to the largest, so that one is 1
        gains = (power / power.mean()).sqrt()[:, : width // 2 + 1].to(noise.dtype)
        return torch.fft.irfft2(torch.fft.rfft2(noise) * gains, s=(height, width))


WHITE = NoiseColor(0.0, 1.0)
