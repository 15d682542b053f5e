"""What a run does about a step that went wrong: it is described, told of, and the run ends, goes back, or goes on."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from hdit_core.checkpoint.layout import incident_file
from hdit_core.checkpoint.state import SkippedImages, State
from hdit_core.data.loader.reader import ImageReader
from hdit_core.distributed import World
from hdit_core.errors import NumericalError
from hdit_core.files import write_atomic
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.train import TrainRecipe
from hdit_core.train.monitor.spikes import Spike, find_spikes
from hdit_core.train.step.batch_plan import PlannedStep
from hdit_core.train.step.dataloader import build_run_order
from hdit_core.train.step.result import NotFinite, StepResult

Kind = Literal["not finite", "spike"]
MOST_SPIKES = 100
"""Files of spikes that a run keeps: one that has gone wild would fill the disk. Non-finite steps end a run."""


@dataclass(frozen=True)
class Incidents:
    """Writes the incidents of a run, on its main rank."""

    run: Path
    recipe: Recipe
    reader: ImageReader
    world: World

    def write(
        self, kind: Kind, step: PlannedStep, result: StepResult, state: State, spikes: Sequence[Spike] = ()
    ) -> str:
        """Describe a step, and return for people where, or why it could not be.

        Args:
            state: of the run before the step.
            spikes: what stood out.
        """
        path = incident_file(self.run, step.number, len(state.skips))
        if self.world.is_main:
            try:
                self._write(path, kind, step, result, state, spikes)
            except OSError as error:  # the step's own trouble is the greater one
                return f"nowhere, since {path} cannot be written ({error.strerror})"
        return str(path)

    def _write(
        self, path: Path, kind: Kind, step: PlannedStep, result: StepResult, state: State, spikes: Sequence[Spike]
    ) -> None:
        path.parent.mkdir(exist_ok=True)
        if kind == "spike" and sum(1 for _ in path.parent.iterdir()) >= MOST_SPIKES and not path.exists():
            return
        images = list(self._images(step, result, state))
        record = {
            "kind": kind,
            "step": step.number,
            "num_images": step.num_images,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "grad_norm_by_part": dict(result.grad_norms),
            "spikes": [{"what": spike.what, "value": spike.value, "usual": spike.usual} for spike in spikes],
            "seed": self.recipe.train.seed,
            "skips": [skip.model_dump() for skip in state.skips],
            "world_size": self.world.size,
            "ranks": sorted({image["rank"] for image in images if not math.isfinite(image["loss"])}),
            "images": images,
        }
        write_atomic(path, json.dumps(in_json(record), indent=1, allow_nan=False) + "\n")

    def _images(self, step: PlannedStep, result: StepResult, state: State) -> list[dict[str, Any]]:
        numbers = np.arange(step.first, step.first + step.batch_size)
        indices = build_run_order(self.recipe, self.reader, state.skips).images_at(numbers).tolist()
        share = step.batch_size // self.world.size
        return [
            {
                "number": int(number),
                "index": index,
                "where": self.reader.where(index),
                "rank": place // share,
                "sigma": sigma,
                "loss": loss,
            }
            for place, (number, index, sigma, loss) in enumerate(
                zip(numbers, indices, result.sigmas, result.losses, strict=True)
            )
        ]


def in_json(value: Any) -> Any:
    """Return a document in which `"nan"`, `"inf"` and `"-inf"` stand for what JSON has no number for."""
    if isinstance(value, dict):
        return {key: in_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [in_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


class RollBack(Exception):
    """The run is to go on from its newest checkpoint, with these images passed over."""

    def __init__(self, reason: str, skips: tuple[SkippedImages, ...]) -> None:
        super().__init__(reason)
        self.skips = skips


def roll_back(recipe: TrainRecipe, step: PlannedStep, state: State, reason: str) -> None:
    """Ask for a roll-back past the images of a step, unless the recipe's are used up.

    Args:
        state: of the run before the step.
        reason: for people.

    Raises:
        RollBack: the recipe still grants one.
    """
    if len(state.skips) < recipe.rollback:
        skip = SkippedImages(after_images=step.num_images, images=step.batch_size)
        raise RollBack(reason, (*state.skips, skip))


@dataclass(frozen=True)
class StepGuard:
    """Watches over the steps of a run; on all ranks alike, since what a step tells is the same on all."""

    recipe: TrainRecipe
    incidents: Incidents
    on_note: Callable[[str], None]

    def not_finite(self, step: PlannedStep, problem: NotFinite, state: State) -> NoReturn:
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

    def spikes(self, step: PlannedStep, result: StepResult, state: State) -> int:
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
