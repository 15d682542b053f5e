"""The learning rate over a run: a function of the images seen, so that it does not depend on the batch size."""

import math
from collections.abc import Callable

from hdit_core.recipe.train import Schedule, TrainRecipe


def _constant(recipe: TrainRecipe, num_images: int) -> float:
    return 1.0


def _inverse_sqrt(recipe: TrainRecipe, num_images: int) -> float:
    """1 up to the reference point, then sqrt(point / images) (EDM2: Karras et al. 2024)."""
    assert recipe.inverse_sqrt_images is not None  # the recipe's law
    return math.sqrt(recipe.inverse_sqrt_images / max(num_images, recipe.inverse_sqrt_images))


def _cosine(recipe: TrainRecipe, num_images: int) -> float:
    """Half a wave from 1, where warm-up ends, to 0, where the run does (Loshchilov and Hutter 2017, equation 5)."""
    length = recipe.num_images - recipe.warmup_images
    done = min(1.0, max(0, num_images - recipe.warmup_images) / length) if length else 0.0
    return (1 + math.cos(math.pi * done)) / 2


SHAPES: dict[Schedule, Callable[[TrainRecipe, int], float]] = {
    "constant": _constant,
    "inverse-sqrt": _inverse_sqrt,
    "cosine": _cosine,
}


def lr_factor(recipe: TrainRecipe, num_images: int) -> float:
    """Return what the learning rate is multiplied by in the step that begins after `num_images` images, in [0, 1].

    The product of three:

    1. It rises linearly over the first `warmup_images`, where that step's own images count already, so that
       the first step moves.
    2. It follows `schedule`.
    3. It falls linearly to zero over the last `cooldown_images`.
    """
    seen = num_images + recipe.batch_size_at(num_images)
    left = recipe.num_images - num_images
    rise = min(1.0, seen / recipe.warmup_images) if recipe.warmup_images else 1.0
    fall = min(1.0, max(0, left) / recipe.cooldown_images) if recipe.cooldown_images else 1.0
    return rise * SHAPES[recipe.schedule](recipe, num_images) * fall
