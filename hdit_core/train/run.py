"""From a recipe and a directory to a finished run: starts it, forks it, or resumes its newest valid checkpoint."""

import gc
import logging
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders, log_file
from hdit_core.checkpoint.lineage import Fork, Part, read_lineage
from hdit_core.checkpoint.load import Checkpoint, newest_checkpoint, open_checkpoint
from hdit_core.checkpoint.state import SkippedImages, State
from hdit_core.checkpoint.status import read_status, recording_failure
from hdit_core.errors import CheckpointError
from hdit_core.files import remove_temporaries
from hdit_core.recipe.run import Recipe
from hdit_core.train.deterministic import kept_so_far, naming_operation
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.monitor.memory import memory_need, naming_memory
from hdit_core.train.monitor.rollback import RollBack
from hdit_core.train.monitor.trackers import check_trackers
from hdit_core.train.run_context import RunContext, run_context
from hdit_core.train.start.checks import check_data_folder, check_main_guard
from hdit_core.train.start.fork import (
    ForkSource,
    check_fork,
    check_forked_from,
    fork_state,
    forks_of,
    open_parent,
    source_of,
)
from hdit_core.train.start.init_from import NOTHING, InitialWeights, load_initial_weights
from hdit_core.train.start.run_folder import keep_recipe, locked_run_folder
from hdit_core.train.step.build import build_learner
from hdit_core.train.trainer import Trainer

logger = logging.getLogger("hdit")


def train(
    recipe: Recipe,
    run: Path | str,
    *,
    device: str = "auto",
    callbacks: Callbacks | None = None,
    deterministic: bool = False,
    fork: ForkSource | None = None,
) -> State:
    """Train a recipe in a directory and return the final state.

    An unfinished run of the same recipe in the directory is resumed exactly: on one machine the final weights are
    bit-identical to those of an uninterrupted run.

    Args:
        run: the run directory; created if it is missing.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        callbacks: called with the progress.
        deterministic: whether to use deterministic algorithms, and to fail if an operation has none.
        fork: the checkpoint of another run to continue from.

    Raises:
        UsageError: the directory contains another run or is in use, the ranks cannot share the batch, the attention
            backend cannot run on the device, or initial weights or a fork's state do not fit.
        DataError: the data set is missing, damaged, or does not fit the recipe's network.
        CheckpointError: no checkpoint is valid, it cannot be saved, or the source of the weights is not valid.
        NumericalError: the loss or the gradient is not finite.
        StoppedEarly: a signal or the stop file asked for it; everything is saved.
        HditError: another rank failed.
    """
    run, callbacks = Path(run), callbacks or Callbacks()
    _check_start(recipe, callbacks)
    with ExitStack() as stack:
        context = stack.enter_context(run_context(recipe, run, device, callbacks, deterministic))
        starts_new = fork is None and not checkpoint_folders(run)
        initial = load_initial_weights(recipe) if recipe.train.init_from and starts_new else NOTHING
        context.world.on_main_rank(lambda: _prepare_folder(context, fork, stack))
        for reporter in _failure_reporters(context):
            stack.enter_context(reporter)
        return _fit(context, initial)


def _failure_reporters(context: RunContext) -> tuple[AbstractContextManager[None], ...]:
    """Return what reports a failure of the run: in its status, to other ranks, and by operation and memory."""
    return (
        recording_failure(context.folder, context.world.is_main),
        context.failures.watching(),
        naming_operation(),
        naming_memory(context.recipe, context.world),
    )


def _check_start(recipe: Recipe, callbacks: Callbacks) -> None:
    """Check everything that can be checked before a rank is started."""
    check_main_guard(recipe.data.workers)
    check_data_folder(recipe)
    check_trackers(callbacks.trackers)


def _fit(context: RunContext, initial: InitialWeights) -> State:
    """Train to the end; after a loss spike, go back to the last checkpoint if the recipe allows it."""
    context.log_setup()
    need = memory_need(context.recipe, context.world)
    if not need.fits:
        logger.warning("the memory may not suffice: %s; %s", need, need.advice)
    skips: tuple[SkippedImages, ...] | None = None
    while True:
        try:
            return _trainer(context, skips, initial).fit()
        except RollBack as problem:
            logger.warning("%s; back to the last checkpoint, skipping the images of that step", str(problem))
            skips = problem.skips
        gc.collect()  # the former trainer is in reference cycles, with its weights and its optimizer's state


@dataclass(frozen=True)
class _Start:
    """What a run begins with."""

    state: State
    checkpoint: Checkpoint | None = None
    reset: tuple[Part, ...] = ()
    is_saved: bool = True


def _trainer(context: RunContext, skips: tuple[SkippedImages, ...] | None, initial: InitialWeights) -> Trainer:
    """Build the trainer that continues from the newest checkpoint, the parent's, or the initial weights.

    Args:
        skips: images to skip; None: those of the checkpoint.
    """
    recipe, run, world = context.recipe, context.folder, context.world
    start = _start(context, initial)
    initial = initial if start.checkpoint is None else NOTHING
    for note in initial.notes:
        logger.info(note)
    learner = build_learner(recipe, start.checkpoint, world, initial.tensors, start.reset)
    world.on_main_rank(lambda: keep_recipe(run, recipe))
    _note_if_nothing_is_left(context, start.state)
    kept = kept_so_far(start.state, context.deterministic)
    changed = {"world_size": world.size, "deterministic": kept} | ({} if skips is None else {"skips": skips})
    return Trainer(context, learner, start.state.model_copy(update=changed), start.is_saved)


def _start(context: RunContext, initial: InitialWeights) -> _Start:
    """Return the start of the run, the same on all ranks."""
    checkpoint, data_hash = _find_checkpoint(context), context.reader.manifest.root
    if checkpoint is not None:
        return _Start(checkpoint.state, checkpoint)
    record = context.world.on_main_rank(lambda: [fork.model_dump(mode="json") for fork in read_lineage(context.folder)])
    if lineage := context.world.broadcast(record):
        source = source_of(Fork.model_validate(lineage[-1]))
        parent = open_parent(source)
        logger.info("forking %s", parent.folder)
        return _Start(fork_state(parent, source, data_hash), parent, source.reset, is_saved=False)
    state = State(step=0, num_images=0, data_hash=data_hash, init_from=initial.sha256)
    return _Start(state, is_saved=not initial.tensors)


def _note_if_nothing_is_left(context: RunContext, start: State) -> None:
    train = context.recipe.train
    if start.num_images >= train.num_images + train.batch_size_at(start.num_images):  # the last step may go beyond
        logger.info(
            "%s: was trained on %d images already, more than train.num_images = %d; nothing is left to do",
            context.folder,
            start.num_images,
            train.num_images,
        )


def _prepare_folder(context: RunContext, fork: ForkSource | None, stack: ExitStack) -> None:
    run, lineage = context.folder, tuple[Fork, ...]()
    if fork is not None and checkpoint_folders(run):
        check_forked_from(run, fork)
    elif fork is not None:
        parent = open_parent(fork)
        check_fork(parent, context.recipe, len(context.reader.manifest.contents.sizes), fork)
        lineage = forks_of(parent, context.recipe, fork, context.reader.manifest.root)
    stack.enter_context(locked_run_folder(run, context.recipe, lineage))
    remove_temporaries(run / "checkpoints")


def _find_checkpoint(context: RunContext) -> Checkpoint | None:
    """Return the checkpoint to resume from: the main rank finds and verifies it, the others open the same one."""
    run, world = context.folder, context.world

    def find() -> Checkpoint | None:
        checkpoint, problems = newest_checkpoint(run)
        for problem in problems:
            logger.warning("skipped: %s", problem)
        if checkpoint is not None:
            _check_data_hash(context, checkpoint)
            logger.info("resuming %s", checkpoint.folder)
        else:
            _check_new(run)
        return checkpoint

    checkpoint = world.on_main_rank(find)
    step = world.broadcast(checkpoint and checkpoint.state.step)
    if checkpoint is not None or step is None:
        return checkpoint
    return open_checkpoint(checkpoint_folder(run, step), verified=True)


def _check_new(run: Path) -> None:
    """Refuse to start over if the run has saved checkpoints according to its status."""
    if step := read_status(run).get("step"):
        raise CheckpointError(
            f"{run}: was at step {step}, but its checkpoints are gone; restore one to {run / 'checkpoints'}, or start "
            "a new run with --out"
        )
    if log_file(run).exists():
        logger.info("%s: has no checkpoint yet; starts again", run)


def _check_data_hash(context: RunContext, checkpoint: Checkpoint) -> None:
    reader, data_hash = context.reader, checkpoint.state.data_hash
    if data_hash != reader.manifest.root:
        raise CheckpointError(
            f"{context.folder}: was trained on the data set {data_hash[:16]}, {reader.folder} is "
            f"{reader.manifest.root[:16]}; use the same data, or fork the run: --out NEW --from {context.folder}"
        )
