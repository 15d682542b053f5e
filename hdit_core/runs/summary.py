"""Runs looked at from outside, at work or not: how one stands, and in what two differ."""

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.layout import CHECKPOINT_NAME, checkpoint_folders, recipe_file
from hdit_core.checkpoint.load import open_checkpoint
from hdit_core.checkpoint.log import read_log, read_scores
from hdit_core.checkpoint.status import read_status
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.files import read_json
from hdit_core.recipe.read import read_recipe
from hdit_core.recipe.run import Recipe

LARGEST_INCIDENT_BYTES = 16 << 20
PLACES = ("step", "num_images")  # of a line of the scores; the rest are scores


@dataclass(frozen=True)
class CheckpointInfo:
    """A checkpoint; `problem` says what is damaged, None for an intact one."""

    step: int
    size_bytes: int
    problem: str | None


@dataclass(frozen=True)
class Incident:
    """What RUN/incidents says of a step that went wrong."""

    file: str
    kind: str
    step: int
    loss: float | str
    grad_norm: float | str


@dataclass(frozen=True)
class RunSummary:
    """How a run stands.

    Attributes:
        state: running, preempted, done, failed, or unknown; a run that was killed still says running.
        reason: why it failed or was preempted.
        last: the last line of the log.
        seconds_left: to the end, at the speed of that line; None where it is not known.
        checkpoints: newest first.
        scores: the last line of the scores.
    """

    run: str
    state: str
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

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def recipe_of(run: Path) -> Recipe:
    """Return the recipe that a run is trained by.

    Raises:
        UsageError: the folder is no run; a RecipeError, where its recipe cannot be read.
    """
    if not recipe_file(run).is_file():
        raise UsageError(f"{run}: is not a run of hdit: there is no {recipe_file(run).name} in it")
    return read_recipe(str(recipe_file(run)))


def summarize(run: Path) -> RunSummary:
    """Look at a run; every checkpoint is read and checked.

    Raises:
        UsageError: the folder is no run, or its recipe cannot be read.
    """
    from hdit_core.flops.count import count

    recipe, status, log = recipe_of(run), read_status(run), read_log(run)
    last = log[-1] if log else {}
    num_images = max(int(status.get("num_images", 0)), int(last.get("num_images", 0)))
    speed, total = last.get("images_per_s"), recipe.train.num_images
    scores = read_scores(run)
    return RunSummary(
        run=str(run),
        state=str(status.get("state", "unknown")),
        reason=status.get("reason"),
        step=max(int(status.get("step", 0)), int(last.get("step", 0))),
        num_images=num_images,
        total_images=total,
        parameters=count(recipe.model).parameters,
        last=last,
        seconds_left=max(0, total - num_images) / speed if speed else None,
        checkpoints=tuple(_saved_steps(checkpoint_folders(run))),
        incidents=tuple(_incidents(run)),
        scores=scores[-1] if scores else {},
    )


def _saved_steps(folders: Iterable[Path]) -> Iterator[CheckpointInfo]:
    """Look at checkpoints; one that the run at work has meanwhile removed is no damaged one."""
    for folder in folders:
        try:
            saved = _saved_step(folder)
        except FileNotFoundError:
            continue
        if saved.problem is None or folder.exists():
            yield saved


def _saved_step(folder: Path) -> CheckpointInfo:
    match, problem = CHECKPOINT_NAME.fullmatch(folder.name), None
    try:
        open_checkpoint(folder)
    except CheckpointError as error:
        problem = str(error)
    size_bytes = sum(file.stat().st_size for file in folder.iterdir()) if folder.is_dir() else 0
    return CheckpointInfo(int(match[1]) if match else 0, size_bytes, problem)


def _incidents(run: Path) -> list[Incident]:
    found = []
    for file in sorted((run / "incidents").glob("step-*.json")):
        try:
            record = read_json(file, LARGEST_INCIDENT_BYTES)
        except (OSError, ValueError):
            continue
        if {"kind", "step", "loss", "grad_norm"} <= record.keys():
            where = str(file.relative_to(run))
            found.append(Incident(where, record["kind"], record["step"], record["loss"], record["grad_norm"]))
    return found
