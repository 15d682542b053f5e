"""The denoising loss: its weighting over noise levels, and the multi-scale squared error for large images.

In a large image most pixels are redundant, and a plain mean is dominated by the finest detail. The multi-scale error
is decomposed by spatial frequency with the orthonormal cosine transform, and its weight grows by 1 with each doubling
of the wavelength (k-diffusion's `loss_scales`; simple diffusion, Hoogeboom et al. 2023, sums the losses of downsampled
images to the same end).
"""

import math
from collections.abc import Callable, Sequence
from functools import lru_cache

import torch
from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from hdit_core.devices import at_least_float32, copy_to
from hdit_core.diffusion.precondition import Denoiser, scalings, target
from hdit_core.diffusion.prior import seen_condition, start_of_flow
from hdit_core.recipe.diffusion import DiffusionRecipe


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # the cached tensor must be usable in training, whoever computes it first
def cosine_transform(size: int, dtype: torch.dtype, device: torch.device) -> Float[Tensor, "N N"]:
    """Return the matrix of the orthonormal DCT-II: row k is the cosine of k half periods over the axis."""
    positions = torch.arange(size, dtype=torch.float64)
    waves = torch.cos(math.pi / size * positions[:, None] * (positions[None, :] + 0.5)) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves.to(device, dtype)


@lru_cache(maxsize=32)
@torch.inference_mode(False)
def frequency_weights(
    height: int, width: int, scales: int, dtype: torch.dtype, device: torch.device
) -> Float[Tensor, "H W"]:
    """Return the weight of each frequency: 1 at the highest, 1 more for each halving, at most `scales`.

    The axis with the higher frequency determines the weight. `scales` = 0 sets no bound: the weight of a component that
    is constant along both axes is then log2(2 size).
    """
    per_axis = []
    for size in (height, width):
        weights = -torch.linspace(0.5 / size, 0.5, size, dtype=torch.float64).log2()
        per_axis.append(weights.clamp(max=scales) if scales else weights)
    return torch.minimum(per_axis[0][:, None], per_axis[1][None, :]).to(device, dtype)


def mean_square(error: Float[Tensor, "B C H W"], scales: int = 1) -> Float[Tensor, "B"]:
    """Return each image's mean squared error, weighted by frequency.

    Args:
        error: in at least float32.
        scales: largest weight of low frequencies; 1: all equal, the plain mean over pixels; 0: no bound.
    """
    if scales == 1:
        return reduce(error**2, "b c h w -> b", "mean")
    height, width = error.shape[-2:]
    with torch.autocast(error.device.type, enabled=False):  # would round the cosines to 16 bits
        rows, columns = (cosine_transform(size, error.dtype, error.device) for size in (height, width))
        spectrum = rows @ error @ columns.T
    weights = frequency_weights(height, width, scales, error.dtype, error.device)
    return reduce(spectrum**2 * weights, "b c h w -> b", "mean")


Weight = Callable[[Float[Tensor, "B"], DiffusionRecipe], Float[Tensor, "B"]]


def _karras(sigma: Float[Tensor, "B"], recipe: DiffusionRecipe) -> Float[Tensor, "B"]:
    return sigma.new_ones(sigma.shape)


def _snr(sigma: Float[Tensor, "B"], recipe: DiffusionRecipe) -> Float[Tensor, "B"]:
    c_skip, _, _ = scalings(sigma, recipe.sigma_data)
    return c_skip


def _soft_min_snr(sigma: Float[Tensor, "B"], recipe: DiffusionRecipe) -> Float[Tensor, "B"]:
    # The paper's gamma is 1 / sigma_data^2, as in the reference.
    _, c_out, c_in = scalings(sigma, recipe.sigma_data)
    return (c_out * c_in) ** 2


def _min_snr(sigma: Float[Tensor, "B"], recipe: DiffusionRecipe) -> Float[Tensor, "B"]:
    _, c_out, _ = scalings(sigma, recipe.sigma_data)
    return c_out**2 * (1 / sigma**2).clamp(max=recipe.min_snr_gamma)


def _sigmoid(sigma: Float[Tensor, "B"], recipe: DiffusionRecipe) -> Float[Tensor, "B"]:
    """Weight the error of the noise with sigmoid(bias - ln SNR), SNR = 1 / sigma^2 (Kingma and Gao 2023).

    The error of the image is sigma times that of the noise, so that its own weight is
    sigmoid(bias + 2 ln sigma) / sigma^2 = 1 / (sigma^2 + exp(-bias)): soft-min-SNR with gamma = exp(bias).
    """
    assert recipe.sigmoid_bias is not None  # guaranteed by the recipe's validation
    _, c_out, _ = scalings(sigma, recipe.sigma_data)
    return c_out**2 / (sigma**2 + math.exp(-recipe.sigmoid_bias))


def _velocity(sigma: Float[Tensor, "B"], recipe: DiffusionRecipe) -> Float[Tensor, "B"]:
    """Weight the velocity error of a flow equally at all levels."""
    return (sigma + recipe.sigma_data) ** 2 / (sigma**2 + recipe.sigma_data**2)


WEIGHTS: dict[str, Weight] = {
    "karras": _karras,
    "snr": _snr,
    "soft-min-snr": _soft_min_snr,
    "min-snr": _min_snr,
    "sigmoid": _sigmoid,
    "velocity": _velocity,
}


def weight(sigma: Float[Tensor, "B"], recipe: DiffusionRecipe) -> Float[Tensor, "B"]:
    """Return the weight of the network's squared error at each noise level.

    Args:
        sigma: noise levels, positive.
        recipe: sets the weighting with its parameters, the objective, and sigma_data.
    """
    _, c_out_edm, _ = scalings(sigma, recipe.sigma_data)
    _, c_out, _ = scalings(sigma, recipe.sigma_data, recipe.objective)
    return WEIGHTS[recipe.weighting](sigma, recipe) * (c_out / c_out_edm) ** 2


def channel_factors(weights: Sequence[float], error: Float[Tensor, "B C H W"]) -> Float[Tensor, "C 1 1"]:
    """Return factors on the error of each channel, whose squares are the weights scaled to a mean of 1."""
    relative = torch.tensor(list(weights), dtype=torch.float64)
    return copy_to(error.device, rearrange((relative / relative.mean()).sqrt(), "c -> c 1 1"), error.dtype)


def denoising_loss(
    denoiser: Denoiser,
    images: Float[Tensor, "B C H W"],
    noise: Float[Tensor, "B C H W"],
    sigma: Float[Tensor, "B"],
    condition: Float[Tensor, "B K H W"] | None = None,
    **conditioning: Tensor | None,
) -> Float[Tensor, "B"]:
    """Return each image's weighted squared error, the mean over its pixels, in at least float32.

    Args:
        denoiser: its recipe sets objective, weighting and scales.
        images: clean images in [-1, 1].
        noise: standard normal numbers; with `diffusion.start = "image"` their place is taken by the condition image.
        sigma: noise level of each image.
        condition: the condition image, which the network sees or which is the start of the flow, or both.
        conditioning: `class_ids`, `augment_cond`, `mapping_cond`, as the denoiser takes them.
    """
    sigma, diffusion = sigma.to(at_least_float32(images.dtype)), denoiser.recipe.diffusion
    level = rearrange(sigma, "b -> b 1 1 1")

    noise, seen = start_of_flow(diffusion, noise, condition), seen_condition(denoiser.recipe, condition)

    prediction = denoiser.raw((images + level * noise).to(images.dtype), sigma, **conditioning, condition=seen)
    expected = target(images, noise, level, diffusion.sigma_data, diffusion.objective)

    error = prediction.to(expected.dtype) - expected
    if channel_weights := denoiser.recipe.train.channel_weights:
        error = error * channel_factors(channel_weights, error)
    return weight(sigma, diffusion) * mean_square(error, diffusion.loss_scales)
