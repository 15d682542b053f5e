"""A squared error that counts coarse structure more than fine: the multi-scale loss of large images.

Most pixels of a large image say the same thing, and a plain mean over them hears mostly of its finest grain. Here the
error is taken apart by spatial frequency, with the orthonormal cosine transform, and each doubling of the wavelength
counts one more (k-diffusion's `loss_scales`; simple diffusion, Hoogeboom et al. 2023, adds up the losses of downsampled
images to the same end).
"""

import math
from functools import lru_cache

import torch
from einops import reduce
from jaxtyping import Float
from torch import Tensor


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # what is kept serves training too, whoever asks first
def cosine_transform(size: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "N N"]:
    """Return the matrix of the orthonormal DCT-II: row k holds the cosine of k half periods over the axis."""
    places = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * places[:, None] * (places[None, :] + 0.5)) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves.to(device, dtype)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def frequency_weights(
    height: int, width: int, scales: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "H W"]:
    """Return how much each frequency counts: 1 at the highest, 1 more for each halving of it, at most `scales`.

    Of the two axes, the one with the higher frequency decides. Without a bound, for `scales` = 0, it ends at
    log2(2 size) for what does not vary along an axis.
    """
    per_axis = []
    for size in (height, width):
        weights = -torch.linspace(0.5 / size, 0.5, size, dtype=torch.float64).log2()
        per_axis.append(weights.clamp(max=scales) if scales else weights)
    return torch.minimum(per_axis[0][:, None], per_axis[1][None, :]).to(device, dtype)


def mean_square(error: Float[Tensor, "B C H W"], scales: int = 1) -> Float[Tensor, "B"]:
    """Return each image's mean squared error, its frequencies weighted.

    Args:
        error: in at least float32.
        scales: how much the lowest frequencies count; 1: all alike, the plain mean over pixels; 0: no bound.
    """
    if scales == 1:
        return reduce(error**2, "b c h w -> b", "mean")
    height, width = error.shape[-2:]
    with torch.autocast(error.device.type, enabled=False):  # it would round the cosines to 16 bits
        rows, columns = (cosine_transform(size, error.dtype, error.device) for size in (height, width))
        spectrum = rows @ error @ columns.T
    weights = frequency_weights(height, width, scales, error.dtype, error.device)
    return reduce(spectrum**2 * weights, "b c h w -> b", "mean")
