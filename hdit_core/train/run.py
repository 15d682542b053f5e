"""From a recipe and a folder to a finished run: begins it, or resumes it where its newest intact checkpoint stands."""

from contextlib import ExitStack
from pathlib import Path

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from hdit_core.checkpoint.denoiser import check_fit
from hdit_core.checkpoint.layout import checkpoint_folder
from hdit_core.checkpoint.load import Checkpoint, newest_checkpoint, open_checkpoint
from hdit_core.checkpoint.memory import Skip
from hdit_core.checkpoint.state import State
from hdit_core.data.opening import open_reader
from hdit_core.data.reader import ImageReader
from hdit_core.devices import compute_dtype, keep_freed_memory, pick_device
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World, join
from hdit_core.errors import CheckpointError, DataError
from hdit_core.files import remove_temporaries
from hdit_core.model.backends import chosen
from hdit_core.model.hourglass import HourglassTransformer, initialize
from hdit_core.model.native.rows import rows_note
from hdit_core.recipe.run import Recipe
from hdit_core.train.compiled import compile_network
from hdit_core.train.ema import Ema
from hdit_core.train.folder import claimed_folder, keep_recipe
from hdit_core.train.optimizer import load_optimizer_tensors, make_optimizer
from hdit_core.train.plan import check_world
from hdit_core.train.rollback import RollBack
from hdit_core.train.status import telling_failure
from hdit_core.train.step import Learner
from hdit_core.train.trainer import Trainer
from hdit_core.train.watching import Watcher


def train(recipe: Recipe, run: Path, *, device: str = "auto", watcher: Watcher | None = None) -> State:
    """Train a recipe in a folder and return where the run stands in the end.

    The same call on a folder that holds an unfinished run of the same recipe goes on with it, exactly: on one machine
    the weights become those of a run that was never interrupted, bit for bit.

    Args:
        run: the run's folder; made where it is missing.
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        watcher: is told of progress.

    Raises:
        UsageError: the folder holds another run, another process trains in it, the ranks cannot share the batch, or
            the recipe's attention backend cannot run on the device.
        DataError: the data set is missing, damaged, or not what the recipe's network takes.
        CheckpointError: no checkpoint is intact, or it cannot be saved.
        NumericalError: the loss or the gradient is not finite.
        StoppedEarly: a signal or the stop file asked for it; everything is saved.
    """
    world = join(device)
    with ExitStack() as held:
        held.callback(world.leave)
        check_world(recipe.train, world)
        here = world.device(pick_device(device))
        watcher = watcher or Watcher()
        dtype = compute_dtype(recipe.train.precision, here)
        for choice in chosen(recipe.model, here, dtype):
            watcher.on_note(choice.note)
        if note := rows_note(here, dtype):
            watcher.on_note(note)
        reader = open_reader(recipe.data)
        check_data(recipe, reader)
        world.lead(lambda: _prepare_folder(run, recipe, held), here)
        held.enter_context(telling_failure(run, world.is_main))
        skips: tuple[Skip, ...] | None = None
        while True:
            try:
                return _trainer(recipe, run, reader, world, here, watcher, skips).fit()
            except RollBack as problem:
                watcher.on_note(f"{problem}; back to the last checkpoint, and on without the images of that step")
                skips = problem.skips


def _trainer(
    recipe: Recipe,
    run: Path,
    reader: ImageReader,
    world: World,
    device: torch.device,
    watcher: Watcher,
    skips: tuple[Skip, ...] | None,
) -> Trainer:
    """Build what trains from the newest checkpoint on, with its own images to be passed over, or those given."""
    checkpoint = _find_checkpoint(run, reader, world, device, watcher)
    learner = make_learner(recipe, checkpoint, world, device)
    world.lead(lambda: keep_recipe(run, recipe), device)
    start = checkpoint.state if checkpoint else State(step=0, num_images=0, data_hash=reader.manifest.root)
    changed = {"world_size": world.size} | ({} if skips is None else {"skips": skips})
    return Trainer(learner, reader, run, start.model_copy(update=changed), watcher)


def check_data(recipe: Recipe, reader: ImageReader) -> None:
    """Refuse a data set whose images or classes are not what the recipe's network takes.

    Raises:
        DataError: saying what it holds and what was expected.
    """
    model, found, buckets = recipe.model, reader.manifest.image_shape, reader.manifest.contents.buckets
    expected = (*model.image_size, model.channels)
    if found[2] != expected[2] or (found != expected and not buckets):
        sizes = ["x".join(map(str, size)) for size in (found, expected)]
        raise DataError(
            f"{recipe.data.path}: holds images of {sizes[0]} (height x width x channels), the recipe's network takes "
            f"{sizes[1]}; prepare the data again with that --size, or change model.image_size"
        )
    for size in buckets:
        for _, problem in model.size_problems((size.height, size.width)):
            raise DataError(
                f"{recipe.data.path}: holds images of {size.height}x{size.width}, which the recipe's network does not "
                f"take: {problem}"
            )
    if model.num_classes and model.num_classes != reader.num_classes:
        raise DataError(
            f"{recipe.data.path}: holds {reader.num_classes} classes, model.num_classes is "
            f"{model.num_classes}; change it, or set it to 0 to train without classes"
        )


def _prepare_folder(run: Path, recipe: Recipe, held: ExitStack) -> None:
    held.enter_context(claimed_folder(run, recipe))
    remove_temporaries(run / "checkpoints")


def _find_checkpoint(
    run: Path, reader: ImageReader, world: World, device: torch.device, watcher: Watcher
) -> Checkpoint | None:
    """Return what the run goes on from: the main rank looks and verifies, the others open what it found."""
    found: list[Checkpoint] = []

    def look() -> None:
        checkpoint, complaints = newest_checkpoint(run)
        for complaint in complaints:
            watcher.on_note(f"passed over: {complaint}")
        if checkpoint is not None:
            _check_data_hash(run, checkpoint, reader)
            watcher.on_note(f"resuming {checkpoint.folder}")
            found.append(checkpoint)

    world.lead(look, device)
    chosen_step = world.union([checkpoint.state.step for checkpoint in found], device)
    if found or not chosen_step:
        return found[0] if found else None
    return open_checkpoint(checkpoint_folder(run, chosen_step[0]), verified=True)


def _check_data_hash(run: Path, checkpoint: Checkpoint, reader: ImageReader) -> None:
    if checkpoint.state.data_hash != reader.manifest.root:
        raise CheckpointError(
            f"{run}: was trained on the data set {checkpoint.state.data_hash[:16]}, {reader.folder} is "
            f"{reader.manifest.root[:16]}; give it its own data, or begin a new run with --out"
        )


def make_learner(recipe: Recipe, checkpoint: Checkpoint | None, world: World, device: torch.device) -> Learner:
    """Build what a run trains, as it begins, or as a checkpoint left it.

    Raises:
        CheckpointError: the tensors of the checkpoint are damaged, or not those of the recipe's network.
    """
    keep_freed_memory()
    network = HourglassTransformer(recipe.model)
    network.activation_checkpointing = recipe.train.activation_checkpointing
    initialize(network, recipe.train.seed)
    if checkpoint is not None:
        _load(network, checkpoint, "model")
    network.to(device)
    ema = Ema(network)
    optimizer = make_optimizer(network, recipe.train)
    if checkpoint is not None:
        _load(ema.network, checkpoint, "ema")
        load_optimizer_tensors(optimizer, network, checkpoint.tensors("optimizer"))
    denoiser = Denoiser(_wrapped(network, recipe, world), recipe)
    return Learner(recipe, denoiser, optimizer, ema, world, device, compute_dtype(recipe.train.precision, device))


def _load(network: nn.Module, checkpoint: Checkpoint, part: str) -> None:
    tensors = checkpoint.tensors(part)
    check_fit(network.state_dict(), tensors, str(checkpoint.folder / f"{part}.safetensors"))
    network.load_state_dict(tensors)


def _wrapped(network: HourglassTransformer, recipe: Recipe, world: World) -> nn.Module:
    if recipe.train.compile:
        compile_network(network)
    return DistributedDataParallel(network) if world.size > 1 else network
