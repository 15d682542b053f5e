"""A job whose images begin from something else than noise alone: it goes where samples go, and on like them."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from hdit_core.diffusion.guidance import Guide
from hdit_core.diffusion.precondition import Denoiser
from hdit_core.distributed import World
from hdit_core.generate.generate import Generated, generate
from hdit_core.generate.output.sample_folder import SampleFolder
from hdit_core.generate.pipeline import Draw, check_classes
from hdit_core.generate.provenance import provenance
from hdit_core.recipe.sample import SampleRecipe

OnProgress = Callable[[int], None]
"""Told how many images are done, on this rank."""


@dataclass(frozen=True)
class SamplingJob:
    """What to draw.

    Attributes:
        numbers: of the images, rising.
        class_id: of all of them; None: each class in turn, where the network has classes.
        image_size: rows and columns in pixels.
        budget_s: no batch is begun that would end after so many seconds, as far as the last one tells; None: all.
        guide: a worse model to lead away from.
    """

    denoiser: Denoiser
    numbers: Sequence[int]
    seed: int
    settings: SampleRecipe
    image_size: tuple[int, int]
    class_id: int | None = None
    budget_s: float | None = None
    guide: Guide | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and channels of an image."""
        return (*self.image_size, self.denoiser.recipe.model.channels)

    def class_of(self, number: int) -> int | None:
        """Return the class of an image, None without one; those of a network with classes follow their numbers."""
        num_classes = self.denoiser.recipe.model.num_classes
        if self.class_id is not None or not num_classes:
            return self.class_id
        return number % num_classes

    def origin(self) -> dict[str, Any]:
        """Return what decides the pixels of each image, see `provenance.py`."""
        return provenance(self.denoiser, self.settings, self.seed, self.image_size, self.class_id, self.guide)

    def batches(self, numbers: Sequence[int]) -> Iterator[Generated]:
        """Yield the batches of some of the images, as long as there is time."""
        classes = [self.class_id] * len(numbers) if self.class_id is not None else None
        drawn = generate(
            self.denoiser,
            numbers,
            seed=self.seed,
            class_ids=classes,
            settings=self.settings,
            image_size=self.image_size,
            guide=self.guide,
        )
        return drawn if self.budget_s is None else _in_time(drawn, self.budget_s)


def _in_time(batches: Iterator[Generated], budget_s: float) -> Iterator[Generated]:
    """Pass batches on until the next one would come too late; the first one always comes."""
    began = last = time.monotonic()
    for batch in batches:
        yield batch
        now = time.monotonic()
        if now + (now - last) > began + budget_s:
            return
        last = now


def fill_folder(job: SamplingJob, folder: SampleFolder, world: World, on_progress: OnProgress) -> list[int]:
    """Draw what is missing of a job in a folder; every rank draws its share, and none has more than a batch in memory.

    Returns:
        The images of the job that are there now, on the main rank's word for those of the others.
    """
    mine = list(job.numbers[world.rank :: world.size])
    missing = folder.missing(mine)
    done = len(mine) - len(missing)
    on_progress(done)
    for batch in job.batches(missing) if missing else ():
        folder.write(batch)
        done += len(batch.indices)
        on_progress(done)
    folder.flush()
    world.any(False)  # wait for the others
    return [number for number in job.numbers if folder.holds(number)]


@dataclass(frozen=True)
class EditingJob(SamplingJob):
    """Images that `draw` makes; image i is a function of the job and i alone.

    Attributes:
        draw: draws a batch.
        edit: what is done, to what: part of what decides the pixels, as plain values.
        classes_follow: whether classes follow the numbers where none is asked for; else no image has one.
    """

    draw: Draw = field(kw_only=True)
    edit: Mapping[str, Any] = field(kw_only=True)
    classes_follow: bool = field(default=True, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse a class that the network does not have, with a UsageError."""
        check_classes(self.denoiser.recipe.model.num_classes, [0], None if self.class_id is None else [self.class_id])

    def class_of(self, number: int) -> int | None:
        return super().class_of(number) if self.classes_follow else self.class_id

    def origin(self) -> dict[str, Any]:
        return super().origin() | {"edit": dict(self.edit)}

    @torch.inference_mode()
    def batches(self, numbers: Sequence[int]) -> Iterator[Generated]:
        """Yield the batches of some of the images."""
        for start in range(0, len(numbers), self.settings.batch_size):
            chosen = list(numbers[start : start + self.settings.batch_size])
            found = [class_id for number in chosen if (class_id := self.class_of(number)) is not None]
            classes = found or None
            yield Generated(chosen, classes, self.draw(chosen, classes).float().cpu())
