"""`hdit train --dry-run`: two steps of a recipe as its trainer takes them, and what the whole would cost."""

import time
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from typing import Any

from hdit_core.recipe.run import Recipe
from hdit_core.train.context import RunContext, run_context
from hdit_core.train.init_from import NOTHING, InitialWeights, load_initial_weights
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.monitor.throughput import image_flops, peak_bytes, peak_flops_per_s, wait_for
from hdit_core.train.step.batch_plan import steps
from hdit_core.train.step.build import build_learner
from hdit_core.train.step.dataloader import build_dataloader

STEPS = 2
"""The first one warms up; the second is the measure."""

DAY_S = 86_400


@dataclass(frozen=True)
class DryRun:
    """What two steps showed.

    Attributes:
        ranks: that shared each step.
        batch_size: images of a step over all ranks.
        parameters: learned numbers of the network.
        first_step_s: with compiling and warming up, left out of the rest.
        step_s: of the second step.
        flops_per_s: of the model's own products, over all ranks.
        utilisation: share of what the GPUs' maker states; None where that is not known.
        waiting: share of the second step that was spent waiting for images.
        peak_bytes: most memory of the main rank: of its tensors on CUDA, of the whole process elsewhere.
        days: to the end of the run at this speed, without samples, scores and checkpoints.
    """

    ranks: int
    batch_size: int
    parameters: int
    loss: float
    first_step_s: float
    step_s: float
    images_per_s: float
    flops_per_s: float
    utilisation: float | None
    waiting: float
    peak_bytes: int
    images_left: int
    days: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def dry_run(
    recipe: Recipe,
    *,
    device: str = "auto",
    callbacks: Callbacks | None = None,
    done: int = 0,
    deterministic: bool = False,
) -> DryRun:
    """Build everything that a run of a recipe needs, and take two steps, without a folder.

    Args:
        done: images that the run was trained on already.
        deterministic: as `train`.

    Raises:
        UsageError, DataError, CheckpointError, NumericalError: as `train`.
    """
    callbacks = callbacks or Callbacks()
    with run_context(recipe, device, callbacks, deterministic) as place:
        inherited = load_initial_weights(recipe) if recipe.train.init_from and not done else NOTHING
        return _rehearse(recipe, place, callbacks, max(0, recipe.train.num_images - done), inherited)


def _rehearse(
    recipe: Recipe, context: RunContext, callbacks: Callbacks, images_left: int, inherited: InitialWeights
) -> DryRun:
    for note in inherited.notes:
        callbacks.on_note(note)
    learner = build_learner(recipe, None, context.world, context.world.device, callbacks.on_note, inherited.tensors)
    endless = recipe.train.model_copy(update={"num_images": 2**62})
    plan = list(islice(steps(endless, 0, 0), STEPS))
    with closing(build_dataloader(recipe, context.reader, plan, learner.micro_batches)) as batches:
        times, waits, results = [], [], []
        for step in plan:
            began_at, waited_s = time.perf_counter(), batches.waited_s
            results.append(learner.train_step(step, batches))
            wait_for(context.world.device)
            times.append(time.perf_counter() - began_at)
            waits.append(batches.waited_s - waited_s)
        image_size = batches.image_size
    step_s, size = max(times[-1] - results[-1].compile_s, 1e-9), plan[-1].batch_size
    flops_per_s = size * image_flops(recipe.model, image_size) / step_s
    peak = peak_flops_per_s(context.world.device, learner.dtype)
    return DryRun(
        ranks=context.world.size,
        batch_size=size,
        parameters=sum(parameter.numel() for parameter in learner.ema.source.parameters()),
        loss=results[0].loss,
        first_step_s=times[0],
        step_s=step_s,
        images_per_s=size / step_s,
        flops_per_s=flops_per_s,
        utilisation=flops_per_s / (peak * context.world.size) if peak else None,
        waiting=waits[-1] / step_s,
        peak_bytes=peak_bytes(context.world.device),
        images_left=images_left,
        days=images_left * step_s / size / DAY_S,
    )
