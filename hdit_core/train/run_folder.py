"""The folder of a run: begun, recognised and resumed, or refused because it holds something else or is at work."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hdit_core.checkpoint.layout import recipe_file
from hdit_core.errors import RecipeError, UsageError
from hdit_core.files import write_atomic
from hdit_core.locks import LockHeldError, locked
from hdit_core.recipe.diff import describe_differences, differences
from hdit_core.recipe.read import read_recipe
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.write import recipe_toml

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
"""Keys of a recipe that a run may go on with when they have changed. All others decide what the weights become."""


def check_same(run: Path, recipe: Recipe) -> None:
    """Refuse a recipe by which a run that has begun cannot go on.

    Raises:
        UsageError: naming the keys that differ, or saying why the run's own recipe cannot be read.
    """
    try:
        before = read_recipe(str(recipe_file(run)))
    except RecipeError as error:
        problems = "; ".join(str(error).splitlines())
        raise UsageError(f"{run}: its recipe cannot be read, so the run cannot be resumed: {problems}") from None
    decisive = ("train.num_images",) if recipe.train.schedule == "cosine" else ()  # each of its steps depends on it
    changed = [
        (key, old, new)
        for key, old, new in differences(before.model_dump(mode="json"), recipe.model_dump(mode="json"))
        if key in decisive or not key.startswith(MAY_CHANGE)
    ]
    if changed:
        raise UsageError(
            f"{run}: is a run with different settings: {describe_differences(changed, 'run', 'command')}. Give another "
            "folder with --out"
        )


def _is_free(folder: Path) -> bool:
    return folder.is_dir() and all(path.name == LOCK for path in folder.iterdir())


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Hold the run's lock, whose file names its holder."""
    try:
        with locked(run / LOCK) as descriptor:
            os.truncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            yield
    except LockHeldError:
        raise UsageError(
            f"{run}: another hdit train is running in it ({(run / LOCK).read_text().strip()}); wait for it, stop it "
            f"with `touch {run / 'STOP'}`, or give another folder with --out"
        ) from None


def keep_recipe(run: Path, recipe: Recipe) -> None:
    """Write the recipe that a run is trained by from here on."""
    write_atomic(recipe_file(run), recipe_toml(recipe))


@contextmanager
def locked_run_folder(run: Path, recipe: Recipe) -> Iterator[None]:
    """Make the folder of a run, or recognise it as this recipe's, and keep other processes out while the body runs.

    The recipe of a run that has begun stays as it is until `keep_recipe`: what the run cannot go on with leaves no
    trace in it.

    Raises:
        UsageError: the folder holds another run, files that are no run, or a run that another process is training.
    """
    file = recipe_file(run)
    if not file.exists() and run.exists() and not _is_free(run):
        raise UsageError(f"{run}: exists and is not a run of hdit; give another folder with --out")
    run.mkdir(parents=True, exist_ok=True)
    with _locked(run):
        if file.exists():
            check_same(run, recipe)
        else:
            keep_recipe(run, recipe)
        yield
