"""Single-step samplers that integrate dx/dsigma = (x - D) / sigma (EDM, eq. 1 and algorithm 1; DPM-Solver-2).

They are deterministic without churn; with it, each step first raises the noise level (EDM, algorithm 2).
"""

import math

from jaxtyping import Float
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import SamplerState, euler_step

MOST_CHURN = math.sqrt(2) - 1  # the noise level grows by at most a factor of sqrt(2)


def add_churn(
    state: SamplerState, x: Float[Tensor, "B C H W"], sigma: float, sigma_next: float
) -> tuple[Tensor, float]:
    """Return x with added noise, and its noise level (EDM, algorithm 2, lines 4 to 6); both unchanged without churn.

    The noise is the Brownian motion's increment over the step, so that images converge with the number of steps.
    """
    churn = state.settings.churn
    if churn is None or not churn.sigma_min <= sigma <= (churn.sigma_max or math.inf):
        return x, sigma
    risen = sigma * (1 + min(churn.amount / (len(state.sigmas) - 1), MOST_CHURN))
    return state.add_noise(x, churn.noise * math.sqrt(risen**2 - sigma**2), sigma, sigma_next), risen


def euler(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """First order (DDIM): one evaluation per step."""
    for level, sigma_next in state.pairs():
        x, sigma = add_churn(state, x, level, sigma_next)
        x = euler_step(x, state.denoise_at_step_start(x, sigma), sigma, sigma_next)
    return x


def heun(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Second order: averages the slopes at both ends of a step; two evaluations per step, one in the last."""
    for level, sigma_next in state.pairs():
        x, sigma = add_churn(state, x, level, sigma_next)
        denoised = state.denoise_at_step_start(x, sigma)
        end = euler_step(x, denoised, sigma, sigma_next)
        if sigma_next == 0:
            return end
        slopes = (x - denoised) / sigma + (end - state.denoise_at(end, sigma_next)) / sigma_next
        x = x + (sigma_next - sigma) / 2 * slopes
    return x


def dpm_2(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Second order: the slope at the geometric midpoint; two evaluations per step, one in the last."""
    for level, sigma_next in state.pairs():
        x, sigma = add_churn(state, x, level, sigma_next)
        x = middle_step(state, x, state.denoise_at_step_start(x, sigma), sigma, sigma_next)
    return x


def middle_step(
    state: SamplerState,
    x: Float[Tensor, "B C H W"],
    denoised: Float[Tensor, "B C H W"],
    sigma: float,
    sigma_next: float,
) -> Float[Tensor, "B C H W"]:
    """Return x after a step along the slope at the geometric mean of its ends; a step to 0 is an Euler step."""
    if sigma_next == 0:
        return euler_step(x, denoised, sigma, 0.0)
    middle = math.sqrt(sigma * sigma_next)
    halfway = euler_step(x, denoised, sigma, middle)
    slope = (halfway - state.denoise_at(halfway, middle)) / middle
    return x + (sigma_next - sigma) * slope
