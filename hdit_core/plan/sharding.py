"""When a network is held in parts (FSDP): the rule of `train.parallel = "auto"`, for plans and for runs."""

from hdit_core.flops.activations import FLOAT32
from hdit_core.flops.count import count
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.run import Recipe

COPIES = 3  # of the weights in float32, next to the optimizer's state: they, their gradient, and their average
MOST_OF_A_GPU = 0.5  # that these may take where every rank has all of them; activations need the rest


def state_bytes(recipe: Recipe) -> int:
    """Return the memory of weights, gradients, optimizer state and averages together, all of them."""
    copies = COPIES + len(recipe.train.ema_profiles)
    return FLOAT32 * (copies * count(recipe.model).parameters + optimizer_numbers(recipe))


def optimizer_numbers(recipe: Recipe) -> int:
    """Return how many numbers the optimizer keeps: two for each weight, but one for those that Muon moves."""
    moved_by_muon = hidden_numbers(recipe.model) if recipe.train.optimizer == "muon" else 0
    return 2 * count(recipe.model).parameters - moved_by_muon


def hidden_numbers(model: ModelRecipe) -> int:
    """Return how many learned numbers are in matrices between hidden features (see `train.optim.muon.is_hidden`)."""
    counted = count(model)
    layers = counted.of("attention projections").parameters + counted.of("feed-forward").parameters
    mixes = len(model.levels) - 1 if model.skip == "lerp" else 0  # beside each split, one number that is no matrix
    return layers + counted.of("merges and splits").parameters - mixes


def too_large_for_each(recipe: Recipe, device_bytes: int) -> bool:
    """Return whether they take more than half of a device's memory, so that the ranks hold them in parts."""
    return state_bytes(recipe) > MOST_OF_A_GPU * device_bytes
