"""The training record of a network for its model card, from the run's files; any of them may be missing or damaged."""

from dataclasses import dataclass, field
from pathlib import Path

from hdit_core.checkpoint.layout import checkpoint_folders, local_model
from hdit_core.checkpoint.lineage import Fork, read_lineage
from hdit_core.checkpoint.load import newest_checkpoint, open_checkpoint
from hdit_core.checkpoint.log import read_log, read_scores
from hdit_core.checkpoint.state import State
from hdit_core.errors import CheckpointError
from hdit_core.generate.export.class_names import exported_classes, trained_classes
from hdit_core.recipe.run import Recipe

LAST_RECORDS = 10  # of the log, over which the final loss is averaged


@dataclass(frozen=True)
class TrainingRecord:
    """What is known about a training run; None where unknown.

    Attributes:
        state: of the checkpoint that contains the weights.
        loss: mean over the log's last records up to that checkpoint.
        scores: the last of each metric up to that checkpoint, by name.
        classes: names in index order.
        lineage: the forks that led to the run, oldest first.
    """

    state: State | None = None
    loss: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    classes: tuple[str, ...] = ()
    lineage: tuple[Fork, ...] = ()


def training_record(source: Path, recipe: Recipe) -> TrainingRecord:
    """Return the training record of weights.

    Args:
        source: a run or a checkpoint of a run; or an exported folder, which has class names alone, or a file.
        recipe: of the network; class names of a run are read from its data set where that exists and is unchanged.
    """
    folder = local_model(source)
    state, run = _state_and_run(folder)
    if state is None or run is None:
        return TrainingRecord(classes=exported_classes(folder, recipe))
    log = [line for line in read_log(run) if line["step"] <= state.step]
    losses = [line["loss"] for line in log if type(line.get("loss")) in (int, float)][-LAST_RECORDS:]
    scored = [line for line in read_scores(run) if line["step"] <= state.step]
    scores = {name: value for line in scored for name, value in line.items() if type(value) is float}
    loss = sum(losses) / len(losses) if losses else None
    return TrainingRecord(state, loss, scores, trained_classes(recipe, state), read_lineage(run))


def class_names(source: Path, recipe: Recipe) -> tuple[str, ...]:
    """Return the names of the classes of a run, a checkpoint or an exported folder; empty where they are unknown."""
    folder = local_model(source)
    newest = [folder] if (folder / "manifest.json").is_file() else checkpoint_folders(folder)[:1]
    if not newest:
        return exported_classes(folder, recipe)
    try:
        return trained_classes(recipe, open_checkpoint(newest[0], verified=True).state)
    except (CheckpointError, OSError):  # a run that trains has removed it
        return ()


def _state_and_run(source: Path) -> tuple[State | None, Path | None]:
    if (source / "manifest.json").is_file():
        return open_checkpoint(source).state, source.resolve().parents[1]
    if source.is_dir() and checkpoint_folders(source):
        checkpoint, _ = newest_checkpoint(source)
        return (checkpoint.state if checkpoint else None), source
    return None, None
