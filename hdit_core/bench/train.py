"""Benchmark of a recipe's training step, on random images or on those of its data set."""

import logging
import statistics
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from hdit_core.bench.child_process import BenchSettings, OutOfMemory, measure_in_child_process
from hdit_core.bench.machine import product_rate
from hdit_core.bench.timing import Timing, interleaved, stopwatch
from hdit_core.data.loader.batch import Batch, pinned
from hdit_core.data.loader.build import open_reader
from hdit_core.devices import compute_dtype, synchronize
from hdit_core.distributed import World
from hdit_core.errors import UsageError
from hdit_core.flops.count import FLOPS_PER_MAC, FORWARD_AND_BACKWARD, count
from hdit_core.model.conditioning import AUGMENT_FEATURES
from hdit_core.recipe.run import Recipe
from hdit_core.train.data_checks import check_data
from hdit_core.train.step.batch_plan import endless_steps
from hdit_core.train.step.build import build_learner
from hdit_core.train.step.dataloader import TimedLoader, build_dataloader
from hdit_core.train.step.train_step import Learner

logger = logging.getLogger("hdit")


def random_batches(recipe: Recipe, chunks: Iterable[range]) -> Generator[Batch, None, None]:
    """Yield a batch of random images for each micro-batch of a run; batches of equal size are equal."""
    by_size: dict[int, Batch] = {}
    for chunk in chunks:
        batch = by_size[len(chunk)] = by_size.get(len(chunk)) or pinned(_random_batch(recipe, len(chunk)))
        numbers = torch.arange(chunk.start, chunk.stop)
        yield Batch(**(vars(batch) | {"numbers": numbers}))


def _random_batch(recipe: Recipe, size: int) -> Batch:
    generator, model = torch.Generator().manual_seed(0), recipe.model
    images, noise = torch.randn(2, size, model.channels, *model.image_size, generator=generator)
    classes = torch.randint(model.num_classes, (size,), generator=generator) if model.num_classes else None
    augment_cond = torch.zeros(size, AUGMENT_FEATURES)
    if recipe.data.augment_prob:
        augment_cond.normal_(generator=generator)
    return Batch(
        numbers=torch.arange(size),
        images=images.clamp(-1, 1),
        class_ids=classes,
        augment_cond=augment_cond,
        noise=noise,
        uniform=torch.rand(size, generator=generator, dtype=torch.float64),
        condition=_random(recipe.condition_image_channels, size, *model.image_size),
        mapping_cond=_random(model.mapping_cond_dim, size),
    )


def _random(length: int, size: int, *shape: int) -> Tensor | None:
    """Return random conditions of a batch, None if the network takes none."""
    return torch.rand(size, length, *shape, generator=torch.Generator().manual_seed(1)) if length else None


MAX_BOUND_S = 60.0
"""Largest lower bound of a step that is measured."""


@dataclass(frozen=True)
class StepFigure:
    """The measurements of a training step.

    Attributes:
        images: batch size.
        flops: of the matrix products, forward and backward; recomputed activations count once.
        rate: FLOP/s of large matrix products in the same dtype on this device.
        timing: of a step.
        waited_s: median time per step spent waiting for data; None with random images.
        peak_bytes: peak memory, including weights and optimizer; None if unknown.
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
        """Training throughput."""
        return self.images / self.timing.median_s

    @property
    def utilisation(self) -> float:
        """Fraction of the FLOP/s of large matrix products that the model reaches."""
        return self.flops / self.timing.median_s / self.rate

    @property
    def waiting(self) -> float | None:
        """Fraction of the time spent waiting for data."""
        return None if self.waited_s is None else self.waited_s / self.timing.median_s

    def to_json(self) -> dict[str, Any]:
        """Return the measurements as JSON."""
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


def bench_train(recipe: Recipe, settings: BenchSettings, *, read_data: bool = False) -> StepFigure:
    """Measure a recipe's training step, as in `hdit train`.

    Args:
        recipe: gives batch size, micro-batches, precision, compilation and activation checkpointing.
        read_data: read the images of `data.path` with the recipe's workers, instead of random ones.

    Raises:
        UsageError: the step takes too long to be measured on this machine.
        DataError: `read_data`, and the data set is missing or does not fit the recipe.
        OutOfMemory: the step does not fit into memory.
    """
    dtype = compute_dtype(recipe.train.precision, settings.device)
    rate, _ = measure_in_child_process(product_rate, settings.device, dtype, settings=settings)
    images = recipe.train.batch_size
    flops = FORWARD_AND_BACKWARD * FLOPS_PER_MAC * count(recipe.model).macs * images
    check_bound(flops, rate, f"a training step of {images} images", "train.batch_size")
    if read_data:
        check_data(recipe, open_reader(recipe.data))
    logger.info(f"training: {images} images per step, {flops / 1e9:,.0f} GFLOP, at least {flops / rate:.2g} s")
    settings = rounds_for(settings, flops / rate)
    try:
        (timing, waited_s), peak_bytes = measure_in_child_process(
            _measure, recipe, read_data, settings, settings=settings
        )
    except OutOfMemory as problem:
        raise OutOfMemory(
            f"a training step of {images} images of {'x'.join(map(str, recipe.model.image_size))}, in micro-batches of "
            f"{recipe.train.micro_batch_size or images}, {problem}; try --set train.micro_batch_size=1, "
            "--set train.activation_checkpointing=true, or smaller images"
        ) from None
    name = str(dtype).removeprefix("torch.")
    return StepFigure(images, flops, name, rate, timing, waited_s, peak_bytes)


def rounds_for(settings: BenchSettings, bound_s: float) -> BenchSettings:
    """Return the settings for a step with this lower bound: a single round if that already exceeds the time limit."""
    rounds = settings.rounds
    return replace(settings, rounds=replace(rounds, least=1)) if bound_s > rounds.limit_s else settings


def check_bound(flops: int, rate: float, task: str, key: str) -> None:
    """Check that the lower bound of a task is below a minute.

    Raises:
        UsageError: it is not; names the recipe key to reduce.
    """
    if (bound_s := flops / rate) > MAX_BOUND_S:
        raise UsageError(
            f"{task} takes at least {bound_s:,.0f} s on this machine ({flops / 1e12:,.1f} TFLOP at the "
            f"{rate / 1e9:,.0f} GFLOP/s of large matrix products); measure a smaller one with --set {key}=1"
        )


def _measure(recipe: Recipe, read_data: bool, settings: BenchSettings) -> tuple[Timing, float | None]:
    """Return the timing of a step, and its median time spent waiting for data."""
    learner = build_learner(recipe, None, World(device=settings.device))
    plan = endless_steps(recipe.train)
    with closing(_batches(recipe, learner, read_data)) as batches:
        waits_s = []

        def step() -> None:
            before_s = batches.waited_s
            learner.train_step(next(plan), batches)
            waits_s.append(batches.waited_s - before_s)

        task = stopwatch(step, lambda: synchronize(settings.device))
        timing = interleaved({"step": task}, settings.rounds, on_round=lambda done: logger.info(f"step {done}"))["step"]
    return timing, statistics.median(waits_s[-len(timing.runs_s) :]) if read_data else None


def _batches(recipe: Recipe, learner: Learner, read_data: bool) -> TimedLoader:
    plan = endless_steps(recipe.train)
    if read_data:
        return build_dataloader(recipe, open_reader(recipe.data), plan, learner.micro_batches)
    return TimedLoader(random_batches(recipe, (chunk for step in plan for chunk in learner.micro_batches(step))))
