"""The sums between two lines of the log, and what the next line says of them."""

from itertools import pairwise
from typing import Any

import numpy as np

from hdit_core.checkpoint.state import SIGMA_BINS, Interval, State
from hdit_core.train.monitor.spikes import remembered
from hdit_core.train.step.batch_plan import Step
from hdit_core.train.step.result import StepResult

SIGMA_EDGES = tuple(float(edge) for edge in 10 ** np.linspace(-3, 3, SIGMA_BINS + 1).round(2))
"""Noise levels are told apart by half decades from 0.001 to 1000; what lies outside counts to the first or last."""


def with_step(
    interval: Interval, result: StepResult, *, flops: float, elapsed_s: float, waited_s: float, spikes: int = 0
) -> Interval:
    """Return the sums with one more step.

    Args:
        flops: of the step's products over all ranks.
        elapsed_s: that the step took, compiling left out.
        waited_s: of that, for images.
        spikes: 1 if it was one.
    """
    bins = np.searchsorted(SIGMA_EDGES[1:-1], result.sigmas, side="right")
    images = np.bincount(bins, minlength=SIGMA_BINS)
    losses = np.bincount(bins, np.asarray(result.losses), SIGMA_BINS)
    parts = {part: interval.grad_norms.get(part, 0.0) + norm for part, norm in result.grad_norms.items()}
    return Interval(
        steps=interval.steps + 1,
        num_images=interval.num_images + len(result.losses),
        loss=interval.loss + result.loss,
        grad_norm=interval.grad_norm + result.grad_norm,
        grad_norms=parts,
        bin_images=tuple((np.asarray(interval.bin_images) + images).tolist()),
        bin_losses=tuple((np.asarray(interval.bin_losses) + losses).tolist()),
        flops=interval.flops + flops,
        elapsed_s=interval.elapsed_s + elapsed_s,
        waited_s=interval.waited_s + waited_s,
        compile_s=interval.compile_s + result.compile_s,
        spikes=interval.spikes + spikes,
    )


def loss_by_sigma(interval: Interval) -> list[dict[str, Any]]:
    """Return the mean loss of each half decade of noise that there were images of, and how many."""
    edges = pairwise(SIGMA_EDGES)
    rows = zip(edges, interval.bin_images, interval.bin_losses, strict=True)
    return [{"sigma": list(ends), "images": images, "loss": loss / images} for ends, images, loss in rows if images]


def log_fields(interval: Interval) -> dict[str, Any]:
    """Return what a line of the log says of an interval of at least one step: means, speeds, counts."""
    steps, elapsed_s = interval.steps, max(interval.elapsed_s, 1e-9)
    return {
        "loss": interval.loss / steps,
        "grad_norm": interval.grad_norm / steps,
        "images_per_s": interval.num_images / elapsed_s,
        "flops_per_s": interval.flops / elapsed_s,
        "waiting": interval.waited_s / elapsed_s,
        "grad_norm_by_part": {part: norm / steps for part, norm in interval.grad_norms.items()},
        "loss_by_sigma": loss_by_sigma(interval),
        **({"compile_s": interval.compile_s} if interval.compile_s else {}),
        **({"spikes": interval.spikes} if interval.spikes else {}),
    }


def advanced(
    state: State,
    step: Step,
    result: StepResult,
    *,
    flops: float,
    elapsed_s: float,
    waited_s: float,
    spikes: int,
    damaged: dict[int, str],
) -> State:
    """Return where the run stands after a step.

    Args:
        state: before it.
        flops: of the step's products over all ranks.
        elapsed_s: that the step took, compiling left out.
        waited_s: of that, for images.
        spikes: 1 if the step stood out.
        damaged: images that were found damaged so far, and how.
    """
    sums = with_step(state.memory.interval, result, flops=flops, elapsed_s=elapsed_s, waited_s=waited_s, spikes=spikes)
    memory = remembered(state.memory, result).model_copy(update={"interval": sums, "damaged": damaged})
    return state.model_copy(
        update={
            "step": step.number + 1,
            "num_images": step.num_images + step.batch_size,
            "elapsed_s": state.elapsed_s + elapsed_s,
            "memory": memory,
        }
    )


def with_new_interval(state: State) -> State:
    """Return the state after a line of the log: the sums begin anew."""
    return state.model_copy(update={"memory": state.memory.model_copy(update={"interval": Interval()})})
