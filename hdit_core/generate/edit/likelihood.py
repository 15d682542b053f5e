"""Bits per dimension of many images under a model, batch by batch, with error bars.

8-bit images get uniform noise as wide as one level (dequantisation), so that a density becomes a number of bits: on
average an upper bound of what storing the levels costs (Theis et al. 2016). Noise and probes are each image's own.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from hdit_core.data.format.manifest import MANIFEST
from hdit_core.data.image.decode import UnusableImageError, decode_image, read_file
from hdit_core.data.loader.reader import ImageReader
from hdit_core.data.sources.resolve import open_source
from hdit_core.data.sources.source import IMAGE_SUFFIX, Source
from hdit_core.devices import autocast, compute_dtype
from hdit_core.diffusion.likelihood import LEVELS_PER_UNIT, log_likelihood, rademacher_probes
from hdit_core.errors import DataError, UsageError
from hdit_core.generate.edit.input_image import Shape, frame, read_picture
from hdit_core.generate.pipeline import SamplingPipeline
from hdit_core.images import from_uint8, to_pil
from hdit_core.randomness import stream, streams

PURPOSE = "dequantise"
TOLERANCE = 1e-4


@dataclass(frozen=True)
class LabelledImage:
    """An image to judge.

    Attributes:
        number: its place among all, which its random numbers belong to.
        name: for people.
        class_id: None for networks without classes.
    """

    number: int
    name: str
    image_u8: UInt8[np.ndarray, "H W C"]
    class_id: int | None


@dataclass(frozen=True)
class ImageBits:
    """What an image costs."""

    number: int
    name: str
    bits_per_dim: float


@dataclass
class Tally:
    """Mean and standard error of numbers that come one by one (Welford 1962)."""

    count: int = 0
    mean: float = 0.0
    _squares: float = field(default=0.0, repr=False)

    def add(self, value: float) -> None:
        """Count one more."""
        self.count += 1
        before = value - self.mean
        self.mean += before / self.count
        self._squares += before * (value - self.mean)

    @property
    def standard_error(self) -> float | None:
        """Of the mean; None for a single number. It covers images, dequantisation and probes alike."""
        return math.sqrt(self._squares / (self.count - 1) / self.count) if self.count > 1 else None


def dequantised(images_u8: UInt8[np.ndarray, "B H W C"], seed: int, numbers: Sequence[int]) -> Float[Tensor, "B C H W"]:
    """Return images in [-1, 1] with uniform noise of one level, of half a level to either side."""
    images = from_uint8(images_u8)
    for image, generator in zip(images, streams(seed, PURPOSE, numbers), strict=True):
        shift = generator.random(tuple(image.shape), np.float32) - np.float32(0.5)
        image += torch.from_numpy(shift) / LEVELS_PER_UNIT
    return images


def bits_per_dim(
    pipeline: SamplingPipeline, images: Iterable[LabelledImage], probes: int = 1, tolerance: float = TOLERANCE
) -> Iterator[ImageBits]:
    """Yield what each image costs, batch after batch of the settings' size.

    Args:
        probes: random directions in which each image's trace is measured (Hutchinson); more scatter less.
        tolerance: of the ODE's solver, relative and absolute.

    Raises:
        UsageError: guidance, which is no density.
        NumericalError: the model's answer is not finite, or the ODE cannot be solved.
    """
    if pipeline.settings.guidance != 1:
        raise UsageError(
            f"sample.guidance = {pipeline.settings.guidance}: what guidance draws has no likelihood; leave it out, or "
            "set it to 1"
        )
    waiting = iter(images)
    while batch := list(islice(waiting, pipeline.settings.batch_size)):
        bits = _bits(pipeline, batch, probes, tolerance)
        yield from (ImageBits(one.number, one.name, found) for one, found in zip(batch, bits, strict=True))


def _bits(pipeline: SamplingPipeline, batch: Sequence[LabelledImage], probes: int, tolerance: float) -> list[float]:
    numbers, device, settings = [one.number for one in batch], pipeline.device, pipeline.settings
    x = dequantised(np.stack([one.image_u8 for one in batch]), pipeline.seed, numbers).to(device)
    directions = rademacher_probes(pipeline.seed, numbers, pipeline.shape, probes).to(device)
    classes = [one.class_id for one in batch if one.class_id is not None] or None
    ends = {"sigma_min": settings.sigma_min, "sigma_max": settings.sigma_max}
    with autocast(device, compute_dtype(pipeline.denoiser.recipe.train.precision, device)):
        found = log_likelihood(pipeline.conditioned(classes), x, directions, **ends, rtol=tolerance, atol=tolerance)
    return found.bits_per_dim_u8.tolist()


SUBSET_PURPOSE = "judged-subset"


@dataclass(frozen=True)
class LabelledImages:
    """Images that are read as they are asked for.

    Attributes:
        count: how many.
        classes: where their classes come from, for people.
        images: reads them, one after the other.
    """

    count: int
    classes: str
    images: Iterator[LabelledImage]


def open_labelled_images(
    location: str, shape: Shape, num_classes: int, class_id: int | None = None, n: int | None = None, seed: int = 0
) -> LabelledImages:
    """Open images for a network.

    Args:
        location: an image file, a folder or archive of images, a named set, or a prepared data set.
        shape: height, width and channels that the network takes; images of other sizes are cut and scaled.
        num_classes: of the network.
        class_id: of all images; None: as a prepared data set says, else `num_classes`, which means none.
        n: how many, drawn without replacement; None: all.
        seed: of that draw.

    Raises:
        UsageError: there is nothing at `location`.
        DataError: it holds no images, fewer than n, or one that cannot be read.
    """
    path = Path(location)
    if (path / MANIFEST).is_file():
        return _of_data_set(path, shape, num_classes, class_id, n, seed)
    classes = "none" if class_id is None else f"all {class_id}"
    one_class = (num_classes if class_id is None else class_id) if num_classes else None
    if path.is_file() and IMAGE_SUFFIX.search(path.name):
        return LabelledImages(
            1, classes, iter([LabelledImage(0, path.name, read_picture(path, shape).image_u8, one_class)])
        )
    source = open_source(location, read_labels=False)
    numbers = _images_in(source)
    chosen = _choose(location, numbers, n, seed)
    return LabelledImages(len(chosen), classes, map(partial(_fetch, source, shape, one_class, location), chosen))


def _of_data_set(
    path: Path, shape: Shape, num_classes: int, class_id: int | None, n: int | None, seed: int
) -> LabelledImages:
    reader = ImageReader(path, cache_bytes=0)
    follow = bool(num_classes) and class_id is None and reader.num_classes > 0
    if follow and reader.num_classes != num_classes:
        raise DataError(
            f"{path}: holds {reader.num_classes} classes, the network has {num_classes}; give one class with --class"
        )
    if reader.manifest.image_shape[2] != shape[2]:
        raise DataError(
            f"{path}: holds images of {reader.manifest.image_shape[2]} channels, the network takes {shape[2]}; "
            "prepare the data again for it"
        )
    one_class = (num_classes if class_id is None else class_id) if num_classes else None

    def read(number: int) -> LabelledImage:
        image_u8, label = reader.read(number)
        labelled = follow and label >= 0
        framed, _ = frame(to_pil(image_u8), shape)
        return LabelledImage(number, f"image {number}", framed, label if labelled else one_class)

    chosen = _choose(str(path), range(len(reader)), n, seed)
    classes = "of the data set" if follow else "none" if class_id is None else f"all {class_id}"
    return LabelledImages(len(chosen), classes, map(read, chosen))


def _images_in(source: Source) -> list[int]:
    """Return the numbers of the images, by their names."""
    return [
        number
        for number, entry in enumerate(source.entries)
        if source.kind not in ("folder", "zip", "tar") or IMAGE_SUFFIX.search(entry.name)
    ]


def _choose(location: str, numbers: Sequence[int], n: int | None, seed: int) -> list[int]:
    """Return the numbers of the images to judge, in ascending order."""
    if not numbers:
        raise DataError(f"{location}: no images in it")
    if n is None or n == len(numbers):
        return list(numbers)
    if n > len(numbers):
        raise DataError(f"{location}: --n {n} images were asked for, it has {len(numbers)}")
    places = stream(seed, SUBSET_PURPOSE, 0).choice(len(numbers), n, replace=False)
    return [numbers[place] for place in sorted(int(place) for place in places)]


def _fetch(source: Source, shape: Shape, class_id: int | None, location: str, number: int) -> LabelledImage:
    entry = source.entries[number]
    where = f"{location}: {entry.name}"
    if entry.problem is not None:
        raise DataError(f"{where}: {entry.problem}; remove it or make it anew")
    try:
        content = source.fetch(number)
        data = content if isinstance(content, bytes) else read_file(content)
        image_u8, _ = frame(decode_image(data, shape[2]).image, shape)
    except (OSError, ValueError, UnusableImageError) as problem:
        raise DataError(f"{where}: cannot be judged ({problem}); remove it or make it anew") from None
    return LabelledImage(number, entry.name, image_u8, class_id)
