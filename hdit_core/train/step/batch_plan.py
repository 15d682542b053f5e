"""The images of each step, rank and micro-batch, as a function of the recipe and the images seen so far."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hdit_core.checkpoint.state import SkippedImages
from hdit_core.data.loader.bucket_order import BatchSizePhase
from hdit_core.distributed import World
from hdit_core.errors import UsageError
from hdit_core.recipe.train import TrainRecipe


@dataclass(frozen=True)
class PlannedStep:
    """One step."""

    number: int  # steps before it
    num_images: int  # images trained on before it
    batch_size: int  # images it takes, over all ranks
    skipped_images: int = 0  # images of the data order that were skipped before it, see `train.rollback`

    @property
    def first(self) -> int:
        """The index of its first image in the data order of the run."""
        return self.num_images + self.skipped_images


def steps(
    recipe: TrainRecipe, number: int, num_images: int, skips: Sequence[SkippedImages] = ()
) -> Iterator[PlannedStep]:
    """Yield the remaining steps after `number` steps and `num_images` images."""
    while num_images < recipe.num_images:
        skipped = sum(skip.images for skip in skips if skip.after_images <= num_images)
        step = PlannedStep(number, num_images, recipe.batch_size_at(num_images), skipped)
        yield step
        number, num_images = number + 1, num_images + step.batch_size


def endless_steps(recipe: TrainRecipe) -> Iterator[PlannedStep]:
    """Yield the steps of a run without end, for measurements."""
    return steps(recipe.model_copy(update={"num_images": 2**62}), 0, 0)


def batch_size_phases(recipe: TrainRecipe, skips: Sequence[SkippedImages] = ()) -> list[BatchSizePhase]:
    """Return the phases of a run, each with a constant batch size; skipped images count."""
    marks = [(0, recipe.batch_size), *((growth.after_images, growth.batch_size) for growth in recipe.batch_growth)]
    return [
        BatchSizePhase(mark + sum(skip.images for skip in skips if skip.after_images < mark), size)
        for mark, size in marks
    ]


def micro_batches(step: PlannedStep, world: World, largest: int | None) -> list[range]:
    """Return the image numbers of this rank's micro-batches of a step, each of at most `largest` images.

    A rank takes consecutive images. Which rank takes an image does not affect it: each has its own random numbers.
    """
    share = step.batch_size // world.size
    first = step.first + world.rank * share
    size = min(largest or share, share)
    return [range(start, min(start + size, first + share)) for start in range(first, first + share, size)]


def check_world(recipe: TrainRecipe, world: World) -> None:
    """Check that the number of ranks divides every batch size, and that `shard_ranks` divides the number of ranks.

    Raises:
        UsageError: gives the nearest numbers that do.
    """
    sizes = [recipe.batch_size, *(growth.batch_size for growth in recipe.batch_growth)]
    if any(size % world.size for size in sizes):
        fitting = [count for count in range(1, max(sizes) + 1) if not any(size % count for size in sizes)]
        raise UsageError(
            f"train.batch_size = {recipe.batch_size} is not divisible by the {world.size} ranks; "
            f"use {_nearest(fitting, world.size)} ranks, or another batch size"
        )
    parts = recipe.shard_ranks or 1
    if world.size > 1 and world.size % parts:
        fitting = [count for count in range(1, world.size + 1) if not world.size % count]
        raise UsageError(
            f"train.shard_ranks = {parts} does not divide the {world.size} ranks; use {_nearest(fitting, parts)}, "
            "or leave it out to shard over all ranks"
        )


def _nearest(choices: Sequence[int], wanted: int) -> str:
    return " or ".join(map(str, sorted(sorted(choices, key=lambda choice: abs(choice - wanted))[:2])))
