"""Steps that stand out: a loss or a gradient far beyond those of the steps before.

The rule: the logarithm of a step's loss, or of its gradient's norm, is compared with those of the last 128 steps. It is
a spike if it lies above their median by more than 8 times their spread and more than ln 2: at least twice the usual
value, and outside of what this run's steps scatter. The spread is 1.4826 times the median distance from the median,
which equals the standard deviation of normal numbers and does not move for a few spikes among them. There is no verdict
before the 32nd step. A spike counts among the steps before, so that a new level becomes usual in 64 steps.
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
SMALLEST = 1e-30  # a loss of zero has a logarithm


@dataclass(frozen=True)
class Spike:
    """What stood out, and from what."""

    what: str
    value: float
    usual: float

    def __str__(self) -> str:
        return f"the {self.what} is {self.value:.4g}, usually {self.usual:.4g}"


def is_spike(value: float, before: Sequence[float]) -> bool:
    """Return whether a value is a spike after the values before it; all are positive or zero."""
    if len(before) < LEAST_STEPS:
        return False
    logs = [math.log(max(each, SMALLEST)) for each in before]
    centre = median(logs)
    spread = NORMAL_SPREAD * median(abs(each - centre) for each in logs)
    return math.log(max(value, SMALLEST)) - centre > max(math.log(LEAST_RATIO), DEVIATIONS * spread)


def find_spikes(history: StepHistory, result: StepResult) -> list[Spike]:
    """Return what stands out of a step: nothing, its loss, its gradient's norm, or both."""
    looked_at = {"loss": (result.loss, history.losses), "gradient's norm": (result.grad_norm, history.grad_norms)}
    return [
        Spike(what, value, median(before)) for what, (value, before) in looked_at.items() if is_spike(value, before)
    ]


def with_step_history(history: StepHistory, result: StepResult) -> StepHistory:
    """Return the memory with one more step among those that say what is usual."""
    losses, grad_norms = (*history.losses, result.loss), (*history.grad_norms, result.grad_norm)
    return history.model_copy(update={"losses": losses[-WINDOW:], "grad_norms": grad_norms[-WINDOW:]})
