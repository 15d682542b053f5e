"""The planned memory of a training step, compared with what this machine has."""

import os
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from hdit_core.devices import compute_dtype
from hdit_core.distributed import World
from hdit_core.errors import HditError, is_out_of_memory
from hdit_core.plan.gpu_specs import USABLE_FRACTION
from hdit_core.plan.memory import RankLayout, training_memory
from hdit_core.plan.sharding import needs_sharding
from hdit_core.recipe.run import Recipe
from hdit_core.system_memory import memory_limit

GIB = 1 << 30
PROCESS_BYTES = 400 << 20  # of Python and torch, on CPUs


@dataclass(frozen=True)
class MemoryNeed:
    """The memory of a step on one rank.

    Attributes:
        images: of the recipe's micro-batch.
        needed_bytes: upper bound for them.
        machine_bytes: of the GPU, or of the machine; None if unknown.
        largest: the largest micro-batch that fits, 0 if none does; None if the machine's memory is unknown.
        is_limit: whether `machine_bytes` is a limit of the container, the job or `ulimit`.
    """

    images: int
    needed_bytes: int
    machine_bytes: int | None
    largest: int | None
    is_limit: bool = False

    @property
    def fits(self) -> bool:
        """Whether the recipe's micro-batch fits, as far as is known."""
        return self.largest is None or self.images <= self.largest

    def __str__(self) -> str:
        source = "the memory limit is" if self.is_limit else "this machine has"
        has = "" if self.machine_bytes is None else f", {source} {_gib(self.machine_bytes)} GiB"
        return f"{self.images} images at a time need up to {_gib(self.needed_bytes)} GiB{has}"

    @property
    def advice(self) -> str:
        """What to change if the micro-batch does not fit."""
        if self.largest:
            smaller = self.largest if self.largest < self.images else max(1, self.images // 2)
            return f"use --set train.micro_batch_size={smaller}"
        return "use --set train.activation_checkpointing=true, a smaller network, or more memory"


def memory_need(recipe: Recipe, world: World) -> MemoryNeed:
    """Return what a training step of a recipe needs on this rank."""
    train, device = recipe.train, world.device
    share = max(train.batch_size, *(growth.batch_size for growth in train.batch_growth), 1) // world.size
    images, memory = min(train.micro_batch_size or share, share), machine_bytes(device)
    on_gpu = device.type == "cuda"
    sharded = world.size > 1 and (
        train.parallel == "fsdp" or (train.parallel == "auto" and on_gpu and needs_sharding(recipe, memory or 0))
    )
    levels = len(recipe.model.levels)
    checkpointed = levels if train.activation_checkpointing is True else int(train.activation_checkpointing)

    def needed(images: int) -> int:
        layout = RankLayout(
            ranks=world.size,
            sharded=sharded,
            value_bytes=2 if compute_dtype(train.precision, device) == torch.bfloat16 else 4,
            averages=1 + len(train.ema_profiles),
            attention="fused" if on_gpu else "native",
            accumulates=images < share,
            muon=train.optimizer == "muon",
        )
        step = training_memory(recipe.model, images, layout, min(checkpointed, levels)).total
        return step if on_gpu else step + PROCESS_BYTES

    if memory is None:
        return MemoryNeed(images, needed(images), None, None)
    usable = int(memory * USABLE_FRACTION)
    # the whole share first: without accumulation a step takes less than with a slightly smaller micro-batch
    largest = share if needed(share) <= usable else bisect_right(range(1, share), usable, key=needed)
    return MemoryNeed(images, needed(images), memory, largest, not on_gpu and memory == memory_limit())


def machine_bytes(device: torch.device) -> int | None:
    """Return the memory of a GPU, or of this machine within its limits; None if it is unknown."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    try:
        machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (OSError, ValueError):
        return memory_limit()
    return min(machine, memory_limit() or machine)


@contextmanager
def naming_memory(recipe: Recipe, world: World) -> Iterator[None]:
    """Turn an out-of-memory error of the body into one line that names the keys to change.

    Raises:
        HditError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        need = memory_need(recipe, world)
        in_reader = "DataLoader worker" in str(error)
        fewer = f"fewer than data.workers = {recipe.data.workers}" if recipe.data.workers else ""
        advice = f"use {fewer}" if in_reader and fewer else " or ".join(filter(None, [need.advice, fewer]))
        where = "a process that reads images" if in_reader else f"the training step on {world.device}"
        raise HditError(f"{where} ran out of memory: by the plan {need}; {advice}") from error


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / GIB:.3g}" if size_bytes < 1000 * GIB else f"{size_bytes / GIB:,.0f}"
