"""The run directory: created, recognized and locked; refused if it contains another run or is in use."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hdit_core.checkpoint.layout import checkpoint_folders, checkpoint_step, recipe_file
from hdit_core.checkpoint.lineage import LINEAGE, Fork, write_lineage
from hdit_core.checkpoint.manifest import read_table
from hdit_core.checkpoint.status import read_status
from hdit_core.errors import CheckpointError, RecipeError, UsageError
from hdit_core.files import naming, read_text, write_atomic
from hdit_core.locks import LockHeldError, locked
from hdit_core.recipe.diff import describe_differences, differences
from hdit_core.recipe.read import read_recipe
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.write import recipe_toml
from hdit_core.train.optim.lr_schedule import cooldown_jump

LOCK = ".lock"

MAY_CHANGE = (
    "data.path",
    "data.cache_gb",
    "data.workers",
    "data.max_damaged",
    "model.attention_backend",
    "train.num_images",
    "train.ema_snapshot_every_images",
    "train.rollback",
    "train.micro_batch_size",
    "train.compile",
    "train.activation_checkpointing",
    "train.parallel",
    "train.shard_ranks",
    "train.rank_timeout_s",
    "train.log_every_images",
    "train.checkpoint_every_images",
    "train.keep_checkpoints",
    "train.keep_every_images",
    "train.sample_every_images",
    "train.eval_",
    "sample.",
    "evaluate.",
)
"""Recipe keys that may change when a run resumes; those that end in `_` or `.` are prefixes. All others shape the
weights. docs/training.md lists them."""


def check_same(run: Path, recipe: Recipe) -> None:
    """Check that a run can be resumed with a recipe.

    Raises:
        UsageError: names the keys that differ, or the reason why the run's own recipe cannot be read.
    """
    try:
        before = read_recipe(str(recipe_file(run)))
    except RecipeError as error:
        problems = "; ".join(str(error).splitlines())
        raise UsageError(f"{run}: its recipe cannot be read, so the run cannot be resumed: {problems}") from None
    fixed = ("train.num_images",) if recipe.train.schedule == "cosine" else ()  # all steps depend on the end
    same = [name for name in ("warmup", "cooldown") if _length(before, name) == _length(recipe, name)]
    changed = [
        (key, old, new)
        for key, old, new in differences(before.model_dump(mode="json"), recipe.model_dump(mode="json"))
        if key in fixed or not key.startswith((*MAY_CHANGE, *(f"train.{name}" for name in same)))
    ]
    if changed:
        raise UsageError(
            f"{run}: is a run with different settings: {describe_differences(changed, 'run', 'command')}. To continue "
            f"it with these settings as a new run: --out NEW --from {run}; to start over: --out NEW. In place may "
            f"change: {', '.join(key + '*' * key.endswith(('_', '.')) for key in MAY_CHANGE)}"
        )
    _check_cooldown(run, before, recipe)


def _length(recipe: Recipe, name: str) -> int:
    """Return the length of the warm-up or cool-down, whether it is given in images or as a fraction."""
    return recipe.train.warmup_length if name == "warmup" else recipe.train.cooldown_length


def _check_cooldown(run: Path, before: Recipe, after: Recipe) -> None:
    """Refuse another end of a run whose cool-down has begun: the learning rate would jump back."""
    num_images = read_status(run).get("num_images", 0)
    rates = cooldown_jump(before.train, after.train, num_images)
    if rates is None:
        return
    start = before.train.num_images - before.train.cooldown_length
    earlier = [folder for folder in checkpoint_folders(run) if _num_images(folder) <= start]
    hint = (
        f"Fork from a checkpoint before it: --out NEW --from {run}@{checkpoint_step(earlier[0])}"
        if earlier
        else "No checkpoint from before it is left (train.keep_every_images keeps some)"
    )
    raise UsageError(
        f"{run}: its cool-down began after {start:,} images and the run is at {num_images:,}; with train.num_images = "
        f"{after.train.num_images:,} the learning rate would jump from {rates[0]:.3g} to {rates[1]:.3g}. {hint}"
    )


def _num_images(folder: Path) -> int:
    try:
        return int(read_table(folder / "state.json")["num_images"])
    except (CheckpointError, OSError, KeyError, ValueError, TypeError):
        return 1 << 62


def _is_free(folder: Path) -> bool:
    return folder.is_dir() and all(path.name in (LOCK, LINEAGE) for path in folder.iterdir())


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Hold the run's lock, whose file names its holder."""
    try:
        with locked(run / LOCK) as descriptor:
            with naming(run / LOCK):
                os.truncate(descriptor, 0)
                os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            yield
    except LockHeldError:
        raise UsageError(
            f"{run}: another hdit train is running in it ({read_text(run / LOCK).strip()}); wait for it, stop it "
            f"with `touch {run / 'STOP'}`, or give another folder with --out"
        ) from None


def keep_recipe(run: Path, recipe: Recipe) -> None:
    """Write the recipe that a run has from now on."""
    write_atomic(recipe_file(run), recipe_toml(recipe))


@contextmanager
def locked_run_folder(run: Path, recipe: Recipe, lineage: tuple[Fork, ...] = ()) -> Iterator[None]:
    """Create the directory of a run, or check that it contains this run, and lock it while the body runs.

    The recipe of an existing run stays until `keep_recipe`, so that a refused change leaves no trace.

    Args:
        lineage: of a new run that is a fork.

    Raises:
        UsageError: the directory contains another run, other files, or a run that another process is training.
    """
    file = recipe_file(run)
    if not file.exists() and run.exists() and not _is_free(run):
        raise UsageError(f"{run}: exists and is not a run of hdit; use another directory with --out")
    run.mkdir(parents=True, exist_ok=True)
    with _locked(run):
        if file.exists():
            check_same(run, recipe)
        else:
            if lineage:
                write_lineage(run, lineage)
            keep_recipe(run, recipe)
        yield
