"""Densities of the training noise levels: uniform numbers in, sigmas out (HDiT, section 4.5; EDM, table 1).

Each density is sampled by its inverse CDF, so that stratified uniform numbers give stratified sigmas.
"""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from hdit_core.recipe.diffusion import DiffusionRecipe

SIGMA_MIN, SIGMA_MAX = 1e-3, 1e3  # the bounds of training, not those of sampling (HDiT, table 7)
NOISE_SIZE_LOW = 32
LOC, SCALE = -1.2, 1.2  # of ln sigma: EDM, table 1
TAIL = 1e-7  # fraction cut off at each end of an unbounded density, so that no sigma is 0 or infinite

ULP = 2**-53  # of float64: keeps uniform numbers of exactly 0 or 1 away from the ends

Density = Callable[[Float[Tensor, "B"], DiffusionRecipe, tuple[int, int]], Float[Tensor, "B"]]


def stratified(position: Int64[Tensor, "B"], batch_size: int, uniform: Float[Tensor, "B"]) -> Float[Tensor, "B"]:
    """Return one uniform number for each image, from the stratum of [0, 1) that its position selects.

    Args:
        position: the image's position in the global batch, 0 <= position < batch_size.
        batch_size: size of the global batch, the number of strata.
        uniform: position within the stratum, [0, 1).
    """
    return (position + uniform.double()) / batch_size


def _default(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _bounds(recipe: DiffusionRecipe) -> tuple[float, float]:
    return _default(recipe.density.sigma_min, SIGMA_MIN), _default(recipe.density.sigma_max, SIGMA_MAX)


def _between(u: Float[Tensor, "B"], low: float, high: float) -> Float[Tensor, "B"]:
    return low + u * (high - low)


def _cosine_interpolated(
    u: Float[Tensor, "B"], recipe: DiffusionRecipe, image_size: tuple[int, int]
) -> Float[Tensor, "B"]:
    """Interpolated shifted cosine: a small image's at high noise, a large one's at low noise; u = 0 is the noisiest."""
    sigma_min, sigma_max = _bounds(recipe)
    longer = max(image_size)
    sizes = (recipe.density.noise_size_low or NOISE_SIZE_LOW, recipe.density.noise_size_high or longer)

    def shifted(ratio: float) -> Float[Tensor, "B"]:
        scale = ratio / recipe.sigma_data
        angle = _between(u, math.atan(sigma_max * scale), math.atan(sigma_min * scale))
        return angle.tan() / scale

    low, high = (shifted(size / longer).log() for size in sizes)
    return torch.lerp(low, high, u).exp()


def _cosine(u: Float[Tensor, "B"], recipe: DiffusionRecipe, image_size: tuple[int, int]) -> Float[Tensor, "B"]:
    """v-diffusion's density: the angle between noise and signal is uniform."""
    low, high = (math.atan(bound / recipe.sigma_data) for bound in _bounds(recipe))
    return recipe.sigma_data * _between(u, low, high).tan()


def _loguniform(u: Float[Tensor, "B"], recipe: DiffusionRecipe, image_size: tuple[int, int]) -> Float[Tensor, "B"]:
    low, high = (math.log(bound) for bound in _bounds(recipe))
    return _between(u, low, high).exp()


def _lognormal(u: Float[Tensor, "B"], recipe: DiffusionRecipe, image_size: tuple[int, int]) -> Float[Tensor, "B"]:
    loc, scale = _default(recipe.density.loc, LOC), _default(recipe.density.scale, SCALE)
    return (loc + scale * torch.special.ndtri(_between(u, TAIL, 1 - TAIL))).exp()


def _split_lognormal(u: Float[Tensor, "B"], recipe: DiffusionRecipe, image_size: tuple[int, int]) -> Float[Tensor, "B"]:
    """Two half normals of ln sigma that meet at loc, weighted by their widths: the density is continuous."""
    loc = _default(recipe.density.loc, LOC)
    below, above = _default(recipe.density.scale_low, SCALE), _default(recipe.density.scale_high, SCALE)
    split = below / (below + above)

    u = _between(u, TAIL, 1 - TAIL)
    left = below * torch.special.ndtri(u / (2 * split))
    right = above * -torch.special.ndtri((1 - u) / (2 * (1 - split)))
    return (loc + torch.where(u < split, left, right)).exp()


def _loglogistic(u: Float[Tensor, "B"], recipe: DiffusionRecipe, image_size: tuple[int, int]) -> Float[Tensor, "B"]:
    density = recipe.density
    loc, scale = _default(density.loc, math.log(recipe.sigma_data)), _default(density.scale, 0.5)

    def cdf(sigma: float) -> float:
        return 1 / (1 + math.exp((loc - math.log(sigma)) / scale))

    low = 0.0 if density.sigma_min is None else cdf(density.sigma_min)
    high = 1.0 if density.sigma_max is None else cdf(density.sigma_max)
    return (loc + scale * _between(u, low, high).logit(ULP)).exp()


DENSITIES: dict[str, Density] = {
    "cosine-interpolated": _cosine_interpolated,
    "cosine": _cosine,
    "lognormal": _lognormal,
    "loglogistic": _loglogistic,
    "loguniform": _loguniform,
    "split-lognormal": _split_lognormal,
}


def training_sigmas(
    recipe: DiffusionRecipe,
    image_size: tuple[int, int],
    u: Float[Tensor, "B"],
    dtype: torch.dtype = torch.float32,
) -> Float[Tensor, "B"]:
    """Return the noise levels of the recipe's density for uniform numbers; computed in float64.

    Args:
        recipe: sets the density and its parameters.
        image_size: height and width in pixels; the larger one sets the cosine-interpolated density.
        u: uniform numbers in [0, 1).
        dtype: of the result.
    """
    return DENSITIES[recipe.density.type](u.double(), recipe, image_size).to(dtype)
