"""What a run needs before it touches its folder: the ranks, their devices, and data that fits the recipe."""

import logging
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from hdit_core.data.format.manifest import sigma_data
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.loader.build import open_reader
from hdit_core.data.loader.conditioning import conditioning_of
from hdit_core.data.loader.reader import ImageReader
from hdit_core.devices import compute_dtype, disable_tf32
from hdit_core.distributed import World, init_ranks
from hdit_core.errors import DataError
from hdit_core.model.attention.backends import selected_backends
from hdit_core.model.native.rowwise import kernels_note
from hdit_core.recipe.data import ConditionRecipe, DataRecipe
from hdit_core.recipe.run import Recipe
from hdit_core.train.deterministic import deterministic
from hdit_core.train.monitor.callbacks import Callbacks
from hdit_core.train.parallel.rank_failure import RankFailureDetector
from hdit_core.train.step.batch_plan import check_world

logger = logging.getLogger("hdit")

SIGMA_DATA_TOLERANCE = 0.2
"""Relative difference to the measured standard deviation above which a run warns."""


@dataclass(frozen=True)
class RunContext:
    """What the parts of a run share.

    Attributes:
        folder: of the run; dry runs and replays write nothing there.
        deterministic: whether all operations are, as `--deterministic` asks.
    """

    recipe: Recipe
    folder: Path
    world: World
    reader: ImageReader
    callbacks: Callbacks
    failures: RankFailureDetector
    deterministic: bool


@contextmanager
def run_context(
    recipe: Recipe, folder: Path, device: str, callbacks: Callbacks, wants_deterministic: bool = False
) -> Iterator[RunContext]:
    """Join the ranks and open the data set; leave the ranks after the body.

    Args:
        device: `"auto"`, `"cpu"`, `"cuda"`, ...
        wants_deterministic: whether `--deterministic` is given.

    Raises:
        UsageError: the ranks cannot share the batch, the attention backend cannot run on the device, or deterministic
            algorithms are not available.
        DataError: the data set is missing, damaged, or does not fit the recipe's network.
        HditError: another rank failed.
    """
    mode = deterministic(recipe.train, device) if wants_deterministic else nullcontext()
    with (
        mode,
        init_ranks(device, recipe.train.rank_timeout_s) as world,
        closing(RankFailureDetector(world)) as failures,
        failures.watching(),
    ):
        check_world(recipe.train, world)
        disable_tf32()
        dtype = compute_dtype(recipe.train.precision, world.device)
        if world.device.type == "cuda":
            products = "bfloat16 for matrix products, otherwise " if dtype == torch.bfloat16 else ""
            logger.info("precision: %sfloat32 without TF32", products)
        for choice in selected_backends(recipe.model, world.device, dtype):
            logger.info(choice.note)
        if note := kernels_note(world.device, dtype):
            logger.info(note)
        reader = open_reader(recipe.data)
        check_data(recipe, reader)
        _warn_of_sigma_data(recipe, reader)
        yield RunContext(recipe, folder, world, reader, callbacks, failures, wants_deterministic)


def check_data(recipe: Recipe, reader: ImageReader) -> None:
    """Check that the images and classes of a data set fit the recipe's network.

    Raises:
        DataError: they do not; says what was found and what was expected.
    """
    model, shape, buckets = recipe.model, reader.manifest.image_shape, reader.manifest.contents.buckets
    expected = (*model.image_size, model.channels)
    if shape[2] != expected[2] or (shape != expected and not buckets):
        sizes = ["x".join(map(str, size)) for size in (shape, expected)]
        raise DataError(
            f"{recipe.data.path}: has images of {sizes[0]} (height x width x channels), the recipe's network takes "
            f"{sizes[1]}; prepare the data again with that --size, or change model.image_size"
        )
    for size in buckets:
        for _, problem in model.size_problems((size.height, size.width)):
            raise DataError(
                f"{recipe.data.path}: has images of {size.height}x{size.width}, which the recipe's network does not "
                f"take: {problem}"
            )
    _check_pixels(recipe, reader)
    if model.num_classes and model.num_classes != reader.num_classes:
        raise DataError(
            f"{recipe.data.path}: has {reader.num_classes} classes, model.num_classes is {model.num_classes}; change "
            "it, or set it to 0 to train without classes"
        )
    conditioning_of(recipe).check(reader)


def _check_pixels(recipe: Recipe, reader: ImageReader) -> None:
    """Refuse another data type or range than the recipe says: samples and inputs would have wrong values."""
    contents = reader.manifest.contents
    tables: list[tuple[str, PixelFormat, DataRecipe | ConditionRecipe]] = [("data", contents.pixels, recipe.data)]
    if contents.condition is not None and recipe.condition_image_channels and not recipe.condition.degrade:
        tables.append(("condition", contents.condition.pixels, recipe.condition))
    for table, found, said in tables:
        if (found.dtype, found.value_range) != (said.dtype, said.value_range):
            ranges, other = ([list(pair) for pair in each.value_range] for each in (found, said))
            images = "images" if table == "data" else "condition images"
            raise DataError(
                f"{recipe.data.path}: has {images} of type {found.dtype} with the range {ranges}, the recipe says "
                f"{said.dtype} with {other}; set {table}.dtype = '{found.dtype}' and {table}.value_range = {ranges}"
            )


def _warn_of_sigma_data(recipe: Recipe, reader: ImageReader) -> None:
    """Warn if the recipe's sigma_data is far from the standard deviation of the data set's pixels."""
    measured, configured = sigma_data(reader.manifest), recipe.diffusion.sigma_data
    if measured and abs(configured / measured - 1) > SIGMA_DATA_TOLERANCE:
        logger.warning(
            "diffusion.sigma_data is %g, but the pixels of %s have a standard deviation of %.3g; for a new run use "
            "--set diffusion.sigma_data=%.3g",
            configured,
            recipe.data.path,
            measured,
            measured,
        )
