"""What a training step is given while it is measured: noise, or a data set's images as a run reads them."""

import time
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path

import torch

from hdit_core.data.batch import Batch, load_batches
from hdit_core.data.reader import ImageReader
from hdit_core.recipe.run import Recipe

AUGMENT_FEATURES = 9


class Waiting(Iterator[Batch]):
    """Batches, and how long they were waited for.

    Attributes:
        waited_s: for all batches so far.
    """

    def __init__(self, batches: Iterator[Batch]) -> None:
        self._batches = batches
        self.waited_s = 0.0

    def __next__(self) -> Batch:
        began_at = time.perf_counter()
        batch = next(self._batches)
        self.waited_s += time.perf_counter() - began_at
        return batch


def random_batches(recipe: Recipe, pieces: Iterable[range]) -> Generator[Batch, None, None]:
    """Yield a batch of noise for each micro-batch of a run; its numbers are drawn once for each number of images."""
    drawn: dict[int, Batch] = {}
    for piece in pieces:
        batch = drawn[len(piece)] = drawn.get(len(piece)) or _random_batch(recipe, len(piece))
        numbers = torch.arange(piece.start, piece.stop)
        yield Batch(**(vars(batch) | {"numbers": numbers}))


def _random_batch(recipe: Recipe, size: int) -> Batch:
    numbers, model = torch.Generator().manual_seed(0), recipe.model
    images, noise = torch.randn(2, size, model.channels, *model.image_size, generator=numbers)
    classes = torch.randint(model.num_classes, (size,), generator=numbers) if model.num_classes else None
    augmentation = torch.randn(size, AUGMENT_FEATURES, generator=numbers) if recipe.data.augment_prob else None
    return Batch(
        numbers=torch.arange(size),
        images=images.clamp(-1, 1),
        class_ids=classes,
        augment_cond=torch.zeros(size, AUGMENT_FEATURES) if augmentation is None else augmentation,
        noise=noise,
        uniform=torch.rand(size, generator=numbers, dtype=torch.float64),
    )


def read_batches(recipe: Recipe, pieces: Iterable[range]) -> Generator[Batch, None, None]:
    """Yield the batches of the recipe's data set, read by its workers, as its trainer takes them."""
    return load_batches(
        ImageReader(Path(recipe.data.path)),
        pieces,
        seed=recipe.train.seed,
        workers=recipe.data.workers,
        augment_prob=recipe.data.augment_prob,
        class_dropout=recipe.train.class_dropout,
        num_classes=recipe.model.num_classes,
    )
