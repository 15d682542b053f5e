"""Checks that a data set fits a recipe: sizes, classes, data type, conditions, and sigma_data."""

import logging

from hdit_core.data.format.manifest import sigma_data
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.loader.conditioning import conditioning_of
from hdit_core.data.loader.reader import ImageReader
from hdit_core.errors import DataError
from hdit_core.recipe.data import ConditionRecipe, DataRecipe
from hdit_core.recipe.run import Recipe

logger = logging.getLogger("hdit")

SIGMA_DATA_TOLERANCE = 0.2
"""Relative difference to the measured standard deviation above which a run warns."""


def check_data(recipe: Recipe, reader: ImageReader) -> None:
    """Check that the images and classes of a data set fit the recipe's network.

    Raises:
        DataError: they do not; the message names the values found and expected.
    """
    model, shape, buckets = recipe.model, reader.manifest.image_shape, reader.manifest.contents.buckets
    expected = (*model.image_size, model.channels)
    if shape[2] != expected[2] or (shape != expected and not buckets):
        option, key = ("that --size", "image_size")
        if shape[2] != expected[2]:
            option, key = (f"--channels {expected[2]}", "channels")
        sizes = ["x".join(map(str, size)) for size in (shape, expected)]
        raise DataError(
            f"{recipe.data.path}: has images of {sizes[0]} (height x width x channels), the recipe's network takes "
            f"{sizes[1]}; prepare the data again with {option}, or change model.{key}"
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
    """Refuse a data type or range that differs from the recipe: samples and inputs would have wrong values."""
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


def warn_about_sigma_data(recipe: Recipe, reader: ImageReader) -> None:
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
