"""The log window: sums since the last line of the log, and the fields of the next line."""

from itertools import pairwise
from typing import Any

import numpy as np

from hdit_core.checkpoint.state import SIGMA_BINS, LogWindow, State
from hdit_core.train.monitor.spikes import with_step_history
from hdit_core.train.step.batch_plan import PlannedStep
from hdit_core.train.step.result import StepResult

SIGMA_EDGES = tuple(float(edge) for edge in 10 ** np.linspace(-3, 3, SIGMA_BINS + 1).round(2))
"""Edges of the noise-level bins, half decades from 0.001 to 1000; levels outside count to the first or last bin."""


def with_step(
    window: LogWindow, result: StepResult, *, flops: float, elapsed_s: float, waited_s: float, spikes: int = 0
) -> LogWindow:
    """Return the window with one more step.

    Args:
        flops: of the model's own operations over all ranks.
        elapsed_s: duration of the step without compilation.
        waited_s: of that, waiting for data.
        spikes: 1 if it was one.
    """
    bins = np.searchsorted(SIGMA_EDGES[1:-1], result.sigmas, side="right")
    images = np.bincount(bins, minlength=SIGMA_BINS)
    losses = np.bincount(bins, np.asarray(result.losses), SIGMA_BINS)
    parts = {part: window.grad_norms.get(part, 0.0) + norm for part, norm in result.grad_norms.items()}
    return LogWindow(
        steps=window.steps + 1,
        num_images=window.num_images + len(result.losses),
        loss=window.loss + result.loss,
        grad_norm=window.grad_norm + result.grad_norm,
        grad_norms=parts,
        bin_images=tuple((np.asarray(window.bin_images) + images).tolist()),
        bin_losses=tuple((np.asarray(window.bin_losses) + losses).tolist()),
        flops=window.flops + flops,
        elapsed_s=window.elapsed_s + elapsed_s,
        waited_s=window.waited_s + waited_s,
        compile_s=window.compile_s + result.compile_s,
        spikes=window.spikes + spikes,
    )


def loss_by_sigma(window: LogWindow) -> list[dict[str, Any]]:
    """Return the mean loss and the number of images of each noise-level bin that is not empty."""
    edges = pairwise(SIGMA_EDGES)
    rows = zip(edges, window.bin_images, window.bin_losses, strict=True)
    return [{"sigma": list(ends), "images": images, "loss": loss / images} for ends, images, loss in rows if images]


def log_fields(window: LogWindow) -> dict[str, Any]:
    """Return the fields of a line of the log: means, throughput, counts; the window has at least one step."""
    steps, elapsed_s = window.steps, max(window.elapsed_s, 1e-9)
    return {
        "loss": window.loss / steps,
        "grad_norm": window.grad_norm / steps,
        "images_per_s": window.num_images / elapsed_s,
        "flops_per_s": window.flops / elapsed_s,
        "waiting": window.waited_s / elapsed_s,
        "grad_norm_by_part": {part: norm / steps for part, norm in window.grad_norms.items()},
        "loss_by_sigma": loss_by_sigma(window),
        **({"compile_s": window.compile_s} if window.compile_s else {}),
        **({"spikes": window.spikes} if window.spikes else {}),
    }


def next_state(
    state: State,
    step: PlannedStep,
    result: StepResult,
    *,
    flops: float,
    elapsed_s: float,
    waited_s: float,
    spikes: int,
    damaged: dict[int, str],
) -> State:
    """Return the state after a step.

    Args:
        state: before it.
        flops: of the model's own operations over all ranks.
        elapsed_s: duration of the step without compilation.
        waited_s: of that, waiting for data.
        spikes: 1 if the step is one.
        damaged: damaged images so far, with the reasons.
    """
    sums = with_step(state.memory.interval, result, flops=flops, elapsed_s=elapsed_s, waited_s=waited_s, spikes=spikes)
    memory = with_step_history(state.memory, result).model_copy(update={"interval": sums, "damaged": damaged})
    return state.model_copy(
        update={
            "step": step.number + 1,
            "num_images": step.num_images + step.batch_size,
            "elapsed_s": state.elapsed_s + elapsed_s,
            "memory": memory,
        }
    )


def with_new_log_window(state: State) -> State:
    """Return the state after a line of the log, with an empty window."""
    return state.model_copy(update={"memory": state.memory.model_copy(update={"interval": LogWindow()})})
