"""Checks that a data set fits a recipe: sizes, classes, data type, conditions, sigma_data, and the scale of vectors."""

import logging
from collections.abc import Iterator

import numpy as np

from hdit_core.data.format.manifest import Contents, sigma_data
from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.data.loader.conditioning import conditioning_of
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.errors import DataError
from hdit_core.recipe.data import ConditionRecipe, DataRecipe
from hdit_core.recipe.run import Recipe

logger = logging.getLogger("hdit")

SIGMA_DATA_TOLERANCE = 0.2
"""Relative difference to the measured standard deviation above which a run warns."""

MOST_VECTORS = 1000  # read for their scale, evenly spaced
LARGEST_VECTOR_MEAN = 0.5
VECTOR_STD_RANGE = (0.5, 3.0)


def check_data(recipe: Recipe, reader: ImageReader) -> None:
    """Check that the images and classes of a data set fit the recipe's network.

    Raises:
        DataError: they do not; the message names all values found and expected.
    """
    if problems := list(data_problems(recipe, reader.manifest.contents)):
        raise DataError(f"{recipe.data.path}: {'; '.join(problems)}")


def data_problems(recipe: Recipe, contents: Contents) -> Iterator[str]:
    """Yield how the images, classes and conditions of a data set differ from those that the recipe's network takes."""
    yield from _shape_problems(recipe, contents)
    yield from _pixel_problems(recipe, contents)
    num_classes = len(contents.classes or ())
    if recipe.model.num_classes not in (0, num_classes):
        yield (
            f"has {num_classes} classes, model.num_classes is {recipe.model.num_classes}; change it, or set it to 0 to "
            "train without classes"
        )
    yield from conditioning_of(recipe).problems(contents)


def _shape_problems(recipe: Recipe, contents: Contents) -> Iterator[str]:
    model, shape = recipe.model, (contents.height, contents.width, contents.channels)
    expected = (*model.image_size, model.channels)
    other_size, other_channels = shape[:2] != expected[:2] and not contents.buckets, shape[2] != expected[2]
    if other_size or other_channels:
        changes = [("that --size", "model.image_size")] if other_size else []
        changes += [(f"--channels {expected[2]}", "model.channels")] if other_channels else []
        sizes = ["x".join(map(str, size)) for size in (shape, expected)]
        options, keys = (" and ".join(names) for names in zip(*changes, strict=True))
        yield (
            f"has images of {sizes[0]} (height x width x channels), the recipe's network takes {sizes[1]}; prepare the "
            f"data again with {options}, or change {keys}"
        )
    for size in contents.buckets:
        for _, problem in model.size_problems((size.height, size.width)):
            yield f"has images of {size.height}x{size.width}, which the recipe's network does not take: {problem}"


def _pixel_problems(recipe: Recipe, contents: Contents) -> Iterator[str]:
    """Yield data types and ranges that differ from the recipe: samples and inputs would have wrong values."""
    tables: list[tuple[str, PixelFormat, DataRecipe | ConditionRecipe]] = [("data", contents.pixels, recipe.data)]
    if contents.condition is not None and recipe.condition_image_channels and not recipe.condition.degrade:
        tables.append(("condition", contents.condition.pixels, recipe.condition))
    for table, found, expected in tables:
        if (found.dtype, found.value_range) != (expected.dtype, expected.value_range):
            ranges, other = ([list(pair) for pair in each.value_range] for each in (found, expected))
            images = "images" if table == "data" else "condition images"
            yield (
                f"has {images} of type {found.dtype} with the range {ranges}, the recipe says {expected.dtype} with "
                f"{other}; set {table}.dtype = '{found.dtype}' and {table}.value_range = {ranges}"
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


def warn_about_vectors(recipe: Recipe, reader: ImageReader) -> None:
    """Warn if the vectors of a data set are far from a mean of 0 and a standard deviation of 1 to 2 per number.

    Both are estimated from a sample of the rows; numbers that never change do not count.
    """
    if not (recipe.model.mapping_cond_dim and reader.vector_dim and len(reader)):
        return
    chosen = np.linspace(0, len(reader) - 1, min(len(reader), MOST_VECTORS), dtype=int).tolist()
    rows = np.array([reader.vector(index) for index in chosen], np.float64)
    spread = rows.std(0)
    if not (varies := spread > 0).any():
        return
    mean, std = (float(np.sqrt(np.square(each[varies]).mean())) for each in (rows.mean(0), spread))
    if mean > LARGEST_VECTOR_MEAN or not VECTOR_STD_RANGE[0] <= std <= VECTOR_STD_RANGE[1]:
        logger.warning(
            "the vectors of %s have means of about %.2g and standard deviations of about %.2g; expected "
            "a mean of 0 and a standard deviation of 1 to 2 per column: subtract each column's mean, divide by its "
            "standard deviation, and prepare the data again",
            recipe.data.path,
            mean,
            std,
        )
