"""The probability-flow ODE, which maps an image to its noise and back, deterministically (EDM, eq. 1).

With time l = ln sigma it is dx/dl = x - D(x, sigma). The state that is integrated is x / sqrt(1 + sigma^2), which is of
order 1 at every noise level.
"""

import math
from dataclasses import dataclass

from einops import rearrange
from jaxtyping import Float, Float64
from torch import Tensor

from hdit_core.devices import require_float64
from hdit_core.diffusion.runge_kutta import integrate
from hdit_core.diffusion.samplers.sampler_state import Denoise, call_denoiser


@dataclass(frozen=True)
class PfOdeSolution:
    """Images at another noise level, and the number of denoiser calls for the batch."""

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
    """Solve the ODE from one noise level to another, up or down; each image has its own step sizes.

    Args:
        denoise: (x, sigma [B]) -> denoised images; called in the dtype of x.
        x: images at noise level sigma.
        sigma, sigma_end: positive.
        rtol, atol: tolerances of the solver, for pixels in units of sqrt(1 + sigma^2).

    Raises:
        NumericalError: the denoiser returns NaN or infinity, or the ODE cannot be solved.
        UsageError: the device has no float64.
    """
    require_float64(x.device, "the probability-flow ODE")
    shape, direction, calls = x.shape[1:], 1 if sigma_end > sigma else -1, 0

    def slope(t: Float64[Tensor, "B"], scaled: Float64[Tensor, "B S"]) -> Float64[Tensor, "B S"]:
        nonlocal calls
        calls += 1
        level = (direction * t).exp()
        scale = rearrange((1 + level**2).sqrt(), "b -> b 1")
        noisy = scaled * scale
        denoised = call_denoiser(denoise, noisy.unflatten(1, shape).to(x.dtype), level, "probability-flow ODE")
        return direction * ((noisy - denoised.flatten(1)) / scale - scaled * (1 - 1 / scale**2))

    start, end = direction * math.log(sigma), direction * math.log(sigma_end)
    scaled = x.double().flatten(1) / math.hypot(1, sigma)
    if start < end:
        scaled = integrate(slope, scaled, start, end, rtol=rtol, atol=atol, norm=_root_mean_square)
    return PfOdeSolution((scaled * math.hypot(1, sigma_end)).unflatten(1, shape), calls)
