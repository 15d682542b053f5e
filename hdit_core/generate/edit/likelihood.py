"""Negative log-likelihood of images under a model, in bits per dimension, batch by batch, with error bars.

8-bit images are uniformly dequantized (noise one level wide), which turns the density into a number of bits: in
expectation an upper bound on the cost of coding the levels (Theis et al. 2016). Every image has its own noise.
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hdit_core.data.format.manifest import MANIFEST
from hdit_core.data.image.arrays.picture import as_array
from hdit_core.data.image.arrays.pixel_format import FULL_RANGES, PixelFormat
from hdit_core.data.image_sets.image_set import ImageSet
from hdit_core.data.image_sets.open_images import open_images
from hdit_core.data.image_sets.saved_values import saved_values
from hdit_core.data.sources.source import IMAGE_SUFFIX
from hdit_core.devices import autocast, compute_dtype
from hdit_core.diffusion.likelihood import LEVELS_PER_UNIT, log_likelihood, rademacher_probes
from hdit_core.errors import DataError, UsageError
from hdit_core.generate.edit.input_image import fit_to_size, read_image
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.images import from_uint8, to_pil, to_uint8
from hdit_core.randomness import streams

Shape = tuple[int, int, int]
"""Height, width and channels."""

PURPOSE = "dequantise"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class LabelledImage:
    """An image to evaluate.

    Attributes:
        index: its position among all images, which determines its random numbers.
        name: for display.
        class_id: None for networks without classes.
    """

    index: int
    name: str
    image_u8: UInt8[np.ndarray, "H W C"]
    class_id: int | None


@dataclass(frozen=True)
class ImageBits:
    """The negative log-likelihood of an image."""

    index: int
    name: str
    bits_per_dim: float


@dataclass
class RunningMean:
    """Running mean and standard error of numbers (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = field(default=0.0, repr=False)

    def add(self, value: float) -> None:
        """Include one more number."""
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self._squares += before * (value - self.mean)

    @property
    def standard_error(self) -> float | None:
        """Standard error of the mean, over images, dequantization and probes; None for a single number."""
        return math.sqrt(self._squares / (self.count - 1) / self.count) if self.count > 1 else None


def dequantize(images_u8: UInt8[np.ndarray, "B H W C"], seed: int, indices: Sequence[int]) -> Float[Tensor, "B C H W"]:
    """Return images in [-1, 1] with uniform noise of up to half a level in either direction."""
    images = from_uint8(images_u8)
    for image, generator in zip(images, streams(seed, PURPOSE, indices), strict=True):
        shift = generator.random(tuple(image.shape), np.float32) - np.float32(0.5)
        image += torch.from_numpy(shift) / LEVELS_PER_UNIT
    return images


def bits_per_dim(
    pipeline: SamplingPipeline, images: Iterable[LabelledImage], probes: int = 1, tolerance: float = TOLERANCE
) -> Iterator[ImageBits]:
    """Yield the bits per dimension of each image, in batches of the settings' size.

    Args:
        probes: Hutchinson probes per image; more reduce the variance.
        tolerance: of the ODE solver, relative and absolute.

    Raises:
        UsageError: guidance is on; guided samples have no tractable density.
        NumericalError: the denoiser returns NaN or infinity, or the ODE cannot be solved.
    """
    if pipeline.settings.guidance != 1:
        raise UsageError(
            f"sample.guidance = {pipeline.settings.guidance}: guided samples have no tractable density; omit it or "
            "set it to 1"
        )
    remaining = iter(images)
    while batch := list(islice(remaining, pipeline.settings.batch_size)):
        bits = _bits(pipeline, batch, probes, tolerance)
        yield from (ImageBits(image.index, image.name, value) for image, value in zip(batch, bits, strict=True))


def _bits(pipeline: SamplingPipeline, batch: Sequence[LabelledImage], probes: int, tolerance: float) -> list[float]:
    indices, device, settings = [image.index for image in batch], pipeline.device, pipeline.settings
    x = dequantize(np.stack([image.image_u8 for image in batch]), pipeline.seed, indices).to(device)
    directions = rademacher_probes(pipeline.seed, indices, pipeline.shape, probes).to(device)
    classes = [image.class_id for image in batch if image.class_id is not None] or None
    ends = {"sigma_min": settings.sigma_min, "sigma_max": settings.sigma_max}
    with autocast(device, compute_dtype(pipeline.denoiser.recipe.train.precision, device)):
        result = log_likelihood(pipeline.conditioned(classes), x, directions, **ends, rtol=tolerance, atol=tolerance)
    return result.bits_per_dim_u8.tolist()


SUBSET_PURPOSE = "judged-subset"  # a fixed word: another one would select other images for a seed


@dataclass(frozen=True)
class LabelledImages:
    """Images that are read as they are asked for.

    Attributes:
        count: how many; None for a stream.
        classes: where their classes come from, for people.
        images: reads them, one after the other.
    """

    count: int | None
    classes: str
    images: Iterator[LabelledImage]


def open_labelled_images(
    location: str,
    shape: Shape,
    num_classes: int,
    class_id: int | None = None,
    n: int | None = None,
    seed: int = 0,
    pixels: PixelFormat | None = None,
) -> LabelledImages:
    """Open images for a network.

    Args:
        location: an image file, or anything that `open_images` opens.
        shape: height, width and channels that the network takes; images of other sizes are cropped and resized.
        num_classes: of the network.
        class_id: of all images; None: the classes of a prepared data set, otherwise `num_classes`, which means none.
        n: how many, chosen at random; None: all.
        seed: of that choice.
        pixels: the format of the images that the network was trained on; None: 8 bits.

    Raises:
        UsageError: there is nothing at `location`, or files that are read in 8 bits, for a network of another range.
        DataError: it holds no images, fewer than n, or one that cannot be read.
    """
    one_class = (num_classes if class_id is None else class_id) if num_classes else None
    classes = "none" if class_id is None else f"all {class_id}"
    path, pixels = Path(location), pixels or PixelFormat(shape[2])
    if path.is_file() and IMAGE_SUFFIX.search(path.name):
        image_u8 = to_uint8(read_image(path, pixels, shape[:2]).image[None])[0]
        return LabelledImages(1, classes, iter([LabelledImage(0, path.name, image_u8, one_class)]))
    _check_range(location, pixels)
    images = open_images(location, n, seed, channels=shape[2], purpose=SUBSET_PURPOSE)
    label = images.label if num_classes and class_id is None else None
    if label is not None:
        _check_classes(images, num_classes)
        classes = "of the data set"
    return LabelledImages(images.count, classes, _read_all(location, images, shape, label, one_class))


def _read_all(
    location: str, images: ImageSet, shape: Shape, label: Callable[[int], int] | None, one_class: int | None
) -> Iterator[LabelledImage]:
    """Yield the images, each with its own class where `label` gives it one."""
    numbers = count() if images.numbers is None else images.numbers
    for position, (number, read) in enumerate(zip(numbers, images.readers(), strict=False)):
        name = images.names[position] if images.names else f"image {number}"
        found = label(position) if label else -1
        yield LabelledImage(number, name, _framed(read(), shape, location), one_class if found < 0 else found)


def _check_range(location: str, pixels: PixelFormat) -> None:
    """Refuse files, whose 8 bits would be taken as the whole range; data sets and samples record their values."""
    path, whole = Path(location), FULL_RANGES.get(pixels.dtype)
    if set(pixels.ranges) == {whole} or (path / MANIFEST).is_file() or saved_values(path) is not None:
        return
    ranges = " and ".join(f"{low:g} to {high:g}" for low, high in dict.fromkeys(pixels.ranges))
    raise UsageError(
        f"{location}: image files are read in 8 bits, and the network was trained on values from {ranges}; give a "
        "prepared data set, or one image"
    )


def _check_classes(images: ImageSet, num_classes: int) -> None:
    found = len(images.source["class_counts"])
    if found != num_classes:
        raise DataError(
            f"{images.source['path']}: holds {found} classes, the network has {num_classes}; give one class with "
            "--class"
        )


def _framed(image_u8: UInt8[np.ndarray, "H0 W0 C"], shape: Shape, location: str) -> UInt8[np.ndarray, "H W C"]:
    if image_u8.shape[2] != shape[2]:
        raise DataError(
            f"{location}: holds images of {image_u8.shape[2]} channels, the network takes {shape[2]}; prepare the data "
            "again for it"
        )
    return as_array(fit_to_size(to_pil(image_u8), PixelFormat(shape[2]), shape[:2])[0])
