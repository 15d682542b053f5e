"""A sampling job: which images to generate with which pipeline, and the loop that fills a folder with them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hdit_core.data.image.arrays.pixel_format import PixelFormat
from hdit_core.diffusion.precondition import ModelSource
from hdit_core.distributed import World
from hdit_core.generate.condition.sources import Conditions
from hdit_core.generate.output.comparison import MOST_ROWS, Row, comparison_png
from hdit_core.generate.output.sample_folder import SampleFolder
from hdit_core.generate.output.sample_format import pixel_format
from hdit_core.generate.pipeline import GenerateBatch, Samples, SamplingPipeline, check_class
from hdit_core.generate.provenance import provenance

OnProgress = Callable[[int], None]
"""Called with the number of images that this rank has finished."""


@dataclass(frozen=True)
class SamplingJob:
    """The images to generate; image i is a function of the job and i alone.

    Attributes:
        indices: of the images, increasing.
        class_id: of all images; None: see `cycle_classes`.
        budget_s: time limit in seconds: a batch that would exceed it, if it takes as long as the last one, is not
            started; None: no limit.
        generate_batch: generates a batch; None: from noise, under the pipeline's conditions.
        edit: the operation of an edit and its inputs, as plain values; part of the provenance.
        cycle_classes: whether image i gets class i modulo num_classes if no class is given; otherwise it has none.
    """

    pipeline: SamplingPipeline
    indices: Sequence[int]
    class_id: int | None = None
    budget_s: float | None = None
    generate_batch: GenerateBatch | None = None
    edit: Mapping[str, Any] | None = None
    cycle_classes: bool = True

    def __post_init__(self) -> None:
        """Refuse a class that the network does not have, with a UsageError."""
        check_class(self.pipeline.num_classes, self.class_id)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        channels, height, width = self.pipeline.shape
        return height, width, channels

    @property
    def pixels(self) -> PixelFormat:
        """The format in which an image is saved: that of the training data."""
        return pixel_format(self.pipeline.denoiser.recipe)

    def class_of(self, index: int) -> int | None:
        """Return the class of an image, None without one."""
        if self.class_id is not None or not self.cycle_classes:
            return self.class_id
        return self.pipeline.default_class(index)

    def provenance(self) -> dict[str, Any]:
        """Return what determines the pixels of each image, see `provenance.py`."""
        edit = {} if self.edit is None else {"edit": dict(self.edit)}
        source = self.pipeline.conditions
        given = {"conditions": source.provenance} if isinstance(source, Conditions) else {}
        return provenance(self.pipeline, self.class_id) | edit | given

    @property
    def source(self) -> ModelSource:
        """Where the model comes from, for people."""
        return self.pipeline.denoiser.source

    def batches(self, indices: Sequence[int]) -> Iterator[Samples]:
        """Yield the batches of some of the images, within the time limit."""
        batches = self.pipeline.generate(indices, map(self.class_of, indices), self.generate_batch)
        return batches if self.budget_s is None else _in_time(batches, self.budget_s)


def _in_time(batches: Iterator[Samples], budget_s: float) -> Iterator[Samples]:
    """Yield batches until the next one would exceed the time limit; the first one is always yielded."""
    began = last = time.monotonic()
    for batch in batches:
        yield batch
        now = time.monotonic()
        if now + (now - last) > began + budget_s:
            return
        last = now


def comparison_grid(job: SamplingJob, folder: SampleFolder, held: Sequence[int]) -> bytes | None:
    """Return a PNG of the first images of a conditional job: condition image, sample, and target where it is known.

    None for a job without condition images, or without images.
    """
    source = job.pipeline.conditions
    if not isinstance(source, Conditions) or source.image is None:
        return None
    rows: list[Row] = []
    for index in held[:MOST_ROWS]:
        conditioned, sample = source.image(index), folder.image(index)
        if sample is not None:
            rows.append((conditioned.condition, sample, conditioned.target))
    return comparison_png(rows) if rows else None


def fill_folder(job: SamplingJob, folder: SampleFolder, world: World, on_progress: OnProgress) -> list[int]:
    """Generate the missing images of a job in a folder; each rank generates its share, one batch in memory at a time.

    Returns:
        The images of the job that the folder holds now, as the main rank sees them.
    """
    share = list(job.indices[world.rank :: world.size])
    missing = folder.missing(share)
    done = len(share) - len(missing)
    on_progress(done)
    for batch in job.batches(missing) if missing else ():
        folder.write(batch)
        done += len(batch.indices)
        on_progress(done)
    folder.flush()
    world.any(False)  # wait for the other ranks
    return [index for index in job.indices if folder.holds(index)]
