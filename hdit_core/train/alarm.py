"""What a run does about a step that went wrong: it is described, told of, and the run ends, goes back, or goes on."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from hdit_core.checkpoint.state import State
from hdit_core.errors import NumericalError
from hdit_core.recipe.train import TrainRecipe
from hdit_core.train.incidents import Incidents
from hdit_core.train.plan import Step
from hdit_core.train.result import NotFinite, StepResult
from hdit_core.train.rollback import roll_back
from hdit_core.train.spikes import find_spikes


@dataclass(frozen=True)
class Alarm:
    """Watches over the steps of a run; on all ranks alike, since what a step tells is the same on all."""

    recipe: TrainRecipe
    incidents: Incidents
    on_note: Callable[[str], None]

    def not_finite(self, step: Step, problem: NotFinite, state: State) -> NoReturn:
        """Deal with a step that was refused.

        Args:
            state: of the run before the step.

        Raises:
            RollBack: the recipe grants another one.
            NumericalError: it does not.
        """
        where = self.incidents.write("not finite", step, problem.result, state)
        roll_back(self.recipe, step, state, str(problem))
        raise NumericalError(
            f"{problem}. What went into it: {where}; to see it again, add --repro {step.number} to the command"
        ) from None

    def spikes(self, step: Step, result: StepResult, state: State) -> int:
        """Return whether a step that was taken stood out, 0 or 1.

        Raises:
            RollBack: it did, and the recipe grants another one.
        """
        if not (spikes := find_spikes(state.memory, result)):
            return 0
        where = self.incidents.write("spike", step, result, state, spikes)
        text = f"step {step.number}: a spike: {' and '.join(map(str, spikes))}"
        self.on_note(f"{text}; what went into it: {where}")
        roll_back(self.recipe, step, state, text)
        return 1
