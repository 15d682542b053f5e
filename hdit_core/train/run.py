"""From a recipe and a folder to a finished run: begins it, or resumes it where its newest intact checkpoint stands."""

from contextlib import ExitStack
from pathlib import Path

from hdit_core.checkpoint.layout import checkpoint_folder, checkpoint_folders, log_file
from hdit_core.checkpoint.load import Checkpoint, newest_checkpoint, open_checkpoint
from hdit_core.checkpoint.state import SkippedImages, State
from hdit_core.checkpoint.status import read_status, recording_failure
from hdit_core.data.loader.reader import ImageReader
from hdit_core.distributed import World
from hdit_core.errors import CheckpointError
from hdit_core.files import remove_temporaries
from hdit_core.recipe.run import Recipe
from hdit_core.train.context import RunContext, run_context
from hdit_core.train.deterministic import kept_so_far, naming_operation
from hdit_core.train.init_from import NOTHING, InitialWeights, load_initial_weights
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.monitor.incidents import RollBack
from hdit_core.train.monitor.trackers import check_trackers
from hdit_core.train.run_folder import keep_recipe, locked_run_folder
from hdit_core.train.step.build import build_learner
from hdit_core.train.trainer import Trainer


def train(
    recipe: Recipe,
    run: Path,
    *,
    device: str = "auto",
    callbacks: Callbacks | None = None,
    deterministic: bool = False,
) -> State:
    """Train a recipe in a folder and return where the run stands in the end.

    The same call on a folder that holds an unfinished run of the same recipe goes on with it, exactly: on one machine
    the weights become those of a run that was never interrupted, bit for bit.

    Args:
        run: the run's folder; made where it is missing.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        callbacks: is told of progress.
        deterministic: whether every sum has to be in one order, on any device; what cannot keep it is refused.

    Raises:
        UsageError: the folder holds another run, another process trains in it, the ranks cannot share the batch, the
            recipe's attention backend cannot run on the device, the weights to begin with do not fit its network, or
            what is asked for cannot be kept.
        DataError: the data set is missing, damaged, or not what the recipe's network takes.
        CheckpointError: no checkpoint is intact, or it cannot be saved, or what `train.init_from` names is not.
        NumericalError: the loss or the gradient is not finite.
        StoppedEarly: a signal or the stop file asked for it; everything is saved.
        HditError: another rank is gone.
    """
    callbacks = callbacks or Callbacks()
    check_trackers(callbacks.trackers)
    with ExitStack() as held:
        place = held.enter_context(run_context(recipe, device, callbacks, deterministic))
        inherited = load_initial_weights(recipe) if recipe.train.init_from and not checkpoint_folders(run) else NOTHING
        place.world.on_main_rank(lambda: _prepare_folder(run, recipe, held))
        held.enter_context(recording_failure(run, place.world.is_main))
        held.enter_context(place.roll_call.watching())
        held.enter_context(naming_operation())
        skips: tuple[SkippedImages, ...] | None = None
        while True:
            try:
                return _trainer(recipe, run, place, callbacks, skips, inherited).fit()
            except RollBack as problem:
                callbacks.on_note(f"{problem}; back to the last checkpoint, and on without the images of that step")
                skips = problem.skips


def _trainer(
    recipe: Recipe,
    run: Path,
    context: RunContext,
    callbacks: Callbacks,
    skips: tuple[SkippedImages, ...] | None,
    inherited: InitialWeights,
) -> Trainer:
    """Build what trains from the newest checkpoint on, or from what it inherits.

    Args:
        skips: images to be passed over; None: those of the checkpoint.
    """
    world, reader = context.world, context.reader
    checkpoint = _find_checkpoint(run, reader, world, callbacks)
    inherited = inherited if checkpoint is None else NOTHING
    for note in inherited.notes:
        callbacks.on_note(note)
    learner = build_learner(recipe, checkpoint, world, world.device, callbacks.on_note, inherited.tensors)
    world.on_main_rank(lambda: keep_recipe(run, recipe))
    begin = State(step=0, num_images=0, data_hash=reader.manifest.root, init_from=inherited.sha256)
    start = checkpoint.state if checkpoint else begin
    _tell_if_overdone(run, start, recipe, callbacks)
    kept = kept_so_far(start, context.deterministic, callbacks.on_note)
    changed = {"world_size": world.size, "deterministic": kept} | ({} if skips is None else {"skips": skips})
    return Trainer(learner, reader, run, start.model_copy(update=changed), callbacks, is_saved=not inherited.tensors)


def _tell_if_overdone(run: Path, start: State, recipe: Recipe, callbacks: Callbacks) -> None:
    total, last = recipe.train.num_images, recipe.train.batch_size_at(start.num_images)
    if start.num_images >= total + last:  # the last step may go beyond by less than its images
        callbacks.on_note(
            f"{run}: was trained on {start.num_images} images already, more than train.num_images = {total}; nothing "
            "is left to do"
        )


def _prepare_folder(run: Path, recipe: Recipe, held: ExitStack) -> None:
    held.enter_context(locked_run_folder(run, recipe))
    remove_temporaries(run / "checkpoints")


def _find_checkpoint(run: Path, reader: ImageReader, world: World, callbacks: Callbacks) -> Checkpoint | None:
    """Return the checkpoint to resume from: the main rank finds and verifies it, the others open the same one."""

    def find() -> Checkpoint | None:
        checkpoint, complaints = newest_checkpoint(run)
        for complaint in complaints:
            callbacks.on_note(f"passed over: {complaint}")
        if checkpoint is not None:
            _check_data_hash(run, checkpoint, reader)
            callbacks.on_note(f"resuming {checkpoint.folder}")
        else:
            _check_new(run, callbacks)
        return checkpoint

    found = world.on_main_rank(find)
    step = world.broadcast(found and found.state.step)
    if found is not None or step is None:
        return found
    return open_checkpoint(checkpoint_folder(run, step), verified=True)


def _check_new(run: Path, callbacks: Callbacks) -> None:
    """Refuse to begin again where a run had been saved: that would throw away what it has learned.

    Its status tells of steps that were saved, its log of others too.
    """
    if step := read_status(run).get("step"):
        raise CheckpointError(
            f"{run}: stood at step {step}, and its checkpoints are gone; bring one back from a copy into "
            f"{run / 'checkpoints'}, or begin a new run with --out"
        )
    if log_file(run).exists():
        callbacks.on_note(f"{run}: has no checkpoint yet, and begins again at step 0")


def _check_data_hash(run: Path, checkpoint: Checkpoint, reader: ImageReader) -> None:
    if checkpoint.state.data_hash != reader.manifest.root:
        raise CheckpointError(
            f"{run}: was trained on the data set {checkpoint.state.data_hash[:16]}, {reader.folder} is "
            f"{reader.manifest.root[:16]}; give it its own data, or begin a new run with --out"
        )
