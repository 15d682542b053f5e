"""The folder of a run: begun, recognised and resumed, or refused because it holds something else or is at work."""

import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hdit_core.checkpoint.layout import recipe_file
from hdit_core.errors import RecipeError, UsageError
from hdit_core.files import write_atomic
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


def _flat(table: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def check_same(run: Path, recipe: Recipe) -> None:
    """Refuse a recipe by which a run that has begun cannot go on.

    Raises:
        UsageError: naming the keys that differ, or saying why the run's own recipe cannot be read.
    """
    try:
        before = _flat(read_recipe(str(recipe_file(run))).model_dump(mode="json"))
    except RecipeError as error:
        problems = "; ".join(str(error).splitlines())
        raise UsageError(f"{run}: its recipe cannot be read, so that the run cannot go on: {problems}") from None
    now = _flat(recipe.model_dump(mode="json"))
    decisive = ("train.num_images",) if recipe.train.schedule == "cosine" else ()  # each of its steps knows the end
    changed = [
        key
        for key in now | before
        if now.get(key) != before.get(key) and (key in decisive or not key.startswith(MAY_CHANGE))
    ]
    if changed:
        details = "; ".join(f"{key} is {before.get(key)!r} there and {now.get(key)!r} here" for key in changed[:3])
        more = f"; and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise UsageError(f"{run}: holds another run: {details}{more}. Give another folder with --out")


def _is_free(folder: Path) -> bool:
    return folder.is_dir() and all(path.name == LOCK for path in folder.iterdir())


@contextmanager
def _locked(run: Path) -> Iterator[None]:
    """Hold the run's lock, which the kernel takes back when this process ends, however it ends.

    A record lock: a forked process that reads images does not inherit it, so that it never outlives its holder, as one
    of flock's would after a kill; and network file systems have it.
    """
    with os.fdopen(os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+") as file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):  # both are how systems say that it is taken
            raise UsageError(
                f"{run}: another hdit train is at work in it ({file.readline().strip()}); wait for it, end it with "
                f"`touch {run / 'STOP'}`, or give another folder with --out"
            ) from None
        except OSError as problem:
            warnings.warn(
                f"{run}: its file system has no locks ({problem.strerror}); let no other hdit train into it",
                stacklevel=2,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        yield


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
