"""The status of a run, running or not."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.layout import checkpoint_folders, checkpoint_step, recipe_file
from hdit_core.checkpoint.lineage import Fork, read_lineage
from hdit_core.checkpoint.load import open_checkpoint
from hdit_core.checkpoint.log import read_log, read_scores
from hdit_core.checkpoint.status import read_status, updated
from hdit_core.data.format.retry_reads import is_storage_error
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.files import read_json
from hdit_core.recipe.read import read_recipe
from hdit_core.recipe.run import Recipe

LARGEST_INCIDENT_BYTES = 16 << 20
COUNTS = ("step", "num_images")  # keys of a line of the scores; the others are scores


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint; `problem` is None if it is valid."""

    step: int
    size_bytes: int
    problem: str | None


@dataclass(frozen=True)
class Incident:
    """An anomaly report: a non-finite loss or a loss spike."""

    file: str
    kind: str
    step: int
    loss: float | str
    grad_norm: float | str


@dataclass(frozen=True)
class RunSummary:
    """The status of a run.

    Attributes:
        state: running, preempted, done, failed, or unknown; a killed run is still `running`.
        updated: when that was written, in local time; a running process does so at least once a minute.
        reason: why it failed or was stopped.
        last: the last line of the log.
        seconds_left: remaining time at the speed of that line; None if unknown.
        checkpoints: newest first.
        scores: the last line of the scores.
        lineage: the forks that led to the run, oldest first.
    """

    run: str
    state: str
    updated: str | None
    reason: str | None
    step: int
    num_images: int
    total_images: int
    parameters: int
    last: dict[str, Any]
    seconds_left: float | None
    checkpoints: tuple[CheckpointInfo, ...]
    incidents: tuple[Incident, ...]
    scores: dict[str, Any]
    lineage: tuple[Fork, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return asdict(self) | {"lineage": [fork.model_dump(mode="json") for fork in self.lineage]}


def recipe_of(run: Path) -> Recipe:
    """Return the recipe of a run.

    Raises:
        UsageError: there is no such folder, or it is not a run.
        RecipeError: the recipe cannot be read.
    """
    if not run.is_dir():
        raise UsageError(f"{run}: no such directory")
    if not recipe_file(run).is_file():
        raise UsageError(f"{run}: is not a run of hdit: there is no {recipe_file(run).name} in it")
    return read_recipe(str(recipe_file(run)))


def summarize(run: Path) -> RunSummary:
    """Return the status of a run; every checkpoint is read and verified.

    Raises:
        UsageError: the folder is not a run, or its recipe cannot be read.
    """
    from hdit_core.flops.count import count

    recipe, status, log = recipe_of(run), read_status(run), read_log(run)
    last = log[-1] if log else {}
    records = [status, status.get("progress") or {}, last]
    step, num_images = (max(int(record.get(name, 0)) for record in records) for name in ("step", "num_images"))
    speed, total = status.get("images_per_s") or last.get("images_per_s"), recipe.train.num_images
    scores = read_scores(run)
    return RunSummary(
        run=str(run),
        state=str(status.get("state", "unknown")),
        updated=updated(run),
        reason=status.get("reason"),
        step=step,
        num_images=num_images,
        total_images=total,
        parameters=count(recipe.model).parameters,
        last=last,
        seconds_left=max(0, total - num_images) / speed if speed else None,
        checkpoints=tuple(_saved_steps(checkpoint_folders(run))),
        incidents=tuple(_incidents(run)),
        scores=scores[-1] if scores else {},
        lineage=read_lineage(run),
    )


def _saved_steps(folders: Iterable[Path]) -> Iterator[CheckpointInfo]:
    """Verify checkpoints; skip one that a running process has removed meanwhile."""
    for folder in folders:
        try:
            saved = _saved_step(folder)
        except FileNotFoundError:
            continue
        if saved.problem is None or folder.exists():
            yield saved


def _saved_step(folder: Path) -> CheckpointInfo:
    problem = None
    try:
        open_checkpoint(folder)
    except CheckpointError as error:
        problem = str(error)
    size_bytes = sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
    return CheckpointInfo(checkpoint_step(folder), size_bytes, problem)


def _incidents(run: Path) -> list[Incident]:
    incidents = []
    for file in sorted((run / "incidents").glob("step-*.json")):
        try:
            record = read_json(file, LARGEST_INCIDENT_BYTES)
        except (OSError, ValueError) as problem:
            if is_storage_error(problem):
                raise
            continue
        if {"kind", "step", "loss", "grad_norm"} <= record.keys():
            where = str(file.relative_to(run))
            incidents.append(Incident(where, record["kind"], record["step"], record["loss"], record["grad_norm"]))
    return incidents
