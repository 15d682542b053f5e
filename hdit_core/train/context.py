"""What a run needs before it touches its folder: its ranks, their device, and data that fits the recipe."""

from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass

from hdit_core.data.loader.build import open_reader
from hdit_core.data.loader.reader import ImageReader
from hdit_core.devices import compute_dtype
from hdit_core.distributed import World, init_ranks
from hdit_core.errors import DataError
from hdit_core.model.attention.backends import selected_backends
from hdit_core.model.native.rowwise import kernels_note
from hdit_core.recipe.run import Recipe
from hdit_core.train.deterministic import deterministic
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.parallel.rank_failure import RankFailureDetector
from hdit_core.train.step.batch_plan import check_world


@dataclass(frozen=True)
class RunContext:
    """Where a recipe is trained, and on what."""

    world: World
    reader: ImageReader
    roll_call: RankFailureDetector
    deterministic: bool  # whether all sums are, as `--deterministic` asks


@contextmanager
def run_context(recipe: Recipe, device: str, callbacks: Callbacks, in_one_order: bool = False) -> Iterator[RunContext]:
    """Join the ranks and open the data set; leave the ranks again after the body.

    Args:
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        callbacks: is told how attention and the like will be computed.
        in_one_order: whether `--deterministic` is asked for.

    Raises:
        UsageError: the ranks cannot share the batch, the recipe's attention backend cannot run on the device, or one
            order cannot be kept.
        DataError: the data set is missing, damaged, or not what the recipe's network takes.
        HditError: another rank is gone.
    """
    mode = deterministic(recipe.train, device, callbacks.on_note) if in_one_order else nullcontext()
    with mode, _joined(recipe, device, callbacks, in_one_order) as place:
        yield place


@contextmanager
def _joined(recipe: Recipe, device: str, callbacks: Callbacks, in_one_order: bool) -> Iterator[RunContext]:
    with (
        init_ranks(device, recipe.train.rank_timeout_s) as world,
        closing(RankFailureDetector(world)) as failures,
        failures.watching(),
    ):
        check_world(recipe.train, world)
        dtype = compute_dtype(recipe.train.precision, world.device)
        for choice in selected_backends(recipe.model, world.device, dtype):
            callbacks.on_note(choice.note)
        if note := kernels_note(world.device, dtype):
            callbacks.on_note(note)
        reader = open_reader(recipe.data)
        check_data(recipe, reader)
        yield RunContext(world, reader, failures, in_one_order)


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
