"""DPM-Solver of orders one to three, with a fixed number of evaluations or with adaptive steps (Lu et al. 2022).

Time is t = -ln sigma, and h is a step size in t; the predicted noise is eps = (x - D) / sigma. Both samplers solve the
probability-flow ODE from sigma_max to sigma_min and are deterministic; if the schedule ends at 0, one more
evaluation removes the remaining noise.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import SamplerState, mean_of_each

FIRST, SECOND = 1 / 3, 2 / 3  # positions of the inner evaluations within a third-order step
RTOL, ATOL = 0.05, 0.0078  # atol: one level of an 8-bit image in [-1, 1]
FIRST_STEP, REACHED = 0.05, 1e-5  # in ln sigma
ACCEPT_ABOVE = 0.81  # a step after which the next one would be smaller than this share of it is taken again


def _spread(values: Float64[Tensor, "B"], x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 1 1"]:
    return rearrange(values, "b -> b 1 1 1").to(x.device, x.dtype)


def _predicted_noise(
    x: Float[Tensor, "B C H W"], denoised: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    return _spread(t.exp(), x) * (x - denoised)


def _solve_step(
    x: Float[Tensor, "B C H W"],
    t: Float64[Tensor, "B"],
    h: Float64[Tensor, "B"],
    eps: Float[Tensor, "B C H W"],
    change: Float[Tensor, "B C H W"] | float = 0.0,
) -> Float[Tensor, "B C H W"]:
    """Return x at t + h from the predicted noise eps at t; `change` is the higher-order part of the integral."""
    return x - _spread((-t - h).exp(), x) * (_spread(h.expm1(), x) * eps + change)


def _phi(h: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    return h.expm1() / h - 1


def _inner(state: SamplerState, x: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
    return _predicted_noise(x, state.denoise_at(x, (-t).exp()), t)


def _start(state: SamplerState, x: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
    return _predicted_noise(x, state.denoise_at_step_start(x, (-t).exp()), t)


def _first_order(
    state: SamplerState, x: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"], h: Float64[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    return _solve_step(x, t, h, _start(state, x, t))


def _second_order(
    state: SamplerState, x: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"], h: Float64[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    """One second-order step, with its inner evaluation at the midpoint."""
    eps = _start(state, x, t)
    middle = _inner(state, _solve_step(x, t, h / 2, eps), t + h / 2)
    return _solve_step(x, t, h, eps, _spread(h.expm1(), x) * (middle - eps))


def _third_order(
    state: SamplerState, x: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"], h: Float64[Tensor, "B"]
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
    """One third-order step, and the second-order step that shares its first two evaluations."""
    eps = _start(state, x, t)
    change = _inner(state, _solve_step(x, t, FIRST * h, eps), t + FIRST * h) - eps
    low = _solve_step(x, t, h, eps, _spread(h.expm1() / (2 * FIRST), x) * change)

    at_second = _solve_step(x, t, SECOND * h, eps, _spread(SECOND / FIRST * _phi(SECOND * h), x) * change)
    change = _inner(state, at_second, t + SECOND * h) - eps
    return _solve_step(x, t, h, eps, _spread(_phi(h) / SECOND, x) * change), low


def orders(evaluations: int) -> list[int]:
    """Return the orders of `dpm_fast`'s steps: threes, then lower ones to match the number of evaluations."""
    threes, rest = divmod(evaluations, 3)
    return [3] * threes + [rest] if rest else [3] * (threes - 1) + [2, 1]


STEPS = {1: _first_order, 2: _second_order, 3: lambda state, x, t, h: _third_order(state, x, t, h)[0]}


def _ends(state: SamplerState, x: Float[Tensor, "B C H W"]) -> tuple[Float64[Tensor, "B"], float]:
    """Return the start time of each image, and the common end time."""
    sigma_min = state.sigmas[-1] or state.sigmas[-2]
    return torch.full(x.shape[:1], -math.log(state.sigmas[0]), dtype=torch.float64), -math.log(sigma_min)


def _finish(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Remove the remaining noise if the schedule ends at 0."""
    if state.sigmas[-1] > 0:
        return x
    state.index += 1
    return state.denoise_at_step_start(x, state.sigmas[-2])


def dpm_fast(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver-fast: as many evaluations as the schedule has steps, in mostly third-order steps uniform in ln sigma.

    Only the ends and the number of steps of the schedule matter.
    """
    t, end = _ends(state, x)
    evaluations = len(state.sigmas) - 1 - (state.sigmas[-1] == 0)
    plan = orders(evaluations) if evaluations else []
    for state.index, order in enumerate(plan):
        h = (end - t) / (len(plan) - state.index)
        x, t = STEPS[order](state, x, t, h), t + h
    return _finish(state, x)


def check_step(error: Float64[Tensor, "B"], h: Float64[Tensor, "B"]) -> tuple[Bool[Tensor, "B"], Float64[Tensor, "B"]]:
    """Return which third-order steps of size h are accepted, by their errors (1 is the tolerance), and the next sizes.

    Integral control of each image's own step size (Soederlind 2003).
    """
    factor = (1 / (error + 1e-8)) ** (1 / 3)
    factor = 1 + (factor - 1).atan()  # smooth limiter: from 0.2 to 2.6
    return factor >= ACCEPT_ABOVE, h * factor


def dpm_adaptive(
    state: SamplerState, x: Float[Tensor, "B C H W"], rtol: float = RTOL, atol: float = ATOL
) -> Float[Tensor, "B C H W"]:
    """DPM-Solver-23: third order, step size set by the difference from second order; three evaluations per step.

    Each image has its own steps, so that none depends on its batch; finished images wait for the last. Only the ends of
    the schedule matter.

    Args:
        rtol, atol: relative and absolute tolerance for the difference of the two orders in a step.
    """
    t, end = _ends(state, x)
    h_next, before = torch.full_like(t, FIRST_STEP), x
    while (finished := t >= end - REACHED).logical_not().any():
        h = torch.where(finished, FIRST_STEP, torch.minimum(h_next, end - t))
        high, low = _third_order(state, x, t, h)
        tolerance = (rtol * torch.maximum(low.abs(), before.abs())).clamp(min=atol)
        error = mean_of_each(((low - high) / tolerance) ** 2).sqrt()

        passed, h_next = check_step(error.cpu().double(), h)
        accepted = passed & ~finished
        pick = rearrange(accepted, "b -> b 1 1 1").to(x.device)
        x, before, t = torch.where(pick, high, x), torch.where(pick, low, before), torch.where(accepted, t + h, t)
        state.index += 1
    return _finish(state, x)
