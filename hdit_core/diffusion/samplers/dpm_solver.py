"""DPM-Solver of orders one to three, with a fixed number of questions or with adaptive steps (Lu et al. 2022).

Time is t = -ln sigma, h the length of a step in it; the noise that the model sees is eps = (x - D) / sigma. Both solve
the probability-flow ODE from sigma_max to sigma_min and are deterministic; where the schedule ends at 0, one more
question takes away what is left.
"""

import math

import torch
from einops import rearrange
from jaxtyping import Bool, Float, Float64
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import SamplerState, mean_of_each

FIRST, SECOND = 1 / 3, 2 / 3  # where in a step of order three its inner questions are asked
RTOL, ATOL = 0.05, 0.0078  # atol: one level of an 8-bit image in [-1, 1]
FIRST_STEP, REACHED = 0.05, 1e-5  # in ln sigma


def _spread(values: Float64[Tensor, "B"], x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B 1 1 1"]:
    return rearrange(values, "b -> b 1 1 1").to(x.device, x.dtype)


def _noise_seen(
    x: Float[Tensor, "B C H W"], denoised: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    return _spread(t.exp(), x) * (x - denoised)


def _leap(
    x: Float[Tensor, "B C H W"],
    t: Float64[Tensor, "B"],
    h: Float64[Tensor, "B"],
    eps: Float[Tensor, "B C H W"],
    change: Float[Tensor, "B C H W"] | float = 0.0,
) -> Float[Tensor, "B C H W"]:
    """Return x at t + h, for noise that is eps at t, and `change` the weighted higher-order part of its integral."""
    return x - _spread((-t - h).exp(), x) * (_spread(h.expm1(), x) * eps + change)


def _phi(h: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    return h.expm1() / h - 1


def _inner(state: SamplerState, x: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
    return _noise_seen(x, state.denoise_at(x, (-t).exp()), t)


def _start(state: SamplerState, x: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"]) -> Float[Tensor, "B C H W"]:
    return _noise_seen(x, state.denoise_at_step_start(x, (-t).exp()), t)


def _first_order(
    state: SamplerState, x: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"], h: Float64[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    return _leap(x, t, h, _start(state, x, t))


def _second_order(
    state: SamplerState, x: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"], h: Float64[Tensor, "B"]
) -> Float[Tensor, "B C H W"]:
    """One step of order two, its inner question in the middle."""
    eps = _start(state, x, t)
    middle = _inner(state, _leap(x, t, h / 2, eps), t + h / 2)
    return _leap(x, t, h, eps, _spread(h.expm1(), x) * (middle - eps))


def _third_order(
    state: SamplerState, x: Float[Tensor, "B C H W"], t: Float64[Tensor, "B"], h: Float64[Tensor, "B"]
) -> tuple[Float[Tensor, "B C H W"], Float[Tensor, "B C H W"]]:
    """One step of order three, and the step of order two that shares its first two questions."""
    eps = _start(state, x, t)
    change = _inner(state, _leap(x, t, FIRST * h, eps), t + FIRST * h) - eps
    low = _leap(x, t, h, eps, _spread(h.expm1() / (2 * FIRST), x) * change)

    at_second = _leap(x, t, SECOND * h, eps, _spread(SECOND / FIRST * _phi(SECOND * h), x) * change)
    change = _inner(state, at_second, t + SECOND * h) - eps
    return _leap(x, t, h, eps, _spread(_phi(h) / SECOND, x) * change), low


def orders(questions: int) -> list[int]:
    """Return the orders of `dpm_fast`'s steps: threes, and at the end what makes up the number of questions."""
    threes, rest = divmod(questions, 3)
    return [3] * threes + [rest] if rest else [3] * (threes - 1) + [2, 1]


STEPS = {1: _first_order, 2: _second_order, 3: lambda walk, x, t, h: _third_order(walk, x, t, h)[0]}


def _ends(state: SamplerState, x: Float[Tensor, "B C H W"]) -> tuple[Float64[Tensor, "B"], float]:
    """Return the time at which each image starts, and that at which all of them end."""
    sigma_min = state.sigmas[-1] or state.sigmas[-2]
    return torch.full(x.shape[:1], -math.log(state.sigmas[0]), dtype=torch.float64), -math.log(sigma_min)


def _finish(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """Take away the noise that is left, where the schedule ends at 0."""
    if state.sigmas[-1] > 0:
        return x
    state.index += 1
    return state.denoise_at_step_start(x, state.sigmas[-2])


def dpm_fast(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """DPM-Solver-fast: as many questions as the schedule has steps, in steps even in ln sigma, of order three mostly.

    Of the schedule only the ends and the number of steps count.
    """
    t, end = _ends(state, x)
    questions = len(state.sigmas) - 1 - (state.sigmas[-1] == 0)
    plan = orders(questions) if questions else []
    for state.index, order in enumerate(plan):
        h = (end - t) / (len(plan) - state.index)
        x, t = STEPS[order](state, x, t, h), t + h
    return _finish(state, x)


class StepControl:
    """Proportional-integral-derivative control of each image's own step length (Soederlind 2003).

    The exponents weigh the logarithms of this error, the last accepted and the one before.
    """

    def __init__(
        self,
        h: Float64[Tensor, "B"],
        order: int,
        proportional: float = 0.0,
        integral: float = 1.0,
        derivative: float = 0.0,
    ):
        self.h = h
        self.exponents = (
            (proportional + integral + derivative) / order,
            -(proportional + 2 * derivative) / order,
            derivative / order,
        )
        self.accept_above = 0.81
        self.history: list[Tensor] = []

    def judge(self, error: Float64[Tensor, "B"], h: Float64[Tensor, "B"]) -> Bool[Tensor, "B"]:
        """Take the errors (1 is the tolerance) of steps of length h, set the next lengths, return who may go on."""
        inverse = 1 / (error + 1e-8)
        history = self.history or [inverse, inverse]
        factor = torch.ones_like(inverse)
        for value, exponent in zip([inverse, *history], self.exponents, strict=True):
            factor = factor * value**exponent
        factor = 1 + (factor - 1).atan()  # gently: from 0.2 to 2.6

        accepted = factor >= self.accept_above
        self.history = [
            torch.where(accepted, new, old) for new, old in zip([inverse, history[0]], history, strict=True)
        ]
        self.h = h * factor
        return accepted


def dpm_adaptive(
    state: SamplerState, x: Float[Tensor, "B C H W"], rtol: float = RTOL, atol: float = ATOL
) -> Float[Tensor, "B C H W"]:
    """DPM-Solver-12/23: order three, its step length set by the difference from order two; three questions a step.

    Every image has its own steps, so that none depends on its batch; those that have arrived wait for the last. Of the
    schedule only the ends count.

    Args:
        rtol, atol: how much the two orders may differ in a step, relative to the image's values, and at least.
    """
    t, end = _ends(state, x)
    control = StepControl(torch.full_like(t, FIRST_STEP), order=3)
    before = x
    while (waiting := t >= end - REACHED).logical_not().any():
        h = torch.where(waiting, FIRST_STEP, torch.minimum(control.h, end - t))
        high, low = _third_order(state, x, t, h)
        tolerance = (rtol * torch.maximum(low.abs(), before.abs())).clamp(min=atol)
        error = mean_of_each(((low - high) / tolerance) ** 2).sqrt()

        go = control.judge(error.double().cpu(), h) & ~waiting
        pick = rearrange(go, "b -> b 1 1 1").to(x.device)
        x, before, t = torch.where(pick, high, x), torch.where(pick, low, before), torch.where(go, t + h, t)
        state.index += 1
    return _finish(state, x)
