"""The learning rate over a run, counted in images."""

from hdit_core.recipe.train import TrainRecipe


def lr_factor(recipe: TrainRecipe, num_images: int) -> float:
    """Return what the learning rate is multiplied by in the step that begins after `num_images` images, in [0, 1].

    1. It rises linearly over the first `warmup_images`, where that step's own images count already, so that
       the first step moves.
    2. It stays.
    3. It falls linearly to zero over the last `cooldown_images`.
    """
    seen = num_images + recipe.batch_size_at(num_images)
    left = recipe.num_images - num_images
    rise = min(1.0, seen / recipe.warmup_images) if recipe.warmup_images else 1.0
    fall = min(1.0, max(0, left) / recipe.cooldown_images) if recipe.cooldown_images else 1.0
    return rise * fall
