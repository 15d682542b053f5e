"""Estimates of a run before it starts: whether it fits, its throughput, time, energy and cost."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hdit_core.errors import UsageError
from hdit_core.flops.count import FLOPS_PER_MAC, FORWARD_AND_BACKWARD, count
from hdit_core.plan.benchmark_result import BenchmarkResult
from hdit_core.plan.gpu_specs import Gpu
from hdit_core.plan.memory import Memory, RankLayout, training_memory
from hdit_core.plan.roofline import Roofline, roofline
from hdit_core.plan.sharding import needs_sharding
from hdit_core.recipe.run import Recipe

SECONDS_PER_DAY = 86_400
MAX_MICRO_BATCH = 1 << 20
BUSY_TOKENS = 1 << 16
"""Tokens of the outermost level in a micro-batch assumed to keep a GPU busy: 1 image of 1024x1024, 16 of 256x256."""


@dataclass(frozen=True)
class Cluster:
    """The hardware of a run.

    Attributes:
        devices: number of devices.
        usable_bytes: memory of each that the run may use; None: unknown.
        flops_per_s: the model's achieved FLOP/s on each device; None: estimated from `gpu`.
        watts: maximum power of each; None: unknown.
        price_per_hour: of each, in any currency; None: unknown.
        memory_bytes: total memory of each; None: unknown, or a CPU.
        value_bytes: per number in matrix products: 2 for bfloat16, 4 for float32.
        native: whether attention uses the native CPU backend, which saves its weights.
        fused_threads: see `memory.RankLayout`.
        measured: the benchmark result that the speed is from; None: not measured.
        gpu: the GPU whose roofline gives a range of speeds if `flops_per_s` is None.
    """

    devices: int
    usable_bytes: int | None
    flops_per_s: float | None
    watts: float | None = None
    price_per_hour: float | None = None
    memory_bytes: int | None = None
    value_bytes: int = 2
    native: bool = False
    fused_threads: int = 0
    measured: BenchmarkResult | None = None
    gpu: Gpu | None = None


@dataclass(frozen=True)
class Choice:
    """A configuration of a run with a certain amount of activation checkpointing.

    Attributes:
        checkpointed: number of levels, outermost first, with activation checkpointing.
        sharded: whether the run uses FSDP instead of DDP.
        images: micro-batch size per device.
        memory: peak memory per device with that micro-batch.
        largest: the largest micro-batch that fits; None if the memory is unknown.
        images_per_s: of all devices; the geometric mean of the range.
        range_per_s: lowest and highest expected images per second of all devices; equal if the speed is known.
        roofline: the source of the range; None if the speed is known.
    """

    checkpointed: int
    sharded: bool
    images: int
    memory: Memory
    largest: int | None
    images_per_s: float
    range_per_s: tuple[float, float]
    roofline: Roofline | None = None

    @property
    def fits(self) -> bool:
        """Whether the micro-batch fits; True if the memory is unknown."""
        return self.largest is None or self.images <= self.largest


@dataclass(frozen=True)
class Plan:
    """The estimates for a run.

    Attributes:
        recipe: of the run.
        cluster: the hardware.
        choices: one per number of checkpointed levels, starting with none.
        chosen: the fastest choice that fits; None: none fits.
        share: images per device and step.
    """

    recipe: Recipe
    cluster: Cluster
    choices: tuple[Choice, ...]
    chosen: Choice | None
    share: int

    @property
    def seconds(self) -> float | None:
        """Duration of the run, without startup, checkpoints and communication between devices."""
        return self.recipe.train.num_images / self.chosen.images_per_s if self.chosen else None

    @property
    def range_seconds(self) -> tuple[float, float] | None:
        """Shortest and longest expected duration of the run."""
        if self.chosen is None:
            return None
        slow, fast = self.chosen.range_per_s
        return self.recipe.train.num_images / fast, self.recipe.train.num_images / slow

    @property
    def kilowatt_hours(self) -> float | None:
        """Energy of the devices alone, at their maximum power."""
        if self.seconds is None or self.cluster.watts is None:
            return None
        return self.seconds / 3600 * self.cluster.watts / 1000 * self.cluster.devices

    @property
    def same_network_result(self) -> BenchmarkResult | None:
        """The benchmark result if it is for the same network, so that its memory can be compared with the estimate."""
        result = self.cluster.measured
        return result if result and result.flops_per_image == training_flops(self.recipe) else None

    @property
    def price(self) -> float | None:
        """Cost of all devices for the whole run, in the currency of `price_per_hour`."""
        if self.seconds is None or self.cluster.price_per_hour is None:
            return None
        return self.seconds / 3600 * self.cluster.price_per_hour * self.cluster.devices


def plan(recipe: Recipe, cluster: Cluster) -> Plan:
    """Return the plan of a run: parallelism, micro-batch size, activation checkpointing and duration.

    Parallelism is the recipe's or, with `train.parallel = "auto"`, a run's choice. Among the choices of
    activation checkpointing, the plan takes the fastest one that fits the recipe's micro-batch, or enough of it to keep
    a GPU busy (`BUSY_TOKENS`); if none does, the one that fits the most images.

    Raises:
        UsageError: a step's images cannot be divided equally among the devices.
    """
    share = images_per_device(recipe, cluster.devices, f"--count {cluster.devices}")
    sharded = cluster.devices > 1 and _is_sharded(recipe, cluster)
    choices = tuple(_choices(recipe, cluster, share, sharded))
    return Plan(recipe, cluster, choices, _best(recipe, choices), share)


def _is_sharded(recipe: Recipe, cluster: Cluster) -> bool:
    if recipe.train.parallel != "auto" or cluster.memory_bytes is None:
        return recipe.train.parallel == "fsdp"
    return needs_sharding(recipe, cluster.memory_bytes)


def images_per_device(recipe: Recipe, devices: int, what: str) -> int:
    """Return the largest number of images per device in any step.

    Args:
        what: names the option or setting with the number of devices, for the message.

    Raises:
        UsageError: a step's images cannot be divided equally; the message names the nearest numbers of devices that
            work.
    """
    sizes = [recipe.train.batch_size, *(growth.batch_size for growth in recipe.train.batch_growth)]
    if bad := next((size for size in sizes if size % devices), None):
        near = sorted((n for n in range(1, bad + 1) if not any(s % n for s in sizes)), key=lambda n: abs(n - devices))
        raise UsageError(
            f"{what}: a step of {bad} images cannot be divided equally among {devices} devices; "
            f"use {' or '.join(map(str, sorted(near[:2])))}, or another train.batch_size"
        )
    return max(sizes) // devices


def _choices(recipe: Recipe, cluster: Cluster, share: int, sharded: bool) -> Iterator[Choice]:
    images = min(recipe.train.micro_batch_size or share, share)
    for checkpointed in range(len(recipe.model.levels) + 1):
        largest = _largest(recipe, cluster, share, sharded, checkpointed)
        micro_batch = _equal_parts(images, largest) if largest else images
        memory = _memory(recipe, cluster, share, sharded, checkpointed, micro_batch)
        bounds, slow, fast = _speed(recipe, cluster, micro_batch, checkpointed)
        rate = math.sqrt(slow * fast)
        yield Choice(checkpointed, sharded, micro_batch, memory, largest, rate, (slow, fast), bounds)


def _speed(recipe: Recipe, cluster: Cluster, images: int, checkpointed: int) -> tuple[Roofline | None, float, float]:
    """Return the roofline, if used, and the lowest and highest images per second of all devices."""
    flops = training_flops(recipe, checkpointed)
    if cluster.flops_per_s is not None:
        rate = cluster.devices * cluster.flops_per_s / flops
        return None, rate, rate
    assert cluster.gpu is not None, "a cluster has a speed, or a GPU from which the speed is estimated"
    bounds = roofline(recipe, cluster.gpu, flops, images, checkpointed)
    slow, fast = (cluster.devices * rate for rate in bounds.images_per_s)
    return bounds, slow, fast


def _equal_parts(images: int, largest: int) -> int:
    """Return the size of the parts when images are divided as evenly as possible into parts of at most `largest`."""
    parts = -(-images // largest)
    return -(-images // parts)


def training_flops(recipe: Recipe, checkpointed: int = 0) -> int:
    """Return the training FLOPs per image: forward and backward pass, and recomputation of checkpointed levels."""
    whole = count(recipe.model)
    recomputed = sum(whole.at(level).macs for level in range(checkpointed))
    return FLOPS_PER_MAC * (FORWARD_AND_BACKWARD * whole.macs + recomputed)


def _memory(recipe: Recipe, cluster: Cluster, share: int, sharded: bool, checkpointed: int, images: int) -> Memory:
    layout = RankLayout(
        ranks=cluster.devices,
        sharded=sharded,
        value_bytes=cluster.value_bytes,
        averages=1 + len(recipe.train.ema_profiles),
        attention="native" if cluster.native else "fused",
        accumulates=images < share,
        fused_threads=cluster.fused_threads,
        muon=recipe.train.optimizer == "muon",
    )
    return training_memory(recipe.model, images, layout, checkpointed)


def _largest(recipe: Recipe, cluster: Cluster, share: int, sharded: bool, checkpointed: int) -> int | None:
    """Return the largest micro-batch that fits, found by bisection; None if the memory is unknown."""
    limit = cluster.usable_bytes
    if limit is None:
        return None

    def fits(images: int) -> bool:
        return _memory(recipe, cluster, max(share, images), sharded, checkpointed, images).total <= limit

    low, high = 0, 1
    while high < MAX_MICRO_BATCH and fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _best(recipe: Recipe, choices: tuple[Choice, ...]) -> Choice | None:
    fitting = [choice for choice in choices if choice.largest != 0]
    if not fitting:
        return None
    rows, columns = recipe.model.grid(0)
    enough = -(-BUSY_TOKENS // (rows * columns))
    wanted = min(enough, max(choice.images for choice in fitting))
    return next(choice for choice in fitting if choice.images >= wanted)
