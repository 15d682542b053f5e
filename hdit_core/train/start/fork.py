"""`hdit train --from RUN[@STEP]`: a new run that continues from a checkpoint of another one, with changed settings.

It takes over weights, optimizer state, EMA weights, counters and the position in the data. A fork without a change
equals a resumed run, bit for bit.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

import torch

from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders, checkpoint_step, run_and_step
from hdit_core.checkpoint.lineage import Fork, Part, read_lineage
from hdit_core.checkpoint.load import Checkpoint, newest_checkpoint, open_checkpoint
from hdit_core.checkpoint.state import State, StepHistory
from hdit_core.errors import CheckpointError, UsageError
from hdit_core.model.hourglass import HourglassTransformer
from hdit_core.recipe.diff import Difference, differences
from hdit_core.recipe.run import Recipe
from hdit_core.recipe.train import TrainRecipe
from hdit_core.train.optim.lr_schedule import cooldown_jump

logger = logging.getLogger("hdit")


@dataclass(frozen=True)
class ForkSource:
    """Where a fork begins: a run, the step of its checkpoint (None: the newest), and the parts not to take over."""

    run: Path
    step: int | None = None
    reset: tuple[Part, ...] = ()


def parse_source(text: str, reset: Sequence[str] = ()) -> ForkSource:
    """Read `RUN` or `RUN@STEP`, and the names of the parts to reset.

    Raises:
        UsageError: a part is unknown.
    """
    parts = get_args(Part)
    for name in reset:
        if name not in parts:
            raise UsageError(f"--reset {name}: expected {', '.join(parts)}")
    run, step = run_and_step(Path(text).expanduser())
    return ForkSource(run, step, tuple(part for part in parts if part in reset))


def open_parent(source: ForkSource) -> Checkpoint:
    """Return the checkpoint that a fork begins with.

    Raises:
        CheckpointError: the run has no such checkpoint, or it is damaged.
    """
    folders = checkpoint_folders(source.run)
    if not folders:
        found = "has no checkpoint" if source.run.exists() else "does not exist"
        raise CheckpointError(f"--from {source.run}: {found}; expected RUN or RUN@STEP, such as runs/a@1500")
    if source.step is None:
        checkpoint, problems = newest_checkpoint(source.run)
        for problem in problems:
            logger.warning("skipped: %s", problem)
        assert checkpoint is not None  # there are folders
        return checkpoint
    folder = checkpoint_folder(source.run, source.step)
    if folder not in folders:
        steps = ", ".join(str(checkpoint_step(path)) for path in folders)
        raise CheckpointError(f"--from {source.run}@{source.step}: no checkpoint of this step; there are {steps}")
    return open_checkpoint(folder)


def source_of(fork: Fork) -> ForkSource:
    """Return where a recorded fork began."""
    return ForkSource(Path(fork.run), fork.step, fork.reset)


def check_forked_from(run: Path, source: ForkSource) -> None:
    """Check that an existing run was forked from this source, so that the same command resumes it.

    Raises:
        UsageError: it was not.
    """
    lineage = read_lineage(run)
    known = source_of(lineage[-1]) if lineage else None
    wanted = replace(
        source, run=source.run.resolve(), step=known.step if known and source.step is None else source.step
    )
    if known != wanted:
        origin = f"was forked from {lineage[-1]}" if lineage else "was not forked"
        raise UsageError(
            f"{run}: is a run already, and {origin}; to resume it, leave out --from and --reset; to fork again, use "
            "another directory with --out"
        )


def check_fork(parent: Checkpoint, recipe: Recipe, num_sizes: int, source: ForkSource) -> None:
    """Check that the state of a checkpoint allows the changes of a recipe, and warn if the learning rate jumps.

    Args:
        parent: the checkpoint.
        recipe: of the fork.
        num_sizes: number of image sizes of its data set.
        source: names the parent, and what is reset.

    Raises:
        UsageError: it does not; names the key and the reason.
    """
    before, state = parent.recipe, parent.state
    where = f"--from {source.run}@{state.step}"
    _check_network(before, recipe, where)
    if before.train.optimizer != recipe.train.optimizer and "optimizer" not in source.reset:
        raise UsageError(
            f"{where}: train.optimizer is {before.train.optimizer!r} there and {recipe.train.optimizer!r} here, and "
            "their states differ; add --reset optimizer"
        )
    new = sorted(set(recipe.train.ema_profiles) - set(before.train.ema_profiles))
    if new and "ema" not in source.reset:
        raise UsageError(
            f"{where}: train.ema_profiles has {new[0]}, an EMA that the parent did not track; leave it out, or add "
            "--reset ema to start all EMAs from the current weights"
        )
    if recipe.train.init_from not in (None, before.train.init_from):
        raise UsageError(f"{where}: train.init_from also gives initial weights; leave out one of them")
    if "counter" not in source.reset:
        _check_position(state, recipe, num_sizes, where)
        _warn_of_jump(before.train, recipe.train, state.num_images)


def fork_state(parent: Checkpoint, source: ForkSource, data_hash: str) -> State:
    """Return the state that a fork begins with."""
    state = parent.state
    if state.data_hash != data_hash:  # indices of damaged images are those of the other data set
        memory = state.memory.model_copy(update={"damaged": {}})
        state = state.model_copy(update={"data_hash": data_hash, "memory": memory})
    if "counter" not in source.reset:
        return state
    memory = StepHistory(damaged=state.memory.damaged)
    changes = {"step": 0, "num_images": 0, "elapsed_s": 0.0, "skips": (), "memory": memory}
    return state.model_copy(update=changes)


def forks_of(parent: Checkpoint, recipe: Recipe, source: ForkSource, data_hash: str) -> tuple[Fork, ...]:
    """Return the lineage of a new fork: that of its parent, and the fork itself."""
    changes = {key: (old, new) for key, old, new in _changes(parent.recipe, recipe)}
    if parent.state.data_hash != data_hash:
        changes["data set"] = (parent.state.data_hash[:16], data_hash[:16])
    run, state = str(source.run.resolve()), parent.state
    counts = {"step": state.step, "num_images": state.num_images, "elapsed_s": state.elapsed_s}
    fork = Fork(run=run, **counts, reset=source.reset, changes=changes)
    return (*read_lineage(source.run), fork)


def _changes(before: Recipe, after: Recipe) -> list[Difference]:
    return differences(before.model_dump(mode="json"), after.model_dump(mode="json"))


def _check_network(before: Recipe, after: Recipe, where: str) -> None:
    with torch.device("meta"):
        networks = [HourglassTransformer(recipe.model).state_dict() for recipe in (before, after)]
    old, new = ({name: tensor.shape for name, tensor in network.items()} for network in networks)
    unlike = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    if unlike:
        keys = ", ".join(key for key, *_ in _changes(before, after) if key.startswith("model."))
        raise UsageError(
            f"{where}: the network is another one ({keys}): the tensor {unlike[0]} does not fit. Keep [model] as it "
            "was, or start a new run with train.init_from, which can add outer levels"
        )


def _check_position(state: State, recipe: Recipe, num_sizes: int, where: str) -> None:
    train, seen = recipe.train, state.num_images
    if seen >= train.num_images:
        raise UsageError(
            f"{where}: was trained on {seen:,} images, train.num_images is {train.num_images:,}: nothing is left to "
            "do. Raise it, or add --reset counter to count from 0"
        )
    starts = [0, *(growth.after_images for growth in train.batch_growth)]
    start = max(mark for mark in starts if mark <= seen)
    if num_sizes > 1 and (seen - start) % train.batch_size_at(seen):
        raise UsageError(
            f"{where}: images of several sizes come in whole batches, and {seen:,} images are not a multiple of "
            f"train.batch_size = {train.batch_size_at(seen)}; use a divisor of {seen - start}, or add --reset counter"
        )


def _warn_of_jump(before: TrainRecipe, after: TrainRecipe, num_images: int) -> None:
    if rates := cooldown_jump(before, after, num_images):
        logger.warning(
            "the parent's cool-down had begun: the learning rate jumps from %.3g to %.3g; to avoid it, use --from "
            "RUN@STEP with a checkpoint from before %s images",
            *rates,
            f"{before.num_images - before.cooldown_length:,}",
        )
