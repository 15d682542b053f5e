"""Which images each step, rank and micro-batch takes: a function of the recipe and the images seen so far."""

from collections.abc import Iterator
from dataclasses import dataclass

from hdit_core.data.bucket_order import Part
from hdit_core.distributed import World
from hdit_core.errors import UsageError
from hdit_core.recipe.train import TrainRecipe


@dataclass(frozen=True)
class Step:
    """One update of the weights."""

    number: int  # updates before it
    num_images: int  # images before it
    batch_size: int  # images it takes, over all ranks


def steps(recipe: TrainRecipe, number: int, num_images: int) -> Iterator[Step]:
    """Yield the steps that are left after `number` steps and `num_images` images."""
    while num_images < recipe.num_images:
        step = Step(number, num_images, recipe.batch_size_at(num_images))
        yield step
        number, num_images = number + 1, num_images + step.batch_size


def parts(recipe: TrainRecipe) -> list[Part]:
    """Return the parts of a run in which all steps are of one size."""
    return [Part(0, recipe.batch_size), *(Part(g.after_images, g.batch_size) for g in recipe.batch_growth)]


def micro_batches(step: Step, world: World, largest: int | None) -> list[range]:
    """Return the image numbers of a step that fall to this rank, in pieces of at most `largest`.

    A rank takes neighbours; which ones does not matter to any image, since its random numbers are its own.
    """
    share = step.batch_size // world.size
    first = step.num_images + world.rank * share
    size = min(largest or share, share)
    return [range(start, min(start + size, first + share)) for start in range(first, first + share, size)]


def check_world(recipe: TrainRecipe, world: World) -> None:
    """Refuse a number of ranks that does not divide every batch size of the recipe.

    Raises:
        UsageError: with the nearest numbers of ranks that do.
    """
    sizes = [recipe.batch_size, *(growth.batch_size for growth in recipe.batch_growth)]
    if any(size % world.size for size in sizes):
        fitting = [count for count in range(1, max(sizes) + 1) if not any(size % count for size in sizes)]
        near = sorted(sorted(fitting, key=lambda count: abs(count - world.size))[:2])
        raise UsageError(
            f"train.batch_size = {recipe.batch_size} cannot be shared equally by {world.size} ranks; "
            f"use {' or '.join(map(str, near))} ranks, or another batch size"
        )
