"""`hdit train --dry-run`: two steps of a recipe, their memory and throughput, and an estimate of the whole run."""

import logging
import time
from contextlib import closing
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.status import read_status
from hdit_core.devices import synchronize
from hdit_core.errors import HditError
from hdit_core.recipe.run import Recipe
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.monitor.memory import MemoryNeed, memory_need, naming_memory
from hdit_core.train.monitor.throughput import image_flops, peak_bytes, peak_flops_per_s
from hdit_core.train.run_context import RunContext, run_context
from hdit_core.train.start.checks import check_data_folder
from hdit_core.train.start.init_from import NOTHING, load_initial_weights
from hdit_core.train.step.batch_plan import endless_steps
from hdit_core.train.step.build import build_learner
from hdit_core.train.step.dataloader import build_dataloader
from hdit_core.train.step.result import StepResult
from hdit_core.train.step.train_step import Learner

logger = logging.getLogger("hdit")

STEPS = 2
"""The first one warms up; the second one is measured."""

DAY_S = 86_400


@dataclass(frozen=True)
class DryRun:
    """The result of two steps.

    Attributes:
        ranks: of the run.
        batch_size: images of a step over all ranks.
        micro_batch_size: images that one rank takes at a time.
        parameters: of the network.
        first_step_s: with compilation and warm-up, not part of the rest.
        step_s: of the second step.
        flops_per_s: of the model's own operations, over all ranks.
        utilisation: of the peak FLOP/s of the GPU's data sheet; None if unknown.
        waiting: fraction of the second step that was spent waiting for data.
        peak_bytes: peak memory of the main rank: of its tensors on CUDA, of the whole process elsewhere.
        planned_bytes: the plan's upper bound for it.
        machine_bytes: memory of the GPU, or of the machine; None if unknown.
        largest_micro_batch_size: that fits by the plan; None if unknown.
        days: to the end of the run at this throughput, without samples, evaluation and checkpoints.
    """

    ranks: int
    batch_size: int
    micro_batch_size: int
    parameters: int
    loss: float
    first_step_s: float
    step_s: float
    images_per_s: float
    flops_per_s: float
    utilisation: float | None
    waiting: float
    peak_bytes: int
    planned_bytes: int
    machine_bytes: int | None
    largest_micro_batch_size: int | None
    images_left: int
    days: float

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        return asdict(self)


def dry_run(
    recipe: Recipe,
    run: Path | str | None = None,
    *,
    device: str = "auto",
    deterministic: bool = False,
) -> DryRun:
    """Build everything that a run of a recipe needs, and take two steps, without writing anything.

    Args:
        run: directory of the run, whose progress counts; may be missing.
        deterministic: as in `train`.

    Raises:
        UsageError, DataError, CheckpointError, NumericalError: as `train`.
        HditError: the machine has not enough memory.
    """
    check_data_folder(recipe)
    folder = Path(run) if run is not None else Path("runs")
    done = read_status(folder).get("num_images", 0) if run is not None else 0
    with run_context(recipe, folder, device, Callbacks(), deterministic) as context:
        context.log_setup()
        need = memory_need(recipe, context.world)
        if not need.fits:
            raise HditError(f"not enough memory: {need}; {need.advice}")
        with naming_memory(recipe, context.world):
            return _two_steps(context, need, images_done=done)


def _two_steps(context: RunContext, need: MemoryNeed, images_done: int) -> DryRun:
    recipe, world = context.recipe, context.world
    initial = load_initial_weights(recipe) if recipe.train.init_from and not images_done else NOTHING
    for note in initial.notes:
        logger.info(note)
    learner = build_learner(recipe, None, world, initial.tensors)
    plan = list(islice(endless_steps(recipe.train), STEPS))
    times, waits, results = list[float](), list[float](), list[StepResult]()
    with closing(build_dataloader(recipe, context.reader, plan, learner.micro_batches)) as batches:
        for step in plan:
            began_at_s, waited_s = time.perf_counter(), batches.waited_s
            results.append(learner.train_step(step, batches))
            synchronize(world.device)
            times.append(time.perf_counter() - began_at_s)
            waits.append(batches.waited_s - waited_s)
    step_s, size = max(times[-1] - results[-1].compile_s, 1e-9), plan[-1].batch_size
    images_left = max(0, recipe.train.num_images - images_done)
    flops_per_s = size * image_flops(recipe.model, batches.image_size) / step_s
    return DryRun(
        ranks=world.size,
        batch_size=size,
        micro_batch_size=need.images,
        parameters=sum(parameter.numel() for parameter in learner.ema.source.parameters()),
        loss=results[0].loss,
        first_step_s=times[0],
        step_s=step_s,
        images_per_s=size / step_s,
        flops_per_s=flops_per_s,
        utilisation=_utilisation(flops_per_s, learner),
        waiting=waits[-1] / step_s,
        peak_bytes=peak_bytes(world.device),
        planned_bytes=need.needed_bytes,
        machine_bytes=need.machine_bytes,
        largest_micro_batch_size=need.largest,
        images_left=images_left,
        days=images_left * step_s / size / DAY_S,
    )


def _utilisation(flops_per_s: float, learner: Learner) -> float | None:
    peak = peak_flops_per_s(learner.world.device, learner.dtype)
    return flops_per_s / (peak * learner.world.size) if peak else None
