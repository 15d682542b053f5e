"""The training loss, and how much each noise level counts in it (EDM, table 1; Min-SNR, section 3; HDiT, eq. 5).

Weights are those of the network's own squared error, (F - target)^2; that of the denoised image has weight / c_out^2.
"""

from collections.abc import Callable

from einops import rearrange, reduce
from jaxtyping import Float
from torch import Tensor

from hdit_core.diffusion.precondition import Denoiser, at_least_float32, scalings
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


WEIGHTS: dict[str, Weight] = {"karras": _karras, "snr": _snr, "soft-min-snr": _soft_min_snr, "min-snr": _min_snr}


def weight(sigma: Float[Tensor, "B"], recipe: DiffusionRecipe) -> Float[Tensor, "B"]:
    """Return the weight of each noise level in the loss, by `recipe.weighting`.

    Args:
        sigma: noise levels, positive.
        recipe: names the weighting, and gives sigma_data and `min_snr_gamma`.
    """
    return WEIGHTS[recipe.weighting](sigma, recipe)


def denoising_loss(
    denoiser: Denoiser,
    images: Float[Tensor, "B C H W"],
    noise: Float[Tensor, "B C H W"],
    sigma: Float[Tensor, "B"],
    **conditioning: Tensor | None,
) -> Float[Tensor, "B"]:
    """Return each image's weighted squared error, the mean over its pixels, in at least float32.

    The error is that of the network's own answer, whose target (images - c_skip x) / c_out is written out as
    c_in (sigma / sigma_data images - sigma_data noise): nothing cancels, and nothing is divided by a small c_out.

    Args:
        denoiser: whose recipe names the weighting.
        images: clean images in [-1, 1].
        noise: standard normal numbers.
        sigma: noise level of each image.
        conditioning: `class_ids`, `augment_cond`, `mapping_cond`, as the denoiser takes them.
    """
    sigma = sigma.to(at_least_float32(images.dtype))
    level, sigma_data = rearrange(sigma, "b -> b 1 1 1"), denoiser.sigma_data
    _, _, c_in = scalings(level, sigma_data)

    answer = denoiser.raw((images + level * noise).to(images.dtype), sigma, **conditioning)
    target = c_in * (level / sigma_data * images - sigma_data * noise)

    error = reduce((answer.to(target.dtype) - target) ** 2, "b c h w -> b", "mean")
    return weight(sigma, denoiser.recipe.diffusion) * error
