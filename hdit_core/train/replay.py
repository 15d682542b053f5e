"""`hdit train --repro`: re-executes a step of a run from the checkpoint before it; the run is not modified."""

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdit_core.checkpoint.layout import checkpoint_folders, checkpoint_step, recipe_file
from hdit_core.checkpoint.lineage import read_lineage
from hdit_core.checkpoint.load import Checkpoint, open_checkpoint
from hdit_core.checkpoint.state import SkippedImages, State
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.files import write_atomic
from hdit_core.images import png_bytes, sheet, to_uint8
from hdit_core.recipe.run import Recipe
from hdit_core.train.deterministic import kept_so_far
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.monitor.rollback import in_json
from hdit_core.train.run_context import RunContext, run_context
from hdit_core.train.start.run_folder import check_same
from hdit_core.train.step.batch_plan import PlannedStep, steps
from hdit_core.train.step.build import build_learner
from hdit_core.train.step.dataloader import TimedLoader, build_dataloader, build_run_order
from hdit_core.train.step.result import StepResult
from hdit_core.train.step.train_step import Learner

logger = logging.getLogger("hdit")

MOST_IMAGES = 64


@dataclass(frozen=True)
class ReplayedImage:
    """One image of the step.

    Attributes:
        number: images before it in the run; with the run's seed, it determines everything random about it.
        index: in the data set.
        where: its location in the data set, for messages.
        grad_norm: of this image's loss alone, with its own dropout; None for runs of several ranks.
    """

    number: int
    index: int
    where: str
    sigma: float
    loss: float
    grad_norm: float | None

    @property
    def finite(self) -> bool:
        """Whether its loss is finite, and its gradient norm as far as it is known."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm or 0.0)


@dataclass(frozen=True)
class Replay:
    """The result; `from_step` is where the replay started, 0 for the beginning of the run."""

    step: int
    from_step: int
    result: StepResult
    images: tuple[ReplayedImage, ...]

    @property
    def finite(self) -> bool:
        """Whether the step would be taken."""
        return all(map(math.isfinite, (self.result.grad_norm, *self.result.losses)))

    def to_json(self) -> dict[str, Any]:
        """Return the result as a JSON object."""
        document: dict[str, Any] = in_json(
            {
                "step": self.step,
                "from_step": self.from_step,
                "finite": self.finite,
                "loss": self.result.loss,
                "grad_norm": self.result.grad_norm,
                "grad_norm_by_part": dict(self.result.grad_norms),
                "images": [asdict(image) | {"finite": image.finite} for image in self.images],
            }
        )
        return document


def replay(
    recipe: Recipe,
    run: Path | str,
    number: int,
    *,
    device: str = "auto",
    save_images: Path | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    deterministic: bool = False,
) -> Replay:
    """Re-execute a step of a run, up to its update, from the checkpoint before it.

    With the same ranks, device and versions as in the run, it is bit-identical.

    Args:
        run: the run directory; nothing is written there.
        number: of the step, counted from 0 as in the run's messages and incidents.
        save_images: path of a PNG of the network's input images, or of the 64 with the largest losses.
        on_step: called with the number of executed steps and their total.
        deterministic: as in `train`.

    Raises:
        UsageError: there is no such run or step, or the run has another recipe.
        CheckpointError: no checkpoint before the step is valid.
        NotFinite: a step before it is not finite.
    """
    run = _checked_run(Path(run), recipe)
    checkpoint = _checkpoint_before(run, number)
    start = checkpoint.state if checkpoint else State(step=0, num_images=0, data_hash="")
    plan = _steps_to(recipe, start, number)
    with run_context(recipe, run, device, Callbacks(), deterministic) as context:
        context.log_setup()
        kept_so_far(start, deterministic)
        learner = build_learner(recipe, checkpoint, context.world)
        result = _last_result(context, learner, plan, start.skips, on_step)
        images = tuple(_images(context, learner, plan[-1], start.skips, result))
        if save_images and context.world.is_main:
            write_atomic(save_images, png_bytes(_input_sheet(context, plan[-1], start.skips, _largest_losses(images))))
    return Replay(number, start.step, result, images)


def _checked_run(run: Path, recipe: Recipe) -> Path:
    """Return the run directory if it contains a run of the recipe."""
    if not recipe_file(run).exists():
        raise UsageError(f"{run}: is not a run of hdit; give the run of the step with --out")
    check_same(run, recipe)
    return run


def _last_result(
    context: RunContext,
    learner: Learner,
    plan: Sequence[PlannedStep],
    skips: tuple[SkippedImages, ...],
    on_step: Callable[[int, int], None],
) -> StepResult:
    """Execute the steps of a plan, and return the result of the last one, whose update is not done."""
    with closing(build_dataloader(context.recipe, context.reader, plan, learner.micro_batches, skips)) as batches:
        for done, step in enumerate(plan[:-1]):
            on_step(done, len(plan))
            learner.train_step(step, batches)
        result = learner.forward_backward(plan[-1], batches)
        on_step(len(plan), len(plan))
    return result


def _checkpoint_before(run: Path, number: int) -> Checkpoint | None:
    """Return the newest valid checkpoint before a step, None for the beginning of the run."""
    problems = []
    for folder in checkpoint_folders(run):
        if checkpoint_step(folder) <= number:
            try:
                checkpoint = open_checkpoint(folder)
            except CheckpointError as error:
                problems.append(str(error))
                continue
            logger.info("from %s", folder)
            return checkpoint
    if read_lineage(run):
        raise CheckpointError(f"{run}: has no valid checkpoint before step {number}, and was forked from another run")
    for problem in problems:
        logger.warning("skipped: %s", problem)
    logger.info("from the beginning: %s has no valid checkpoint before step %d", run, number)
    return None


def _steps_to(recipe: Recipe, start: State, number: int) -> list[PlannedStep]:
    """Return the steps from a state to the wanted one."""
    plan = []
    for step in steps(recipe.train, start.step, start.num_images, start.skips):
        plan.append(step)
        if step.number == number:
            return plan
    last = plan[-1].number if plan else start.step - 1
    raise UsageError(f"--repro {number}: the last step of the run is {last}; steps are counted from 0")


def _images(
    context: RunContext,
    learner: Learner,
    step: PlannedStep,
    skips: tuple[SkippedImages, ...],
    result: StepResult,
) -> Iterator[ReplayedImage]:
    numbers = range(step.first, step.first + step.batch_size)
    indices = build_run_order(context.recipe, context.reader, skips).images_at(np.array(numbers)).tolist()
    alone = context.world.size == 1
    norms = _grad_norms(context, learner, step, skips) if alone else [None] * step.batch_size
    for number, index, sigma, loss, norm in zip(numbers, indices, result.sigmas, result.losses, norms, strict=True):
        yield ReplayedImage(number, index, context.reader.where(index), sigma, loss, norm)


def _grad_norms(
    context: RunContext, learner: Learner, step: PlannedStep, skips: tuple[SkippedImages, ...]
) -> Iterator[float]:
    """Yield the gradient norm of the loss of each image alone."""
    numbers = range(step.first, step.first + step.batch_size)
    with closing(_single_images(context, step, skips, numbers)) as batches:
        for batch in batches:
            learner.optimizer.zero_grad(set_to_none=True)
            learner.losses(batch, learner.sigmas(step, batch)).sum().backward()
            yield learner.grad_norm()


def _single_images(
    context: RunContext,
    step: PlannedStep,
    skips: tuple[SkippedImages, ...],
    numbers: Iterable[int],
    workers: int | None = None,
) -> TimedLoader:
    """Return some images of a step, each as a batch of its own."""
    single = [range(number, number + 1) for number in numbers]
    return build_dataloader(context.recipe, context.reader, [step], lambda step: single, skips, workers=workers)


def _largest_losses(images: tuple[ReplayedImage, ...]) -> list[int]:
    """Return the numbers of the images with the largest losses, in the order of the run; non-finite ones come first."""
    by_loss = sorted(images, key=lambda image: image.loss if image.finite else math.inf, reverse=True)
    return sorted(image.number for image in by_loss[:MOST_IMAGES])


def _input_sheet(
    context: RunContext, step: PlannedStep, skips: tuple[SkippedImages, ...], numbers: list[int]
) -> np.ndarray:
    """Return a sheet of some input images of a step, each with its number below."""
    with closing(_single_images(context, step, skips, numbers, workers=0)) as batches:
        images = np.concatenate([to_uint8(batch.to("cpu").images) for batch in batches])
    return sheet(images, [str(number) for number in numbers])
