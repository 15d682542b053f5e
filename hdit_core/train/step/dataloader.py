"""The batches of a run, and the time spent waiting for them."""

import time
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext

from hdit_core.checkpoint.state import SkippedImages
from hdit_core.data.loader.batch import Batch, load_batches
from hdit_core.data.loader.build import build_order
from hdit_core.data.loader.conditioning import conditioning_of
from hdit_core.data.loader.image_reader import ImageReader
from hdit_core.data.loader.order import Order
from hdit_core.data.loader.quarantine import Quarantine
from hdit_core.recipe.run import Recipe
from hdit_core.train.step.batch_plan import PlannedStep, batch_size_phases


def build_run_order(recipe: Recipe, reader: ImageReader, skips: Sequence[SkippedImages]) -> Order:
    """Return the order of a run: from image numbers to indices in the data set. Skipped images keep their numbers."""
    phases = batch_size_phases(recipe.train, skips)
    return build_order(recipe.data, reader.manifest.contents, recipe.train.seed, phases)


class TimedLoader:
    """An iterator over batches that measures the time spent waiting.

    Attributes:
        waited_s: for all batches so far.
        image_size: height and width of the last batch, px.
        waiting: a context around each wait.
    """

    def __init__(self, batches: Generator[Batch, None, None]) -> None:
        self._batches = batches
        self.waiting: Callable[[], AbstractContextManager[None]] = nullcontext
        self.waited_s = 0.0
        self.image_size = (0, 0)

    def __iter__(self) -> "TimedLoader":
        return self

    def __next__(self) -> Batch:
        began_at = time.perf_counter()
        with self.waiting():
            batch = next(self._batches)
        self.waited_s += time.perf_counter() - began_at
        self.image_size = (batch.images.shape[-2], batch.images.shape[-1])
        return batch

    def close(self) -> None:
        """End the reader processes."""
        self._batches.close()


def build_dataloader(
    recipe: Recipe,
    reader: ImageReader,
    plan: Iterable[PlannedStep],
    micro_batches: Callable[[PlannedStep], Sequence[range]],
    skips: Sequence[SkippedImages] = (),
    *,
    quarantine: Quarantine | None = None,
    workers: int | None = None,
) -> TimedLoader:
    """Return the batches of some steps of a run, with everything random about them.

    Args:
        plan: the steps.
        micro_batches: returns the image numbers of each micro-batch of a step.
        skips: of the run.
        quarantine: records damaged images; default: a new one with the recipe's limit.
        workers: reader processes; default: the recipe's.
    """
    data, train = recipe.data, recipe.train
    return TimedLoader(
        load_batches(
            reader,
            (numbers for step in plan for numbers in micro_batches(step)),
            seed=train.seed,
            workers=data.workers if workers is None else workers,
            augment_prob=data.augment_prob,
            class_dropout=train.class_dropout,
            num_classes=recipe.model.num_classes,
            mirror=data.mirror,
            conditioning=conditioning_of(recipe),
            order=build_run_order(recipe, reader, skips),
            quarantine=quarantine or Quarantine(data.max_damaged),
        )
    )
