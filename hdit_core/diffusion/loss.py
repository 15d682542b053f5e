"""The training loss, and how much each noise level counts in it (EDM, table 1; Min-SNR, section 3; HDiT, eq. 5).

A weighting is a weight of the denoised image's squared error, (D - x0)^2, whatever the network is asked for: another
objective changes what is easy to learn, and not what is worth how much. Weightings are written down here as weights of
EDM's (F - target)^2: c_out^2 times those of the image.
"""

import math
from collections.abc import Callable

from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from hdit_core.diffusion.frequency import mean_square
from hdit_core.diffusion.objective import scalings, target
from hdit_core.diffusion.precondition import Denoiser, at_least_float32
from hdit_core.recipe.diffusion import DiffusionRecipe

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
    assert recipe.sigmoid_bias is not None  # the recipe's law
    _, c_out, _ = scalings(sigma, recipe.sigma_data)
    return c_out**2 / (sigma**2 + math.exp(-recipe.sigmoid_bias))


def _velocity(sigma: Float[Tensor, "B"], recipe: DiffusionRecipe) -> Float[Tensor, "B"]:
    """What makes the velocity's error of a flow count the same at all levels; images count 1 / (sigma_data s)^2."""
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
    """Return what the network's own squared error is multiplied by at each noise level.

    Args:
        sigma: noise levels, positive.
        recipe: names the weighting and the objective, and gives sigma_data and what the weighting takes.
    """
    _, of_edm, _ = scalings(sigma, recipe.sigma_data)
    _, c_out, _ = scalings(sigma, recipe.sigma_data, recipe.objective)
    return WEIGHTS[recipe.weighting](sigma, recipe) * (c_out / of_edm) ** 2


def denoising_loss(
    denoiser: Denoiser,
    images: Float[Tensor, "B C H W"],
    noise: Float[Tensor, "B C H W"],
    sigma: Float[Tensor, "B"],
    **conditioning: Tensor | None,
) -> Float[Tensor, "B"]:
    """Return each image's weighted squared error, the mean over its pixels, in at least float32.

    Args:
        denoiser: whose recipe names objective, weighting and scales.
        images: clean images in [-1, 1].
        noise: standard normal numbers.
        sigma: noise level of each image.
        conditioning: `class_ids`, `augment_cond`, `mapping_cond`, as the denoiser takes them.
    """
    sigma, diffusion = sigma.to(at_least_float32(images.dtype)), denoiser.recipe.diffusion
    level = rearrange(sigma, "b -> b 1 1 1")

    answer = denoiser.raw((images + level * noise).to(images.dtype), sigma, **conditioning)
    wanted = target(images, noise, level, diffusion.sigma_data, diffusion.objective)

    error = answer.to(wanted.dtype) - wanted
    return weight(sigma, diffusion) * mean_square(error, diffusion.loss_scales)
