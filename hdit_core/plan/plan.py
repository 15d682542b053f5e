"""Whether a run fits, how fast it goes and what it takes, before it is begun."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

from hdit_core.errors import UsageError
from hdit_core.flops.count import count
from hdit_core.plan.benchmark_result import Measured
from hdit_core.plan.gpus import Gpu
from hdit_core.plan.memory import Memory, RankLayout, training_memory
from hdit_core.plan.roofline import Roofline, roofline
from hdit_core.plan.sharding import too_large_for_each
from hdit_core.recipe.run import Recipe

FORWARD_AND_BACKWARD = 3  # a product has one in the forward pass and two in the backward pass
FLOPS_PER_MAC = 2
SECONDS_A_DAY = 86_400
MOST_IMAGES = 1 << 20
ENOUGH_TOKENS = 1 << 16
"""Outermost tokens of a micro-batch with which a GPU is taken to be busy: one image of a megapixel, 16 of 256x256."""


@dataclass(frozen=True)
class Cluster:
    """What a run is planned for.

    Attributes:
        devices: how many.
        usable_bytes: of memory on each; None: unknown.
        memory_bytes: all of it; None: unknown, or a CPU's.
        flops_per_s: of the model's own operations on each, what is lost to everything else already taken off; None:
            worked out from `gpu`.
        watts: the most that one draws; None: unknown.
        price_per_hour: of one, in any currency; None: unknown.
        value_bytes: of a number in the products: 2 for bfloat16, 4 for float32.
        native: on CPUs: neighborhood attention keeps its weights.
        pass_threads: see `memory.Place`.
        measured: the step that the speed is of; None: a data sheet's.
        gpu: whose roofline gives a range of speeds, where `flops_per_s` is None.
    """

    devices: int
    usable_bytes: int | None
    flops_per_s: float | None
    watts: float | None = None
    price_per_hour: float | None = None
    memory_bytes: int | None = None
    value_bytes: int = 2
    native: bool = False
    pass_threads: int = 0
    measured: Measured | None = None
    gpu: Gpu | None = None


@dataclass(frozen=True)
class Choice:
    """One way to keep activations.

    Attributes:
        checkpointed: levels, outermost first, with activation checkpointing.
        sharded: FSDP and not DDP.
        images: of the micro-batch that one device takes at once.
        memory: what that takes.
        largest: the largest micro-batch that fits; None where the memory is unknown.
        images_per_s: of all devices; the geometric mean of the range.
        range_per_s: images a second of all devices, lowest and highest expected; equal where one speed is known.
        roofline: where the range is from.
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
        """Whether the micro-batch does; so it is said where nothing is known."""
        return self.largest is None or self.images <= self.largest


@dataclass(frozen=True)
class Plan:
    """The bill of a run.

    Attributes:
        choices: by the number of checkpointed levels, none first.
        chosen: the first of them that fits; None: none does.
        share: images of a step that fall to one device.
    """

    recipe: Recipe
    cluster: Cluster
    choices: tuple[Choice, ...]
    chosen: Choice | None
    share: int

    @property
    def seconds(self) -> float | None:
        """How long the run takes, without start, checkpoints and what the network between devices costs."""
        return self.recipe.train.num_images / self.chosen.images_per_s if self.chosen else None

    @property
    def range_seconds(self) -> tuple[float, float] | None:
        """The shortest and the longest that it is expected to take."""
        if self.chosen is None:
            return None
        slow, fast = self.chosen.range_per_s
        return self.recipe.train.num_images / fast, self.recipe.train.num_images / slow

    @property
    def kilowatt_hours(self) -> float | None:
        """Energy of the devices alone, at the most that they draw."""
        if self.seconds is None or self.cluster.watts is None:
            return None
        return self.seconds / 3600 * self.cluster.watts / 1000 * self.cluster.devices

    @property
    def measured_itself(self) -> Measured | None:
        """The measured step where it is one of this very network, whose memory can be compared with the bound."""
        found = self.cluster.measured
        return found if found and found.flops_per_image == training_flops(self.recipe) else None

    @property
    def price(self) -> float | None:
        """Of all devices for the whole run."""
        if self.seconds is None or self.cluster.price_per_hour is None:
            return None
        return self.seconds / 3600 * self.cluster.price_per_hour * self.cluster.devices


def plan(recipe: Recipe, cluster: Cluster) -> Plan:
    """Plan a run: in which mode, with how many images at once, for how long.

    Devices share the network as the recipe says or, with `train.parallel = "auto"`, as a run would decide. Of the ways
    of keeping activations, the fastest is chosen that takes the recipe's micro-batch at once, or as
    much of it as keeps a GPU busy (`ENOUGH_TOKENS`); where none does, the one that takes most.

    Raises:
        UsageError: the devices cannot share a step's images equally.
    """
    share = images_per_device(recipe, cluster.devices, f"--count {cluster.devices}")
    sharded = cluster.devices > 1 and _in_parts(recipe, cluster)
    choices = tuple(_choices(recipe, cluster, share, sharded))
    return Plan(recipe, cluster, choices, _best(recipe, choices), share)


def _in_parts(recipe: Recipe, cluster: Cluster) -> bool:
    if recipe.train.parallel != "auto" or cluster.memory_bytes is None:
        return recipe.train.parallel == "fsdp"
    return too_large_for_each(recipe, cluster.memory_bytes)


def images_per_device(recipe: Recipe, devices: int, what: str) -> int:
    """Return the most images of a step that fall to one of several devices.

    Args:
        what: says so many devices, for the message.

    Raises:
        UsageError: they cannot share every step's images equally; with the nearest numbers that can.
    """
    sizes = [recipe.train.batch_size, *(growth.batch_size for growth in recipe.train.batch_growth)]
    if bad := next((size for size in sizes if size % devices), None):
        near = sorted((n for n in range(1, bad + 1) if not any(s % n for s in sizes)), key=lambda n: abs(n - devices))
        raise UsageError(
            f"{what}: a step of {bad} images cannot be shared equally by {devices}; "
            f"use {' or '.join(map(str, sorted(near[:2])))}, or another train.batch_size"
        )
    return max(sizes) // devices


def _choices(recipe: Recipe, cluster: Cluster, share: int, sharded: bool) -> Iterator[Choice]:
    images = min(recipe.train.micro_batch_size or share, share)
    for checkpointed in range(len(recipe.model.levels) + 1):
        largest = _largest(recipe, cluster, share, sharded, checkpointed)
        taken = _equal_pieces(images, largest) if largest else images
        memory = _memory(recipe, cluster, share, sharded, checkpointed, taken)
        bounds, slow, fast = _speed(recipe, cluster, checkpointed)
        rate = math.sqrt(slow * fast)
        yield Choice(checkpointed, sharded, taken, memory, largest, rate, (slow, fast), bounds)


def _speed(recipe: Recipe, cluster: Cluster, checkpointed: int) -> tuple[Roofline | None, float, float]:
    """Return the lowest and the highest images a second of all devices, and the roofline where they are from one."""
    flops = training_flops(recipe, checkpointed)
    if cluster.flops_per_s is not None:
        rate = cluster.devices * cluster.flops_per_s / flops
        return None, rate, rate
    assert cluster.gpu is not None, "a cluster has a speed, or a GPU that it is worked out from"
    bounds = roofline(recipe, cluster.gpu, flops, checkpointed)
    slow, fast = (cluster.devices * rate for rate in bounds.images_per_s)
    return bounds, slow, fast


def _equal_pieces(images: int, largest: int) -> int:
    """Return the size of as few pieces as will do, none above the largest, that differ as little as they can."""
    pieces = -(-images // largest)
    return -(-images // pieces)


def training_flops(recipe: Recipe, checkpointed: int = 0) -> int:
    """Return the floating-point operations of one image: forward, backward and recomputation."""
    whole = count(recipe.model)
    again = sum(whole.at(level).macs for level in range(checkpointed))
    return FLOPS_PER_MAC * (FORWARD_AND_BACKWARD * whole.macs + again)


def _memory(recipe: Recipe, cluster: Cluster, share: int, sharded: bool, checkpointed: int, images: int) -> Memory:
    place = RankLayout(
        ranks=cluster.devices,
        sharded=sharded,
        value_bytes=cluster.value_bytes,
        averages=1 + len(recipe.train.ema_profiles),
        attention="native" if cluster.native else "fused",
        accumulates=images < share,
        pass_threads=cluster.pass_threads,
        muon=recipe.train.optimizer == "muon",
    )
    return training_memory(recipe.model, images, place, checkpointed)


def _largest(recipe: Recipe, cluster: Cluster, share: int, sharded: bool, checkpointed: int) -> int | None:
    """Return the largest micro-batch that fits, found by halving: memory rises with the images."""
    limit = cluster.usable_bytes
    if limit is None:
        return None

    def fits(images: int) -> bool:
        return _memory(recipe, cluster, max(share, images), sharded, checkpointed, images).total <= limit

    low, high = 0, 1
    while high < MOST_IMAGES and fits(high):
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
    enough = -(-ENOUGH_TOKENS // (rows * columns))
    wanted = min(enough, max(choice.images for choice in fitting))
    return next(choice for choice in fitting if choice.images >= wanted)
