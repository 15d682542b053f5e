"""The rule by which `train.parallel = "auto"` chooses FSDP, for plans and for runs."""

from hdit_core.flops.activations import FLOAT32
from hdit_core.flops.count import count
from hdit_core.recipe.model import ModelRecipe
from hdit_core.recipe.run import Recipe

COPIES = 3  # float32 copies of the weights besides the optimizer state: weights, gradients and EMA weights
MAX_STATE_FRACTION = 0.5  # of a device's memory for replicated state; activations need the rest


def state_bytes(recipe: Recipe) -> int:
    """Return the total bytes of weights, gradients, optimizer state and EMA weights, unsharded."""
    copies = COPIES + len(recipe.train.ema_profiles)
    return FLOAT32 * (copies * count(recipe.model).parameters + optimizer_numbers(recipe))


def optimizer_numbers(recipe: Recipe) -> int:
    """Return the size of the optimizer state in numbers: two per weight, one for weights that Muon updates."""
    muon_weights = hidden_numbers(recipe.model) if recipe.train.optimizer == "muon" else 0
    return 2 * count(recipe.model).parameters - muon_weights


def hidden_numbers(model: ModelRecipe) -> int:
    """Return the number of parameters in matrices between hidden features (see `train.optim.muon.is_hidden`)."""
    counted = count(model)
    layers = counted.of("attention projections").parameters + counted.of("feed-forward").parameters
    mixes = len(model.levels) - 1 if model.skip == "lerp" else 0  # one scalar per split
    return layers + counted.of("merges and splits").parameters - mixes


def needs_sharding(recipe: Recipe, device_bytes: int) -> bool:
    """Return whether the unsharded training state exceeds half of a device's memory, so that it has to be sharded."""
    return state_bytes(recipe) > MAX_STATE_FRACTION * device_bytes
