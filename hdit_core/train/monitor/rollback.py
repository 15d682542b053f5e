"""Non-finite steps and loss spikes: recorded in RUN/incidents, then the run ends, rolls back, or continues."""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from hdit_core.checkpoint.layout import incident_file
from hdit_core.checkpoint.state import SkippedImages, State
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.distributed import World
from hdit_core.errors import NumericalError
from hdit_core.files import write_atomic
from hdit_core.recipe.run import Recipe
from hdit_core.train.monitor.spikes import Spike, find_spikes
from hdit_core.train.step.batch_plan import PlannedStep
from hdit_core.train.step.dataloader import build_run_order
from hdit_core.train.step.result import NotFinite, StepResult

logger = logging.getLogger("hdit")

Kind = Literal["not finite", "spike"]
MOST_SPIKES = 100
"""Spike records that a run keeps at most, so that a diverging run cannot fill the disk. Non-finite steps end a run."""


class RollBack(Exception):
    """The run is to continue from its newest checkpoint and to skip these images."""

    def __init__(self, reason: str, skips: tuple[SkippedImages, ...]) -> None:
        super().__init__(reason)
        self.skips = skips


@dataclass(frozen=True)
class StepGuard:
    """Checks each step of a run, the same on all ranks: the result of a step is the same on all."""

    recipe: Recipe
    run: Path
    reader: ImageReader
    world: World

    def not_finite(self, step: PlannedStep, problem: NotFinite, state: State) -> NoReturn:
        """Record a step that was refused because its loss or gradient is not finite.

        Args:
            state: of the run before the step.

        Raises:
            RollBack: the recipe allows another one.
            NumericalError: it does not.
        """
        file = self._record("not finite", step, problem.result, state)
        self._roll_back(step, state, str(problem))
        raise NumericalError(f"{problem}. Recorded in {file}; to re-execute it, add --repro {step.number}") from None

    def spikes(self, step: PlannedStep, result: StepResult, state: State) -> int:
        """Return 1 if a step that was taken is a spike, else 0.

        Raises:
            RollBack: it is one, and the recipe allows another roll-back.
        """
        if not (spikes := find_spikes(state.memory, result)):
            return 0
        file = self._record("spike", step, result, state, spikes)
        text = f"step {step.number}: loss spike: {' and '.join(map(str, spikes))}"
        logger.warning("%s; recorded in %s", text, file)
        self._roll_back(step, state, text)
        return 1

    def _roll_back(self, step: PlannedStep, state: State, reason: str) -> None:
        if len(state.skips) < self.recipe.train.rollback:
            skip = SkippedImages(after_images=step.num_images, images=step.batch_size)
            raise RollBack(reason, (*state.skips, skip))

    def _record(
        self, kind: Kind, step: PlannedStep, result: StepResult, state: State, spikes: Sequence[Spike] = ()
    ) -> str:
        """Write the record of a step on the main rank; return its path, or why it could not be written."""
        path = incident_file(self.run, step.number, len(state.skips))
        if not self.world.is_main:
            return str(path)
        try:
            path.parent.mkdir(exist_ok=True)
            if kind == "not finite" or path.exists() or sum(1 for _ in path.parent.iterdir()) < MOST_SPIKES:
                record = in_json(self._fields(kind, step, result, state, spikes))
                write_atomic(path, json.dumps(record, indent=1, allow_nan=False) + "\n")
        except OSError as error:  # the step itself is the greater problem
            return f"no file, since {path} cannot be written ({error.strerror})"
        return str(path)

    def _fields(
        self, kind: Kind, step: PlannedStep, result: StepResult, state: State, spikes: Sequence[Spike]
    ) -> dict[str, Any]:
        images = self._images(step, result, state)
        return {
            "kind": kind,
            "step": step.number,
            "num_images": step.num_images,
            "loss": result.loss,
            "grad_norm": result.grad_norm,
            "grad_norm_by_part": dict(result.grad_norms),
            "spikes": [asdict(spike) for spike in spikes],
            "seed": self.recipe.train.seed,
            "skips": [skip.model_dump() for skip in state.skips],
            "world_size": self.world.size,
            "ranks": sorted({image["rank"] for image in images if not math.isfinite(image["loss"])}),
            "images": images,
        }

    def _images(self, step: PlannedStep, result: StepResult, state: State) -> list[dict[str, Any]]:
        numbers = np.arange(step.first, step.first + step.batch_size)
        indices = build_run_order(self.recipe, self.reader, state.skips).images_at(numbers).tolist()
        rows = zip(numbers.tolist(), indices, result.sigmas, result.losses, strict=True)
        share = step.batch_size // self.world.size
        return [
            {
                "number": number,
                "index": index,
                "where": self.reader.where(index),
                "rank": position // share,
                "sigma": sigma,
                "loss": loss,
            }
            for position, (number, index, sigma, loss) in enumerate(rows)
        ]


def in_json(value: Any) -> Any:
    """Return a document with `"nan"`, `"inf"` and `"-inf"` in place of the numbers that JSON lacks."""
    if isinstance(value, dict):
        return {key: in_json(each) for key, each in value.items()}
    if isinstance(value, list):
        return [in_json(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
