"""Learning-rate schedule, a function of the images seen, so that it does not depend on the batch size."""

import math
from collections.abc import Callable

from hdit_core.recipe.train import Schedule, TrainRecipe


def _constant(recipe: TrainRecipe, num_images: int) -> float:
    return 1.0


def _inverse_sqrt(recipe: TrainRecipe, num_images: int) -> float:
    """1 up to the reference point, then sqrt(point / images) (EDM2: Karras et al. 2024)."""
    assert recipe.inverse_sqrt_images is not None  # a constraint of the recipe
    return math.sqrt(recipe.inverse_sqrt_images / max(num_images, recipe.inverse_sqrt_images))


def _cosine(recipe: TrainRecipe, num_images: int) -> float:
    """Half a cosine from 1 at the end of warm-up to 0 at the end of the run (Loshchilov and Hutter 2017, eq. 5)."""
    length = recipe.num_images - recipe.warmup_length
    done = min(1.0, max(0, num_images - recipe.warmup_length) / length) if length else 0.0
    return (1 + math.cos(math.pi * done)) / 2


SHAPES: dict[Schedule, Callable[[TrainRecipe, int], float]] = {
    "constant": _constant,
    "inverse-sqrt": _inverse_sqrt,
    "cosine": _cosine,
}


def lr_factor(recipe: TrainRecipe, num_images: int) -> float:
    """Return the factor of the learning rate, in [0, 1], for the step that starts after `num_images` images.

    It is the product of three:

    1. The warm-up: a linear rise, in which the step's own images count already, so that the first step moves.
    2. The `schedule`.
    3. The cool-down: a linear fall to zero at the end of the run.
    """
    seen = num_images + recipe.batch_size_at(num_images)
    left = recipe.num_images - num_images
    rise = min(1.0, seen / recipe.warmup_length) if recipe.warmup_length else 1.0
    fall = min(1.0, max(0, left) / recipe.cooldown_length) if recipe.cooldown_length else 1.0
    return rise * SHAPES[recipe.schedule](recipe, num_images) * fall


def cooldown_jump(before: TrainRecipe, after: TrainRecipe, num_images: int) -> tuple[float, float] | None:
    """Return the old and the new learning rate if a change raises it once the cool-down has begun, else None."""
    has_begun = before.cooldown_length and num_images > before.num_images - before.cooldown_length
    old, new = (train.lr * lr_factor(train, num_images) for train in (before, after))
    return (old, new) if has_begun and new > old else None
