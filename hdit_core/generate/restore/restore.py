"""Restores images: condition images from inputs, one sample each, in batches of images of the same size."""

import hashlib
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from hdit_core.data.image.decode import LARGEST_IMAGE_PIXELS, UnusableImageError, is_image_file
from hdit_core.distributed import World
from hdit_core.errors import DataError
from hdit_core.generate.condition.condition_images import Conditioned, ConditionMaker, canvas_size, padded
from hdit_core.generate.condition.inputs import (
    InputImage,
    NamedInputs,
    name_problem,
    open_inputs,
    without_ending,
)
from hdit_core.generate.job import OnProgress
from hdit_core.generate.output.comparison import MOST_ROWS, Row, comparison_png
from hdit_core.generate.output.sample_folder import OLD_GRID
from hdit_core.generate.pipeline import START, ConditionInputs, SamplingPipeline
from hdit_core.generate.provenance import provenance
from hdit_core.generate.restore.restored_folder import RestoredFolder
from hdit_core.generate.restore.tiles import TiledDenoiser, Tiling
from hdit_core.randomness import normal

BLOCK_PX = 64  # side of the blocks of noise

logger = logging.getLogger("hdit")


class CanvasPipeline(SamplingPipeline):
    """A pipeline in which the noise of a pixel depends on the seed, the image and the pixel's position alone."""

    def noise(self, indices: Sequence[int], purpose: str = START, part: int = 0) -> Float[Tensor, "B C H W"]:
        """Return standard normal noise, block by block of 64 x 64 pixels."""
        channels, height, width = self.shape
        noise = torch.empty(len(indices), channels, height, width)
        for top in range(0, height, BLOCK_PX):
            for left in range(0, width, BLOCK_PX):
                number = ((part << 16) + top // BLOCK_PX << 16) + left // BLOCK_PX
                block = normal(self.seed, purpose, indices, (channels, BLOCK_PX, BLOCK_PX), number)
                place = noise[:, :, top : top + BLOCK_PX, left : left + BLOCK_PX]
                place.copy_(block[:, :, : place.shape[2], : place.shape[3]])
        return noise.to(self.device)


@dataclass(frozen=True)
class Masks:
    """Masks of what is to be filled in: one for all images, or one for each name."""

    inputs: NamedInputs
    is_single: bool

    def of(self, name: str) -> InputImage:
        """Return the mask of an image.

        Raises:
            UnusableImageError: there is none.
        """
        if self.is_single:
            return self.inputs.read(0)
        places = {without_ending(each): place for place, each in enumerate(self.inputs.names)}
        place = places.get(without_ending(name))
        if place is None:
            raise UnusableImageError(f"has no mask of its name in {self.inputs.location}")
        return self.inputs.read(place)


def open_masks(location: str) -> Masks:
    """Return the masks in a folder or an archive by their names, or one image as the mask of all.

    Raises:
        UsageError, DataError: there is nothing, or nothing that can be read.
    """
    return Masks(open_inputs(location), is_image_file(Path(location)))


@dataclass(frozen=True)
class Prepared:
    """An input that is ready: its name, its number, a hash of what was read for it, and its condition image."""

    name: str
    number: int
    sha256: str
    conditioned: Conditioned


@dataclass(frozen=True)
class RestoreJob:
    """How images are restored; the result for an image depends on the job and the image alone.

    Attributes:
        pipeline: with the network, settings and seed; its image size and conditions are replaced.
        maker: makes condition images.
        tiling: of images larger than a tile.
        class_id: of all images; None for a network without classes.
        masks: of the images; None: the transparent pixels.
    """

    pipeline: SamplingPipeline
    maker: ConditionMaker
    tiling: Tiling
    class_id: int | None = None
    masks: Masks | None = None

    def provenance(self) -> dict[str, Any]:
        """Return what determines the pixels, beside the inputs, as plain values."""
        restore = {"tile": list(self.tiling.size), "overlap": self.tiling.overlap, "degrade": self.maker.degrade}
        return {**provenance(self.pipeline, self.class_id), "restore": restore}

    def prepare(self, image: InputImage) -> Prepared:
        """Return an input, ready to be restored.

        Raises:
            UnusableImageError, DataError: it cannot be used; the message is the reason.
        """
        if problem := name_problem(image.name):
            raise UnusableImageError(problem)
        pixels, sha256 = image.pixels(self.maker.input_channels), image.sha256
        height, width = self.maker.output_size((pixels.shape[1], pixels.shape[2]))
        if height * width > LARGEST_IMAGE_PIXELS:
            raise UnusableImageError(
                f"would become {height}x{width}, more than {LARGEST_IMAGE_PIXELS // 10**6} million pixels"
            )
        mask = None
        if self.maker.takes_mask:
            read = None if self.masks is None else self.masks.of(image.name)
            mask = image.transparent() if read is None else read.painted()
            if mask is None:
                raise UnusableImageError("has no mask and no transparent pixels; give --mask")
            sha256 = sha256 if read is None else hashlib.sha256((sha256 + read.sha256).encode()).hexdigest()
        return Prepared(image.name, image.number, sha256, self.maker.make(pixels, image.number, mask))

    @torch.inference_mode()
    def restore(self, batch: Sequence[Prepared]) -> list[Float[Tensor, "C H W"]]:
        """Return the restored images of inputs of one canvas size, in [-1, 1] up to the sampler's overshoot."""
        size = self.canvas(batch[0])
        conditions = torch.stack([padded(each.conditioned.condition, size) for each in batch])
        denoiser = TiledDenoiser(self.pipeline.denoiser, self.tiling, self.pipeline.settings.batch_size).eval()
        pipeline = CanvasPipeline(
            denoiser,
            self.pipeline.settings,
            self.pipeline.seed,
            size,
            self.pipeline.guide,
            lambda _: ConditionInputs(condition=conditions),
        )
        classes = None if self.class_id is None else [self.class_id] * len(batch)
        images = pipeline.draw([each.number for each in batch], classes).float().cpu()
        return [
            each.conditioned.keep_known(image[:, : each.conditioned.size[0], : each.conditioned.size[1]])
            for each, image in zip(batch, images, strict=True)
        ]

    def canvas(self, image: Prepared) -> tuple[int, int]:
        """Return the size in which an image is sampled: its own, rounded up to what the network takes."""
        return canvas_size(self.pipeline.denoiser.recipe.model, image.conditioned.size)


@dataclass
class Progress:
    """What one rank has done: images in the folder, inputs that cannot be used, and rows of the grid."""

    num_images: int
    unusable: dict[str, str]
    rows: list[tuple[Prepared, str]]


def restore_inputs(
    job: RestoreJob,
    inputs: Iterable[InputImage | tuple[str, str]],
    folder: RestoredFolder,
    on_progress: OnProgress,
    row_every: int = 1,
) -> Progress:
    """Restore inputs into a folder, skipping those that are there; one batch is in memory at a time.

    Args:
        job: how.
        inputs: contents, or the name of an input that cannot be read with the reason.
        folder: begun, with its logs loaded.
        on_progress: called with the number of inputs that are done.
        row_every: inputs from one row of the grid to the next.
    """
    done = Progress(0, {}, [])
    rows = _RowsOfGrid(row_every, done, folder)

    def finish(batch: list[Prepared]) -> None:
        for prepared, image in zip(batch, job.restore(batch), strict=True):
            folder.write(prepared.name, prepared.sha256, image)
        done.num_images += len(batch)
        on_progress(done.num_images + len(done.unusable))

    for batch in _batches(job, _missing(job, inputs, folder, done, on_progress, rows)):
        finish(batch)
    return done


def _missing(
    job: RestoreJob,
    inputs: Iterable[InputImage | tuple[str, str]],
    folder: RestoredFolder,
    done: Progress,
    on_progress: OnProgress,
    rows: "_RowsOfGrid",
) -> Iterator[Prepared]:
    """Yield the inputs whose images are missing; note the others."""
    names: dict[str, str] = {}
    for each in inputs:
        try:
            if isinstance(each, tuple):
                raise UnusableImageError(each[1])
            prepared = job.prepare(each)
            _claim(names, folder.name(each.name), each.name)
        except (UnusableImageError, DataError) as problem:
            name = each[0] if isinstance(each, tuple) else each.name
            logger.warning("%s: %s; skipped", name, problem)
            done.unusable[name] = str(problem)
            folder.log_unusable(name, str(problem))
            continue
        rows.add(prepared)
        if folder.holds(prepared.name, prepared.sha256):
            done.num_images += 1
            on_progress(done.num_images + len(done.unusable))
        else:
            yield prepared


class _RowsOfGrid:
    """Keeps every n-th usable input for the grid, up to its number of rows."""

    def __init__(self, every: int, done: Progress, folder: RestoredFolder) -> None:
        self._every, self._done, self._folder, self._seen = every, done, folder, 0

    def add(self, prepared: Prepared) -> None:
        """Take the next usable input."""
        if self._seen % self._every == 0 and len(self._done.rows) < MOST_ROWS:
            self._done.rows.append((prepared, self._folder.name(prepared.name)))
        self._seen += 1


def _claim(names: dict[str, str], file: str, name: str) -> None:
    if file == OLD_GRID:
        raise UnusableImageError(f"its image would be {OLD_GRID}, a name that readers take for a sheet; rename it")
    if file in names:
        raise UnusableImageError(f"its image would have the name of that of {names[file]}; rename one")
    names[file] = name


def _batches(job: RestoreJob, prepared: Iterator[Prepared]) -> Iterator[list[Prepared]]:
    """Yield batches of neighbors with the same canvas."""
    batch: list[Prepared] = []
    for each in prepared:
        if batch and (len(batch) == job.pipeline.settings.batch_size or job.canvas(batch[0]) != job.canvas(each)):
            yield batch
            batch = []
        batch.append(each)
    if batch:
        yield batch


def share_of(inputs: NamedInputs, world: World) -> Iterator[InputImage | tuple[str, str]]:
    """Yield the inputs of this rank, or the name of one that cannot be read or written with the reason."""
    first = {without_ending(name): place for place, name in reversed(list(enumerate(inputs.names)))}
    for place in range(world.rank, len(inputs), world.size):
        name = inputs.names[place]
        if (same := first[without_ending(name)]) != place:
            yield name, f"its image would have the name of that of {inputs.names[same]}; rename one"
            continue
        try:
            yield inputs.read(place)
        except UnusableImageError as problem:
            yield inputs.names[place], str(problem)


def finish_folder(folder: RestoredFolder, done: Progress, source: str, world: World) -> dict[str, Any]:
    """Wait for all ranks, and write the grid and the record on the main one, which returns it; {} on the others."""
    num_images = int(world.sum(torch.tensor(done.num_images, device=world.device)))
    if not world.is_main:
        return {}
    rows = _comparison_rows(done, folder)
    return folder.finish(source, num_images, comparison_png(rows) if rows else None)


def _comparison_rows(done: Progress, folder: RestoredFolder) -> list[Row]:
    """Return the rows of the grid: condition, restored image, and target where it is known."""
    rows: list[Row] = []
    for prepared, file in done.rows:
        conditioned, sample = prepared.conditioned, folder.read(file)
        if sample is not None:
            rows.append((conditioned.condition, sample, conditioned.target))
    return rows
