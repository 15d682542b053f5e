"""When a network is held in parts (FSDP): the rule of `train.parallel = "auto"`, for plans and for runs."""

from hdit_core.flops.activations import FLOAT32
from hdit_core.flops.count import count
from hdit_core.recipe.run import Recipe

COPIES = 5  # of the weights in float32: they, their gradient, the optimizer's two moments, and their average
MOST_OF_A_GPU = 0.5  # that these may take where every rank has all of them; activations need the rest


def state_bytes(recipe: Recipe) -> int:
    """Return the memory of weights, gradients, optimizer state and averages together, all of them."""
    return (COPIES + len(recipe.train.ema_profiles)) * FLOAT32 * count(recipe.model).parameters


def too_large_for_each(recipe: Recipe, device_bytes: int) -> bool:
    """Return whether they take more than half of a device's memory, so that the ranks hold them in parts."""
    return state_bytes(recipe) > MOST_OF_A_GPU * device_bytes
