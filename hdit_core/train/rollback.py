"""Going back to the last checkpoint when a step went wrong, and on without the images of that step.

The images keep their numbers in the order of the run; those passed over are not trained on, and those after them move
up. Which they are is part of the run's state, so that a run that is killed and resumed goes the same way: if the kill
came before the next checkpoint, it meets the same step again, and goes back again.
"""

from hdit_core.checkpoint.memory import Skip
from hdit_core.checkpoint.state import State
from hdit_core.recipe.train import TrainRecipe
from hdit_core.train.plan import Step


class RollBack(Exception):
    """The run is to go on from its newest checkpoint, with these images passed over."""

    def __init__(self, reason: str, skips: tuple[Skip, ...]) -> None:
        super().__init__(reason)
        self.skips = skips


def roll_back(recipe: TrainRecipe, step: Step, state: State, reason: str) -> None:
    """Ask for a roll-back past the images of a step, unless the recipe's are used up.

    Args:
        state: of the run before the step.
        reason: for people.

    Raises:
        RollBack: the recipe still grants one.
    """
    if len(state.skips) < recipe.rollback:
        skip = Skip(after_images=step.num_images, images=step.batch_size)
        raise RollBack(reason, (*state.skips, skip))
