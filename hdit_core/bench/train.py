"""What a training step is given while it is measured: noise, or a data set's images as a run reads them."""

import statistics
import time
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from hdit_core.bench.child_process import OutOfMemory, Say, measure_in_child_process
from hdit_core.bench.machine import FLOPS_PER_MAC, finish, rate_of
from hdit_core.bench.timing import Rounds, Timing, interleaved, stopwatch
from hdit_core.data.loader.batch import Batch, load_batches
from hdit_core.data.loader.reader import ImageReader
from hdit_core.devices import compute_dtype
from hdit_core.distributed import World
from hdit_core.errors import UsageError
from hdit_core.flops.count import count
from hdit_core.recipe.run import Recipe
from hdit_core.train.context import check_data
from hdit_core.train.step.batch_plan import PlannedStep, steps
from hdit_core.train.step.build import build_learner
from hdit_core.train.step.train_step import Learner

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


FORWARD_AND_BACKWARD = 3
"""A backward pass has two products for each of the forward pass: the gradient of each factor."""

MOST_FLOOR_S = 60.0
"""A step whose arithmetic alone takes longer is not begun."""


@dataclass(frozen=True)
class StepFigure:
    """What was measured of a recipe's step.

    Attributes:
        images: that the step takes.
        flops: of the model's products, forward and backward; what checkpointing computes twice counts once.
        rate: FLOP/s of large matrix products in the same dtype on this device.
        timing: of a step.
        waited_s: of each step, for images to be read, in the median; None with synthetic ones.
        peak_bytes: most memory at once, weights and optimizer included; None where unknown.
    """

    images: int
    flops: int
    dtype: str
    rate: float
    timing: Timing
    waited_s: float | None
    peak_bytes: int | None

    @property
    def images_per_s(self) -> float:
        return self.images / self.timing.median_s

    @property
    def utilisation(self) -> float:
        """Share of the machine's own matrix product rate that the model's products reach."""
        return self.flops / self.timing.median_s / self.rate

    @property
    def waiting(self) -> float | None:
        """Share of the time in which the step waited for images."""
        return None if self.waited_s is None else self.waited_s / self.timing.median_s

    def to_json(self) -> dict[str, Any]:
        return {
            "images": self.images,
            "flops": self.flops,
            "dtype": self.dtype,
            "product_flops_per_s": self.rate,
            "time": self.timing.to_json(),
            "images_per_s": self.images_per_s,
            "utilisation": self.utilisation,
            "waiting": self.waiting,
            "peak_bytes": self.peak_bytes,
        }


def bench_train(
    recipe: Recipe,
    device: torch.device,
    *,
    threads: int,
    read_data: bool = False,
    rounds: Rounds | None = None,
    say: Say = lambda line: None,
) -> StepFigure:
    """Measure a recipe's training step, as its trainer takes it.

    Args:
        recipe: of which batch size, micro-batches, precision, compilation and checkpointing count.
        threads: of the CPU.
        read_data: take the images of `data.path`, by the recipe's workers, and not random ones.
        say: is told how far it is.

    Raises:
        UsageError: the step is too much work to be measured here.
        DataError: `read_data`, and the data set is missing or does not fit.
        OutOfMemory: the step does not fit into the memory there is.
    """
    dtype = compute_dtype(recipe.train.precision, device)
    rate, _ = measure_in_child_process(rate_of, device, dtype, device=device, threads=threads)
    images = recipe.train.batch_size
    flops = FORWARD_AND_BACKWARD * FLOPS_PER_MAC * count(recipe.model).macs * images
    check_work(flops, rate, f"a training step of {images} images", "train.batch_size")
    if read_data:
        check_data(recipe, ImageReader(Path(recipe.data.path)))
    say(f"training: {images} images a step, {flops / 1e9:,.0f} GFLOP, at least {flops / rate:.2g} s")
    work = (recipe, device, read_data, rounds_for(rounds, flops / rate))
    try:
        (timing, waited_s), memory = measure_in_child_process(_measure, *work, device=device, threads=threads, say=say)
    except OutOfMemory as problem:
        raise OutOfMemory(
            f"a training step of {images} images of {'x'.join(map(str, recipe.model.image_size))}, "
            f"{recipe.train.micro_batch_size or images} at once, {problem}; try --set train.micro_batch_size=1, "
            "--set train.activation_checkpointing=true, or smaller images"
        ) from None
    name = str(dtype).removeprefix("torch.")
    return StepFigure(images, flops, name, rate, timing, waited_s, memory.peak_bytes)


def rounds_for(rounds: Rounds | None, floor_s: float) -> Rounds:
    """Return the rounds for a step that takes so long at least: one, where several would outlast the limit by far."""
    rounds = rounds or Rounds()
    return replace(rounds, least=1) if floor_s > rounds.limit_s else rounds


def check_work(flops: int, rate: float, what: str, key: str) -> None:
    """Refuse what would take minutes even if nothing but its products counted.

    Raises:
        UsageError: naming the recipe's key that makes it less.
    """
    if (floor_s := flops / rate) > MOST_FLOOR_S:
        raise UsageError(
            f"{what} takes {floor_s:,.0f} s here at the very least ({flops / 1e12:,.1f} TFLOP at the "
            f"{rate / 1e9:,.0f} GFLOP/s of large matrix products); measure a smaller one with --set {key}=1"
        )


def _measure(
    recipe: Recipe, device: torch.device, read_data: bool, rounds: Rounds, say: Say
) -> tuple[Timing, float | None]:
    """Return the times of a step, and the median of what it waited for images."""
    learner = build_learner(recipe, None, World(), device)
    plan, pieces = (
        endless_plan(learner),
        (piece for step in endless_plan(learner) for piece in learner.micro_batches(step)),
    )
    with closing(read_batches(recipe, pieces) if read_data else random_batches(recipe, pieces)) as batches:
        source, waits_s = Waiting(batches), []

        def step() -> None:
            before_s = source.waited_s
            learner.train_step(next(plan), source)
            waits_s.append(source.waited_s - before_s)

        task = stopwatch(step, lambda: finish(device))
        timing = interleaved({"step": task}, rounds, on_round=lambda done: say(f"step {done}"))["step"]
    return timing, statistics.median(waits_s[-len(timing.runs_s) :]) if read_data else None


def endless_plan(learner: Learner) -> Iterator[PlannedStep]:
    """Yield the steps of a run that has no end."""
    return steps(learner.recipe.train.model_copy(update={"num_images": 2**62}), 0, 0)
