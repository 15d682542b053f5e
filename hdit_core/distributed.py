"""The ranks of a run: one process, or those that torchrun or srun started."""

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, distributed

from hdit_core.errors import HditError, UsageError


@dataclass(frozen=True)
class World:
    """This process among its equals."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the one rank that writes files and shows progress."""
        return self.rank == 0

    def device(self, chosen: torch.device) -> torch.device:
        """Return this rank's own device of the chosen kind."""
        return torch.device("cuda", self.local_rank) if chosen.type == "cuda" and self.size > 1 else chosen

    def any(self, flag: bool, device: torch.device) -> bool:
        """Return whether the flag is up on any rank."""
        if self.size == 1:
            return flag
        votes = torch.tensor(int(flag), device=device)
        distributed.all_reduce(votes, distributed.ReduceOp.MAX)
        return bool(votes)

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean over the ranks."""
        if self.size > 1:
            value = value.clone()
            distributed.all_reduce(value)
            value /= self.size
        return value

    def union(self, numbers: Iterable[int], device: torch.device) -> list[int]:
        """Return the numbers that any rank gives, each once, in their order."""
        mine = sorted(set(numbers))
        if not self.any(bool(mine), device) or self.size == 1:
            return mine
        lengths = [torch.zeros((), dtype=torch.int64, device=device) for _ in range(self.size)]
        distributed.all_gather(lengths, torch.tensor(len(mine), device=device))
        longest = int(max(lengths))
        padded = torch.tensor(mine + [0] * (longest - len(mine)), device=device)
        gathered = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(gathered, padded)
        return sorted({int(n) for row, length in zip(gathered, lengths, strict=True) for n in row[: int(length)]})

    def lead(self, act: Callable[[], None], device: torch.device) -> None:
        """Let the main rank do something while the others wait; where it fails, all ranks end.

        Raises:
            HditError: on the other ranks. On the main one, whatever `act` raised.
        """
        problem: Exception | None = None
        if self.is_main:
            try:
                act()
            except Exception as error:
                problem = error
        if self.any(problem is not None, device):
            raise problem or HditError(f"rank {self.rank} ends, because the main rank failed; that one says why")

    def leave(self) -> None:
        """End what `join` began."""
        if self.size > 1 and distributed.is_initialized():
            distributed.destroy_process_group()


def speaks() -> bool:
    """Return whether this process is the one among its ranks that talks to people, before or after they have joined."""
    return os.environ.get("RANK", "0") == "0"


def join(device_name: str = "auto") -> World:
    """Join the ranks that `torchrun` announced in the environment; alone, there is nothing to join.

    Raises:
        UsageError: the environment names a world but not this process's place in it.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        return World()
    missing = [name for name in ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise UsageError(f"WORLD_SIZE is {size}, but {', '.join(missing)} is not set; start the ranks with torchrun")
    world = World(int(os.environ["RANK"]), size, int(os.environ["LOCAL_RANK"]))
    on_gpu = torch.cuda.is_available() and device_name.partition(":")[0] in ("auto", "cuda")
    if on_gpu:
        torch.cuda.set_device(world.local_rank)
    distributed.init_process_group("nccl" if on_gpu else "gloo")
    return world
