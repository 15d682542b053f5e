"""UniPC: a predictor and a corrector of one form, at one question to the model a step (Zhao et al. 2023, section 3).

Time is t = -ln sigma. Over a step of length h from sigma to sigma e^-h, the probability-flow ODE's solution is

    x(h) = e^-h x + integral over r in [0, 1] of h e^(-h (1 - r)) D(r h) dr,

D being the denoised image along the way. D becomes the polynomial in r through the answers that are known: D_0 at the
step's start and D_m at the places r_m. Then

    x(h) = e^-h x + (1 - e^-h) D_0 + sum over m of w_m (D_m - D_0),
    sum over m of w_m r_m^k = M_k = h times the integral of e^(-h (1 - r)) r^k     for k = 1, 2, ...

which is theorem 3.1 for models that predict images, w_m being its B(h) a_m / r_m. The predictor (UniP-p) knows answers
before the step, r_m < 0, and is of order p; the corrector (UniC-p) knows the one at its end too, r = 1, and is of order
p + 1. That answer is asked where the predictor ended, and serves the next step as well. Where one r is left, M_1 may be
replaced by B(h) / 2 (B is h in `bh1`, 1 - e^-h in `bh2`); where there are several, B drops out.
"""

import math
from collections import deque
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.diffusion.samplers.sampler_state import SamplerState, euler_step

Answer = tuple[float, Tensor]  # a noise level, and what the model made of the image there

HALF_MOMENTS = {"bh1": lambda h: h / 2, "bh2": lambda h: -math.expm1(-h) / 2}
"""B(h) / 2, which stands for M_1 where a single difference is weighed."""


def moments(h: float, count: int) -> list[float]:
    """Return M_1 to M_count; by parts, M_k = 1 - k M_(k-1) / h, from M_0 = 1 - e^-h."""
    found = [-math.expm1(-h)]
    for k in range(1, count + 1):
        found.append(1 - k * found[-1] / h)
    return found[1:]


def weights(h: float, places: Sequence[float], variant: str) -> list[float]:
    """Return w_m for answers at the places r_m, none of which is 0.

    Args:
        h: length of the step in t.
        places: in steps from the step's start, the end being 1.
        variant: of B(h), `bh1` or `bh2`.
    """
    if len(places) == 1:
        return [HALF_MOMENTS[variant](h) / places[0]]
    powers = torch.tensor([[r**k for r in places] for k in range(1, len(places) + 1)], dtype=torch.float64)
    return torch.linalg.solve(powers, powers.new_tensor(moments(h, len(places)))).tolist()


def _carried(
    x: Float[Tensor, "B C H W"], start: Answer, others: Sequence[Answer], sigma_next: float, variant: str
) -> Float[Tensor, "B C H W"]:
    """Return x at sigma_next, for answers that are known at the step's start and at other noise levels."""
    sigma, denoised = start
    h = math.log(sigma / sigma_next)
    places = [math.log(sigma / level) / h for level, _ in others]
    result = euler_step(x, denoised, sigma, sigma_next)
    for weight, (_, answer) in zip(weights(h, places, variant) if places else (), others, strict=True):
        result = result + weight * (answer - denoised)
    return result


def unipc(state: SamplerState, x: Float[Tensor, "B C H W"]) -> Float[Tensor, "B C H W"]:
    """UniPC-p, p being `walk.unipc_order`: orders rise from 1 to p as answers come in; one question a step."""
    known: deque[Answer] = deque(maxlen=state.unipc_order)  # the latest first: p answers make a predictor of order p
    corrected = x
    for sigma, sigma_next in state.pairs():
        denoised = state.denoise_at_step_start(x, sigma)
        if sigma_next == 0:
            return denoised

        # the step that led here once more, with the answer at its end
        if known:
            start, *before = known
            corrected = _carried(corrected, start, [*before, (sigma, denoised)], sigma, state.unipc_variant)

        known.appendleft((sigma, denoised))
        start, *before = known
        x = _carried(corrected, start, before, sigma_next, state.unipc_variant)
    return x
