"""Loss spikes: a loss or gradient norm far above those of the previous steps.

The logarithm of a step's loss, or of its gradient norm, is compared with those of the last 128 steps. It is a spike if
it exceeds their median by more than 8 times their spread and by more than ln 2, i.e. if it is at least twice the usual
value. The spread is 1.4826 times the median absolute deviation: the standard deviation for normal values, and robust
against a few spikes. The first 32 steps are never spikes. A spike counts among the previous steps of later ones, so
that a new level becomes usual after 64 steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from hdit_core.checkpoint.state import StepHistory
from hdit_core.train.step.result import StepResult

WINDOW, LEAST_STEPS = 128, 32
LEAST_RATIO, DEVIATIONS = 2.0, 8.0
NORMAL_SPREAD = 1.4826  # standard deviations in a median absolute deviation
SMALLEST = 1e-30  # so that a loss of zero has a logarithm


@dataclass(frozen=True)
class Spike:
    """An unusual value, and the usual one."""

    what: str
    value: float
    usual: float

    def __str__(self) -> str:
        return f"the {self.what} is {self.value:.4g}, usually {self.usual:.4g}"


def is_spike(value: float, before: Sequence[float]) -> bool:
    """Return whether a value is a spike after previous values; none is negative."""
    if len(before) < LEAST_STEPS:
        return False
    logs = [math.log(max(each, SMALLEST)) for each in before]
    center = median(logs)
    spread = NORMAL_SPREAD * median(abs(each - center) for each in logs)
    return math.log(max(value, SMALLEST)) - center > max(math.log(LEAST_RATIO), DEVIATIONS * spread)


def find_spikes(history: StepHistory, result: StepResult) -> list[Spike]:
    """Return the spikes of a step: of its loss, its gradient norm, both, or none."""
    checked = {"loss": (result.loss, history.losses), "gradient norm": (result.grad_norm, history.grad_norms)}
    return [Spike(what, value, median(before)) for what, (value, before) in checked.items() if is_spike(value, before)]


def with_step_history(history: StepHistory, result: StepResult) -> StepHistory:
    """Return the history with one more step."""
    losses, grad_norms = (*history.losses, result.loss), (*history.grad_norms, result.grad_norm)
    return history.model_copy(update={"losses": losses[-WINDOW:], "grad_norms": grad_norms[-WINDOW:]})
