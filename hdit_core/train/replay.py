"""A step of a run done again: from the checkpoint before it, on the same images, with nothing written into the run."""

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hdit_core.checkpoint.layout import CHECKPOINT_NAME, checkpoint_folders, recipe_file
from hdit_core.checkpoint.load import Checkpoint, open_checkpoint
from hdit_core.checkpoint.state import SkippedImages
from hdit_core.data.loader.reader import ImageReader
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.files import write_atomic
from hdit_core.images import png_bytes, sheet, to_uint8
from hdit_core.recipe.run import Recipe
from hdit_core.train.context import RunContext, run_context
from hdit_core.train.deterministic import kept_so_far
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.monitor.incidents import in_json
from hdit_core.train.run_folder import check_same
from hdit_core.train.step.batch_plan import PlannedStep, steps
from hdit_core.train.step.build import build_learner
from hdit_core.train.step.dataloader import build_dataloader, build_run_order
from hdit_core.train.step.result import StepResult
from hdit_core.train.step.train_step import Learner

MOST_PICTURES = 64


@dataclass(frozen=True)
class ReplayedImage:
    """One image of the step.

    Attributes:
        number: how many come before it in the run; with the run's seed, it decides everything random about it.
        index: of the image in the data set.
        where: it lies there, for people.
        grad_norm: of this image's loss alone, with dropout of its own; None for runs of several ranks.
    """

    number: int
    index: int
    where: str
    sigma: float
    loss: float
    grad_norm: float | None

    @property
    def finite(self) -> bool:
        """Whether its loss is, and its gradient as far as it is known."""
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm or 0.0)


@dataclass(frozen=True)
class Replay:
    """What was seen; `from_step` is where the replay began, 0 for the run's beginning."""

    step: int
    from_step: int
    result: StepResult
    images: tuple[ReplayedImage, ...]

    @property
    def finite(self) -> bool:
        """Whether the step would have been taken."""
        return all(map(math.isfinite, (self.result.grad_norm, *self.result.losses)))

    def to_json(self) -> dict[str, Any]:
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
    run: Path,
    number: int,
    *,
    device: str = "auto",
    callbacks: Callbacks | None = None,
    save_images: Path | None = None,
    on_step: Callable[[int, int], None] = lambda done, total: None,
    deterministic: bool = False,
) -> Replay:
    """Do a step of a run again, up to its update.

    With the ranks, the device and the versions that the run had, it is the same to the last bit.

    Args:
        run: its folder; nothing is written there.
        number: of the step, counted from 0 as in the run's messages and incidents.
        save_images: a PNG of the step's images as the network took them, or of the 64 with the largest losses.
        on_step: is told how many steps of the way are done, and how many there are.
        deterministic: as `train`.

    Raises:
        UsageError: there is no such run or step, or the run has another recipe.
        CheckpointError: no checkpoint before the step is intact.
        NotFinite: a step on the way to it is not.
    """
    callbacks = callbacks or Callbacks()
    if not recipe_file(run).exists():
        raise UsageError(f"{run}: is not a run of hdit; give the run of the step with --out")
    check_same(run, recipe)
    checkpoint, skips = _checkpoint_before(run, number, callbacks)
    begin = (checkpoint.state.step, checkpoint.state.num_images) if checkpoint else (0, 0)
    way = _way(recipe, begin, skips, number)
    with run_context(recipe, device, callbacks, deterministic) as place:
        if checkpoint is not None:
            kept_so_far(checkpoint.state, deterministic, callbacks.on_note)
        learner = build_learner(recipe, checkpoint, place.world, place.world.device, callbacks.on_note)
        with closing(build_dataloader(recipe, place.reader, way, learner.micro_batches, skips)) as batches:
            for done, step in enumerate(way[:-1]):
                on_step(done, len(way))
                learner.train_step(step, batches)
            result = learner.forward_backward(way[-1], batches)
            on_step(len(way), len(way))
        images = tuple(_images(recipe, place, learner, way[-1], skips, result))
        if save_images and place.world.is_main:
            worst = _worst(images)
            write_atomic(save_images, png_bytes(_pictures(recipe, place.reader, way[-1], skips, worst)))
    return Replay(number, begin[0], result, images)


def _checkpoint_before(
    run: Path, number: int, callbacks: Callbacks
) -> tuple[Checkpoint | None, tuple[SkippedImages, ...]]:
    """Return the newest intact checkpoint that the step came after, None for the run's beginning."""
    complaints = []
    for folder in checkpoint_folders(run):
        match = CHECKPOINT_NAME.fullmatch(folder.name)
        if match and int(match[1]) <= number:
            try:
                checkpoint = open_checkpoint(folder)
            except CheckpointError as error:
                complaints.append(str(error))
                continue
            callbacks.on_note(f"from {folder}")
            return checkpoint, checkpoint.state.skips
    for complaint in complaints:
        callbacks.on_note(f"passed over: {complaint}")
    callbacks.on_note(f"from the beginning: {run} has no intact checkpoint before step {number}")
    return None, ()


def _way(recipe: Recipe, begin: tuple[int, int], skips: tuple[SkippedImages, ...], number: int) -> list[PlannedStep]:
    """Return the steps from a checkpoint's (step, images) to the one that is wanted."""
    way = []
    for step in steps(recipe.train, *begin, skips):
        way.append(step)
        if step.number == number:
            return way
    last = way[-1].number if way else begin[0] - 1
    raise UsageError(f"--repro {number}: the last step of the run is {last}; steps are counted from 0")


def _images(
    recipe: Recipe,
    context: RunContext,
    learner: Learner,
    step: PlannedStep,
    skips: tuple[SkippedImages, ...],
    result: StepResult,
) -> Iterator[ReplayedImage]:
    numbers = range(step.first, step.first + step.batch_size)
    indices = build_run_order(recipe, context.reader, skips).images_at(np.array(numbers)).tolist()
    alone = context.world.size == 1
    norms = _grad_norms(recipe, context.reader, learner, step, skips) if alone else [None] * step.batch_size
    for number, index, sigma, loss, norm in zip(numbers, indices, result.sigmas, result.losses, norms, strict=True):
        yield ReplayedImage(number, index, context.reader.where(index), sigma, loss, norm)


def _grad_norms(
    recipe: Recipe, reader: ImageReader, learner: Learner, step: PlannedStep, skips: tuple[SkippedImages, ...]
) -> Iterator[float]:
    """Yield the norm of the gradient of each image's loss by itself."""
    with closing(build_dataloader(recipe, reader, [step], _one_by_one, skips)) as batches:
        for batch in batches:
            learner.optimizer.zero_grad(set_to_none=True)
            learner.losses(batch, learner.sigmas(step, batch)).sum().backward()
            yield learner.grad_norm()


def _one_by_one(step: PlannedStep) -> list[range]:
    return [range(number, number + 1) for number in range(step.first, step.first + step.batch_size)]


def _worst(images: tuple[ReplayedImage, ...]) -> list[int]:
    """Return the numbers of the images with the largest losses, in the order of the run; not finite is largest."""
    by_loss = sorted(images, key=lambda image: image.loss if image.finite else math.inf, reverse=True)
    return sorted(image.number for image in by_loss[:MOST_PICTURES])


def _pictures(
    recipe: Recipe, reader: ImageReader, step: PlannedStep, skips: tuple[SkippedImages, ...], numbers: list[int]
) -> np.ndarray:
    """Lay some images of a step out as the network took them, each with its number under it."""
    with closing(
        build_dataloader(recipe, reader, [step], lambda step: [range(n, n + 1) for n in numbers], skips, workers=0)
    ) as batches:
        pictures = np.concatenate([to_uint8(batch.to("cpu").images) for batch in batches])
    return sheet(pictures, [str(number) for number in numbers])
