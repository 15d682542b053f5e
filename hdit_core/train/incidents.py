"""RUN/incidents/step-N.json: everything that went into a step that went wrong, to be looked at and done again.

Everything random about an image is a function of the run's seed and the image's number in the run; the file names both,
the image in the data set, its noise level and its loss.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hdit_core.checkpoint.layout import incident_file
from hdit_core.checkpoint.state import State
from hdit_core.data.reader import ImageReader
from hdit_core.distributed import World
from hdit_core.files import write_whole
from hdit_core.recipe.run import Recipe
from hdit_core.train.feed import order_of_run
from hdit_core.train.plan import Step
from hdit_core.train.result import StepResult
from hdit_core.train.spikes import Spike

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

    def write(self, kind: Kind, step: Step, result: StepResult, state: State, spikes: Sequence[Spike] = ()) -> str:
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
        self, path: Path, kind: Kind, step: Step, result: StepResult, state: State, spikes: Sequence[Spike]
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
        write_whole(path, json.dumps(in_json(record), indent=1, allow_nan=False) + "\n")

    def _images(self, step: Step, result: StepResult, state: State) -> list[dict[str, Any]]:
        numbers = np.arange(step.first, step.first + step.batch_size)
        indices = order_of_run(self.recipe, self.reader, state.skips).images_at(numbers).tolist()
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
