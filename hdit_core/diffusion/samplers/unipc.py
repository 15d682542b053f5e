"""UniPC: a predictor and a corrector of the same form, with one evaluation per step (Zhao et al. 2023, section 3).

Time is t = -ln sigma. Over a step of size h from sigma to sigma e^-h, the probability-flow ODE's solution is

    x(h) = e^-h x + integral over r in [0, 1] of h e^(-h (1 - r)) D(r h) dr,

where D is the denoised image along the trajectory. D is replaced by the polynomial in r through the known values: D_0
at the step's start and D_m at the positions r_m. Then

    x(h) = e^-h x + (1 - e^-h) D_0 + sum over m of w_m (D_m - D_0),
    sum over m of w_m r_m^k = M_k = h times the integral of e^(-h (1 - r)) r^k     for k = 1, 2, ...

which is theorem 3.1 for image prediction, with w_m its B(h) a_m / r_m. The predictor (UniP-p) uses values before the
step, r_m < 0, and has order p; the corrector (UniC-p) also uses the value at its end, r = 1, and has order p + 1. That
value is evaluated at the predictor's result, and is reused in the next step. With a single r, M_1 may be replaced by
B(h) / 2 (B is h in `bh1`, 1 - e^-h in `bh2`); with several, B cancels.
"""

import math
from collections import deque
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import SamplerState, euler_step

Evaluation = tuple[float, Tensor]  # a noise level, and the denoised image there

ORDER, VARIANT = 3, "bh2"

HALF_MOMENTS = {"bh1": lambda h: h / 2, "bh2": lambda h: -math.expm1(-h) / 2}
"""B(h) / 2, which replaces M_1 for a single difference."""


def moments(h: float, count: int) -> list[float]:
    """Return M_1 to M_count; by parts, M_k = 1 - k M_(k-1) / h, from M_0 = 1 - e^-h."""
    values = [-math.expm1(-h)]
    for k in range(1, count + 1):
        values.append(1 - k * values[-1] / h)
    return values[1:]


def weights(h: float, positions: Sequence[float], variant: str) -> list[float]:
    """Return w_m for values at the positions r_m, none of which is 0.

    Args:
        h: step size in t.
        positions: in units of the step, from 0 at its start to 1 at its end.
        variant: of B(h), `bh1` or `bh2`.
    """
    if len(positions) == 1:
        return [HALF_MOMENTS[variant](h) / positions[0]]
    powers = torch.tensor([[r**k for r in positions] for k in range(1, len(positions) + 1)], dtype=torch.float64)
    return torch.linalg.solve(powers, powers.new_tensor(moments(h, len(positions)))).tolist()


def _update(
    x: Float[Tensor, "B C H W"], start: Evaluation, others: Sequence[Evaluation], sigma_next: float, variant: str
) -> Float[Tensor, "B C H W"]:
    """Return x at sigma_next from the denoised images at the step's start and at other noise levels."""
    sigma, denoised = start
    h = math.log(sigma / sigma_next)
    positions = [math.log(sigma / level) / h for level, _ in others]
    result = euler_step(x, denoised, sigma, sigma_next)
    for weight, (_, other) in zip(weights(h, positions, variant) if positions else (), others, strict=True):
        result = result + weight * (other - denoised)
    return result


def unipc(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """UniPC-p with p = `unipc_order`; the order rises from 1 to p in the first steps; one evaluation per step."""
    order, variant = state.settings.unipc_order or ORDER, state.settings.unipc_variant or VARIANT
    known: deque[Evaluation] = deque(maxlen=order)  # the latest first: p values give a predictor of order p
    corrected = x
    for sigma, sigma_next in state.pairs():
        denoised = state.denoise_at_step_start(x, sigma)
        if sigma_next == 0:
            return denoised

        # repeat the step that led here, with the value at its end
        if known:
            start, *before = known
            corrected = _update(corrected, start, [*before, (sigma, denoised)], sigma, variant)

        known.appendleft((sigma, denoised))
        start, *before = known
        x = _update(corrected, start, before, sigma_next, variant)
    return x
