"""Multistep samplers: one evaluation per step, using earlier ones (DPM-Solver++, Lu et al. 2022; LMS).

Time is t = -ln sigma, and h is a step size in t. The SDE samplers take steps of (1 + eta) h and restore the noise level
with fresh noise; eta = 0 is deterministic.
"""

import math
from collections import deque
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import SamplerState, euler_step

LMS_ORDER = 4
# the two Gauss-Legendre nodes of [0, 1], which integrate a cubic exactly
GAUSS = ((1 - 1 / math.sqrt(3)) / 2, (1 + 1 / math.sqrt(3)) / 2)


def _lagrange(sigmas: Sequence[float], sigma_next: float, j: int) -> float:
    """Return the integral from sigmas[0] to sigma_next of the polynomial that is 1 at sigmas[j], 0 at the others."""
    others = [level for k, level in enumerate(sigmas) if k != j]
    length = sigma_next - sigmas[0]
    points = [sigmas[0] + share * length for share in GAUSS]
    return length / 2 * sum(math.prod((point - s) / (sigmas[j] - s) for s in others) for point in points)


def lms(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Linear multistep (Adams-Bashforth on a non-uniform grid), order 4 once four slopes are known."""
    slopes: deque[Tensor] = deque(maxlen=LMS_ORDER)
    levels: deque[float] = deque(maxlen=LMS_ORDER)
    for sigma, sigma_next in state.pairs():
        slopes.appendleft((x - state.denoise_at_step_start(x, sigma)) / sigma)
        levels.appendleft(sigma)
        for j, slope in enumerate(slopes):
            x = x + _lagrange(levels, sigma_next, j) * slope
    return x


def dpmpp_2m(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++(2M): extrapolates the denoised image linearly in t; first order in the first and last step."""
    previous, h_previous = None, 0.0
    for sigma, sigma_next in state.pairs():
        denoised = state.denoise_at_step_start(x, sigma)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        extrapolated = denoised
        if previous is not None:
            extrapolated = denoised + h / (2 * h_previous) * (denoised - previous)
        x = euler_step(x, extrapolated, sigma, sigma_next)
        previous, h_previous = denoised, h
    return x


def _first_order(
    state: SamplerState, x: Float[Tensor, "B C H W"], denoised: Float[Tensor, "B C H W"], h: float
) -> Float[Tensor, "B C H W"]:
    """Return the first-order part of an SDE step, without its noise."""
    kept = math.exp(-(1 + state.settings.eta) * h)
    return kept * x + (1 - kept) * denoised


def _with_noise(
    state: SamplerState, x: Float[Tensor, "B C H W"], sigma: float, sigma_next: float
) -> Float[Tensor, "B C H W"]:
    """Return x with the fresh noise of an SDE step."""
    h = math.log(sigma / sigma_next)
    return state.add_noise(x, sigma_next * math.sqrt(-math.expm1(-2 * state.settings.eta * h)), sigma, sigma_next)


SECOND_ORDER = {
    "heun": lambda length: 1 + math.expm1(-length) / length,
    "midpoint": lambda length: -math.expm1(-length) / 2,
}
"""Weight of the denoised image's slope in `dpmpp_2m_sde`, by solver; length = (1 + eta) h."""


def dpmpp_2m_sde(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++(2M) SDE, with the second-order term of the setting `solver`."""
    slope_weight = SECOND_ORDER[state.settings.solver]
    previous, h_previous = None, 0.0
    for sigma, sigma_next in state.pairs():
        denoised = state.denoise_at_step_start(x, sigma)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        x = _first_order(state, x, denoised, h)
        if previous is not None:
            x = x + slope_weight((1 + state.settings.eta) * h) * h / h_previous * (denoised - previous)
        x = _with_noise(state, x, sigma, sigma_next)
        previous, h_previous = denoised, h
    return x


def _higher_order(
    denoised: Float[Tensor, "B C H W"], history: Sequence[tuple[Tensor, float]], h: float, length: float
) -> Float[Tensor, "B C H W"] | float:
    """Return the second- and third-order terms, as far as the history allows; length = (1 + eta) h."""
    if not history:
        return 0.0
    phi_2 = 1 + math.expm1(-length) / length
    (last, h_last) = history[0]
    slope = (denoised - last) * (h / h_last)
    if len(history) == 1:
        return phi_2 * slope

    phi_3 = phi_2 / length - 0.5
    (before, h_before) = history[1]
    r_last, r_before = h_last / h, h_before / h
    bend = (slope - (last - before) / r_before) / (r_last + r_before)
    return phi_2 * (slope + r_last * bend) - phi_3 * bend


def dpmpp_3m_sde(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver++(3M) SDE: extrapolates the denoised image quadratically in t. The paper's sampler, at eta = 1."""
    # earlier denoised images, the latest first, and the sizes of the steps after them
    history: deque[tuple[Tensor, float]] = deque(maxlen=2)
    for sigma, sigma_next in state.pairs():
        denoised = state.denoise_at_step_start(x, sigma)
        if sigma_next == 0:
            return denoised
        h = math.log(sigma / sigma_next)
        x = _first_order(state, x, denoised, h) + _higher_order(denoised, history, h, (1 + state.settings.eta) * h)
        x = _with_noise(state, x, sigma, sigma_next)
        history.appendleft((denoised, h))
    return x
