"""An adaptive Runge-Kutta solver with separate step sizes for each row (Dormand and Prince 1980, order 5(4))."""

from collections.abc import Callable

import torch
from einops import rearrange
from jaxtyping import Float64
from torch import Tensor

from hdit_core.errors import NumericalError

# The Butcher tableau: times of the stages and weights of the earlier slopes; the last stage is at the step's end.
TIMES = (0.0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
# Fifth order minus fourth: the error of a step.
ERRORS = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)

SAFETY, SHRINK, GROW = 0.9, 0.2, 10.0
FIRST_STEP, SHORTEST_STEP = 0.01, 1e-10  # as fractions of the whole interval

Slope = Callable[[Float64[Tensor, "B"], Float64[Tensor, "B S"]], Float64[Tensor, "B S"]]
Norm = Callable[[Float64[Tensor, "B S"]], Float64[Tensor, "B"]]


def _sum(weights: tuple[float, ...], slopes: list[Float64[Tensor, "B S"]]) -> Float64[Tensor, "B S"]:
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=True):
        total = total + weight * slope if weight else total
    return total


def _step(
    slope: Slope,
    t: Float64[Tensor, "B"],
    y: Float64[Tensor, "B S"],
    h: Float64[Tensor, "B"],
    first: Float64[Tensor, "B S"],
) -> tuple[Float64[Tensor, "B S"], Float64[Tensor, "B S"], Float64[Tensor, "B S"]]:
    """Return the state after a step, its error, and the slope there, which is the first of the next step."""
    length = rearrange(h, "b -> b 1")
    slopes = [first]
    for time, weights in zip(TIMES[1:], STAGES[1:], strict=True):
        stage = y + length * _sum(weights, slopes)
        slopes.append(slope(t + time * h, stage))
    return stage, length * _sum(ERRORS, slopes), slopes[-1]


def _next_length(h: Float64[Tensor, "B"], size: Float64[Tensor, "B"]) -> Float64[Tensor, "B"]:
    """Return each row's next step size, from the last step's error in units of the tolerance."""
    return h * (SAFETY * size**-0.2).nan_to_num(SHRINK).clamp(SHRINK, GROW)


def _check_length(h: Float64[Tensor, "B"], t: Float64[Tensor, "B"], end: float, interval: float) -> None:
    short = (h < SHORTEST_STEP * interval) & (t < end)
    if short.any():
        rows = short.nonzero().flatten().tolist()
        raise NumericalError(
            f"the ODE of rows {', '.join(map(str, rows))} of the batch needs steps below "
            f"{SHORTEST_STEP * interval:.3g} at t = {t[rows[0]]:.6g}; expected a smooth function: use larger tolerances"
        )


def integrate(
    slope: Slope,
    y: Float64[Tensor, "B S"],
    start: float,
    end: float,
    *,
    rtol: float,
    atol: float,
    norm: Norm,
) -> Float64[Tensor, "B S"]:
    """Return the solution at `end` of dy/dt = slope(t, y) for a given y at `start`.

    Args:
        slope: (t [B], y [B, S]) -> dy/dt, row by row: no row may depend on another.
        y: one state per row.
        start, end: times, start < end.
        rtol, atol: a step's error may be atol + rtol |y|.
        norm: one number per row from the errors in units of that tolerance; steps with up to 1 are accepted.

    Raises:
        NumericalError: the step size of a row became too small.
    """
    interval, t = end - start, torch.full_like(y[:, 0], start)
    h, first = torch.full_like(t, FIRST_STEP * interval), slope(t, y)
    while (t < end).any():
        # Finished rows take steps of length 0 until the last row is finished.
        h = torch.minimum(h, end - t)
        y_next, error, last = _step(slope, t, y, h, first)
        size = norm(error / (atol + rtol * torch.maximum(y.abs(), y_next.abs())))

        good = size <= 1
        pick = rearrange(good, "b -> b 1")
        finished = good & (h >= end - t)
        t = torch.where(finished, end, torch.where(good, t + h, t))
        y, first = torch.where(pick, y_next, y), torch.where(pick, last, first)

        h = _next_length(h, size)
        _check_length(h, t, end, interval)
    return y
