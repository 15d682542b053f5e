"""Sampling schedules: the noise levels of a sampler (EDM, eq. 5 and table 1)."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float64
from torch import Tensor

from hdit_core.errors import UsageError
from hdit_core.recipe.sample import SampleRecipe

KARRAS_RHO = 7.0
# The VP diffusion's ln(1 + sigma^2) = VP_SLOPE t^2 / 2 + VP_START t (EDM, table 1: beta_d and beta_min).
VP_SLOPE, VP_START = 19.9, 0.1
MOST_STEPS = 1_000_000


def _from_one_to_zero(steps: int) -> Float64[Tensor, "T"]:
    return torch.linspace(1, 0, steps, dtype=torch.float64)


def _karras(recipe: SampleRecipe) -> Float64[Tensor, "T"]:
    """Uniform in sigma^(1/rho)."""
    rho = recipe.rho or KARRAS_RHO
    low, high = recipe.sigma_min ** (1 / rho), recipe.sigma_max ** (1 / rho)
    return (low + (high - low) * _from_one_to_zero(recipe.steps)) ** rho


def _in_ln_sigma(recipe: SampleRecipe, exponent: float) -> Float64[Tensor, "T"]:
    low, high = math.log(recipe.sigma_min), math.log(recipe.sigma_max)
    return (low + (high - low) * _from_one_to_zero(recipe.steps) ** exponent).exp()


def _exponential(recipe: SampleRecipe) -> Float64[Tensor, "T"]:
    """Uniform in ln sigma."""
    return _in_ln_sigma(recipe, 1.0)


def _polyexponential(recipe: SampleRecipe) -> Float64[Tensor, "T"]:
    """ln sigma is a power of time."""
    return _in_ln_sigma(recipe, recipe.rho or 1.0)


def _vp(recipe: SampleRecipe) -> Float64[Tensor, "T"]:
    """Uniform in the time of the VP diffusion, rescaled so that it runs from sigma_min to sigma_max."""
    speed = math.log1p(recipe.sigma_max**2) / (VP_SLOPE / 2 + VP_START)
    start = math.log1p(recipe.sigma_min**2) / speed
    first = 2 * start / (VP_START + math.sqrt(VP_START**2 + 2 * VP_SLOPE * start))
    time = first + (1 - first) * _from_one_to_zero(recipe.steps)
    return (speed * (VP_SLOPE / 2 * time**2 + VP_START * time)).expm1().sqrt()


def _flow(recipe: SampleRecipe) -> Float64[Tensor, "T"]:
    """Uniform in t = sigma / (1 + sigma), the time of a rectified flow."""
    low, high = (sigma / (1 + sigma) for sigma in (recipe.sigma_min, recipe.sigma_max))
    time = low + (high - low) * _from_one_to_zero(recipe.steps)
    return time / (1 - time)


SCHEDULES: dict[str, Callable[[SampleRecipe], Float64[Tensor, "T"]]] = {
    "karras": _karras,
    "exponential": _exponential,
    "polyexponential": _polyexponential,
    "vp": _vp,
    "flow": _flow,
}


def sampling_sigmas(recipe: SampleRecipe) -> Float64[Tensor, "levels"]:
    """Return `recipe.steps` noise levels from sigma_max down to sigma_min, and a final 0.

    With one step the levels are sigma_max and 0.

    Raises:
        UsageError: they are too many, too close to each other or too large for floating-point numbers.
    """
    if recipe.steps > MOST_STEPS:
        raise UsageError(f"sample.steps = {recipe.steps}: expected at most {MOST_STEPS:,}")
    try:
        sigmas = SCHEDULES[recipe.schedule](recipe)
    except OverflowError:
        sigmas = torch.tensor([math.inf], dtype=torch.float64)
    if not (sigmas[0] < torch.finfo(torch.float32).max and (sigmas.diff() < 0).all() and sigmas[-1] > 0):
        rho = "" if recipe.rho is None else f" and rho = {recipe.rho:g}"
        raise UsageError(
            f"sample.schedule = '{recipe.schedule}'{rho}: {recipe.steps} noise levels from {recipe.sigma_max:g} to "
            f"{recipe.sigma_min:g} are not decreasing numbers of 32 bits; change sigma_min, sigma_max, rho or steps"
        )
    return torch.cat([sigmas, sigmas.new_zeros(1)])
