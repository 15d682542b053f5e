"""The probability-flow ODE, which carries an image to the noise that stands for it, and back (EDM, eq. 1).

With time l = ln sigma it is dx/dl = x - D(x, sigma), and nothing in it is random. What is solved is the ODE of
x / sqrt(1 + sigma^2), of order 1 at every noise level.
"""

import math
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.diffusion.runge_kutta import integrate
from hdit_core.diffusion.samplers.sampler_state import Denoise, call_denoiser


@dataclass(frozen=True)
class PfOdeSolution:
    """Images at another noise level, and how often the model was asked about the batch on the way."""

    x: Float64[Tensor, "B C H W"]
    num_evaluations: int


def _root_mean_square(errors: Float64[Tensor, "B S"]) -> Float64[Tensor, "B"]:
    return (errors**2).mean(1).sqrt()


def solve_pf_ode(
    denoise: Denoise,
    x: Float[Tensor, "B C H W"],
    sigma: float,
    sigma_end: float,
    *,
    rtol: float = 1e-4,
    atol: float = 1e-4,
) -> PfOdeSolution:
    """Carry images along the ODE from one noise level to another, up or down; every image has its own steps.

    Args:
        denoise: (x, sigma [B]) -> denoised images; asked in the type of x.
        x: images at noise level sigma.
        sigma, sigma_end: positive.
        rtol, atol: of the solver, for pixels in units of sqrt(1 + sigma^2).

    Raises:
        NumericalError: the model's answer is not finite, or the ODE cannot be solved.
    """
    shape, way, questions = x.shape[1:], 1 if sigma_end > sigma else -1, 0

    def slope(t: Float64[Tensor, "B"], scaled: Float64[Tensor, "B S"]) -> Float64[Tensor, "B S"]:
        nonlocal questions
        questions += 1
        level = (way * t).exp()
        spread = rearrange((1 + level**2).sqrt(), "b -> b 1")
        here = scaled * spread
        denoised = call_denoiser(denoise, here.unflatten(1, shape).to(x.dtype), level, "probability-flow ODE")
        return way * ((here - denoised.flatten(1)) / spread - scaled * (1 - 1 / spread**2))

    start, end = way * math.log(sigma), way * math.log(sigma_end)
    scaled = x.double().flatten(1) / math.hypot(1, sigma)
    if start < end:
        scaled = integrate(slope, scaled, start, end, rtol=rtol, atol=atol, norm=_root_mean_square)
    return PfOdeSolution((scaled * math.hypot(1, sigma_end)).unflatten(1, shape), questions)
