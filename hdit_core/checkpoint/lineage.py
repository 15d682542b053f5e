"""RUN/lineage.json: the runs that a run was forked from, oldest first, with step and changes of each fork."""

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from hdit_core.errors import UsageError
from hdit_core.files import read_bytes, write_atomic
from hdit_core.recipe.diff import show_value

LINEAGE = "lineage.json"

Part = Literal["optimizer", "ema", "counter"]


class Fork(BaseModel):
    """One fork.

    Attributes:
        run: the parent.
        step, num_images: of the parent's checkpoint.
        elapsed_s: training time up to it; None in files of older versions.
        reset: parts of the parent's state that were not taken over.
        changes: recipe keys with the values of parent and child; `data set` with the hashes of the data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    step: int
    num_images: int
    elapsed_s: float | None = None
    reset: tuple[Part, ...] = ()
    changes: dict[str, tuple[Any, Any]] = {}

    def __str__(self) -> str:
        parts = [f"{self.run} at step {self.step} ({self.num_images:,} images)"]
        if self.reset:
            parts.append(f"reset {', '.join(self.reset)}")
        parts += [f"{key} {show_value(before)} -> {show_value(after)}" for key, (before, after) in self.changes.items()]
        return "; ".join(parts)


_LIST = TypeAdapter(tuple[Fork, ...])


def read_lineage(run: Path) -> tuple[Fork, ...]:
    """Return the forks that led to a run, oldest first; empty if it is not a fork.

    Raises:
        UsageError: the file is damaged.
    """
    path = run / LINEAGE
    try:
        return _LIST.validate_json(read_bytes(path)) if path.exists() else ()
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise UsageError(f"{path}: damaged ({problem}); restore it from a copy, or remove it") from None


def write_lineage(run: Path, forks: tuple[Fork, ...]) -> None:
    """Write the forks that led to a run."""
    write_atomic(run / LINEAGE, json.dumps([fork.model_dump(mode="json") for fork in forks], indent=1) + "\n")
